"""Runs contenders, each in a process of its own, and keeps what they took.

A contender is a module in ``contenders`` that is run with one JSON object as its argument and prints one JSON line:
``{"amounts": how much work each repeat did a second, in the subject's unit, "facts": {name: value}, "versions": {}}``.
It times its own work, without the start of its process and its imports, as often as ``repeats`` says. Peak memory is
that of the process and its children together, as seen every tenth of a second.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.materials import FOLDER, peer_python
from tests.conftest import REPOSITORY

CONTENDERS = Path(__file__).parent / "contenders"
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Contender:
    """One way to do a subject's work.

    Attributes:
        name: in the table.
        module: file name in ``contenders``, without suffix.
        arguments: of the module; ``repeats`` and a scratch folder are added.
        is_peer: runs in the peers' environment and not in this project's.
        starts_commands: its work is done by commands that it starts; the memory is theirs alone.
    """

    name: str
    module: str
    arguments: dict[str, Any]
    is_peer: bool = False
    starts_commands: bool = False


@dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
        name: on the command line and in the result file.
        title: heading of the table.
        unit: of the amounts; more is better.
        contenders: in order of the table.
        baseline: the contender that ratios refer to; None for a subject without peers.
        facts: fact to column heading.
        repeats: of each contender in a whole measurement.
        quick_repeats: in a quick one.
        notes: what a reader must know.
    """

    name: str
    title: str
    unit: str
    contenders: list[Contender]
    baseline: str | None = None
    facts: dict[str, str] = field(default_factory=dict)
    repeats: int = 5
    quick_repeats: int = 2
    notes: str = ""


@dataclass(frozen=True)
class Measurement:
    """What one contender took.

    Attributes:
        name: of the contender.
        amounts: of each repeat, in units a second.
        peak_rss_mb: of its processes together.
        facts: what else it told.
    """

    name: str
    amounts: list[float]
    peak_rss_mb: float
    facts: dict[str, Any]

    @property
    def median(self) -> float:
        """Of the amounts."""
        return statistics.median(self.amounts)


def measure(contender: Contender, repeats: int) -> Measurement:
    """Run a contender to its end.

    Raises:
        RuntimeError: when it fails, with the end of what it said.
    """
    scratch = FOLDER / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    arguments = json.dumps(contender.arguments | {"repeats": repeats, "scratch": str(scratch)})
    process = subprocess.Popen(
        [*_command(contender), arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf")},
    )  # fmt: skip
    memory = _PeakMemory(process.pid, with_itself=not contender.starts_commands)
    output, messages = process.communicate()
    peak = memory.stop()
    shutil.rmtree(scratch, ignore_errors=True)
    if process.returncode:
        raise RuntimeError(f"{contender.name} ended with {process.returncode}:\n{messages[-3000:]}")
    told = json.loads(output.splitlines()[-1])
    return Measurement(contender.name, told["amounts"], peak / 1e6, told["facts"])


def _command(contender: Contender) -> list[str]:
    if contender.is_peer:
        return [str(peer_python()), str(CONTENDERS / f"{contender.module}.py")]
    return [sys.executable, "-m", f"tests.benchmarks.contenders.{contender.module}"]


class _PeakMemory:
    """Looks at a process and its children until it is stopped."""

    def __init__(self, pid: int, *, with_itself: bool) -> None:
        self._pid, self._with_itself, self._peak, self._done = pid, with_itself, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> int:
        """The most that was seen, in bytes."""
        self._done.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_LOOKS):
            self._peak = max(self._peak, self._resident_bytes())

    def _resident_bytes(self) -> int:
        total = 0
        try:
            root = psutil.Process(self._pid)
            processes = [root] * self._with_itself + root.children(recursive=True)
        except psutil.NoSuchProcess:
            return 0
        for process in processes:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


def tell(amounts: list[float], **facts: Any) -> None:
    """What a contender of this project prints at its end."""
    print(json.dumps({"amounts": amounts, "facts": facts}))


def seconds_of(work: Any) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
