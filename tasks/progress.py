"""How far a stage is: told to the Prefect UI and to whoever listens in this process.

In: counts from stages while they work.
Out: a progress artifact (throttled) with the time left, calls of the listeners, log lines for remarks and the end.
Promise: a server that is slow or away holds up one thread at a time; an artifact that could not be made is made later.
Never: document text, or an update for every document.
"""

import threading
import time
from contextvars import copy_context
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from tasks.listening import Progress, tell
from tasks.run_page import in_display

SECONDS_BETWEEN_UPDATES = 2.0


class StageProgress:
    """The progress of one stage, of the run that it begins in; may be moved from any thread."""

    def __init__(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._done = 0
        self._left = TimeLeft()
        self._lock = threading.Lock()
        self._last_update = time.monotonic()
        self._sending = threading.Lock()
        self._context = copy_context()
        self._artifact_id: UUID | None = None
        self._send(0.0, f"{total:,} {unit}")
        tell(Progress(stage, 0, total, unit, ""))

    def advance(self, units: int, detail: str, fraction: float | None = None) -> None:
        """Some more units are finished, or none but a part of one.

        Args:
            units: how many.
            detail: what has been done so far, in words.
            fraction: of the work done, where that says more than the number of units.
        """
        with self._lock:
            self._done = min(self._done + units, self._total)  # a unit whose batch broke runs again
            percent, shown = self._moved(detail, fraction)
        self._update_if_due(percent, shown)

    def reach(self, units: int, detail: str, fraction: float | None = None) -> None:
        """So many units are finished; the rest as ``advance`` takes it."""
        with self._lock:
            self._done = units
            percent, shown = self._moved(detail, fraction)
        self._update_if_due(percent, shown)

    def remark(self, line: str) -> None:
        """Something to know about the stage."""
        tell(Progress(self._stage, self._done, self._total, self._unit, line, is_remark=True))
        self._log(line)

    def finish(self, summary: str) -> None:
        """The stage has ended."""
        tell(Progress(self._stage, self._total, self._total, self._unit, summary, is_finished=True))
        with self._sending:
            self._send_now(100.0, summary, is_only_chance=True)
        self._log(summary)

    def _log(self, line: str) -> None:
        if FlowRunContext.get() is not None:
            get_run_logger().info("%s: %s", self._stage, line)

    def _moved(self, detail: str, fraction: float | None) -> tuple[float, str]:
        """Tell who listens; (percent, description) for the artifact."""
        tell(Progress(self._stage, self._done, self._total, self._unit, detail))
        part = self._done / max(1, self._total) if fraction is None else fraction
        return 100.0 * part, f"{self._done:,} of {self._total:,} {self._unit}; {detail}{self._left.after(part)}"

    def _update_if_due(self, percent: float, shown: str) -> None:
        with self._lock:
            is_due = time.monotonic() - self._last_update >= SECONDS_BETWEEN_UPDATES
            if is_due:
                self._last_update = time.monotonic()
        if is_due:
            self._send(percent, shown)

    def _send(self, percent: float, detail: str) -> None:
        """Not while another thread does: a slow server must not stop them all."""
        if self._sending.acquire(blocking=False):
            try:
                self._send_now(percent, detail)
            finally:
                self._sending.release()

    def _send_now(self, percent: float, detail: str, *, is_only_chance: bool = False) -> None:
        described = f"{self._stage}: {detail}"

        def create_or_update() -> object:
            if self._artifact_id is None:
                return create_progress_artifact(progress=percent, key=self._stage, description=described)
            return update_progress_artifact(self._artifact_id, progress=percent, description=described)

        sent = self._context.copy().run(in_display, create_or_update, is_only_chance=is_only_chance)
        if isinstance(sent, UUID):
            self._artifact_id = sent


class TimeLeft:
    """Extrapolates from the first sign of progress on: what was done before, or by an earlier run, took no time."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def after(self, fraction: float) -> str:
        """Such as ``, 3 min 20 s left``; empty while nobody can know."""
        now = time.monotonic()
        if self._first is None:
            self._first = (fraction, now)
        before, since = self._first
        if fraction <= before or fraction >= 1.0:
            return ""
        return f", {describe_seconds((now - since) * (1.0 - fraction) / (fraction - before))} left"


def describe_seconds(seconds: float) -> str:
    """Two units at most: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
