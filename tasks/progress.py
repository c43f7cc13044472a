"""How far a stage is: told to the Prefect UI and to whoever listens in this process.

In: counts from stages while they work.
Out: a progress artifact (throttled), calls of the listeners, one log line at the end.
Never: document text, or an update for every document.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

SECONDS_BETWEEN_UPDATES = 2.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """A stage at one moment.

    Attributes:
        stage: such as ``tokenization``.
        done: units finished.
        total: units in all.
        unit: such as ``shards``.
        detail: what has been done so far, in words.
        is_finished: the stage has ended; ``detail`` is its summary.
    """

    stage: str
    done: int
    total: int
    unit: str
    detail: str
    is_finished: bool = False


Listener = Callable[[Progress], None]
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call ``listener`` with every progress of this process from now on."""
    _listeners.append(listener)


class StageProgress:
    """The progress of one stage of one run; may be advanced from several threads."""

    def __init__(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._done = 0
        self._lock = threading.Lock()
        self._last_update = time.monotonic()
        self._artifact_id: UUID | None = None
        if FlowRunContext.get() is not None:
            created = create_progress_artifact(progress=0.0, key=stage, description=f"{stage}: {total} {unit}")
            self._artifact_id = created if isinstance(created, UUID) else None
        self._tell(Progress(stage, 0, total, unit, ""))

    def advance(self, units: int, detail: str) -> None:
        """Some more units are finished."""
        with self._lock:
            self._done += units
            self._show(detail)

    def reach(self, units: int, detail: str) -> None:
        """So many units are finished."""
        with self._lock:
            self._done = units
            self._show(detail)

    def finish(self, summary: str) -> None:
        """The stage has ended."""
        self._tell(Progress(self._stage, self._total, self._total, self._unit, summary, is_finished=True))
        self._update_artifact(100.0, summary)
        if FlowRunContext.get() is not None:
            get_run_logger().info("%s: %s", self._stage, summary)

    def _show(self, detail: str) -> None:
        self._tell(Progress(self._stage, self._done, self._total, self._unit, detail))
        if time.monotonic() - self._last_update >= SECONDS_BETWEEN_UPDATES:
            self._last_update = time.monotonic()
            self._update_artifact(100.0 * self._done / max(1, self._total), detail)

    def _update_artifact(self, percent: float, detail: str) -> None:
        if self._artifact_id is None:
            return
        try:
            update_progress_artifact(self._artifact_id, progress=percent, description=f"{self._stage}: {detail}")
        except httpx.HTTPError as error:  # a display that fails must not fail the work that it shows
            logger.warning("the progress of %s could not be shown: %s", self._stage, error)

    @staticmethod
    def _tell(progress: Progress) -> None:
        for listener in _listeners:
            listener(progress)
