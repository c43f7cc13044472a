"""A run with a missing shard, without a browser or a deployment."""

import gzip

import pytest

from cpt_core.errors import InputError, ShardsFailedError
from flows.prepare_corpus import prepare_corpus
from tasks.batches import plan_batches
from tests.conftest import write_jsonl


def test_the_others_are_committed_and_the_run_fails_by_name(prefect_api, tmp_path, make_config):
    """One truncated archive among three files: Failed, one line, two shards in the store; then only it is computed."""
    for name in ("1", "3"):
        write_jsonl(tmp_path / f"corpus/{name}.jsonl", [name])
    good = gzip.compress(b'{"text": "two"}\n', mtime=0)
    (tmp_path / "corpus/2.jsonl.gz").write_bytes(good[:-3])
    state = prepare_corpus(make_config(), return_state=True)
    error = state.result(raise_on_failure=False)
    assert state.is_failed()
    assert isinstance(error, ShardsFailedError)
    assert list(error.failures) == ["a-00001"]
    assert "2.jsonl.gz: gzip data is truncated or corrupt" in str(error)
    assert "cpt retry-shard CONFIG SHARD" in state.message
    assert len(list((tmp_path / "store/tokens").iterdir())) == 2

    (tmp_path / "corpus/2.jsonl.gz").write_bytes(good)
    summary = prepare_corpus(make_config(), return_state=True).result()
    assert (summary["shards_computed"], summary["shards_cached"]) == (1, 2)


def test_too_many_bad_lines_fail_the_run_after_all_shards(prefect_api, tmp_path, make_config):
    """The token shards are committed, so that only the verdict is repeated."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["a"])
    (tmp_path / "corpus/2.jsonl").write_bytes(b"{\n")
    state = prepare_corpus(make_config(), return_state=True)
    assert isinstance(state.result(raise_on_failure=False), InputError)
    assert "1 of 2 documents are quarantined" in state.message
    tolerant = make_config(tokenization={"max_bad_fraction": 0.5})
    assert prepare_corpus(tolerant, return_state=True).result()["shards_computed"] == 0


@pytest.mark.parametrize(
    ("units", "batches"),
    [
        (0, []),
        (2, [(0, 1), (1, 2)]),
        (3, [(0, 1), (1, 2), (2, 3)]),
        (5, [(0, 1), (1, 3), (3, 5)]),
    ],
)
def test_batches_are_even(units, batches):
    """At most three task runs here: one unit each while that fits, then sizes that differ by one."""
    assert plan_batches(units, max_batches=3) == batches


def test_a_failing_shard_of_a_batch_fails_under_its_own_name(prefect_api, tmp_path, make_config, monkeypatch):
    """Nine shards in three task runs, one of them bad: it is split out, and no other shard is missing."""
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 3)
    for number in range(9):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [str(number)])
    (tmp_path / "corpus/4.jsonl").unlink()
    (tmp_path / "corpus/4.jsonl.gz").write_bytes(b"\x1f\x8bnot gzip")
    error = prepare_corpus(make_config(), return_state=True).result(raise_on_failure=False)
    assert list(error.failures) == ["a-00004"]
    assert len(list((tmp_path / "store/tokens").iterdir())) == 8
