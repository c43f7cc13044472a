"""The batches of a rank."""

import threading

import numpy as np
import pytest

from cpt_core.config import TrainingConfig
from cpt_core.errors import InputError
from cpt_core.packed_rows import PackedRows
from cpt_core.training.batches import BatchesAhead, BatchSource
from cpt_core.training.plan import plan_steps

STEPS = 5
VOCAB_SIZE = 64


@pytest.fixture
def make_source(store, commit_rows):
    """Nine rows, two of them a micro-batch, two micro-batches a step on one rank."""
    rows = PackedRows(store, [commit_rows(store, 5, seed=1), commit_rows(store, 4, seed=2)])
    training = TrainingConfig(model="none", num_train_epochs=2, global_batch_rows=4, micro_batch_rows=2)

    def make(vocab_size: int = VOCAB_SIZE) -> BatchSource:
        return BatchSource(rows, plan_steps(len(rows), training), training, 0, 1, vocab_size)

    return make


def ids(batches) -> list[list[list[int]]]:
    """Token ids of all micro-batches."""
    return [batch.input_ids.tolist() for batch in batches]


def test_what_is_read_ahead_is_what_would_be_read(make_source):
    """In order, and after a jump as when a run resumes; the last step is filled with rows that train nothing."""
    source = make_source()
    assert source.plan.steps_total == STEPS
    with BatchesAhead(source) as ahead:
        for step in [0, 1, 2, 4, 3, 4]:
            assert ids(ahead.of_step(step)) == ids(source.batches_of(step))
        assert [batch.num_trained_tokens > 0 for batch in ahead.of_step(STEPS - 1)] == [True, False]


def test_every_row_comes_once_an_epoch(make_source):
    """Two epochs of nine rows: each row twice, in the order of the permutation."""
    with BatchesAhead(make_source()) as ahead:
        rows = [tuple(row) for step in range(STEPS) for batch in ids(ahead.of_step(step)) for row in batch if any(row)]
    assert len(rows) == 18
    assert set(rows[:9]) == set(rows[9:])
    assert len(set(rows)) == 9


def test_the_next_step_is_read_before_it_is_asked_for(make_source, monkeypatch):
    """The reading of step 1 begins with the request for step 0, in another thread, and goes no further."""
    seen: list[tuple[int, int]] = []
    begun = threading.Event()
    genuine = BatchSource.batches_of

    def watched(self, step):
        seen.append((step, threading.get_ident()))
        if step == 1:
            begun.set()
        return genuine(self, step)

    monkeypatch.setattr(BatchSource, "batches_of", watched)
    with BatchesAhead(make_source()) as ahead:
        ahead.of_step(0)
        assert begun.wait(timeout=60)
    assert [step for step, _ in seen] == [0, 1]
    assert all(thread != threading.get_ident() for _, thread in seen)


def test_an_id_outside_the_vocabulary_is_an_error_of_its_own_step(make_source):
    """Read ahead, it is told when the step is asked for."""
    largest = [max(np.max(micro_batch) for micro_batch in ids(make_source().batches_of(step))) for step in range(STEPS)]
    limit = max(largest)
    with BatchesAhead(make_source(vocab_size=limit)) as ahead:
        for step in range(STEPS):
            if largest[step] < limit:
                ahead.of_step(step)
                continue
            with pytest.raises(InputError, match=f"token id {limit}, but the model's vocabulary has {limit} ids"):
                ahead.of_step(step)
    assert min(largest) < limit, "some steps must be good"
