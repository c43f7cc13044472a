"""A run with a missing shard, without a browser or a deployment."""

import gzip
import json

import pytest
from prefect import State, flow, task
from prefect.states import Crashed

from cpt_core.artifacts import Artifact
from cpt_core.errors import InputError, ShardsFailedError
from cpt_core.tokenization import tokenize_shard
from flows.prepare_corpus import prepare_corpus
from flows.serving.api import ask
from tasks.batches import Outcome, batched, compute_units, plan_batches, run_in_batches
from tasks.runners import thread_runner
from tests.conftest import write_jsonl


def rows_of(api_url: str, state: State, task: str = "tokenize") -> list[tuple[str, str]]:
    """(task run name, state name) of all task runs of this task."""
    found = ask(api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}})
    return sorted((row["name"], row["state_name"]) for row in found if row["name"].startswith(task))


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
    assert "cpt retry-shard CONFIG a-00001" in state.message
    assert len(list((tmp_path / "store/tokens").iterdir())) == 2

    (tmp_path / "corpus/2.jsonl.gz").write_bytes(good)
    summary = prepare_corpus(make_config(), return_state=True).result()
    assert (summary["shards_computed"], summary["shards_cached"]) == (1, 2)


def test_a_file_name_is_text_in_the_table_of_failed_shards(prefect_api, tmp_path, make_config):
    """The Prefect UI reads cells as markdown, and markdown as HTML."""
    path = tmp_path / "corpus/<img onerror=x>[x](y)|.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(b"")
    state = prepare_corpus(make_config(), return_state=True)
    question = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    tables = {artifact["key"]: artifact["data"] for artifact in ask(prefect_api, "artifacts/filter", question)}
    assert json.loads(tables["failed-shards"]) == [
        {
            "shard": "a-00000",
            "reason": (
                f"{tmp_path}/corpus/&lt;img onerror=x&gt;\\[x\\](y)\\|.jsonl.gz: is truncated: 0 bytes, fewer than any gzip "
                "file has; nothing of it is used. Replace the file and run again"
            ),
        }
    ]


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


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        ("", ["a", "bc", "de"]),
        ("abcde", ["a", "bc", "de"]),
        ("ad", ["ad", "b", "ce"]),
        ("abcd", ["ab", "cd", "e"]),
    ],
    ids=["nothing is cached", "all is cached", "little is cached", "one is missing"],
)
def test_no_batch_mixes_what_is_cached_with_what_is_computed(cached, expected):
    """At most three batches of five units; what has to be computed gets as many of its own as there are."""
    batches = batched(list("abcde"), lambda unit: unit in cached, max_batches=3)
    assert ["".join(batch) for batch in batches] == expected


def test_a_second_run_shows_the_cached_shards_of_batches_as_cached(
    prefect_api, tmp_path, make_config, monkeypatch, until
):
    """Seven shards in three task runs, and then one more: it has a row of its own, the others are Cached."""
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 3)
    for number in range(7):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [str(number)])
    prepare_corpus(make_config(), return_state=True)
    write_jsonl(tmp_path / "corpus/9.jsonl", ["new"])
    state = prepare_corpus(make_config(), return_state=True)
    expected = [
        ("tokenize a-00000 and 2 more", "Cached"),
        ("tokenize a-00003 and 3 more", "Cached"),
        ("tokenize a-00007", "Completed"),
    ]
    until(lambda: rows_of(prefect_api, state) == expected)


def test_a_batch_whose_task_breaks_is_split(prefect_api, tmp_path, make_config, monkeypatch):
    """A mistake of ours in one shard takes its whole batch along, and the others of the batch are computed alone."""
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 3)
    for number in range(9):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [str(number)])

    def break_at_four(**arguments):
        if arguments["shard"].ordinal == 4:
            raise KeyError("no such thing")
        return tokenize_shard(**arguments)

    monkeypatch.setattr("tasks.computing.tokenize_shard", break_at_four)
    error = prepare_corpus(make_config(), return_state=True).result(raise_on_failure=False)
    assert list(error.failures) == ["a-00004"]
    assert "no such thing" in error.failures["a-00004"]
    assert len(list((tmp_path / "store/tokens").iterdir())) == 8


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


