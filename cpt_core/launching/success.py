"""The record that says that a job succeeded.

In: the attempt, and what the job wants to report.
Out: ``DONE.json`` in the attempt's folder.
Promise: it is there whole or not at all, and counts only for the attempt that it names.
Never: believes an exit code; collectives may abort after success, and launchers may return 0 after failure.
"""

from pathlib import Path
from typing import Any

from cpt_core.launching.status import known_json, write_json
from cpt_core.storage.durable import fsync_folder

DONE_NAME = "DONE.json"


def write_done(folder: Path, attempt: str, report: dict[str, Any]) -> None:
    """Write the record durably; the last thing that a job does."""
    write_json(folder / DONE_NAME, {"attempt": attempt, "report": report})
    fsync_folder(folder)


def read_done(folder: Path, attempt: str) -> dict[str, Any] | None:
    """The report of this attempt, or None when it has not succeeded.

    Raises:
        OSError: when nobody can say that now.
    """
    record = known_json(folder / DONE_NAME)
    report = record.get("report") if record and record.get("attempt") == attempt else None
    return report if isinstance(report, dict) else None
