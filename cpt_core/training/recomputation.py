"""Which activations are kept for the backward pass, and which are computed again.

In: a transformers model, the configuration.
Out: the same model, with gradient checkpointing as asked.
Promise: changes memory and time, never a result.
Never: touches a model that is to keep everything.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.attention.varlen  # makes the operator torch_attn._varlen_attn known
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from cpt_core.config import TrainingConfig

_ATEN = torch.ops.aten
_EXPENSIVE = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN.bmm.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.torch_attn._varlen_attn.default,
    }
)
"""Matrix products and attention: most of the arithmetic, and a small part of the activations."""


def enable_checkpointing(model: Any, config: TrainingConfig) -> None:
    """Recompute each layer in the backward pass, or only what is cheap in it."""
    if not config.gradient_checkpointing:
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if config.selective_checkpointing:
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_expensive)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def _keep_expensive(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _EXPENSIVE else CheckpointPolicy.PREFER_RECOMPUTE
