"""``python -m cpt_core.training JOB_FILE``: one process of a training job, started by a launcher.

In: the job file; RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment.
Out: see ``worker``.
Promise: ends the process itself after success, because gloo may abort while the interpreter shuts down.
Never: parses anything but the job file.
"""

import os
import sys
import warnings
from pathlib import Path

from cpt_core.training.device import choose_device
from cpt_core.training.job_file import read_job


def main() -> None:
    """Run the job in ``sys.argv[1]``; does not return after success."""
    # DeepSpeed 0.19 calls functions that torch 2.13 deprecates, several times a step: the log would be nothing else.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    job = read_job(Path(sys.argv[1]))
    device = choose_device(job.config)
    # DeepSpeed looks for its accelerator when it is imported, so the device comes first.
    from cpt_core.training.worker import run_training

    run_training(job, device)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
