"""What runs on this machine because of `cpt up`, beside the server and the worker.

In: the home folder.
Out: one line a job: the process of a flow run, or the training processes of one job; of a server or a worker, when
they have lost their supervisor.
Promise: a job that outlived its flow run is seen too, by the mark that all of its processes carry.
Never: asks the server.
"""

import os
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import psutil

from flows.serving.processes import marked_processes

_FLOW_RUN = "PREFECT__FLOW_RUN_ID"
_RUN = "flow run "
_TRAINING = "cpt_core.launching"
_SERVING = {"flows.serving.server_process": "server", "prefect worker start": "worker"}


def jobs_of(home: Path, *, is_supervised: bool) -> tuple[str, ...]:
    """Jobs, the oldest first.

    Args:
        home: the home folder.
        is_supervised: False when server and worker are left over as well.
    """
    groups: dict[str, list[psutil.Process]] = defaultdict(list)
    for process in marked_processes(home):
        if (job := _job_of(process)) is not None and not (is_supervised and job in _SERVING.values()):
            groups[job].append(process)
    lines = [(min(process.create_time() for process in group), job, group) for job, group in groups.items()]
    return tuple(_describe(job, started, group) for started, job, group in sorted(lines, key=lambda line: line[:2]))


def runs_with_a_process(home: Path) -> set[str]:
    """Ids of the flow runs that execute here, or are about to; what they have started does not count."""
    jobs = {_job_of(process) for process in marked_processes(home)}
    return {job.removeprefix(_RUN) for job in jobs if job and job.startswith(_RUN)}


def _job_of(process: psutil.Process) -> str | None:
    """Which job a process belongs to; None for the supervisor, and for helpers of a job."""
    try:
        command, run = process.cmdline(), process.environ().get(_FLOW_RUN)
    except psutil.Error:
        return None  # it has just ended
    if serving := next((name for words, name in _SERVING.items() if words in " ".join(command)), None):
        return serving
    if any(word.startswith(_TRAINING) for word in command):
        return f"training {_folder_of(command)}"
    is_leader = run is not None and "prefect" in " ".join(command[1:4])
    return f"{_RUN}{run}" if is_leader else None


def _folder_of(command: list[str]) -> str:
    """The run's folder, from whichever argument lies in that of the job: .../RUN/attempts/ATTEMPT/..."""
    word = next((word for word in command if "/attempts/" in word), "")
    return Path(word.rpartition("/attempts/")[0]).name


def _describe(job: str, started: float, group: list[psutil.Process]) -> str:
    since = datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    pids = ", ".join(str(pid) for pid in sorted(process.pid for process in group) if pid != os.getpid())
    return f"{job}, since {since}, pid {pids}"
