"""The model under training, and its optimizer.

In: a transformers folder, with weights or with only a configuration.
Out: a model that honours ZeRO-3's partitioning, without a cache; an AdamW that decays only matrices.
Promise: every rank and every ZeRO stage starts from the same weights.
Never: runs code that a model brings along; passes on an attention mask, which would switch borders off.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.model_folder import weight_files
from cpt_core.training.ranks import Ranks
from cpt_core.training.recomputation import enable_checkpointing

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@contextmanager
def weights_folder(model_folder: Path, scratch: Path, seed: int, ranks: Ranks) -> Iterator[Path]:
    """A folder with weights: the given one or, if it has none, a passing one initialised from the seed by rank 0.

    ZeRO-3 partitions a model while it is being built, and transformers skips or reorders the initialisation then;
    reading the same file makes all stages equal.
    """
    if weight_files(model_folder):
        yield model_folder
        return
    folder = scratch / "initial_model"
    if ranks.is_first:
        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(model_folder, trust_remote_code=False)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).save_pretrained(folder)
    ranks.barrier()
    yield folder
    ranks.barrier()
    if ranks.is_first:
        shutil.rmtree(folder)


def load_model(folder: Path, config: TrainingConfig, settings: dict[str, Any]) -> tuple[Any, HfDeepSpeedConfig | None]:
    """The model, and an object that must outlive it: transformers forgets ZeRO-3 when it is collected.

    Args:
        folder: a transformers folder with weights.
        config: precision, attention, gradient checkpointing.
        settings: of DeepSpeed.
    """
    partitioning = HfDeepSpeedConfig(settings) if config.zero_stage == 3 else None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[config.precision],
            attn_implementation=config.attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except ValueError as error:
        if "attention" not in str(error).lower():
            raise
        reason = " ".join(str(error).partition(" Please ")[0].split()).rstrip(".")
        raise ConfigError(f"training.attention is {config.attention}: {reason}; use another, such as eager") from None
    model.config.use_cache = False  # a cache silently switches document borders off
    enable_checkpointing(model, config)
    return model, partitioning


def build_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW in two groups: matrices decay; norms and biases do only when asked. The loop sets the rate of each step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if len(_shape(parameter)) >= 2]
    others = [parameter for parameter in parameters if len(_shape(parameter)) < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": config.weight_decay if config.decay_norms_and_biases else 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=config.adam_betas,
        eps=config.adam_eps,
    )


def _shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Under ZeRO-3 a parameter is empty here, and its shape stands aside."""
    return getattr(parameter, "ds_shape", parameter.shape)
