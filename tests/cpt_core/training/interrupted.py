"""A small training that may be broken off and go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpt_core.artifacts import Artifact
from cpt_core.config import TrainingConfig
from cpt_core.storage import Store
from cpt_core.training import train_model
from tests.conftest import REPOSITORY

STEPS = 12
Progress = Callable[[dict[str, Any]], None]


class StoppedError(Exception):
    """The one who waited for the training was interrupted."""


class Training:
    """Twelve steps of four rows from a model that is only a configuration, with a checkpoint every other step."""

    def __init__(self, store: Store, model: Path, tokenizer: Path, commit_rows: Any) -> None:
        self.store = store
        self._model = model
        self._tokenizer = tokenizer
        self._commit_rows = commit_rows

    def run(self, on_progress: Progress | None = None, processes: int = 2, rows: int = 7, **values: Any) -> Artifact:
        """Train, or go on."""
        defaults = {
            "model": str(self._model),
            "max_steps": STEPS,
            "global_batch_rows": 4,
            "micro_batch_rows": 1,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "precision": "fp32",
            "zero_stage": 3,
            "save_steps": 2,
            "device": "cpu",
            "launcher": {"processes_per_node": processes},
        }
        return train_model(
            [self._commit_rows(self.store, rows)],
            TrainingConfig(**defaults | values),
            store=self.store,
            name="tiny",
            tokenizer_uri=str(self._tokenizer),
            on_progress=on_progress,
        )

    def run_until(self, step: int, **values: Any) -> None:
        """Train, and be interrupted after a step."""

        def stop(line: dict[str, Any]) -> None:
            if line["step"] >= step:
                raise StoppedError

        with pytest.raises(StoppedError):
            self.run(stop, **values)

    @property
    def folder(self) -> Path:
        """Of the only training in the store."""
        (found,) = Path(self.store.root_uri).glob("training_runs/*")
        return found

    def losses(self) -> list[tuple[int, float]]:
        """Step and loss of every line of the metrics file."""
        return losses_in(self.folder)

    def checkpoints(self) -> list[Path]:
        """Sealed checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step-*"))


def losses_in(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every line of a training's metrics file."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def gated(folder: Path) -> dict[str, str]:
    """For ranks that record steps only as far as the file ``steps`` of this folder allows."""
    return {"PYTHONPATH": f"{REPOSITORY / 'tests/flows/gates'}:{REPOSITORY}", "CPT_TEST_GATES": str(folder)}
