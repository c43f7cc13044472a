"""The processes of a job on this machine.

In: a job, one environment for each process.
Out: a handle that knows which process ended badly first.
Promise: when one process ends badly all others are stopped; nothing of the job outlives the handle's process.
Never: judges whether the job succeeded.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

from cpt_core.launching.job import Job, JobState, RankExit

GRACE_SECONDS = 5.0


class LocalProcesses:
    """Handle of the processes that this machine runs for a job.

    Each is the leader of its own session. Its standard input is a pipe that only we hold, so it notices when we die.
    """

    def __init__(self, job: Job, environments: list[dict[str, str]]) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._failure: RankExit | None = None
        self._is_stopping = False
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for environment in environments:
            rank = int(environment["RANK"])
            self._processes[rank] = self._start(rank, environment)
        self._watchers = {
            rank: threading.Thread(target=self._watch, args=(rank,), daemon=True) for rank in self._processes
        }
        for watcher in self._watchers.values():
            watcher.start()

    @property
    def first_failure(self) -> RankExit | None:
        """The process that ended badly first, if any did."""
        with self._lock:
            return self._failure

    def poll(self) -> JobState:
        """``exited`` once every process has ended and nothing of it is left."""
        return "running" if any(watcher.is_alive() for watcher in self._watchers.values()) else "exited"

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those that are still there after the grace period; waits for their end."""
        with self._lock:
            self._is_stopping = True
        self._end_all_but(None)
        for watcher in self._watchers.values():
            watcher.join()

    def _start(self, rank: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        job = self._job
        shell = [sys.executable, "-m", "cpt_core.launching.rank", str(job.refusal_path(rank))]
        with job.log_path(rank).open("ab") as log:
            return subprocess.Popen(
                [*shell, job.module, str(job.job_file)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _watch(self, rank: int) -> None:
        """Wait for the end of one process; the first bad end starts the end of all."""
        process = self._processes[rank]
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        exit_code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        is_first_failure = exit_code != 0 and self._is_first_failure(rank, exit_code)
        _signal_group(process, signal.SIGKILL)  # what it started; the zombie keeps the group's number ours
        process.wait()
        if is_first_failure:
            self._end_all_but(rank)

    def _is_first_failure(self, rank: int, exit_code: int) -> bool:
        with self._lock:
            if self._failure is not None or self._is_stopping:
                return False
            self._failure = RankExit(rank, rank // self._job.launcher.processes_per_node, exit_code)
            return True

    def _end_all_but(self, ended_rank: int | None) -> None:
        """SIGTERM, and SIGKILL to what is still there after the grace period."""
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for rank, watcher in self._watchers.items():
            if rank != ended_rank:
                watcher.join(max(0.0, deadline - time.monotonic()))
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                _signal_group(process, number)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a process and all that it started; its group is its own, so nobody else is met."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
