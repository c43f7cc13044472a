"""A real ``cpt prepare`` that is killed: the command, its claims, its worker processes, its Prefect server.

A *kill* strikes the command alone, whose processes then have to end by themselves, or all of them at once.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import REPOSITORY
from tests.faults.runs import contents, torn_files

PROGRAM = """
import tasks.computing
from flows.command import main
tasks.computing.PROCESSES_PAY_FROM_BYTES = 0
main()
"""
"""The command, with worker processes although the corpus is small."""
GATES = (
    "os.link */tokens/*/tokens-*.parquet",
    "os.link */tokens/b-00000-*/artifact.json",
    "os.link */index/*/documents-*.parquet",
    "os.link */index/*/artifact.json",
    "os.link */packed/*/rows-*.parquet",
    "os.link */packed/b+held-out-*/artifact.json",
)
"""Where a run waits to be killed: right before the first call of the system that fits."""
CLAIMS = ".claims"
"""Folder of the store that is there as soon as tokenization begins."""
LONGEST_RUN_SECONDS = 300
_ORPHANS_END_IN_SECONDS = 60


@dataclass(frozen=True)
class Kill:
    """When to kill, and whom."""

    with_its_processes: bool
    gate: str = ""
    seconds: float = 0.0
    """After tokenization began, where no gate is given."""

    def __str__(self) -> str:
        whom = "the command and its processes" if self.with_its_processes else "the command"
        return f"{whom} killed " + (
            f"before {self.gate}" if self.gate else f"{self.seconds:.3f} s after tokenization began"
        )


class Command:
    """``cpt prepare`` of one configuration, on a store of the caller's choice."""

    def __init__(self, config: Path, folder: Path, environment: dict[str, str]) -> None:
        """Run it undisturbed.

        Args:
            config: with the corpus and the tokenizer.
            folder: empty; for stores and what gates leave.
            environment: variables beside those of this process.
        """
        self._config, self._folder, self._environment = config, folder, environment
        self._gates_passed = 0
        store = folder / "undisturbed"
        process = self._start(store)
        self._wait_for(process, store / CLAIMS)
        started = time.perf_counter()
        output, _ = process.communicate(timeout=LONGEST_RUN_SECONDS)
        assert process.returncode == 0, output
        self.seconds = time.perf_counter() - started
        """How long an undisturbed run takes from the first claim of a shard to its end."""
        self.reference = contents(store)
        """What it leaves."""

    def problem_of(self, store: Path, kill: Kill) -> str | None:
        """Run and kill: what is wrong with what that leaves, empty when nothing is, None when it ended before."""
        gate = self._folder / f"gate-{self._gates_passed}"
        self._gates_passed += 1
        process = self._start(store, {"CPT_TEST_GATE": kill.gate, "CPT_TEST_GATE_REACHED": str(gate)})
        self._wait_for(process, gate if kill.gate else store / CLAIMS)
        time.sleep(kill.seconds)
        family = _family_of(process)
        process.kill()
        if kill.with_its_processes:
            _kill(family)
        if orphans := _still_there(family):
            _kill(orphans)
            return f"{len(orphans)} of its processes did not end"
        output, _ = process.communicate(timeout=300)
        if process.returncode == 0:
            return None
        if process.returncode != -signal.SIGKILL:
            return f"ended with status {process.returncode}: {output}"
        torn = torn_files(store)
        return f"visible and torn: {torn}" if torn else ""

    def problem_in_the_end(self, store: Path) -> str:
        """Run to the end: what is other than after an undisturbed run, empty when nothing is."""
        process = self._start(store)
        output, _ = process.communicate(timeout=LONGEST_RUN_SECONDS)
        if process.returncode != 0:
            return f"the next run ended with status {process.returncode}: {output}"
        if contents(store) != self.reference:
            return f"other content: {sorted(contents(store).items() ^ self.reference.items())}"
        hidden = [store / ".tmp", store / ".claims", store / "damaged"]
        left = [str(path) for folder in hidden for path in folder.rglob("*") if path.is_file()]
        return f"left behind: {left}" if left else ""

    def _start(self, store: Path, gate: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        search_path = [str(Path(__file__).parent / "gate"), str(REPOSITORY)]
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "prepare", str(self._config), "--set", f"store_uri={store}"],
            cwd=self._folder,
            env=os.environ | self._environment | (gate or {}) | {"PYTHONPATH": os.pathsep.join(search_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _wait_for(self, process: "subprocess.Popen[str]", path: Path) -> None:
        deadline = time.monotonic() + LONGEST_RUN_SECONDS
        while process.poll() is None and not path.exists():
            assert time.monotonic() < deadline, f"{path} is not there"
            time.sleep(0.005)


def kills_at_gates() -> list[Kill]:
    """In the order in which a run comes to them; whom, in turn."""
    return [Kill(number % 2 == 1, gate) for number, gate in enumerate(GATES)]


def kills_at_random(seconds: float, seed: int) -> Iterator[Kill]:
    """Without end, while so many seconds of work last."""
    drawn = random.Random(seed)
    while True:
        yield Kill(drawn.random() < 0.5, seconds=drawn.uniform(0.0, seconds))


def _family_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def _kill(family: list[psutil.Process]) -> None:
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def _still_there(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended after a while; one that only waits for its parent's question has."""
    deadline = time.monotonic() + _ORPHANS_END_IN_SECONDS
    while (found := [member for member in family if _runs(member)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
