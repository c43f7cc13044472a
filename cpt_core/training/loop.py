"""The steps of a training run.

In: a DeepSpeed engine, packed rows, the plan.
Out: a trained model in the engine, a line of metrics a step, sealed checkpoints.
Promise: every step applies the gradient of the mean loss over the trained tokens of its global batch, whatever the
number of ranks and micro-batches; everything random is a function of (seed, step, rank).
Never: steps on a loss that is not a number.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cpt_core.config import TrainingConfig
from cpt_core.errors import JobFailedError
from cpt_core.packed_rows import Batch
from cpt_core.permutation import seed_from
from cpt_core.training.attention import segment_arguments
from cpt_core.training.batches import BatchesAhead
from cpt_core.training.flops import ModelFlops
from cpt_core.training.metrics import MetricsWriter
from cpt_core.training.plan import StepPlan
from cpt_core.training.ranks import Ranks
from cpt_core.training.schedule import learning_rate
from cpt_core.training.state import TrainingState


@dataclass(frozen=True)
class Run:
    """What stays the same over all steps."""

    engine: Any
    batches: BatchesAhead
    plan: StepPlan
    config: TrainingConfig
    ranks: Ranks
    vocab_size: int
    flops: ModelFlops


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step measured, over all ranks."""

    loss: float
    """Mean over the trained tokens of the global batch."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    """The one the optimizer applied."""
    tokens: int
    """Trained tokens."""
    flops: float
    """What the model needed."""


def train(
    run: Run, state: TrainingState, metrics: MetricsWriter | None, after_step: Callable[[TrainingState], None]
) -> tuple[TrainingState, float]:
    """All steps that are left.

    Args:
        run: the engine and its data.
        state: where to begin.
        metrics: on rank 0.
        after_step: called on all ranks; saves when it is time to.

    Returns:
        The state at the end, and the model FLOPs of these steps.
    """
    run.engine.train()
    flops = 0.0
    while state.steps < run.plan.steps_total:
        started = time.perf_counter()
        result = train_step(run, state.steps)
        state = state.after_step(result.loss, result.tokens)
        flops += result.flops
        if metrics:
            metrics.write(_metrics_line(run, state, result, time.perf_counter() - started))
        after_step(state)
    return state, flops


def train_step(run: Run, step: int) -> StepResult:
    """One optimizer step.

    Raises:
        JobFailedError: when loss or gradient are not finite.
    """
    _set_learning_rate(run, step)
    torch.manual_seed(seed_from("step", run.config.seed, step, run.ranks.rank))
    batches = run.batches.of_step(step)
    tokens, flops = _size_of_step(run, batches)
    # DeepSpeed averages over ranks and micro-batches, so each of them divides by its share of the tokens.
    num_shares = run.ranks.world_size * len(batches)
    share_tokens = max(1, tokens) / num_shares
    losses = []
    for position, batch in enumerate(batches):
        loss = run.engine(**_model_inputs(run, batch), num_items_in_batch=share_tokens).loss
        run.engine.backward(loss)
        losses.append(loss.detach())
        if position + 1 < len(batches):
            run.engine.step()
    mean_loss = run.ranks.sum(sum(float(loss) for loss in losses)) / num_shares  # only here the device is waited for
    _require_finite("loss", mean_loss, step)
    grad_norm = _apply(run)
    _require_finite("gradient norm", grad_norm, step)
    return StepResult(mean_loss, grad_norm, float(run.engine.optimizer.param_groups[0]["lr"]), tokens, flops)


def _size_of_step(run: Run, batches: list[Batch]) -> tuple[int, float]:
    """Trained tokens and model FLOPs over all ranks."""
    trained, tokens, squares = run.ranks.sums(
        [
            sum(batch.num_trained_tokens for batch in batches),
            sum(batch.num_tokens for batch in batches),
            sum(batch.sum_squared_lengths for batch in batches),
        ]
    )
    return round(trained), run.flops.of_batch(tokens, squares)


def _apply(run: Run) -> float:
    """Clip and step the optimizer; the gradient's norm before clipping."""
    if run.config.zero_stage:
        run.engine.step()
        return float(run.engine.get_global_grad_norm())
    gradients = [parameter.grad for parameter in run.engine.module.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    run.engine.step()
    return norm


def _set_learning_rate(run: Run, step: int) -> None:
    rate = learning_rate(step, run.plan.steps_total, run.config)
    for group in run.engine.optimizer.param_groups:
        group["lr"] = rate


def _model_inputs(run: Run, batch: Batch) -> dict[str, Any]:
    """Never an attention mask: transformers finds borders in the positions only without one."""
    device = run.ranks.device
    return {
        "input_ids": torch.from_numpy(batch.input_ids).to(device),
        "position_ids": torch.from_numpy(batch.position_ids).to(device),
        "labels": torch.from_numpy(batch.labels).to(device),
        "use_cache": False,
        **segment_arguments(run.config.attention, batch.seq_lengths, device),
    }


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise JobFailedError(
            f"the {what} is {value} at step {step + 1}, so training stopped before a checkpoint could be spoilt;"
            " lower learning_rate, raise warmup_steps, or look at the step's documents"
        )


def _metrics_line(run: Run, state: TrainingState, result: StepResult, seconds: float) -> dict[str, Any]:
    rows_seen = min(state.steps * run.config.global_batch_rows, run.plan.rows_total)
    return {
        "step": state.steps,
        "epoch": round(rows_seen / run.plan.num_rows, 4),
        "loss": result.loss,
        "learning_rate": result.learning_rate,
        "grad_norm": result.grad_norm,
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens / seconds, 1),
        "mfu": mfu(run, result.flops, seconds),
        "seconds": round(seconds, 4),
    }


def mfu(run: Run, flops: float, seconds: float) -> float | None:
    """Model FLOPs utilisation: what the model needed over what the devices could have done."""
    if run.config.peak_tflops is None:
        return None
    return round(flops / (seconds * run.config.peak_tflops * 1e12 * run.ranks.world_size), 4)
