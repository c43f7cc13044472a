"""What the tests of every launcher do: start a job, or follow the one that runs, in processes that can be killed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cpt_core.launching.job import LAST_LINES
from cpt_core.launching.status import Status
from cpt_core.redaction import redacted

Command = list[str]


class Flow:
    """Processes that follow one job, each started as ``place`` has it."""

    def __init__(
        self,
        folder: Path,
        launcher: Mapping[str, Any],
        variables: Mapping[str, str],
        *,
        first_folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self._first_folder = first_folder or folder
        self._launcher = launcher
        self._variables = {**os.environ, **variables}
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self,
        steps: int = 4000,
        place: Callable[[Command], Command] = list,
        **changed: Any,
    ) -> "subprocess.Popen[str]":
        """Start a job of so many steps, or follow it."""
        told = {
            "folder": str(self.folder),
            "first_folder": str(self._first_folder),
            "attempt": "a1",
            "steps": steps,
            "step_seconds": 0.05,
        }
        (self.folder / "job.json").write_text(json.dumps(told))
        launcher = json.dumps({**self._launcher, **changed})
        process = subprocess.Popen(
            place([sys.executable, "-m", "tests.cluster.follow", str(self.folder), launcher]),
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def answer(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        """What it says in the end."""
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        return json.loads(stdout.splitlines()[-1])

    def is_training(self) -> bool:
        """Whether steps are being done."""
        return (self.folder / "metrics.jsonl").exists()

    def ranks(self) -> dict[int, int]:
        """Process number of every rank."""
        return {rank: sign.worker.pid for rank, sign in Status.newest(self.folder).alive().items()}

    def last_lines(self, rank: int) -> str:
        """What an error shows of a rank's log: it has done steps."""
        lines = (self.folder / f"rank-{rank:05}.log").read_text().splitlines()
        assert "step 1" in lines
        return redacted("\n".join(lines[-LAST_LINES:]))

    def end(self) -> None:
        """Leave nothing, also after a failure."""
        for process in self._started:
            process.kill()
            process.wait()
