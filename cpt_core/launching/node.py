"""``python -m cpt_core.launching.node JOB_FOLDER``: one node's ranks, where the cluster starts one program a node.

In: the job's folder; WORLD_SIZE (nodes), RANK (this node), MASTER_ADDR and MASTER_PORT in the environment.
Out: a guard for each rank of the node; exit code 0 when all have ended well.
Promise: on SIGTERM the ranks end, and with them the job.
Never: follows the job; whoever has submitted it does.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from cpt_core.config import LauncherConfig
from cpt_core.launching.environment import cluster_environments, current_environment
from cpt_core.launching.record import TOLD_NAME


def main() -> None:
    """Run this node's part of a job."""
    folder = Path(sys.argv[1])
    told = json.loads((folder / TOLD_NAME).read_bytes())
    launcher = LauncherConfig(**told["launcher"])
    environments = cluster_environments(launcher, current_environment(), num_cores=len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "cpt_core.launching.guard", str(folder)]
    guards = [subprocess.Popen(command, env=environment, start_new_session=True) for environment in environments]

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        for guard in guards:
            guard.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    sys.exit(max(guard.wait() for guard in guards))


if __name__ == "__main__":
    main()
