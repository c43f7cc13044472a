"""Which row is trained on when: a pure function of (seed, epoch, step).

In: the step, the number of rows, the seed; the rank and its micro-batch.
Out: row numbers.
Promise: each row comes exactly once an epoch, at any number of ranks; only the run's very last step is filled up.
Never: keeps a state, so that a resumed run needs nothing but its step.
"""

import numpy as np
from numpy.typing import NDArray

from cpt_core.permutation import permute, positions_of, seed_from

FILL = -1
"""Stands for a row without anything to train on."""


def rows_of_step(step: int, *, num_rows: int, rows_total: int, global_batch_rows: int, seed: int) -> NDArray[np.int64]:
    """The rows of one optimizer step over all ranks.

    Args:
        step: from 0.
        num_rows: rows of one epoch.
        rows_total: rows of the whole run; positions beyond it are filled.
        global_batch_rows: rows of a step.
        seed: of the run; every epoch has its own permutation.

    Returns:
        int64[global_batch_rows] of row numbers, or FILL.
    """
    positions = np.arange(step * global_batch_rows, (step + 1) * global_batch_rows, dtype=np.int64)
    rows = np.full(global_batch_rows, FILL, dtype=np.int64)
    epochs = positions // num_rows
    for epoch in np.unique(epochs):
        chosen = (epochs == epoch) & (positions < rows_total)
        if chosen.any():
            rows[chosen] = permute(positions[chosen] % num_rows, num_rows, seed_from("rows", seed, int(epoch)))
    return rows


def steps_of_row(row: int, *, num_rows: int, rows_total: int, global_batch_rows: int, seed: int) -> list[int]:
    """The steps, from 0, that train on a row: one an epoch while the run lasts. Arguments as of ``rows_of_step``."""
    steps = []
    for epoch in range(-(-rows_total // num_rows)):
        in_epoch = positions_of(np.array([row], dtype=np.int64), num_rows, seed_from("rows", seed, epoch))
        position = epoch * num_rows + int(in_epoch[0])
        if position < rows_total:
            steps.append(position // global_batch_rows)
    return steps


def rows_of_rank(
    step_rows: NDArray[np.int64], *, rank: int, world_size: int, micro_batch_rows: int
) -> NDArray[np.int64]:
    """A rank's share of a step: micro-batch m of rank r is slice number m * world_size + r.

    Returns:
        int64[accumulation_steps, micro_batch_rows].
    """
    return step_rows.reshape(-1, world_size, micro_batch_rows)[:, rank]
