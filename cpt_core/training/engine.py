"""The DeepSpeed configuration of a run.

In: the training configuration.
Out: the mapping for ``deepspeed.initialize``, with the user's own settings in it.
Promise: a pure function; every batch size is a number, and DeepSpeed checks that they multiply.
Never: contains "auto", an optimizer or a scheduler: those are ours, and a user's settings cannot bring them in.
"""

from typing import Any

from cpt_core.config import TrainingConfig
from cpt_core.deepspeed_settings import ZERO, merged

_NEVER = 2**31


def deepspeed_config(config: TrainingConfig) -> dict[str, Any]:
    """What DeepSpeed is told."""
    settings: dict[str, Any] = {
        "train_batch_size": config.global_batch_rows,
        "train_micro_batch_size_per_gpu": config.micro_batch_rows,
        "gradient_accumulation_steps": config.accumulation_steps,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        ZERO: _zero(config),
        "steps_per_print": _NEVER,
    }
    if config.precision == "bf16" and config.zero_stage:
        # Micro-batches are summed in fp32; DeepSpeed refuses the mix at stage 0.
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return merged(settings, config.deepspeed)


def _zero(config: TrainingConfig) -> dict[str, Any]:
    overlap = {} if config.overlap_communication is None else {"overlap_comm": config.overlap_communication}
    return {"stage": config.zero_stage, **overlap}
