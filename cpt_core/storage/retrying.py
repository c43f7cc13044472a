"""Trying again what a network or a busy service broke.

In: an operation that may be repeated, and which of its failures pass by themselves.
Out: its result.
Promise: bounded in attempts and in time; waits are random (full jitter), so that many workers do not return at once.
Never: repeats what failed for a reason that stays.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 10.0
GIVE_UP_SECONDS = 120.0
"""No attempt begins later than this after the first."""

Result = TypeVar("Result")


def retried(operation: Callable[[], Result], is_transient: Callable[[Exception], bool]) -> Result:
    """The operation's result; its last error when every attempt failed."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    for attempt in range(1, ATTEMPTS):
        try:
            return operation()
        except Exception as error:
            wait = random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt))
            if not is_transient(error) or time.monotonic() + wait > give_up:
                raise
        time.sleep(wait)
    return operation()
