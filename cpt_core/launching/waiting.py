"""Following a job to its end.

In: a job and its handle; the file in which it notes its progress.
Out: the report of its success record.
Promise: success is the record of this very attempt; a failure names the rank that failed first, with its last lines; a
bad moment of the job's file system ends no job.
Never: leaves processes behind, whatever interrupts the waiting.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cpt_core import errors
from cpt_core.launching.guard import TOLD_TO_END
from cpt_core.launching.job import Job, JobHandle, last_lines
from cpt_core.launching.record import drop_variables
from cpt_core.launching.sight import SILENCES
from cpt_core.launching.status import RankExit
from cpt_core.launching.success import DONE_NAME, read_done
from cpt_core.launching.watching import Watch

POLL_SECONDS = 0.2
_OUT_OF_MEMORY_HINT = "; the kernel's out-of-memory killer does that, or somebody's kill"

Progress = Callable[[dict[str, Any]], None]
Answer = TypeVar("Answer")


def wait_for_job(
    job: Job, handle: JobHandle, *, progress_file: Path | None = None, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Wait until a job has ended.

    Args:
        job: the job.
        handle: its handle; stopped when the waiting is interrupted.
        progress_file: JSON lines that the job appends; lines of other attempts are passed over.
        on_progress: called with each new line of ``progress_file``.

    Returns:
        The report of the job's success record.

    Raises:
        JobInterruptedError: when a rank or the launcher failed, or the job's folder could not be read for as long as no
            rank would do without it; another attempt may succeed.
        JobFailedError: when it ended without the record for another reason.
        CptError: of the class that a rank raised, when the rank that failed first raised one.
    """
    progress = ProgressFile(progress_file, job.attempt) if progress_file and on_progress else None
    try:
        watch = _answer(job, lambda: Watch(job, handle))
        is_running = True
        while is_running:
            is_running, lines = _answer(job, lambda: _look(handle, watch, progress))
            for line in lines:
                if on_progress:
                    on_progress(line)
            if is_running:
                time.sleep(POLL_SECONDS)
    finally:
        handle.stop()
        with suppress(OSError):  # whoever finds the job on record does it then
            drop_variables(job.folder)
    report = _answer(job, lambda: read_done(job.folder, job.attempt))
    if report is None:
        raise _answer(job, lambda: failure_of(job, handle))
    return report


def _look(handle: JobHandle, watch: Watch, progress: "ProgressFile | None") -> tuple[bool, list[dict[str, Any]]]:
    """Whether the job runs, and its new lines."""
    is_running = handle.poll() == "running" and not watch.is_over()
    return is_running, list(progress.new_lines()) if progress else []


def _answer(job: Job, ask: Callable[[], Answer]) -> Answer:
    """Of a file system that has a bad moment, asked again until it answers, or until ranks would end for its loss."""
    limit = SILENCES * job.launcher.silence_seconds
    deadline = time.monotonic() + limit
    while True:
        try:
            return ask()
        except OSError as error:
            if time.monotonic() > deadline:
                raise errors.JobInterruptedError(
                    f"{job.module}: what its ranks do could not be seen for {limit} seconds: {error}; logs:"
                    f" {job.folder}"
                ) from None
        time.sleep(POLL_SECONDS)


class ProgressFile:
    """The lines of a growing JSONL file, each given once; a replaced file is read from its start."""

    def __init__(self, path: Path, attempt: str) -> None:
        self._path = path
        self._attempt = attempt
        self._inode = -1
        self._position = 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """Whole lines of this attempt that have come since the last call."""
        try:
            with self._path.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._position = inode, 0
                stream.seek(self._position)
                content = stream.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        for text in whole.splitlines():
            line = _parsed(text)
            if line.get("attempt") == self._attempt:
                yield line


def failure_of(job: Job, handle: JobHandle) -> errors.CptError:
    """The error of a job that ended without its success record."""
    request = job.stop_request()
    failed = request.failed if request else None
    if failed is not None and _is_cause(failed):
        return _failure_of_rank(job, failed)
    if request is not None and request.is_wanted:
        return errors.JobFailedError(f"{job.module}: {request.why}; logs: {job.folder}")
    if (lost := _lost_rank(job)) is not None:
        consequence = f"{failed} thereafter; " if failed else ""
        return _failure_of_launcher(job, lost, consequence + handle.trouble())
    if failed is not None and failed.why == TOLD_TO_END:
        return _failure_of_launcher(job, failed, handle.trouble())
    if failed is not None:
        return _failure_of_rank(job, failed)
    if _all_ended_well(job):
        return errors.JobFailedError(
            f"{job.module}: all processes ended with exit code 0, but there is no {DONE_NAME} of attempt"
            f" {job.attempt} in {job.folder}; see the logs there. Last lines of rank-00000:\n"
            f"{last_lines(job.log_path(0))}"
        )
    return errors.JobInterruptedError(f"{job.module} (logs: {job.folder}): {handle.trouble()}")


def _failure_of_rank(job: Job, failed: RankExit) -> errors.CptError:
    if failed.refusal:
        return _as_raised(failed.refusal, job)
    log = Path(failed.log)
    hint = _OUT_OF_MEMORY_HINT if failed.exit_code == -9 else ""
    return errors.JobInterruptedError(
        f"{job.module}: {failed} on {failed.host} before any other did{hint}. All logs: {log.parent}."
        f" Last lines of {log.name}:\n{last_lines(log)}"
    )


def _is_cause(failed: RankExit) -> bool:
    """Not of a rank that was told to end, or that ended with an error, as one does whose companion is lost."""
    return failed.refusal is not None or not (failed.why == TOLD_TO_END or (failed.exit_code or 0) > 0)


def _lost_rank(job: Job) -> RankExit | None:
    """Of a job that is over, a rank that has begun and of whose end nothing is known: its guard is gone, too."""
    status = job.status()
    ended = status.ends()
    lost = [sign for rank, sign in sorted(status.alive().items()) if rank not in ended]
    return RankExit(lost[0].rank, lost[0].node, lost[0].host, None, lost[0].log, "was lost") if lost else None


def _failure_of_launcher(job: Job, met: RankExit, trouble: str) -> errors.CptError:
    """The launcher knows why; the rank is the one that it has met first, or that has gone with its node."""
    log = Path(met.log)
    return errors.JobInterruptedError(
        f"{job.module}: {met} on {met.host} (logs: {log.parent}): {trouble}\n"
        f"Last lines of {log.name}:\n{last_lines(log)}"
    )


def _all_ended_well(job: Job) -> bool:
    ends = job.status().ends()
    return bool(ends) and all(end.exit_code == 0 for end in ends.values())


def _as_raised(refusal: dict[str, Any], job: Job) -> errors.CptError:
    """The error that the rank raised, of its own class where that needs nothing but a message."""
    message = str(refusal.get("message"))
    kind = getattr(errors, str(refusal.get("error")), None)
    if isinstance(kind, type) and issubclass(kind, errors.CptError) and kind is not errors.ShardsFailedError:
        return kind(message)
    return errors.JobFailedError(f"{message} (logs: {job.folder})")


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
