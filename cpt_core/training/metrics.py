"""The metrics of a run: one JSON line a step, TensorBoard if wanted.

In: what a step measured; what has to be told.
Out: ``metrics.jsonl``, whole lines, readable while it grows.
Promise: every step stands once, in order, also after a resume from an earlier step; a full disk delays lines and does
not stop the training, and a line that was damaged costs no more than itself.
Never: is read back by the training.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError


class MetricsWriter:
    """Appends lines after dropping those of steps that will be trained again."""

    def __init__(self, path: Path, *, attempt: str, steps_done: int, config: TrainingConfig) -> None:
        self._attempt = attempt
        kept = _lines_up_to(path, steps_done)
        staged = path.with_name(f".{path.name}.{attempt}")
        staged.write_bytes(b"".join(kept))
        staged.replace(path)  # a reader sees another file, not one that shrank
        self._stream = path.open("ab", buffering=0)
        self._unwritten = b""
        self._notes: list[str] = []
        self.save_seconds = 0.0
        """How long training stood still for saving since the last line."""
        self._events = _open_tensorboard(path.parent / "tensorboard", steps_done) if config.tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write_out()
        finally:
            self._stream.close()
        if self._events:
            self._events.close()

    def write(self, line: dict[str, Any]) -> None:
        """Add the line of one step."""
        line = {"attempt": self._attempt, **line, "save_seconds": round(self.save_seconds, 4)}
        if self._notes:
            line["notes"] = self._notes
        self.save_seconds, self._notes = 0.0, []
        self._unwritten += json.dumps(line).encode() + b"\n"
        with suppress(OSError):  # what does not go out now goes out with the next line, or fails at the end
            self._write_out()
        for name, value in line.items():
            if self._events and name not in ("attempt", "step", "notes") and value is not None:
                self._events.add_scalar(name, value, line["step"])

    def say(self, text: str, *, is_warning: bool = False) -> None:
        """Print a line in the log; a warning also goes with the next step's line, to where people look."""
        with suppress(OSError):
            print(text, flush=True)
        if is_warning:
            self._notes.append(text)

    def say_all(self, warnings: list[str]) -> None:
        """Each of these as a warning."""
        for text in warnings:
            self.say(text, is_warning=True)

    def make_durable(self) -> None:
        """Before a checkpoint is sealed: lines up to it must not be lost."""
        self._write_out()
        os.fsync(self._stream.fileno())

    def _write_out(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._stream.write(self._unwritten) :]


def _lines_up_to(path: Path, steps_done: int) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [line for line in lines if line.endswith(b"\n") and _is_of_step_up_to(steps_done, line)]


def _is_of_step_up_to(steps_done: int, line: bytes) -> bool:
    """A line that is damaged, as by a power cut, tells of no step."""
    try:
        return bool(json.loads(line)["step"] <= steps_done)
    except (ValueError, TypeError, KeyError):
        return False


def _open_tensorboard(folder: Path, steps_done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("training.tensorboard is true, but TensorBoard is missing; install cpt[track]") from None
    return SummaryWriter(str(folder), purge_step=steps_done + 1)
