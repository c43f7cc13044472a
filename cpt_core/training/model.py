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
from cpt_core.model_folder import weight_files
from cpt_core.training.ranks import Ranks

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
        config = AutoConfig.from_pretrained(model_folder)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
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
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[config.precision], attn_implementation=config.attention, local_files_only=True
    )
    model.config.use_cache = False  # a cache silently switches document borders off
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, partitioning


def build_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW in two groups: matrices decay, norms and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if len(_shape(parameter)) >= 2]
    others = [parameter for parameter in parameters if len(_shape(parameter)) < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_eps,
    )


def flops_per_token(model: Any, row_len_tokens: int) -> float:
    """Floating-point operations of forward and backward for one token: 6 N + 12 L H T.

    N counts all parameters but an input embedding that is not also the output; L layers; H heads times their size;
    T the row length, so short documents count as if they attended to whole rows. Recomputation is not counted.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    attention_size = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    parameters = sum(_num_elements(parameter) for parameter in model.parameters())
    if not config.tie_word_embeddings:
        parameters -= _num_elements(model.get_input_embeddings().weight)
    return 6.0 * parameters + 12.0 * config.num_hidden_layers * attention_size * row_len_tokens


def _shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Under ZeRO-3 a parameter is empty here, and its shape stands aside."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _num_elements(parameter: torch.nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
