"""All that the processes of a training job are told, as one JSON file.

In: a job's description.
Out: the same description in another process.
Promise: reading gives what was written; packed artifacts are named by their records, not copied.
Never: holds a secret.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact, read_record
from cpt_core.config import TrainingConfig
from cpt_core.errors import StoreError
from cpt_core.storage import Store


@dataclass(frozen=True)
class TrainingJob:
    """A training job; paths are absolute and on a file system that its nodes share."""

    attempt: str
    training_key: str
    """Names the result; checkpoints of another key are resumed only by ``resume_from``."""
    key_parts: dict[str, Any]
    """What the key is made of: goes into every checkpoint."""
    config: TrainingConfig
    model_folder: Path
    tokenizer_folder: Path
    output_folder: Path
    attempt_folder: Path
    store_uri: str
    packed_folders: list[str]
    """Store-relative folders of the packed artifacts, in order."""

    @property
    def checkpoints_folder(self) -> Path:
        """Where sealed checkpoints lie."""
        return self.output_folder / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """One JSON line a step."""
        return self.output_folder / "metrics.jsonl"

    @property
    def exported_folder(self) -> Path:
        """The trained model as a transformers folder."""
        return self.output_folder / "model"


def write_job(path: Path, job: TrainingJob) -> None:
    """Write the description."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(job).items()}
    path.write_text(json.dumps(values | {"config": job.config.model_dump(mode="json")}, indent=1), encoding="utf-8")


def read_job(path: Path) -> TrainingJob:
    """Read it back."""
    values = json.loads(path.read_bytes())
    for name in ("model_folder", "tokenizer_folder", "output_folder", "attempt_folder"):
        values[name] = Path(values[name])
    return TrainingJob(**values | {"config": TrainingConfig.model_validate(values["config"])})


def packed_artifacts(store: Store, folders: list[str]) -> list[Artifact]:
    """The packed artifacts in these folders.

    Raises:
        StoreError: when one is gone.
    """
    found = {folder: read_record(store, folder) for folder in folders}
    gone = [folder for folder, artifact in found.items() if artifact is None]
    if gone:
        raise StoreError(f"{store.uri(gone[0])}: the packed artifact is gone; run the packing again")
    return [artifact for artifact in found.values() if artifact is not None]
