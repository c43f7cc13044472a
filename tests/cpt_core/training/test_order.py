"""Rows and steps lead to each other."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_core.config import TrainingConfig
from cpt_core.packed_rows import PackedRows
from cpt_core.storage import Store
from cpt_core.training.batches import BatchSource
from cpt_core.training.order import rows_of_step, steps_of_row
from cpt_core.training.plan import StepPlan, plan_steps

NUM_ROWS, EPOCHS = 53, 3


@settings(deadline=None)
@given(
    num_rows=st.integers(1, 60),
    rows_total=st.integers(1, 200),
    global_batch_rows=st.integers(1, 16),
    seed=st.integers(0, 2**32),
)
def test_a_row_is_trained_on_in_exactly_the_steps_that_it_names(num_rows, rows_total, global_batch_rows, seed):
    """For every size of run, the last, partly filled step included."""
    size = {
        "num_rows": num_rows,
        "rows_total": rows_total,
        "global_batch_rows": global_batch_rows,
        "seed": seed,
    }
    steps = [rows_of_step(step, **size).tolist() for step in range(-(-rows_total // global_batch_rows))]
    for row in range(num_rows):
        expected = [step for step, rows in enumerate(steps) for _ in range(rows.count(row))]
        assert steps_of_row(row, **size) == expected


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, commit_rows: Any) -> PackedRows:
    """Rows in two packed shards, no two of them alike."""
    store = Store(str(tmp_path_factory.mktemp("order")))
    return PackedRows(store, [commit_rows(store, 30, seed=1), commit_rows(store, NUM_ROWS - 30, seed=2)])


def steps_read(rows: PackedRows, world_size: int, micro_batch_rows: int) -> tuple[StepPlan, list[Counter]]:
    """What all ranks together read in each step, as it lies on disk."""
    training = TrainingConfig(
        model="none",
        num_train_epochs=EPOCHS,
        global_batch_rows=24,
        micro_batch_rows=micro_batch_rows,
        launcher={"processes_per_node": world_size},
    )
    plan = plan_steps(len(rows), training)
    ranks = [BatchSource(rows, plan, training, rank, world_size, vocab_size=64) for rank in range(world_size)]
    steps = []
    for step in range(plan.steps_total):
        batches = [batch for rank in ranks for batch in rank.batches_of(step)]
        assert len(batches) * micro_batch_rows == 24
        steps.append(Counter(tuple(row) for batch in batches for row in batch.input_ids.tolist() if any(row)))
    return plan, steps


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("accumulates", [True, False])
def test_every_row_once_an_epoch_however_many_ranks_read(rows: PackedRows, world_size: int, accumulates: bool) -> None:
    """None twice, none lost; a step has the same rows at any number of ranks, its accumulation recomputed."""
    plan, steps = steps_read(rows, world_size, 1 if accumulates else 24 // world_size)
    assert (plan.steps_total, [step.total() for step in steps]) == (7, [24] * 6 + [NUM_ROWS * EPOCHS - 6 * 24])
    on_disk = Counter(tuple(rows[number].input_ids.tolist()) for number in range(NUM_ROWS))
    assert set(on_disk.values()) == {1}
    assert sum(steps, Counter()) == Counter(dict.fromkeys(on_disk, EPOCHS))
    assert steps == steps_read(rows, 1, 24)[1]
