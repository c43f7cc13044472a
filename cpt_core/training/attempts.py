"""A training job and its attempts: found again, started, started anew.

In: what to train.
Out: the report of the job's success record.
Promise: on one output there is never a second job: one that still runs, whoever started it, is followed; one that has
succeeded unseen is believed; only then is a new attempt made. An attempt is on record before it is started. What could
be started once and now cannot is tried again later.
Never: repeats what a rank has refused in so many words.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpt_core.errors import JobFailedError, JobInterruptedError
from cpt_core.launching.environment import current_environment, node_rank
from cpt_core.launching.guard import GRACE_SECONDS, SECONDS_BETWEEN_SIGNS
from cpt_core.launching.job import Job, JobHandle
from cpt_core.launching.launchers import attach, is_here, launch
from cpt_core.launching.record import attempt_record, drop_variables
from cpt_core.launching.status import known_json, write_json
from cpt_core.launching.success import read_done
from cpt_core.launching.waiting import Progress, wait_for_job
from cpt_core.training.continuing import others_unfinished
from cpt_core.training.following import StepsOnce
from cpt_core.training.job_file import TrainingJob, write_job
from cpt_core.training.sealing import newest_first

Notice = Callable[[str], None]
JOB_FILE_NAME = "job.json"
_SECONDS_BEFORE_REJOINING = 2 * GRACE_SECONDS
"""With kind env every node starts its part anew; until then the last rank of the old attempt is gone everywhere."""
_SECONDS_BEFORE_ANOTHER_TRY = 120.0
"""A host that starts anew, or a controller, takes minutes."""


def run_job(
    described: TrainingJob,
    on_progress: Progress | None,
    on_notice: Notice,
    is_whole: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """Follow the job to its success record, starting it as often as needed and allowed.

    Args:
        described: what to train.
        on_progress: called with each step's line of metrics, once also for steps that several attempts make.
        on_notice: called with a line when the job is found running, or is started again, and before it is started when
            another training may have been meant.
        is_whole: whether what a success record reports is still there.

    Raises:
        JobInterruptedError: when the last attempt allowed was broken off, or could not be started again.
        CptError: what a rank refused, or what the first attempt lacks.
    """
    restarts_left = described.config.launcher.max_restarts
    told = StepsOnce(on_progress) if on_progress else None
    start = _attach_or_launch
    while True:
        try:
            job, handle = start(described, on_notice, is_whole)
            return wait_for_job(job, handle, progress_file=described.metrics_file, on_progress=told)
        except JobInterruptedError as error:
            if not restarts_left:
                raise
            restarts_left -= 1
            on_notice(f"starting again from the newest sealed checkpoint, {restarts_left} restarts left: {error}")
            pause = _SECONDS_BEFORE_ANOTHER_TRY if isinstance(error, _NotStartedError) else 0.0
        if described.config.launcher.kind == "env":
            pause = max(pause, _SECONDS_BEFORE_REJOINING)
        time.sleep(pause)
        start = _start_again


class _NotStartedError(JobInterruptedError):
    """Something is out of reach that was there before."""


def _start_again(
    described: TrainingJob, on_notice: Notice, is_whole: Callable[[dict[str, Any]], bool]
) -> tuple[Job, JobHandle]:
    """What was started before lacks nothing that will not come back: a host, a file system, a controller."""
    try:
        return _attach_or_launch(described, on_notice, is_whole)
    except (JobFailedError, OSError) as error:
        raise _NotStartedError(f"the job was broken off and could not be started again: {error}") from None


def _attach_or_launch(
    described: TrainingJob, on_notice: Notice, is_whole: Callable[[dict[str, Any]], bool]
) -> tuple[Job, JobHandle]:
    """A job that runs or has succeeded, or a new attempt; one process at a time decides."""
    described.output_folder.mkdir(parents=True, exist_ok=True)
    record = attempt_record(described.output_folder, _node(described))
    with _alone(described.output_folder / "launch.lock"):
        found = _find_running(described, record, on_notice, is_whole)
        if found is not None:
            return found
        for line in _others_unfinished(described):
            on_notice(line)
        attempt = uuid.uuid4().hex
        folder = described.output_folder / "attempts" / attempt
        folder.mkdir(parents=True)
        write_job(folder / JOB_FILE_NAME, replace(described, attempt=attempt, attempt_folder=folder))
        write_json(record, {"attempt": attempt, "folder": str(folder)})
        job = _job_of(described, attempt, folder)
        return job, launch(job, num_cores=len(os.sched_getaffinity(0)))


def _others_unfinished(described: TrainingJob) -> list[str]:
    """What somebody may have meant to go on with, when this training begins at its first step."""
    begins = described.config.resume_from is None and not any(newest_first(described.checkpoints_folder))
    return others_unfinished(described.output_folder, described.key_parts) if begins and not _node(described) else []


def _find_running(
    described: TrainingJob, record: Path, on_notice: Notice, is_whole: Callable[[dict[str, Any]], bool]
) -> tuple[Job, JobHandle] | None:
    """The job on record, if it runs, or has succeeded and its result is still whole."""
    known = known_json(record)
    if known is None:
        return None
    job = _job_of(described, known["attempt"], Path(known["folder"]))
    handle = attach(job)
    if handle is None:
        return None
    report = read_done(job.folder, job.attempt)
    if report is not None:
        if not is_whole(report):
            return None
        on_notice(f"attempt {job.attempt[:8]} has succeeded meanwhile")
        return job, handle
    if not is_here(job):
        _require_dead(job)
        return None
    if handle.poll() == "exited":
        handle.stop()  # ranks on other nodes may be left
        drop_variables(job.folder)
        return None
    on_notice(f"attempt {job.attempt[:8]} is running already, and is followed from here on")
    return job, handle


def _require_dead(job: Job) -> None:
    """Processes of another machine cannot be asked, but their signs of life can be waited for."""
    before = job.status().alive()
    running = before.keys() - job.status().ends().keys()
    if not running:
        return
    time.sleep(3 * SECONDS_BETWEEN_SIGNS)
    after = job.status().alive()
    beating = [rank for rank in running if after[rank].written_ns != before[rank].written_ns]
    if beating:
        raise JobFailedError(
            f"{job.folder}: this model is being trained on {after[beating[0]].host}; follow it from there, or stop it"
            " there first"
        )


def _job_of(described: TrainingJob, attempt: str, folder: Path) -> Job:
    launcher = described.config.launcher
    return Job(
        "cpt_core.training",
        folder / JOB_FILE_NAME,
        folder,
        launcher,
        attempt,
        outlives_launcher=True,
        records_folder=described.output_folder if launcher.kind == "env" else None,
    )


def _node(described: TrainingJob) -> int:
    return node_rank(described.config.launcher, current_environment())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
