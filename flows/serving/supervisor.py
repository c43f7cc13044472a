"""The daemon behind `cpt up`: `python -m flows.serving.supervisor HOME PORT HOST`, in the environment of its server.

In: the home folder, the address; the database and the password in the environment, where no list of processes shows
them.
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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx

from flows.serving.address import Address
from flows.serving.api import SERVER_AUTH_VARIABLE, answers
from flows.serving.database import describe_database, named_database
from flows.serving.dead_runs import WORK_POOL, crash_dead_runs, crash_runs_that_never_start
from flows.serving.environment import worker_environment
from flows.serving.processes import ProcessId, marked_processes, stop_processes
from flows.serving.state import ServingState, remove_state, write_state

logger = logging.getLogger("supervisor")

LOG_BYTES = 10_000_000

_LONGEST_PAUSE_SECONDS = 30.0
_STABLE_SECONDS = 60.0
_GRACE_SECONDS = 15.0
_TICK_SECONDS = 0.2
_LOOK_SECONDS = 5.0
"""Longer than a process that a worker was just starting needs to be seen."""


@dataclass
class Child:
    """A program that is kept running."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    next_start: float = 0.0
    ended: datetime | None = None
    """When it died last, until what it had claimed has been seen to."""
    next_look: float = 0.0

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, its output appended to its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started = time.monotonic()
        logger.info("%s started, pid %d", self.name, self.process.pid)

    def note_death(self) -> None:
        """Choose when to start it again: at once the first time, then later and later."""
        assert self.process is not None
        self.ended, self.next_look = datetime.now(UTC), time.monotonic() + _LOOK_SECONDS
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


def main(home: Path, address: Address) -> None:
    """Supervise until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server, worker = _children(home, address)
    state = ServingState(
        port=address.port,
        supervisor=ProcessId.of(os.getpid()),
        host=address.host,
        database=describe_database(named_database(None)),
        is_protected=SERVER_AUTH_VARIABLE in os.environ,
    )
    try:
        _supervise(home, state, [server], until=lambda: stop.wait(_TICK_SECONDS) or answers(address.api_url))
        if not stop.is_set():
            _crash_dead_runs(address)
            _supervise(home, state, [server, worker], until=lambda: stop.wait(_TICK_SECONDS))
    finally:
        _stop_all(home, address, server)
        remove_state(home)
        logger.info("stopped")


def _children(home: Path, address: Address) -> tuple[Child, Child]:
    """The server, which alone knows the database, and the worker, whose runs inherit what it knows."""
    python, environment, logs = [sys.executable, "-m"], dict(os.environ), home / "logs"
    server = [*python, "flows.serving.server_process", address.host, str(address.port)]
    worker = [*python, "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", "cpt-worker"]
    return (
        Child("server", server, logs / "server.log", environment),
        Child("worker", worker, logs / "worker.log", worker_environment(environment)),
    )


def _supervise(home: Path, state: ServingState, children: list[Child], *, until: Callable[[], bool]) -> None:
    """Start again what died, see to what a worker leaves, and write down what runs; the first child is the server."""
    _, *workers = children
    while True:
        changes = [_tend(child) for child in children]
        if any(changes):
            running = {child.name: child.identity() for child in children}
            write_state(home, replace(state, server=running["server"], worker=running.get("worker")))
        for worker in workers:
            _tend_claims(home, state.api_url, worker)
        rotate(home / "logs")
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


def _tend_claims(home: Path, api_url: str, worker: Child) -> None:
    """The next worker does not know what a dead one had claimed, so it cannot see that it never starts."""
    if worker.ended is None or time.monotonic() < worker.next_look:
        return
    worker.next_look = time.monotonic() + _LOOK_SECONDS
    try:
        if not crash_runs_that_never_start(api_url, home, worker_ended=worker.ended):
            worker.ended = None
    except httpx.HTTPError:
        pass  # the server is away as well: the next look comes


def _stop_all(home: Path, address: Address, server: Child) -> None:
    """The worker waits for its flow runs to end, so all are asked at once, and the server last."""
    logger.info("stopping")
    last = server.process.pid if server.process else None
    stop_processes([p for p in marked_processes(home) if p.pid != last], grace_seconds=_GRACE_SECONDS)
    _crash_dead_runs(address)
    stop_processes([p for p in marked_processes(home) if p.pid == last], grace_seconds=_GRACE_SECONDS)


def _crash_dead_runs(address: Address) -> None:
    try:
        names = crash_dead_runs(address.api_url)
    except httpx.HTTPError as error:
        logger.error("the server could not be told which runs are over: %s", error)
    else:
        logger.info("runs without a process: %s", ", ".join(names) or "none")


def rotate(logs: Path) -> None:
    """Keep one older file of each log. The writers append, so a file can be emptied under them."""
    for log in logs.glob("*.log"):
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Address(int(sys.argv[2]), sys.argv[3]))
