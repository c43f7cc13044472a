"""The screen of a run: bars on a terminal, plain lines elsewhere; always on stderr."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cpt_core.printable import printable

if TYPE_CHECKING:  # Prefect takes a second to import, and reads its settings when it does
    from cpt_core.discovery import DiscoveryProgress, OnProgress
    from tasks.listening import Progress as StageState

SECONDS_BETWEEN_LINES = 10.0


class Screen:
    """Shows stages while they run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._bars = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def start(self) -> None:
        """Begin to draw."""
        self._bars.start()

    def stop(self) -> None:
        """Remove the bars; the lines stay."""
        self._bars.stop()

    def line(self, text: str) -> None:
        """One permanent line."""
        self._console.print(printable(text), soft_wrap=True, markup=False, highlight=False)

    def stage(self, stage: str, text: str) -> None:
        """One permanent line about a stage."""
        self.line(f"{stage:<13} {text}")

    def show(self, state: "StageState") -> None:
        """A stage has moved."""
        with self._lock:
            if state.is_finished:
                self._end(state)
            elif state.is_remark:
                self.stage(state.stage, state.detail)
            elif self._console.is_terminal:
                self._move(state)
            elif state.detail and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
                self._last_line = time.monotonic()
                self.stage(state.stage, f"{state.done}/{state.total} {state.unit}: {state.detail}")

    def _move(self, state: "StageState") -> None:
        if state.stage not in self._tasks:
            self._tasks[state.stage] = self._bars.add_task(state.stage, total=state.total, detail="")
        self._bars.update(
            self._tasks[state.stage], completed=state.done, detail=printable(f"{state.unit}  {state.detail}")
        )

    def _end(self, state: "StageState") -> None:
        bar = self._tasks.pop(state.stage, None)
        if bar is not None:
            self._bars.remove_task(bar)
        self.stage(state.stage, state.detail)


@contextmanager
def progress_screen() -> Iterator[Screen]:
    """A screen for the ``with`` block."""
    screen = Screen(Console(file=sys.stderr))
    screen.start()
    try:
        yield screen
    finally:
        screen.stop()


def discovery_bar(screen: Screen) -> "OnProgress":
    """What shows how far discovery is, where no run does."""
    from tasks.listening import Progress as StageState
    from tasks.throughput import Reading

    reading = Reading()

    def show(seen: "DiscoveryProgress") -> None:
        screen.show(StageState("discovery", seen.files, seen.all_files, "files", reading.line(seen)))

    return show
