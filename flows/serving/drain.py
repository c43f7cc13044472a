"""Waiting until a server has recorded what a run told it.

In: the URL of the API; when the run began.
Out: nothing.
Promise: returns once all task runs have their final state, or once nothing has moved for a while.
Never: waits for ever, or fails a run that is over.

Prefect reports task states as events, which the server writes down later; a server stopped at once forgets them.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from flows.serving.api import ask

logger = logging.getLogger(__name__)

_SETTLED_SECONDS = 2.0
"""Twice the recorder's flush interval."""
_STUCK_SECONDS = 4.0
"""A task run that was killed keeps its state Running for ever."""
_PATIENCE_SECONDS = 60.0
_UNFINISHED = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


def drain(api_url: str, *, since: float) -> None:
    """Send what this process has queued, then wait for the server.

    Args:
        api_url: the server, which is only used by this process.
        since: Unix time before the first flow run that counts.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=_PATIENCE_SECONDS)
    APILogWorker.drain_all(timeout=_PATIENCE_SECONDS)
    try:
        _wait_until_settled(lambda: _counts(api_url, since))
    except httpx.HTTPError as error:
        logger.warning("the Prefect server ended before all task runs were recorded: %s", error)


def _wait_until_settled(counts: Callable[[], tuple[int, int]]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    seen, moved = counts(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if (now := counts()) != seen:
            seen, moved = now, time.monotonic()
        _, unfinished = seen
        if time.monotonic() - moved > (_STUCK_SECONDS if unfinished else _SETTLED_SECONDS):
            return


def _counts(api_url: str, since: float) -> tuple[int, int]:
    """Task runs in all, and those without a final state."""
    begin = datetime.fromtimestamp(since, UTC).isoformat()
    runs = {"flow_runs": {"start_time": {"after_": begin}}}
    unfinished = runs | {"task_runs": {"state": {"type": {"any_": _UNFINISHED}}}}
    return ask(api_url, "task_runs/count", runs), ask(api_url, "task_runs/count", unfinished)
