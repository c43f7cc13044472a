"""What is launched, and the one interface that every launcher offers.

In: a module to run, its job file, and how to start it.
Out: ``Job`` and ``JobHandle``, the nouns of this room.
Promise: a handle answers at once; stopping twice is as good as once.
Never: starts anything itself.
"""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cpt_core.config import LauncherConfig

JobState = Literal["running", "exited"]


@dataclass(frozen=True)
class Job:
    """Processes that together run ``python -m module job_file`` once."""

    module: str
    """Module with a ``__main__``, such as ``cpt_core.training``."""
    job_file: Path
    """All that the processes are told; JSON."""
    folder: Path
    """Folder of this attempt, for logs and the success record; on a file system that its nodes share."""
    launcher: LauncherConfig
    attempt: str
    """Names this one start; a success record of another attempt proves nothing."""

    def log_path(self, rank: int) -> Path:
        """Standard output and error of a rank."""
        return self.folder / f"rank-{rank:05}.log"

    def refusal_path(self, rank: int) -> Path:
        """Where a rank leaves an error that a caller can act on."""
        return self.folder / f"refusal-{rank:05}.json"


@dataclass(frozen=True)
class RankExit:
    """How one process ended."""

    rank: int
    node: int
    exit_code: int
    """As subprocess gives it: negative for a signal."""

    def __str__(self) -> str:
        """Such as ``rank 3 on node 1 ended with signal 9 (SIGKILL)``."""
        how = f"exit code {self.exit_code}"
        if self.exit_code < 0:
            how = f"signal {-self.exit_code} ({signal.Signals(-self.exit_code).name})"
        return f"rank {self.rank} on node {self.node} ended with {how}"


class JobHandle(Protocol):
    """A started job."""

    @property
    def first_failure(self) -> RankExit | None:
        """The process that ended badly before any other did; its companions' ends are only consequences."""

    def poll(self) -> JobState:
        """Whether any of its processes still runs."""

    def stop(self) -> None:
        """End all of its processes; returns when none is left."""
