"""Following a job to its end.

In: a job and its handle; the file in which it notes its progress.
Out: the report of its success record.
Promise: success is the record of this very attempt; a failure names the rank that died first, with its last lines.
Never: leaves processes behind, whatever interrupts the waiting.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cpt_core import errors
from cpt_core.launching.job import Job, JobHandle, RankExit
from cpt_core.launching.success import DONE_NAME, read_done

POLL_SECONDS = 0.2
LAST_LINES = 30
_OUT_OF_MEMORY_HINT = "; the kernel's out-of-memory killer does that, or somebody's kill"

Progress = Callable[[dict[str, Any]], None]


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
        JobFailedError: when it ended without the record.
        CptError: of the class that a rank raised, when the rank that died first raised one.
    """
    progress = ProgressFile(progress_file, job.attempt) if progress_file and on_progress else None
    try:
        is_running = True
        while is_running:
            is_running = handle.poll() == "running"
            for line in progress.new_lines() if progress else ():
                if on_progress:
                    on_progress(line)
            if is_running:
                time.sleep(POLL_SECONDS)
    finally:
        handle.stop()
    report = read_done(job.folder, job.attempt)
    if report is None:
        raise failure_of(job, handle.first_failure)
    return report


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


def failure_of(job: Job, first: RankExit | None) -> errors.CptError:
    """The error of a job that ended without its success record."""
    if first is None:
        return errors.JobFailedError(
            f"{job.module}: all processes of {socket.gethostname()} ended, but there is no {DONE_NAME} of attempt"
            f" {job.attempt} in {job.folder}; see the logs there. Last lines of rank-00000:\n"
            f"{_last_lines(job.log_path(0))}"
        )
    refusal = _refusal(job.refusal_path(first.rank))
    if refusal:
        return _as_raised(refusal, job)
    hint = _OUT_OF_MEMORY_HINT if first.exit_code == -9 else ""
    return errors.JobFailedError(
        f"{job.module}: {first} on {socket.gethostname()} before any other did{hint}. All logs: {job.folder}."
        f" Last lines of {job.log_path(first.rank).name}:\n{_last_lines(job.log_path(first.rank))}"
    )


def _as_raised(refusal: dict[str, Any], job: Job) -> errors.CptError:
    """The error that the rank raised, of its own class where that needs nothing but a message."""
    message = str(refusal.get("message"))
    kind = getattr(errors, str(refusal.get("error")), None)
    if isinstance(kind, type) and issubclass(kind, errors.CptError) and kind is not errors.ShardsFailedError:
        return kind(message)
    return errors.JobFailedError(f"{message} (logs: {job.folder})")


def _refusal(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-LAST_LINES:]) or "(the log is empty)"
