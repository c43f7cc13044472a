"""Sealed checkpoints made without a training, of any model, as any number of ranks would write them."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from cpt_core.training.model_files import MODEL_FOLDER, copy_model_files
from cpt_core.training.sealing import Manifest, SealedCheckpoint, checkpoint_name, describe_files, seal, unsealed_name
from cpt_core.training.slice_files import MASTER, SliceName, file_name, write_slices

KEY = "k" * 64


def key_parts(**options: object) -> dict[str, object]:
    """As a training would have them."""
    return {
        "stage": "training",
        "stage_version": 1,
        "packed": ["p" * 64],
        "model": "m" * 64,
        "options": {"precision": "fp32", "learning_rate": 1e-4, **options},
    }


def manifest(steps: int, key: str = KEY, parameters: dict[str, list[int]] | None = None, **options: object) -> Manifest:
    """Of a training by two processes."""
    state = {"steps": steps, "tokens_seen": 10 * steps, "first_loss": 5.0, "final_loss": 4.0}
    return Manifest(key, key_parts(**options), 2, 3, state, steps, parameters or {})


def seal_files(checkpoints: Path, sealed_as: Manifest, files: dict[str, bytes]) -> SealedCheckpoint:
    """A checkpoint of these files."""
    unsealed = checkpoints / unsealed_name(sealed_as.steps, "a1")
    unsealed.mkdir(parents=True)
    for name, content in files.items():
        (unsealed / name).write_bytes(content)
    return seal(unsealed, checkpoints / checkpoint_name(sealed_as.steps), sealed_as, describe_files(unsealed))


def seal_model(
    checkpoints: Path,
    config: PreTrainedConfig,
    tokenizer_folder: Path,
    *,
    precision: str,
    num_ranks: int = 3,
    max_elements: int = 1000,
) -> SealedCheckpoint:
    """A checkpoint of a random model; slices of at most ``max_elements`` are dealt out to the ranks."""
    config.save_pretrained(checkpoints / "base")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    parameters = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    unsealed = checkpoints / unsealed_name(7, "a1")
    unsealed.mkdir()
    slices = [
        (SliceName(MASTER, name, start), min(max_elements, torch.Size(shape).numel() - start))
        for name, shape in parameters.items()
        for start in range(0, torch.Size(shape).numel(), max_elements)
    ]
    for rank in range(num_ranks):
        sizes = dict(slices[rank::num_ranks])
        write_slices(unsealed / file_name(rank), sizes, lambda name, sizes=sizes: values_of(name, sizes[name]))
    copy_model_files(checkpoints / "base", tokenizer_folder, unsealed / MODEL_FOLDER)
    sealed_as = manifest(7, parameters=parameters, precision=precision)
    return seal(unsealed, checkpoints / checkpoint_name(7), sealed_as, describe_files(unsealed))


def values_of(name: SliceName, num_elements: int) -> torch.Tensor:
    """Small numbers, other ones for every element of every parameter."""
    offset = sum(name.parameter.encode()) % 997 + name.start
    return torch.sin(torch.arange(offset, offset + num_elements, dtype=torch.float32)) / 10
