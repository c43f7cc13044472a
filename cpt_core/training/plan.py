"""What a training run will do, before it does it.

In: packed artifacts, the configuration, the base model's folder.
Out: the number of steps; the parts of the artifact key.
Promise: pure but for reading the model's bytes; what cannot change the result is in no key.
Never: imports torch.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.config import TrainingConfig
from cpt_core.deepspeed_settings import deciding
from cpt_core.errors import ConfigError
from cpt_core.model_folder import model_digest
from cpt_core.storage import Store
from cpt_core.training.continuing import origin_parts, start_of

STAGE = "training"
STAGE_VERSION = 1

_OPTIONS_OF_THE_RESULT = (
    "num_train_epochs",
    "max_steps",
    "global_batch_rows",
    "learning_rate",
    "min_learning_rate",
    "warmup_steps",
    "warmup_start_learning_rate",
    "lr_scheduler",
    "decay_fraction",
    "lr_cycles",
    "weight_decay",
    "decay_norms_and_biases",
    "adam_betas",
    "adam_eps",
    "max_grad_norm",
    "precision",
    "document_borders",
    "deepspeed",
    "seed",
)
"""The other options say how the result is computed, and where it lies."""


@dataclass(frozen=True)
class StepPlan:
    """The size of a run."""

    num_rows: int
    """Rows of one epoch."""
    rows_total: int
    """Rows of the whole run."""
    steps_total: int
    """Optimizer steps; the last one is filled up with empty rows."""


def plan_steps(num_rows: int, config: TrainingConfig) -> StepPlan:
    """How many steps a run over ``num_rows`` rows an epoch has.

    Raises:
        ConfigError: when there is no row to train on, or a cycle of the learning rate has no room for its warm-up.
    """
    if num_rows < 1:
        raise ConfigError("training has no packed rows; lower held_out_fraction or add documents to the sources")
    if config.max_steps is not None:
        plan = StepPlan(num_rows, config.max_steps * config.global_batch_rows, config.max_steps)
    else:
        rows_total = num_rows * config.num_train_epochs
        plan = StepPlan(num_rows, rows_total, math.ceil(rows_total / config.global_batch_rows))
    if config.lr_cycles > 1 and plan.steps_total // config.lr_cycles <= config.warmup_steps:
        raise ConfigError(
            f"training.lr_cycles is {config.lr_cycles}, which leaves {plan.steps_total // config.lr_cycles} of"
            f" {plan.steps_total} steps for each, expected more than warmup_steps = {config.warmup_steps}"
        )
    return plan


def training_key_parts(
    packed: list[Artifact], config: TrainingConfig, model_folder: Path, store: Store | None = None
) -> dict[str, Any]:
    """All that the trained model depends on; a store remembers the digest of the base model."""
    values = config.model_dump(mode="json")
    options = {name: values[name] for name in _OPTIONS_OF_THE_RESULT}
    options["deepspeed"] = deciding(options["deepspeed"])
    if config.max_steps is not None:
        options["num_train_epochs"] = None
    start = start_of(config)
    return {
        "stage": STAGE,
        "stage_version": STAGE_VERSION,
        "packed": [artifact.key for artifact in packed],
        "model": model_digest(model_folder, store),
        "options": options,
        **({"resumed_from": origin_parts(start)} if start else {}),
    }
