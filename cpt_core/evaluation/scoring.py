"""The loss of a model on packed rows.

In: the job: a model folder, packed artifacts of held-out documents.
Out: for each source, the mean loss over its trained tokens, and their number.
Promise: a packed row is scored as its documents alone would be.
Never: trains, passes an attention mask, or uses a cache: both would switch document borders off.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from cpt_core.artifacts import Artifact, read_record
from cpt_core.errors import ConfigError, InputError, StoreError
from cpt_core.evaluation.job_file import EvaluationJob
from cpt_core.model_folder import weight_files
from cpt_core.packed_rows import IGNORED_LABEL, Batch, PackedRows, batch_of
from cpt_core.storage import Store

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LOSS_DIGITS = 6


def score(job: EvaluationJob, on_progress: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    """Source to ``{"loss": mean over its trained tokens, "tokens": their number, "rows": rows scored}``.

    ``on_progress`` is told after each batch how many rows of all sources are scored.
    """
    device = _choose_device(job)
    model = load_model(job, device)
    store = Store(job.store_uri)
    scores, rows_scored = {}, 0
    for source, artifacts in _by_source(store, job.packed_folders).items():
        rows = PackedRows(store, artifacts)
        num_rows = min(len(rows), job.max_rows_per_source)
        batches = (
            batch_of(
                [rows[row] for row in range(first, min(first + job.micro_batch_rows, num_rows))],
                document_borders=job.document_borders,
            )
            for first in range(0, num_rows, job.micro_batch_rows)
        )
        summed, tokens = 0.0, 0
        for batch in batches:
            summed += loss_sum(model, batch, device)
            tokens += batch.num_trained_tokens
            rows_scored += len(batch.input_ids)
            on_progress(rows_scored)
        if tokens:
            scores[source] = {"loss": round(summed / tokens, LOSS_DIGITS), "tokens": tokens, "rows": num_rows}
    return scores


def load_model(job: EvaluationJob, device: torch.device) -> Any:
    """The model, ready to be scored."""
    folder = Path(job.model_folder)
    if weight_files(folder):
        return _read_model(folder, job, device)
    with tempfile.TemporaryDirectory() as scratch:
        return _read_model(_initialise(folder, Path(scratch), job.seed), job, device)


def loss_sum(model: Any, batch: Batch, device: torch.device) -> float:
    """Summed loss over the trained tokens of a batch.

    Raises:
        InputError: when a token id is outside the model's vocabulary.
    """
    vocab_size = model.config.get_text_config().vocab_size
    if batch.input_ids.max() >= vocab_size:
        raise InputError(
            f"a held-out row holds token id {batch.input_ids.max()}, but the model's vocabulary has {vocab_size} ids;"
            " use the model's own tokenizer"
        )
    ids, positions, labels = (
        torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.position_ids, batch.labels)
    )
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, :-1].float()
    return float(
        F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
    )


def _read_model(folder: Path, job: EvaluationJob, device: torch.device) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=DTYPES[job.precision],
        attn_implementation=job.attention,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model.config.use_cache = False
    return model.to(device).eval()


def _initialise(config_folder: Path, folder: Path, seed: int) -> Path:
    """The weights that training starts from when the base model is only a configuration."""
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(config_folder, trust_remote_code=False)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).save_pretrained(folder)
    return folder


def _by_source(store: Store, folders: list[str]) -> dict[str, list[Artifact]]:
    """The packed artifacts of each source, in order."""
    by_source = defaultdict(list)
    for folder in folders:
        artifact = read_record(store, folder)
        if artifact is None:
            raise StoreError(f"{store.uri(folder)}: the packed artifact is gone; run the packing again")
        by_source[str(artifact.counts["source"])].append(artifact)
    return by_source


def _choose_device(job: EvaluationJob) -> torch.device:
    if job.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device is cuda, but torch finds none; set device: auto or cpu")
    return torch.device("cuda" if job.device != "cpu" and torch.cuda.is_available() else "cpu")
