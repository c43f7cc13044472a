"""``python -m cpt_core.evaluation JOB_FILE``: the one process of an evaluation, started by a launcher.

In: the job file.
Out: the success record with the losses; how far it is, as JSON lines.
Promise: the record is written last; a full disk costs lines and not the scores.
Never: parses anything but the job file.
"""

import json
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from cpt_core.evaluation.job_file import EvaluationJob, read_job
from cpt_core.evaluation.scoring import score
from cpt_core.launching.success import write_done


def main() -> None:
    """Score the model of the job in ``sys.argv[1]``."""
    job = read_job(Path(sys.argv[1]))
    write_done(Path(job.attempt_folder), job.attempt, {"sources": score(job, partial(_tell, job))})


def _tell(job: EvaluationJob, rows: int) -> None:
    """Append to the file that whoever follows the job reads."""
    line = json.dumps({"attempt": job.attempt, "rows": rows})
    with suppress(OSError), job.progress_file.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


if __name__ == "__main__":
    main()
