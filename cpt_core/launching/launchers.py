"""``launch``: from a job to its handle, by the kind of its launcher; ``attach``: to one that is running already.

In: a job.
Out: a handle of the job, or with kind ``env`` of this node's part of it.
Promise: what would make every process fail (a variable, the compiler, a host) is said before the first one starts; a
job that was started is on record before its ranks begin.
Never: waits for the job; see ``waiting``.
"""

import os
from dataclasses import asdict
from socket import gethostname

from cpt_core.launching.environment import (
    Environment,
    cluster_environments,
    current_environment,
    free_port,
    local_environments,
)
from cpt_core.launching.hostfile import HostfileLauncher
from cpt_core.launching.job import Job, JobHandle
from cpt_core.launching.kubernetes import KubernetesJob
from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.processes import LocalProcesses
from cpt_core.launching.record import note_start, read_start, write_told
from cpt_core.launching.slurm import SlurmJob

_REMOTE: dict[str, type[HostfileLauncher] | type[SlurmJob] | type[KubernetesJob]] = {
    "hostfile": HostfileLauncher,
    "slurm": SlurmJob,
    "kubernetes": KubernetesJob,
}


def launch(job: Job, *, num_cores: int, environment: Environment | None = None) -> JobHandle:
    """Start a job, or with kind ``env`` this node's part of it.

    Args:
        job: what to run; its folder exists.
        num_cores: cores of this machine that the processes share.
        environment: variables to start from; those of this process by default.

    Raises:
        ConfigError: when the cluster's variables, or the hostfile, do not fit the configuration.
        JobFailedError: when the launcher cannot start the job.
    """
    base = current_environment() if environment is None else environment
    handle = _start(job, base, num_cores)
    note_start(job.folder, {"kind": job.launcher.kind, **handle.identity()})
    return handle


def attach(job: Job) -> JobHandle | None:
    """The handle of a job that was started before; None when it never was, so that it may be forgotten."""
    started = read_start(job.folder)
    if started is None:
        return None
    remote = _REMOTE.get(started["kind"])
    return remote.attach(job, started) if remote else LocalProcesses.attach(job, started)


def is_here(job: Job) -> bool:
    """Whether the processes of a job's launcher can be seen from this machine."""
    started = read_start(job.folder)
    return started is not None and (started["kind"] in ("slurm", "kubernetes") or started["host"] == gethostname())


def _start(job: Job, base: Environment, num_cores: int) -> JobHandle:
    launcher = job.launcher
    if launcher.kind == "env":
        environments = cluster_environments(launcher, base, num_cores=num_cores)
    elif launcher.kind == "local":
        environments = local_environments(launcher, base, port=free_port(), num_cores=num_cores)
    else:
        write_told(job.folder, _told(job, is_remote=True))
        return _REMOTE[launcher.kind].start(job, base)
    write_told(job.folder, _told(job, is_remote=False))
    return LocalProcesses.start(job, environments)


def _told(job: Job, *, is_remote: bool) -> dict[str, object]:
    launcher = job.launcher
    return {
        "module": job.module,
        "job_file": str(job.job_file),
        "is_remote": is_remote,
        "outlives_launcher": job.outlives_launcher,
        "launcher_process": asdict(ProcessId.of(os.getpid())),
        "processes_per_node": launcher.processes_per_node,
        "silence_seconds": launcher.silence_seconds,
        "launcher": launcher.model_dump(mode="json"),
    }
