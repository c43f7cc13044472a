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

import numpy as np
import torch
from numpy.typing import NDArray

from cpt_core.config import TrainingConfig
from cpt_core.errors import InputError, JobFailedError
from cpt_core.packed_rows import Batch, PackedRows, Row, batch_of, empty_row
from cpt_core.permutation import seed_from
from cpt_core.training.metrics import MetricsWriter
from cpt_core.training.order import FILL, rows_of_rank, rows_of_step
from cpt_core.training.plan import StepPlan
from cpt_core.training.ranks import Ranks
from cpt_core.training.schedule import learning_rate
from cpt_core.training.state import TrainingState

PAD_ID = 0
"""Any id will do: it is never trained on and never attended to."""


@dataclass(frozen=True)
class Run:
    """What stays the same over all steps."""

    engine: Any
    rows: PackedRows
    plan: StepPlan
    config: TrainingConfig
    ranks: Ranks
    vocab_size: int
    flops_per_token: float


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


def train(
    run: Run, state: TrainingState, metrics: MetricsWriter | None, save: Callable[[TrainingState], None]
) -> TrainingState:
    """All steps that are left.

    Args:
        run: the engine and its data.
        state: where to begin.
        metrics: on rank 0.
        save: seals a checkpoint; called on all ranks every ``save_steps`` and after the last step.
    """
    run.engine.train()
    while state.steps < run.plan.steps_total:
        started = time.perf_counter()
        result = train_step(run, state.steps)
        state = state.after_step(result.loss, result.tokens)
        if metrics:
            metrics.write(_metrics_line(run, state, result, time.perf_counter() - started))
        if state.steps % run.config.save_steps == 0 or state.steps == run.plan.steps_total:
            if metrics:
                metrics.make_durable()
            save(state)
    return state


def train_step(run: Run, step: int) -> StepResult:
    """One optimizer step.

    Raises:
        JobFailedError: when loss or gradient are not finite.
    """
    _set_learning_rate(run, step)
    torch.manual_seed(seed_from("step", run.config.seed, step, run.ranks.rank))
    batches = _batches_of(run, step)
    tokens = round(run.ranks.sum(sum(batch.num_trained_tokens for batch in batches)))
    # DeepSpeed averages over ranks and micro-batches, so each of them divides by its share of the tokens.
    num_shares = run.ranks.world_size * len(batches)
    share_tokens = max(1, tokens) / num_shares
    local_loss = 0.0
    for position, batch in enumerate(batches):
        loss = run.engine(**_model_inputs(run, batch), num_items_in_batch=share_tokens).loss
        run.engine.backward(loss)
        local_loss += float(loss.detach())
        if position + 1 < len(batches):
            run.engine.step()
    mean_loss = run.ranks.sum(local_loss) / num_shares
    _require_finite("loss", mean_loss, step)
    grad_norm = _apply(run)
    _require_finite("gradient norm", grad_norm, step)
    return StepResult(mean_loss, grad_norm, float(run.engine.optimizer.param_groups[0]["lr"]), tokens)


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


def _batches_of(run: Run, step: int) -> list[Batch]:
    """This rank's micro-batches of a step."""
    config, ranks = run.config, run.ranks
    step_rows = rows_of_step(
        step,
        num_rows=run.plan.num_rows,
        rows_total=run.plan.rows_total,
        global_batch_rows=config.global_batch_rows,
        seed=config.seed,
    )
    own = rows_of_rank(
        step_rows, rank=ranks.rank, world_size=ranks.world_size, micro_batch_rows=config.micro_batch_rows
    )
    return [batch_of(_read_rows(run, numbers), document_borders=config.document_borders) for numbers in own]


def _read_rows(run: Run, numbers: NDArray[np.int64]) -> list[Row]:
    row_len_tokens = len(run.rows[0].input_ids)
    rows = []
    for number in numbers:
        row = empty_row(row_len_tokens, PAD_ID) if number == FILL else run.rows[int(number)]
        if row.input_ids.max() >= run.vocab_size or row.input_ids.min() < 0:
            raise InputError(
                f"packed row {number} holds token id {row.input_ids.max()}, but the model's vocabulary has"
                f" {run.vocab_size} ids; use the model's own tokenizer"
            )
        rows.append(row)
    return rows


def _model_inputs(run: Run, batch: Batch) -> dict[str, Any]:
    """Never an attention mask: transformers finds borders in the positions only without one."""
    device = run.ranks.device
    return {
        "input_ids": torch.from_numpy(batch.input_ids).to(device),
        "position_ids": torch.from_numpy(batch.position_ids).to(device),
        "labels": torch.from_numpy(batch.labels).to(device),
        "use_cache": False,
    }


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise JobFailedError(
            f"the {what} is {value} at step {step + 1}, so training stopped before a checkpoint could be spoilt;"
            " lower learning_rate, raise warmup_steps, or look at the step's documents"
        )


def _metrics_line(run: Run, state: TrainingState, result: StepResult, seconds: float) -> dict[str, Any]:
    rows_seen = min(state.steps * run.config.global_batch_rows, run.plan.rows_total)
    tokens_per_second = result.tokens / seconds
    return {
        "step": state.steps,
        "epoch": round(rows_seen / run.plan.num_rows, 4),
        "loss": result.loss,
        "learning_rate": result.learning_rate,
        "grad_norm": result.grad_norm,
        "tokens": result.tokens,
        "tokens_per_second": round(tokens_per_second, 1),
        "mfu": mfu(run, tokens_per_second),
        "seconds": round(seconds, 4),
    }


def mfu(run: Run, tokens_per_second: float) -> float | None:
    """Model FLOPs utilisation of trained tokens; padding counts as waste. None without ``peak_tflops``."""
    if run.config.peak_tflops is None:
        return None
    peak = run.config.peak_tflops * 1e12 * run.ranks.world_size
    return round(tokens_per_second * run.flops_per_token / peak, 4)
