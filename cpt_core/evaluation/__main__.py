"""``python -m cpt_core.evaluation JOB_FILE``: the one process of an evaluation, started by a launcher.

In: the job file.
Out: the success record with the losses.
Promise: the record is written last.
Never: parses anything but the job file.
"""

import sys
from pathlib import Path

from cpt_core.evaluation.job_file import read_job
from cpt_core.evaluation.scoring import score
from cpt_core.launching.success import write_done


def main() -> None:
    """Score the model of the job in ``sys.argv[1]``."""
    job = read_job(Path(sys.argv[1]))
    write_done(Path(job.attempt_folder), job.attempt, {"sources": score(job)})


if __name__ == "__main__":
    main()
