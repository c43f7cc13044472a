"""Steps as they are told to whoever watches a training.

In: lines of metrics, some of them again: a job that was requeued, or started anew, repeats the steps after its newest
checkpoint and writes a file that begins with the lines it kept.
Out: the same lines, each step once.
Promise: a warning of a step that is told already goes with the next new one.
Never: reads files.
"""

from typing import Any

from cpt_core.launching.waiting import Progress


class StepsOnce:
    """Passes on the lines of steps that are beyond all before."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._last_step = 0
        self._told: set[tuple[int, str]] = set()
        self._waiting: list[str] = []

    def __call__(self, line: dict[str, Any]) -> None:
        """Pass it on, or keep its new warnings for the next."""
        step = line["step"]
        new = [note for note in line.get("notes", ()) if (step, note) not in self._told]
        self._told |= {(step, note) for note in new}
        self._waiting += new
        if step <= self._last_step:
            return
        self._last_step = step
        notes, self._waiting = self._waiting, []
        self._on_progress({**line, "notes": notes} if notes else line)
