"""The processes of a job on this machine.

In: a job, one environment for each process; or the record of a start.
Out: a handle of the guards, one a rank.
Promise: a guard that is killed counts as its rank's end; after ``stop`` neither guards nor ranks are left.
Never: judges whether the job succeeded.
"""

import logging
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from cpt_core.launching.guard import GRACE_SECONDS
from cpt_core.launching.job import Job, JobState
from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.status import RankExit, StopRequest, ask_all_to_stop

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.05
_KERNEL_SECONDS = 30.0
"""A process in the hands of a driver or of a dead file system cannot be killed; it is not waited for any longer."""


class LocalProcesses:
    """Handle of the processes that this machine runs for a job; each guard leads a session of its own."""

    seconds_to_stop = 3 * GRACE_SECONDS

    def __init__(
        self, job: Job, guards: dict[int, ProcessId], started: dict[int, "subprocess.Popen[bytes]"] | None = None
    ) -> None:
        self._job = job
        self._guards = guards
        self._started = started or {}

    @classmethod
    def start(cls, job: Job, environments: list[dict[str, str]]) -> "LocalProcesses":
        """Start a guard for each environment."""
        started = {int(environment["RANK"]): _start_guard(job, environment) for environment in environments}
        return cls(job, {rank: ProcessId.of(guard.pid) for rank, guard in started.items()}, started)

    @classmethod
    def attach(cls, job: Job, identity: dict[str, Any]) -> "LocalProcesses":
        """The guards that another process has started."""
        return cls(job, {int(rank): ProcessId(**guard) for rank, guard in identity["guards"].items()})

    def identity(self) -> dict[str, Any]:
        """The guards' process numbers, by rank."""
        return {"guards": {rank: asdict(guard) for rank, guard in self._guards.items()}}

    def poll(self) -> JobState:
        """``exited`` once every process has ended and nothing of it is left."""
        running = [rank for rank in self._guards if self._is_running(rank)]
        return "running" if running else "exited"

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those that are still there after the grace period; waits for their end."""
        if self.poll() == "exited":
            return
        with suppress(OSError):  # a signal needs no folder
            ask_all_to_stop(self._job.statuses(), StopRequest("stopped on request", is_wanted=True))
        self._signal_all(signal.SIGTERM)
        if not self._ends_within(GRACE_SECONDS + 1.0):
            self._signal_all(signal.SIGKILL)  # the rank ends with its guard
            if not self._ends_within(_KERNEL_SECONDS):
                logger.warning("%s: a process does not end, for the kernel holds it", self._job.folder)

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.poll() == "running" and time.monotonic() < deadline:
            time.sleep(_WAIT_SECONDS)
        return self.poll() == "exited"

    def trouble(self) -> str:
        """Guards speak only when they could not begin."""
        return f"all processes on {socket.gethostname()} ended"

    def _is_running(self, rank: int) -> bool:
        guard = self._started.get(rank)
        if guard.poll() is None if guard else self._guards[rank].is_alive():
            return True
        with suppress(OSError):  # a rank ends with its guard, whether or not the folder can be read now
            return self._is_left(rank, guard.returncode if guard else None)
        return False

    def _is_left(self, rank: int, exit_code: int | None) -> bool:
        """Of a guard that has ended, whether its rank still runs."""
        status = self._job.status()
        if rank not in status.ends():
            self._report_lost_guard(rank, exit_code)
        sign = status.alive().get(rank)
        return sign is not None and sign.guard == self._guards[rank] and sign.worker.is_alive()

    def _report_lost_guard(self, rank: int, exit_code: int | None) -> None:
        """Nobody but us can say that a guard was killed, or could not begin."""
        node = rank // self._job.launcher.processes_per_node
        why = "ended unseen" if exit_code is None else None
        end = RankExit(rank, node, socket.gethostname(), exit_code, str(self._job.log_path(rank)), why)
        statuses = self._job.statuses()
        for status in statuses:
            with suppress(OSError):
                status.tell_end(end)
        if exit_code != 0:
            ask_all_to_stop(statuses, StopRequest(str(end), end))

    def _signal_all(self, number: signal.Signals) -> None:
        for guard in self._guards.values():
            guard.send(number)


def _start_guard(job: Job, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    with job.launcher_log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "cpt_core.launching.guard", str(job.folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
