"""The daemon behind `cpt up`: `python -m flows.serving.supervisor HOME PORT`, in the environment of its children.

In: the home folder and the port.
Out: a Prefect server and a worker that are started again when they die; logs; the state file.
Promise: on SIGTERM flow runs, worker and server end in this order, so that the server hears of it.
Never: outlives its children, or leaves the state file behind when told to stop.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from flows.serving.api import answers
from flows.serving.dead_runs import WORK_POOL, crash_dead_runs
from flows.serving.environment import api_url_of
from flows.serving.processes import ProcessId, marked_processes, stop_processes
from flows.serving.state import ServingState, remove_state, write_state

logger = logging.getLogger("supervisor")

LOG_BYTES = 10_000_000

_LONGEST_PAUSE_SECONDS = 30.0
_STABLE_SECONDS = 60.0
_GRACE_SECONDS = 15.0
_TICK_SECONDS = 0.2


@dataclass
class Child:
    """A program that is kept running."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    next_start: float = 0.0

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, its output appended to its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.started = time.monotonic()
        logger.info("%s started, pid %d", self.name, self.process.pid)

    def note_death(self) -> None:
        """Choose when to start it again: at once the first time, then later and later."""
        assert self.process is not None
        lived = time.monotonic() - self.started
        self.failures = 1 if lived > _STABLE_SECONDS else self.failures + 1
        pause = 0.0 if self.failures == 1 else min(2.0 ** (self.failures - 1), _LONGEST_PAUSE_SECONDS)
        self.next_start = time.monotonic() + pause
        logger.error(
            "%s ended with status %d after %.0f s; next start in %.0f s, its log is %s",
            self.name,
            self.process.returncode,
            lived,
            pause,
            self.log,
        )
        self.process = None

    def identity(self) -> ProcessId | None:
        """Its process, for the state file."""
        return ProcessId.of(self.process.pid) if self.process and self.is_alive() else None


def main(home: Path, port: int) -> None:
    """Supervise until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    prefect = [sys.executable, "-m", "prefect"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    pool = ["--pool", WORK_POOL, "--type", "process", "--name", "cpt-worker"]
    server = Child("server", [*prefect, "server", "start", *address], home / "logs" / "server.log")
    worker = Child("worker", [*prefect, "worker", "start", *pool], home / "logs" / "worker.log")
    try:
        _supervise(home, port, [server], until=lambda: stop.wait(_TICK_SECONDS) or answers(api_url_of(port)))
        if not stop.is_set():
            _crash_dead_runs(port)
            _supervise(home, port, [server, worker], until=lambda: stop.wait(_TICK_SECONDS))
    finally:
        _stop_all(home, port, server)
        remove_state(home)
        logger.info("stopped")


def _supervise(home: Path, port: int, children: list[Child], *, until: Callable[[], bool]) -> None:
    """Start again what died, and write down what runs."""
    while True:
        changes = [_tend(child) for child in children]
        if any(changes):
            identities = {child.name: child.identity() for child in children}
            write_state(home, ServingState(port=port, supervisor=ProcessId.of(os.getpid()), **identities))
        _rotate(home / "logs")
        if until():
            return


def _tend(child: Child) -> bool:
    """Restart a child that died; True when there is something new to write down."""
    if child.is_alive():
        return False
    died = child.process is not None
    if died:
        child.note_death()
    if time.monotonic() < child.next_start:
        return died
    child.start()
    return True


def _stop_all(home: Path, port: int, server: Child) -> None:
    """The worker waits for its flow runs to end, so all are asked at once, and the server last."""
    logger.info("stopping")
    last = server.process.pid if server.process else None
    stop_processes([p for p in marked_processes(home) if p.pid != last], grace_seconds=_GRACE_SECONDS)
    _crash_dead_runs(port)
    stop_processes([p for p in marked_processes(home) if p.pid == last], grace_seconds=_GRACE_SECONDS)


def _crash_dead_runs(port: int) -> None:
    try:
        names = crash_dead_runs(api_url_of(port))
    except httpx.HTTPError as error:
        logger.error("the server could not be told which runs are over: %s", error)
    else:
        logger.info("runs without a process: %s", ", ".join(names) or "none")


def _rotate(logs: Path) -> None:
    """Keep one older file of each log. The writers append, so a file can be emptied under them."""
    for log in logs.glob("*.log"):
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
