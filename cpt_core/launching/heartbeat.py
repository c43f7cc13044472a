"""Signs of life of this process, for the guard that watches it.

In: a pipe to the guard; calls of ``note_meeting`` before this process meets the other ranks.
Out: one line a second with the number of meetings, and one at the first of them.
Promise: a process that is stopped, or whose interpreter is stuck, gives none.
Never: fails the work when nobody listens.
"""

import os
import threading
import time
from contextlib import suppress

SECONDS_BETWEEN_SIGNS = 1.0


class _Meetings:
    """How often this process has set out to meet the others. It is a fact about the process, so there is one."""

    count = 0
    pipe: int | None = None


def note_meeting() -> None:
    """This rank is about to wait for the others; of a job that hangs, the rank with the fewest is the one missed."""
    _Meetings.count += 1
    if _Meetings.count == 1 and _Meetings.pipe is not None:
        _give_sign(_Meetings.pipe)  # the guard has been patient so far


def give_signs(pipe: int) -> None:
    """From now on tell the guard, from a thread of its own."""
    _Meetings.pipe = pipe
    threading.Thread(target=_give_signs, args=(pipe,), name="cpt-heartbeat", daemon=True).start()


def _give_signs(pipe: int) -> None:
    while True:
        _give_sign(pipe)
        time.sleep(SECONDS_BETWEEN_SIGNS)


def _give_sign(pipe: int) -> None:
    with suppress(BrokenPipeError):  # the guard is gone, and the end of this process is near
        os.write(pipe, b"%d\n" % _Meetings.count)
