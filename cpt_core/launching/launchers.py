"""``launch``: from a job to its handle, by the kind of its launcher.

In: a job.
Out: a handle of this node's part of it.
Promise: what would make every process fail (a variable, the compiler) is said before the first one starts.
Never: waits for the job; see ``waiting``.
"""

from cpt_core.launching.environment import (
    Environment,
    cluster_environments,
    current_environment,
    free_port,
    local_environments,
)
from cpt_core.launching.job import Job, JobHandle
from cpt_core.launching.processes import LocalProcesses


def launch(job: Job, *, num_cores: int, environment: Environment | None = None) -> JobHandle:
    """Start a job, or with kind ``env`` this node's part of it.

    Args:
        job: what to run; its folder exists.
        num_cores: cores of this machine that the processes share.
        environment: variables to start from; those of this process by default.

    Raises:
        ConfigError: when the cluster's variables do not fit the configuration.
    """
    base = current_environment() if environment is None else environment
    if job.launcher.kind == "env":
        return LocalProcesses(job, cluster_environments(job.launcher, base, num_cores=num_cores))
    return LocalProcesses(job, local_environments(job.launcher, base, port=free_port(), num_cores=num_cores))
