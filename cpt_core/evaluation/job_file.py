"""All that an evaluation's process is told, as one JSON file.

In: a job's description.
Out: the same description in another process.
Promise: reading gives what was written.
Never: holds a secret.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class EvaluationJob:
    """A model, rows, and how to pass the rows through the model; paths are absolute."""

    attempt: str
    attempt_folder: str
    model_folder: str
    store_uri: str
    packed_folders: list[str]
    """Store-relative folders of the held-out packed artifacts, in order."""
    max_rows_per_source: int
    micro_batch_rows: int
    document_borders: bool
    attention: str
    precision: Literal["bf16", "fp32"]
    device: Literal["auto", "cpu", "cuda"]
    seed: int
    """Initialises a model without weights, as training does."""

    @property
    def progress_file(self) -> Path:
        """JSON lines: how many rows are scored."""
        return Path(self.attempt_folder) / "progress.jsonl"


def write_job(path: Path, job: EvaluationJob) -> None:
    """Write the description."""
    path.write_text(json.dumps(asdict(job), indent=1), encoding="utf-8")


def read_job(path: Path) -> EvaluationJob:
    """Read it back."""
    values: dict[str, Any] = json.loads(path.read_bytes())
    return EvaluationJob(**values)
