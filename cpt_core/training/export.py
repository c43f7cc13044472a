"""A sealed checkpoint as a transformers folder.

In: a checkpoint; a model of its shape, which may be without weights.
Out: config, safetensors weights in the precision of the training, generation config if the base had one, tokenizer.
Promise: needs no GPU, and never has more than a block of a parameter in hand; the folder appears whole, is durable and
readable by everybody, loads with ``from_pretrained`` alone, and computes what the trained model computes.
Never: imports deepspeed; unpickles.

Each parameter is put together in a file of its own, which torch then maps: so transformers, which knows how a model's
weights are named and divided on disk, gets all of them without any being in memory.
"""

import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from cpt_core.storage.durable import fsync_file, fsync_folder
from cpt_core.training.model_files import GENERATION_CONFIG, MODEL_FOLDER, TOKENIZER_FILES
from cpt_core.training.sealing import SealedCheckpoint
from cpt_core.training.slice_files import BUFFERS_NAME, MASTER, SliceFolder

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def model_of_shape(checkpoint: SealedCheckpoint) -> Any:
    """The model that was trained, without weights."""
    config = AutoConfig.from_pretrained(checkpoint.folder / MODEL_FOLDER, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=_dtype_of(checkpoint), trust_remote_code=False)


def export_checkpoint(checkpoint: SealedCheckpoint, model: Any, target: Path) -> None:
    """Write the folder; one that is there already is replaced.

    Args:
        checkpoint: one that verified.
        model: of its shape; its weights are not looked at.
        target: the folder.
    """
    staged = target.with_name(f".tmp-{target.name}-{uuid.uuid4().hex}")
    try:
        _save(checkpoint, model, staged)
        for path in [staged, *staged.iterdir()]:
            path.chmod(0o755 if path.is_dir() else 0o644)
            fsync_file(path)
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _save(checkpoint: SealedCheckpoint, model: Any, staged: Path) -> None:
    scratch = staged / "parameters"
    scratch.mkdir(parents=True)
    stored = SliceFolder(checkpoint.folder)
    weights = {
        name: _mapped(stored, name, shape, _dtype_of(checkpoint), scratch / f"{number:05}")
        for number, (name, shape) in enumerate(checkpoint.manifest.parameters.items())
    }
    if (checkpoint.folder / BUFFERS_NAME).exists():
        weights |= load_file(checkpoint.folder / BUFFERS_NAME)
    model.config.use_cache = True
    disable_progress_bar()
    model.save_pretrained(staged, state_dict=weights)
    del weights
    shutil.rmtree(scratch)
    (staged / GENERATION_CONFIG).unlink(missing_ok=True)  # transformers writes one even if the base had none
    for name in (GENERATION_CONFIG, *TOKENIZER_FILES):
        if (checkpoint.folder / MODEL_FOLDER / name).is_file():
            shutil.copyfile(checkpoint.folder / MODEL_FOLDER / name, staged / name)


def _mapped(stored: SliceFolder, name: str, shape: list[int], dtype: torch.dtype, path: Path) -> torch.Tensor:
    """A whole parameter that lies in a file: written slice by slice, then mapped."""
    num_elements = torch.Size(shape).numel()
    with path.open("wb") as stream:
        for tensor in stored.read(MASTER, name, 0, num_elements):
            stream.write(tensor.to(dtype).view(torch.uint8).numpy().data)
    return torch.from_file(str(path), shared=True, size=num_elements, dtype=dtype).view(shape)


def _dtype_of(checkpoint: SealedCheckpoint) -> torch.dtype:
    return _DTYPES[checkpoint.manifest.key_parts["options"]["precision"]]
