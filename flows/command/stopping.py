"""Ctrl-C and SIGTERM end a command within seconds, with one line and without a traceback.

In: SIGINT or SIGTERM.
Out: exit code 130 or 143.
Promise: the command unwinds as far as it gets within GRACE_SECONDS, or, while it trains, what its launcher needs to end
a job on other machines; then the process ends, whatever its threads still compute; a second signal ends it at once. The
store is whole at every moment, so the same command goes on from there.
Never: waits for a shard to be finished, or relies on its own signal handler alone: Prefect puts another in its place
while a flow runs, so a thread hears of every signal from the interpreter itself.
"""

import os
import select
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from cpt_core.errors import CptError
from flows.command.output import print_error

GRACE_SECONDS = 7.0
"""More than processes of this machine need to end."""

_STOPPING = {signal.SIGINT, signal.SIGTERM}
_ending = threading.Lock()
_received: list[int] = []
_extra_seconds = [0.0]


def end_on_signals() -> None:
    """From now on the two signals end this process."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in _STOPPING:
        signal.signal(number, _unwind)
    threading.Thread(target=_listen, args=(heard,), name="cpt-signals", daemon=True).start()


def allow_more(seconds: float) -> None:
    """From now on the command may take so much longer: while a job runs on other machines, say."""
    _extra_seconds[0] = seconds


def end_if_signalled() -> None:
    """End the process now if a signal has come, whatever the command made of it on the way."""
    if _received:
        _end(_received[0])


def _unwind(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _listen(heard: int) -> NoReturn:
    """Wait for a signal; then for another, or for the end of the grace period."""
    number = _next_signal(heard, None)
    assert number is not None
    _received.append(number)
    _next_signal(heard, GRACE_SECONDS + _extra_seconds[0])
    _end(number)


def _next_signal(heard: int, seconds: float | None) -> int | None:
    while select.select([heard], [], [], seconds)[0]:
        number = os.read(heard, 1)[0]
        if number in _STOPPING:
            return number
    return None


def _end(number: int) -> NoReturn:
    _ending.acquire()  # for ever: whoever comes second waits for the end
    name = signal.Signals(number).name
    print_error(CptError(f"stopped by {name}; what is committed stays: run the same command again to go on from there"))
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(128 + number)
