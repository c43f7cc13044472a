"""What is launched, and the one interface that every launcher offers.

In: a module to run, its job file, and how to start it.
Out: ``Job`` and ``JobHandle``, the nouns of this room.
Promise: a handle answers at once; stopping twice is as good as once.
Never: starts anything itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cpt_core.config import LauncherConfig
from cpt_core.launching.record import FOLLOWED_NAME
from cpt_core.launching.status import Status, StopRequest, read_json, write_json
from cpt_core.launching.success import read_done

JobState = Literal["running", "exited"]
LAST_LINES = 30
EXTRA_SECONDS_TO_STOP = {"hostfile": 20.0, "slurm": 20.0, "kubernetes": 90.0}
"""How much longer than that of processes of this machine the end of a job takes. Prefect allows a cancelled run 30
seconds: enough but for pods, which Kubernetes goes on deleting by itself."""


@dataclass(frozen=True)
class Job:
    """Processes that together run ``python -m module job_file`` once."""

    module: str
    """Module with a ``__main__``, such as ``cpt_core.training``."""
    job_file: Path
    """All that the processes are told; JSON."""
    folder: Path
    """Folder of this attempt, for logs, status and the success record; on a file system that its nodes share."""
    launcher: LauncherConfig
    attempt: str
    """Names this one start; a success record of another attempt proves nothing."""
    outlives_launcher: bool = False
    """Whether processes on this machine go on when the one that started them is killed, to be found again."""
    records_folder: Path | None = None
    """Kind env: where every node notes its newest attempt, so that they know of each other before ranks have met."""

    def log_path(self, rank: int) -> Path:
        """Standard output and error of a rank."""
        return self.folder / f"rank-{rank:05}.log"

    @property
    def launcher_log(self) -> Path:
        """What the launcher itself says."""
        return self.folder / "launcher.log"

    def status(self) -> Status:
        """What its processes say of themselves."""
        return Status.newest(self.folder)

    def first_status(self) -> Status | None:
        """The first node's, once the ranks of kind env have met; None where that is the only one, or not known yet."""
        followed = read_json(self.folder / FOLLOWED_NAME)
        return None if followed is None else Status.newest(Path(followed["folder"]))

    def statuses(self) -> list[Status]:
        """Where the ranks look: the first node's, where it is another and known, and this node's."""
        first = self.first_status()
        return [first, self.status()] if first else [self.status()]

    def is_done(self) -> bool:
        """Whether this attempt has succeeded."""
        return read_done(self.folder, self.attempt) is not None

    def stop_request(self) -> StopRequest | None:
        """Why all ranks have to end: of this node, or of the first node, which ranks of kind env follow."""
        requests = (status.stop_request() for status in self.statuses())
        return next((request for request in requests if request is not None), None)


class JobHandle(Protocol):
    """A started job."""

    seconds_to_stop: float
    """How long its processes may take to end by themselves after they were asked to."""

    def identity(self) -> dict[str, Any]:
        """By what another process finds it again."""

    def poll(self) -> JobState:
        """Whether any of its processes still runs."""

    def stop(self) -> None:
        """End all of its processes; returns when none is left."""

    def trouble(self) -> str:
        """What the launcher itself has to say about a job that ended without the fault of a rank."""


def follow(own_folder: Path, first_folder: Path) -> None:
    """From now on a rank also obeys, and reports to, the status of the first node's job."""
    if own_folder != first_folder:
        write_json(own_folder / FOLLOWED_NAME, {"folder": str(first_folder)})


def last_lines(log: Path) -> str:
    """The end of a log, for an error."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-LAST_LINES:]) or "(the log is empty)"