def test_of_many_failing_shards_only_as_many_run_alone_as_there_may_be_rows(
    prefect_api, tmp_path, make_config, monkeypatch, until
):
    """Nine bad shards in three task runs: three of them get a row of their own, all nine are named with their reason,
    and a batch in which everything failed is not called Cached.
    """
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 3)
    for number in range(9):
        path = tmp_path / f"corpus/{number}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x1f\x8bnot gzip %d" % number)
    state = prepare_corpus(make_config(), return_state=True)
    failures = state.result(raise_on_failure=False).failures
    assert {shard: "gzip data is truncated or corrupt" in reason for shard, reason in failures.items()} == {
        f"a-{number:05d}": True for number in range(9)
    }
    expected = [
        ("tokenize a-00000", "Failed"),
        ("tokenize a-00000 and 2 more", "Completed"),
        ("tokenize a-00001", "Failed"),
        ("tokenize a-00002", "Failed"),
        ("tokenize a-00003 and 2 more", "Completed"),
        ("tokenize a-00006 and 2 more", "Completed"),
    ]
    until(lambda: rows_of(prefect_api, state) == expected)


def test_a_shard_that_had_a_row_of_its_own_does_not_run_again(prefect_api, tmp_path, make_config, monkeypatch, until):
    """Four shards in three task runs: the first, which is bad, was alone from the start."""
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 3)
    for number in range(1, 4):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [str(number)])
    (tmp_path / "corpus/0.jsonl.gz").write_bytes(b"\x1f\x8bnot gzip")
    state = prepare_corpus(make_config(), return_state=True)
    expected = [
        ("tokenize a-00000", "Failed"),
        ("tokenize a-00001", "Completed"),
        ("tokenize a-00002 and 1 more", "Completed"),
    ]
    until(lambda: rows_of(prefect_api, state) == expected)


def test_a_unit_that_was_lost_with_its_worker_runs_once_more(prefect_api, until):
    """It had a row of its own; one that is lost again fails, and one that failed by itself is left."""
    attempts: list[str] = []

    @task(task_run_name="compute {label}")
    def compute(units: list[str], label: str) -> State | Outcome:
        attempts.append(label)
        if label == "bad":
            raise InputError("bad: is no text")
        if label == "lost" or (label == "unlucky" and attempts.count(label) == 1):
            return Crashed(message="its worker was lost")
        return Outcome(results=dict.fromkeys(units))

    @flow
    def compute_all() -> dict[str, str]:
        with thread_runner(1) as runner:
            found = run_in_batches(compute, ["bad", "good", "lost", "unlucky"], str, {}, runner, lambda unit: False)
        assert list(found.results) == ["good", "unlucky"]
        return found.failures

    state = compute_all(return_state=True)
    assert state.result() == {"bad": "bad: is no text", "lost": "its worker was lost"}
    expected = [
        ("compute bad", "Failed"),
        ("compute good", "Completed"),
        ("compute lost", "Crashed"),
        ("compute lost", "Crashed"),
        ("compute unlucky", "Completed"),
        ("compute unlucky", "Crashed"),
    ]
    until(lambda: rows_of(prefect_api, state, "compute") == expected)


def test_all_units_of_batches_that_failed_for_what_passes_run_again(prefect_api, monkeypatch, until):
    """More of them than there may be task runs: they share these."""
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 2)
    attempts: list[str] = []

    def succeed_the_second_time(unit: str) -> Artifact:
        attempts.append(unit)
        if unit != "a" and attempts.count(unit) == 1:
            raise InputError(f"{unit}: cannot be read: Stale file handle", is_transient=True)
        return Artifact("tokens", unit, "k", {}, {}, {}, 1.0, "0", f"tokens/{unit}", "store")

    @task(task_run_name="compute {label}")
    def compute(units: list[str], label: str) -> State | Outcome:
        return compute_units(units, str, succeed_the_second_time)

    @flow
    def compute_all() -> dict[str, str]:
        with thread_runner(1) as runner:
            found = run_in_batches(compute, ["a", "b", "c", "d"], str, {}, runner, lambda unit: False)
        assert sorted(found.results) == ["a", "b", "c", "d"]
        return found.failures

    state = compute_all(return_state=True)
    assert state.result() == {}
    expected = [
        ("compute a and 1 more", "Completed"),
        ("compute b", "Completed"),
        ("compute c and 1 more", "Completed"),
        ("compute c and 1 more", "Completed"),
    ]
    until(lambda: rows_of(prefect_api, state, "compute") == expected)


def test_a_batch_of_which_a_part_failed_is_not_called_cached(monkeypatch):
    """One unit was in the store, the other failed."""
    monkeypatch.setattr("tasks.batches._log", lambda outcome, units: None)  # there is no run here

    def compute(unit: str) -> Artifact:
        if unit == "bad":
            raise InputError("bad: is no text")
        return Artifact("tokens", unit, "k", {}, {}, {}, 1.0, "0", f"tokens/{unit}", "store", is_cached=True)

    assert compute_units(["good"], str, compute).name == "Cached"
    assert compute_units(["good", "bad"], str, compute).failures == {"bad": "bad: is no text"}
