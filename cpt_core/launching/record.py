"""What a launcher writes into a job's folder: what the guards are told, and the record of the start.

In: a job; what identifies it once it is started: process numbers, or Slurm's number.
Out: ``told.json``, ``variables.json`` (only for nodes that do not inherit ours, readable by its owner alone),
``started.json``.
Promise: no rank begins before ``started.json`` is there, so a job that is not on record does not run.
Never: puts a variable that may be a secret into a command line, or leaves it behind after the job.
"""

import fnmatch
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpt_core.launching.status import known_json, read_json, write_json

TOLD_NAME = "told.json"
STARTED_NAME = "started.json"
VARIABLES_NAME = "variables.json"
FOLLOWED_NAME = "followed.json"
"""Kind env: names the folder of the first node's job, once the ranks have met."""

_SLURM_NAMES = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}


def attempt_record(folder: Path, node: int) -> Path:
    """Where a node notes its newest attempt; with all kinds but env there is one node that does."""
    return folder / f"attempt-of-node-{node:05}.json"


def attempt_records(folder: Path) -> list[Path]:
    """Of all nodes, in their order."""
    return sorted(folder.glob("attempt-of-node-*.json"))


def write_told(folder: Path, values: dict[str, Any]) -> None:
    """What every guard of the job reads first."""
    write_json(folder / TOLD_NAME, values)


def note_start(folder: Path, identity: dict[str, Any]) -> None:
    """From here on the job exists."""
    write_json(folder / STARTED_NAME, {"host": socket.gethostname(), **identity})


def is_started(folder: Path) -> bool:
    """Whether the start is on record."""
    return (folder / STARTED_NAME).exists()


def read_start(folder: Path) -> dict[str, Any] | None:
    """The record of the start, if the job was started.

    Raises:
        OSError: when nobody can say that now.
    """
    return known_json(folder / STARTED_NAME)


def carry_variables(folder: Path, patterns: list[str], base: Mapping[str, str]) -> None:
    """Leave the variables that these patterns name for the guards of other nodes, readable by their owner alone."""
    carried = {name: value for name, value in base.items() if any(fnmatch.fnmatch(name, known) for known in patterns)}
    descriptor = os.open(folder / VARIABLES_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(carried, stream)


def drop_variables(folder: Path) -> None:
    """The job is over."""
    (folder / VARIABLES_NAME).unlink(missing_ok=True)


class RemoteVariables:
    """The environment of a rank on a node that has not inherited ours."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self._folder = folder
        self._told = told

    def of_this_rank(self, here: Mapping[str, str]) -> dict[str, str]:
        """What the node has itself, then what was carried along, then what the configuration and the ranks demand."""
        from cpt_core.config import LauncherConfig  # takes a moment, which a local guard does not need
        from cpt_core.launching.environment import common_variables

        launcher = LauncherConfig(**self._told["launcher"])
        carried = read_json(self._folder / VARIABLES_NAME) or {}
        base = dict(here) | carried
        common = common_variables(launcher, base, num_cores=len(os.sched_getaffinity(0)))
        return common | self._meeting_point(launcher.environment, here) | _rank_variables(launcher, here)

    def _meeting_point(self, chosen: Mapping[str, str], here: Mapping[str, str]) -> dict[str, str]:
        return {name: chosen.get(name) or here[name] for name in ("MASTER_ADDR", "MASTER_PORT")}


def _rank_variables(launcher: Any, here: Mapping[str, str]) -> dict[str, str]:
    ranks = {name: here.get(slurm) or here[name] for name, slurm in _SLURM_NAMES.items()}
    return ranks | {"LOCAL_WORLD_SIZE": str(launcher.processes_per_node)}
