"""The state file: what `up` has running.

In: the home folder.
Out: ``ServingState``, or None when there is none.
Promise: a reader sees a whole file or no file.
Never: says whether the processes still live.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.serving.address import LOOPBACK, Address
from flows.serving.processes import ProcessId


@dataclass(frozen=True)
class ServingState:
    """The supervisor and what it started last."""

    port: int
    supervisor: ProcessId
    server: ProcessId | None = None
    worker: ProcessId | None = None
    host: str = LOOPBACK
    database: str = "SQLite"
    """What the server keeps its history in, without secrets."""
    is_protected: bool = False
    """The server asks for the user and password of the home."""

    @property
    def api_url(self) -> str:
        """Where the server is found."""
        return Address(self.port, self.host).api_url


def write_state(home: Path, state: ServingState) -> None:
    """Replace the state file."""
    path = _path(home)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
    temporary.replace(path)


def read_state(home: Path) -> ServingState | None:
    """What the state file says."""
    try:
        values = json.loads(_path(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return ServingState(
        port=values["port"],
        supervisor=ProcessId(**values["supervisor"]),
        server=_process_id(values["server"]),
        worker=_process_id(values["worker"]),
        host=values["host"],
        database=values["database"],
        is_protected=values["is_protected"],
    )


def remove_state(home: Path) -> None:
    """Forget what ran."""
    _path(home).unlink(missing_ok=True)


def _path(home: Path) -> Path:
    return home / "serving.json"


def _process_id(values: dict[str, Any] | None) -> ProcessId | None:
    return ProcessId(**values) if values else None
