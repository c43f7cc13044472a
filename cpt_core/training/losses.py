"""How a model computes its loss.

In: a transformers model, the configuration, the device.
Out: the same model, with the loss as asked.
Promise: every choice is the same mean over trained tokens; what cannot run here is refused.
Never: changes anything but the loss.
"""

from typing import Any

import torch
from deepspeed.runtime.chunked_cross_entropy import install_chunked_causal_lm_loss
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils import is_liger_kernel_available

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError

_ONLY_THE_LOSS = {
    "fused_linear_cross_entropy": True,
    "cross_entropy": False,
    "rope": False,
    "rms_norm": False,
    "layer_norm": False,
    "swiglu": False,
    "geglu": False,
}
"""Liger's other kernels stay away; those that a model does not have are not asked for."""


def install_loss(model: Any, config: TrainingConfig, device: torch.device) -> None:
    """Give the model the loss of the configuration.

    Raises:
        ConfigError: when this model or this machine does not have it.
    """
    if config.cross_entropy == "chunked":
        try:
            install_chunked_causal_lm_loss(model)
        except ValueError:
            raise ConfigError(
                f"training.cross_entropy is chunked, but model type {model.config.model_type} has a loss of its own; "
                "use standard"
            ) from None
    elif config.cross_entropy == "liger":
        if device.type != "cuda" or not is_liger_kernel_available():
            raise ConfigError(
                "training.cross_entropy is liger, but liger-kernel and a CUDA device were not found together; "
                "install liger-kernel, or use chunked"
            )
        apply_liger_kernel(model, _ONLY_THE_LOSS)
        if "forward" not in vars(model):  # it passes over models that it does not know
            raise ConfigError(
                f"training.cross_entropy is liger, which does not know model type {model.config.model_type};"
                " use chunked"
            )
