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

    All steps are cut into ``lr_cycles`` equal parts, each with a warm-up and the shape after it. A warm-up of w steps
    rises in w equal parts to the peak, which its last step has; it starts from ``warmup_start_learning_rate`` and, in
    later cycles, from the minimum.

    Args:
        step: from 0.
        steps_total: steps of the whole run; the last one of a cycle ends the decay just above the minimum.
        config: peak, minimum, warm-up, shape and cycles.
    """
    cycle = step * config.lr_cycles // steps_total
    first, end = (-(-number * steps_total // config.lr_cycles) for number in (cycle, cycle + 1))
    return _in_cycle(step - first, end - first, cycle, config)


def _in_cycle(step: int, steps: int, cycle: int, config: TrainingConfig) -> float:
    peak, minimum = config.learning_rate, config.min_learning_rate
    if step < config.warmup_steps:
        start = minimum if cycle else config.warmup_start_learning_rate
        return start + (peak - start) * (step + 1) / config.warmup_steps
    return minimum + (peak - minimum) * _remaining(step, steps, config)


def _remaining(step: int, steps: int, config: TrainingConfig) -> float:
    """What the shape leaves of the way from minimum to peak: 1 at the start of the decay, towards 0 at its end."""
    if config.lr_scheduler == "constant":
        return 1.0
    if config.lr_scheduler == "warmup_stable_decay":
        decay_steps = max(1, math.ceil(steps * config.decay_fraction))
        return min(1.0, (steps - step) / decay_steps)
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.lr_scheduler == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
