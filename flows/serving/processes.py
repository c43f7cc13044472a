"""Processes: which one it is, whether it lives, and its end.

In: process ids with creation times; the home folder that marks what `up` started.
Out: live psutil processes.
Promise: a pid that the system gave to another program since is never taken for ours.
Never: stops anything that it was not handed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.serving.environment import HOME_MARK


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from a later one with the same pid."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The identity of a process that runs now."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The live process, or None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def marked_processes(home: Path) -> list[psutil.Process]:
    """Everything alive that descends from the `up` of this home, orphans too; without the caller itself."""
    return [
        process for process in psutil.process_iter() if process.pid != os.getpid() and _mark_of(process) == str(home)
    ]


def stop_processes(processes: Sequence[psutil.Process], *, grace_seconds: float) -> None:
    """Ask them to end, wait, and kill what is left."""
    for process in processes:
        _send(process, kill=False)
    _, stubborn = psutil.wait_procs(processes, timeout=grace_seconds)
    for process in stubborn:
        _send(process, kill=True)
    psutil.wait_procs(stubborn, timeout=5)


def _mark_of(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get(HOME_MARK)
    except psutil.Error:
        return None  # gone, or another user's


def _send(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass
