"""``python -m tests.cluster.follow FOLDER LAUNCHER``: what a flow does with a job, in a process that can be killed.

Prints one JSON object: the report, or the error and its class.
"""

import json
import signal
import sys
from pathlib import Path

from cpt_core.config import LauncherConfig
from cpt_core.errors import CptError
from cpt_core.launching.job import Job
from cpt_core.launching.launchers import attach, launch
from cpt_core.launching.waiting import wait_for_job


def main() -> None:
    """Start the job in the folder, or follow the one that runs there."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Prefect, too, makes an exception of it
    folder, launcher = Path(sys.argv[1]), LauncherConfig(**json.loads(sys.argv[2]))
    job = Job("tests.cluster.work", folder / "job.json", folder, launcher, "a1", outlives_launcher=True)
    try:
        handle = attach(job) or launch(job, num_cores=2)
        answer = wait_for_job(job, handle)
    except CptError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
