"""Runs of the data stages on the little corpus, and what they leave in a store."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from cpt_core.fingerprint import canonical_json, unsealed_json
from tests.conftest import REPOSITORY
from tests.faults.corpus import write_scene
from tests.faults.shim import Fault

_IN_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 1_000_000_000
_OUT_OF_SIGHT = (".tmp", ".claims", "damaged", ".lock")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``done``, ``error`` (one clear line), ``crash`` (a traceback) or ``killed``."""

    status: str
    message: str
    steps: list[str]
    seconds: float
    started: float = 0.0
    """On a clock that all runs share, as the next."""
    ended: float = 0.0


class Runs:
    """Starts runs, each on a store of its choice."""

    def __init__(self, folder: Path, requests: IO[str], answers: IO[str]) -> None:
        self.folder = folder
        self.config = write_scene(folder)
        self._requests = requests
        self._answers = answers
        self._stores = 0
        reference = self.new_store()
        outcome = self.run(reference, is_watched=True)
        assert outcome.status == "done", outcome.message
        self.steps = outcome.steps
        """Every call of an undisturbed run on an empty store."""
        self.seconds = self.run(self.new_store()).seconds
        """How long an undisturbed run takes."""
        self.reference = contents(reference)
        """What an undisturbed run leaves."""

    def new_store(self) -> Path:
        """An empty folder for a store."""
        self._stores += 1
        path = self.folder / "stores" / f"{self._stores:05d}"
        path.mkdir(parents=True)
        return path

    def run(self, store: Path, fault: Fault | None = None, overrides: Sequence[str] = (), **options: object) -> Outcome:
        """One run, to its end or to its fault."""
        return self.run_together(store, [overrides], fault, **options)[0]

    def run_together(
        self,
        store: Path,
        variants: Sequence[Sequence[str]],
        fault: Fault | None = None,
        *,
        is_watched: bool = False,
        **options: object,
    ) -> list[Outcome]:
        """Several runs at once on one store, each with its overrides of the configuration.

        Args:
            store: its folder.
            variants: the overrides of each run.
            fault: what goes wrong in each.
            is_watched: their steps are counted although nothing goes wrong.
            options: clocks and kills, see ``fork_server``.
        """
        job = {
            "config": str(self.config),
            "store": str(store),
            "variants": [list(overrides) for overrides in variants],
            "fault": asdict(fault) if fault else None,
            "watched": self._watched(store) if fault or is_watched else {},
            "kill_after_seconds": None,
            "clock_seconds": 0.0,
            "clock_step_seconds": 0.0,
        }
        self._requests.write(json.dumps(job | options) + "\n")
        self._requests.flush()
        return [Outcome(**values) for values in json.loads(self._answers.readline())]

    def _watched(self, store: Path) -> dict[str, str]:
        """What is read and written by a run, and the names of the steps there: those in the store have none."""
        return {str(store): "", **{str(self.folder / name): f"/{name}" for name in ("corpus", "tokenizer")}}

    def problem_after(self, store: Path) -> str:
        """What is wrong with a store after a disturbed run, and after one more run; empty when nothing is.

        The store is removed when all is well.
        """
        torn = torn_files(store)
        if torn:
            return f"visible and torn: {torn}"
        outcome = self.run(store)
        if outcome.status != "done":
            return f"the next run ended as {outcome.status}: {outcome.message}"
        if contents(store) != self.reference:
            return f"other content: {sorted(contents(store).items() ^ self.reference.items())}"
        if leftovers := [path.name for path in (store / ".tmp").iterdir()]:
            return f"left in staging: {leftovers}"
        shutil.rmtree(store)
        return ""


@contextmanager
def open_runs() -> Iterator[Runs]:
    """A warm process that runs the data stages, with its files in memory where the system has a place for that.

    What a killed process has written stays with the kernel, so that a disk would add nothing but time.
    """
    in_memory = _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _ENOUGH_BYTES
    with tempfile.TemporaryDirectory(prefix="cpt-faults-", dir=_IN_MEMORY if in_memory else None) as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            cwd=REPOSITORY,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Runs(Path(folder), server.stdin, server.stdout)
        finally:  # whatever it still writes, the folder goes after it
            server.stdin.close()
            server.wait(timeout=60)


def verified(config: Path, store: Path | str, *options: str) -> dict[str, Any]:
    """What the command ``cpt verify`` says of a store, with its exit code as ``status``."""
    program = "from flows.command import main; main()"
    command = [sys.executable, "-c", program, "verify", str(config), "--set", f"store_uri={store}", "--json", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    said = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
    return {"status": done.returncode, "findings": [], "set_aside": [], **said}


def visible_files(store: Path) -> list[Path]:
    """Files under final names."""
    return [
        path
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.relative_to(store).parts[0] not in _OUT_OF_SIGHT
    ]


def contents(store: Path) -> dict[str, str]:
    """Name to digest of every visible file; records without how long the computation took."""
    found = {}
    for path in visible_files(store):
        content = path.read_bytes()
        if path.name == "artifact.json":
            record = unsealed_json(content)
            del record["seconds"]
            content = canonical_json(record)
        found[str(path.relative_to(store))] = hashlib.sha256(content).hexdigest()
    return found


def torn_files(store: Path) -> list[str]:
    """Visible files that are not what their name or their seal says."""
    return [str(path.relative_to(store)) for path in visible_files(store) if not _is_whole(path)]


def _is_whole(path: Path) -> bool:
    content = path.read_bytes()
    digest = re.search(r"([0-9a-f]{64}|(?<=-)[0-9a-f]{12})\.", path.name)
    if digest and path.parent.name != "inputs":
        return hashlib.sha256(content).hexdigest().startswith(digest[1])
    try:
        unsealed_json(content)
    except ValueError:
        return False
    return True
