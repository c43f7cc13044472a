"""Several runs and several pipelines on one store."""

import pytest

from tests.faults.runs import contents, torn_files

WIDE = ("packing.row_len_tokens=32",)


def test_two_pipelines_share_one_store(runs):
    """Rows of two lengths from one corpus, at the same time: both succeed, and what they share is there once."""
    alone = runs.new_store()
    assert runs.run(alone, overrides=WIDE).status == "done"
    expected = runs.reference | contents(alone)

    together = runs.new_store()
    outcomes = runs.run_together(together, [(), WIDE, (), WIDE])
    assert [outcome.status for outcome in outcomes] == ["done"] * 4, outcomes
    assert contents(together) == expected
    assert torn_files(together) == []


def test_rivals_on_a_damaged_store_all_succeed(runs):
    """Each may find the damage; it is set aside, and the artifact is committed again."""
    store = runs.new_store()
    runs.run(store)
    record = next(store.glob("tokens/*/artifact.json"))
    record.write_bytes(record.read_bytes()[:-10])
    outcomes = runs.run_together(store, [()] * 4)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4, outcomes
    assert contents(store) == runs.reference


@pytest.mark.parametrize("times", range(2))
def test_a_run_that_is_killed_does_not_disturb_its_rivals(runs, times):
    """Killed together in the middle of a run, then three at once on what they left."""
    store = runs.new_store()
    runs.run_together(store, [()] * 3, kill_after_seconds=runs.seconds * (0.4 + 0.3 * times))
    outcomes = runs.run_together(store, [()] * 3)
    assert [outcome.status for outcome in outcomes] == ["done"] * 3, outcomes
    assert runs.problem_after(store) == ""
