"""The learning rate of every step.

In: the step, the number of steps, the configuration.
Out: a learning rate.
Promise: a pure function, so a resumed run needs no scheduler state.
Never: is known to DeepSpeed, whose own schedulers would silently override it.
"""

import math

from cpt_core.config import TrainingConfig


def learning_rate(step: int, steps_total: int, config: TrainingConfig) -> float:
    """The learning rate applied in one step.

    Args:
        step: from 0. The first step of a warm-up of w steps has peak / w, step w - 1 has the peak.
        steps_total: steps of the whole run; the last one ends the decay just above the minimum.
        config: peak, minimum, warm-up and shape.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    remaining = _remaining(step, steps_total, config)
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * remaining


def _remaining(step: int, steps_total: int, config: TrainingConfig) -> float:
    """What the shape leaves of the way from minimum to peak: 1 at the start of the decay, towards 0 at its end."""
    if config.lr_scheduler == "constant":
        return 1.0
    if config.lr_scheduler == "warmup_stable_decay":
        decay_steps = max(1, math.ceil(steps_total * config.decay_fraction))
        return min(1.0, (steps_total - step) / decay_steps)
    progress = (step - config.warmup_steps) / max(1, steps_total - config.warmup_steps)
    if config.lr_scheduler == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
