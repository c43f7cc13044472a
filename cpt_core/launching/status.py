"""The files by which the ranks of a job and whoever watches it speak with each other.

In: a folder that all nodes of the job share.
Out: signs of life, ends and the request to stop, each in a small JSON file that is there whole or not at all.
Promise: of several requests to stop the first one stays: the rank that failed first is known without comparing clocks.
Never: needs more than the standard library, because a process beside every rank reads and writes here.

::

    alive-00003.json   the last sign of life of rank 3
    ended-00003.json   how rank 3 ended
    stop.json          why all ranks have to end
"""

import json
import os
import re
import signal
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpt_core.launching.process_id import ProcessId

STATUS_PREFIX = "status-"


@dataclass(frozen=True)
class RankExit:
    """How one rank ended."""

    rank: int
    node: int
    host: str
    exit_code: int | None
    """As subprocess gives it: negative for a signal; None when nobody saw the end."""
    log: str
    """Its standard output and error."""
    why: str | None = None
    """Of an end that the exit code does not tell, such as a rank that fell silent."""
    refusal: dict[str, Any] | None = None
    """Class and message of an error that a caller can act on, when the rank ended with one."""

    def __str__(self) -> str:
        """Such as ``rank 3 on node 1 ended with signal 9 (SIGKILL)``."""
        who = f"rank {self.rank} on node {self.node}"
        if self.why is not None:
            return f"{who} {self.why}"
        if self.exit_code is not None and self.exit_code < 0:
            return f"{who} ended with signal {-self.exit_code} ({signal.Signals(-self.exit_code).name})"
        return f"{who} ended with exit code {self.exit_code}"


@dataclass(frozen=True)
class SignOfLife:
    """What is known of a rank that runs."""

    rank: int
    node: int
    host: str
    log: str
    guard: ProcessId
    worker: ProcessId
    signs: int
    """How often the rank has been heard of."""
    meetings: int
    """How often it has set out to meet the other ranks: the one they all wait for has the fewest."""
    written_ns: int = 0
    """When the file was written, by the clock of its file system: good for nothing but to see that it changes."""


@dataclass(frozen=True)
class StopRequest:
    """Why all ranks have to end."""

    why: str
    failed: RankExit | None = None
    """The rank that is the cause, if one is."""
    is_wanted: bool = False
    """Whether somebody asked for it, so that nothing is to be repaired or repeated."""
    dump_stacks: bool = False
    """Whether ranks write to their logs where they are."""


class Status:
    """The files of one run of a job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def newest(cls, job_folder: Path) -> "Status":
        """Of the job's last run; Slurm may run the same job more than once."""
        runs = [int(path.name.removeprefix(STATUS_PREFIX)) for path in job_folder.glob(f"{STATUS_PREFIX}*")]
        return cls.of_run(job_folder, max(runs, default=0))

    @classmethod
    def of_run(cls, job_folder: Path, run: int) -> "Status":
        """Of the run with this number, from 0."""
        return cls(job_folder / f"{STATUS_PREFIX}{run}")

    def tell_alive(self, sign: SignOfLife) -> None:
        """Note a sign of life; on a full disk the older one is touched, for that takes no space."""
        path = self.folder / f"alive-{sign.rank:05}.json"
        try:
            _write(path, asdict(sign))
        except OSError:
            os.utime(path)

    def alive(self) -> dict[int, SignOfLife]:
        """The last sign of life of every rank that has given one, by rank."""
        return {sign.rank: sign for path in self._paths("alive") if (sign := _sign(path)) is not None}

    def tell_end(self, end: RankExit) -> None:
        """Note an end, unless one is noted already."""
        _write_first(self.folder / f"ended-{end.rank:05}.json", asdict(end))

    def ends(self) -> dict[int, RankExit]:
        """How ranks ended, by rank."""
        ends = (known_json(path) for path in self._paths("ended"))
        return {values["rank"]: RankExit(**values) for values in ends if values is not None}

    def refusal_path(self, rank: int) -> Path:
        """Where a rank leaves an error that a caller can act on."""
        return self.folder / f"refusal-{rank:05}.json"

    def ask_to_stop(self, request: StopRequest) -> None:
        """Have all ranks end, unless that is asked for already."""
        _write_first(self.folder / "stop.json", asdict(request))

    def stop_request(self) -> StopRequest | None:
        """Why all ranks have to end, if they have to."""
        values = read_json(self.folder / "stop.json")
        if values is None:
            return None
        failed = RankExit(**values["failed"]) if values["failed"] else None
        return StopRequest(**values | {"failed": failed})

    def _paths(self, kind: str) -> list[Path]:
        pattern = re.compile(rf"{kind}-\d+\.json")
        return [path for path in self.folder.glob(f"{kind}-*") if pattern.fullmatch(path.name)]


def ask_all_to_stop(statuses: Iterable[Status], request: StopRequest) -> None:
    """Have all ranks end that look at one of these; an earlier request that one of them holds is passed on."""
    for status in statuses:
        with suppress(OSError):  # a full disk or a lost folder; the others are told all the same
            status.ask_to_stop(request)
            request = status.stop_request() or request


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None when there is none that can be read now: shared folders have bad moments."""
    with suppress(OSError):
        return known_json(path)
    return None


def known_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None when there is none.

    Raises:
        OSError: when nobody can say that now.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a file by this object, durably: readers see the old one or the new one."""
    _write(path, values, durable=True)


def _sign(path: Path) -> SignOfLife | None:
    values = read_json(path)
    if values is None:
        return None
    known = {name: ProcessId(**values[name]) for name in ("guard", "worker")}
    return SignOfLife(**values | known | {"written_ns": path.stat().st_mtime_ns})


def _write(path: Path, values: dict[str, Any], *, durable: bool = False) -> None:
    _staged(path, values, durable).replace(path)


def _write_first(path: Path, values: dict[str, Any]) -> None:
    """A link is made or not, on every file system; the first one stays."""
    staged = _staged(path, values, durable=False)
    try:
        os.link(staged, path)
    except FileExistsError:
        pass
    finally:
        staged.unlink()


def _staged(path: Path, values: dict[str, Any], durable: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with staged.open("w", encoding="utf-8") as stream:
        json.dump(values, stream)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    return staged
