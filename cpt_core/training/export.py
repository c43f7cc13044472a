"""The trained model as a transformers folder.

In: the engine, on all ranks; the base model's folder; the tokenizer's folder.
Out: config, safetensors weights, generation config if the base had one, tokenizer files.
Promise: the folder appears whole, is readable by everybody, and loads with ``from_pretrained`` alone.
Never: holds more than one whole parameter outside rank 0.
"""

import shutil
from pathlib import Path
from typing import Any

import deepspeed
import torch

from cpt_core.training.ranks import Ranks

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
GENERATION_CONFIG = "generation_config.json"


def export_model(
    model: Any, target: Path, *, base_folder: Path, tokenizer_folder: Path, attempt: str, ranks: Ranks
) -> None:
    """Write the model; called by all ranks."""
    weights = _gather_weights(model, ranks)
    if ranks.is_first:
        staged = target.with_name(f".tmp-{target.name}-{attempt}")
        model.config.use_cache = True
        model.save_pretrained(staged, state_dict=weights)
        _copy_generation_config(base_folder, staged)
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, staged / name)
        _publish(staged, target)
    ranks.barrier()


def _gather_weights(model: Any, ranks: Ranks) -> dict[str, torch.Tensor]:
    """All parameters and lasting buffers on rank 0's CPU, gathered one by one; empty on other ranks."""
    weights: dict[str, torch.Tensor] = {}
    lasting = model.state_dict(keep_vars=True).keys()
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if ranks.is_first:
                weights[name] = parameter.detach().cpu().clone()
    for name, buffer in model.named_buffers():
        if ranks.is_first and name in lasting:
            weights[name] = buffer.detach().cpu().clone()
    return weights


def _copy_generation_config(base_folder: Path, staged: Path) -> None:
    if (base_folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(base_folder / GENERATION_CONFIG, staged / GENERATION_CONFIG)
    else:
        (staged / GENERATION_CONFIG).unlink(missing_ok=True)


def _publish(staged: Path, target: Path) -> None:
    for path in staged.iterdir():
        path.chmod(0o644)
    staged.chmod(0o755)
    if target.exists():  # a damaged one: a whole one would have been a hit
        shutil.rmtree(target)
    staged.rename(target)
