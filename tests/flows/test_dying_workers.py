"""A shard whose worker process dies, in a run of batches."""

import os
from pathlib import Path
from typing import Any

import pytest

from cpt_core.artifacts import Artifact
from cpt_core.errors import ShardsFailedError
from cpt_core.manifest import Shard
from cpt_core.tokenization import tokenize_shard
from flows.prepare_corpus import prepare_corpus
from flows.serving.api import ask
from tests.conftest import write_jsonl


def die_of_poison(shard: Shard, **arguments: Any) -> Artifact:
    """Tokenize, unless the text ends the process, as a crash of a library would."""
    if b"poison" in Path(shard.uri).read_bytes():
        os._exit(3)
    return tokenize_shard(shard, **arguments)


@pytest.fixture
def in_worker_processes(monkeypatch):
    """Nine shards are few enough for threads, so they are told to be many; three task runs for all."""
    monkeypatch.setattr("tasks.computing.PROCESSES_PAY_FROM_BYTES", 0)
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 3)
    monkeypatch.setattr("tasks.computing.tokenize_shard", die_of_poison)


def tokenize_runs(api_url: str, flow_run_id: str) -> dict[str, str]:
    """Task run name -> state name."""
    question = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    runs = ask(api_url, "task_runs/filter", question)
    return {run["name"]: run["state_name"] for run in runs if run["name"].startswith("tokenize")}


def test_only_the_shard_whose_process_dies_fails(prefect_api, tmp_path, make_config, in_worker_processes, until):
    """It is split out of its batch and fails under its own name; the others of the batch are committed, and the next
    run computes it alone.
    """
    for number in range(9):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}"])
    write_jsonl(tmp_path / "corpus/4.jsonl", ["poison"])
    state = prepare_corpus(make_config(), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ShardsFailedError)
    assert list(error.failures) == ["a-00004"]
    assert error.failures["a-00004"].startswith("its process ended by itself (exit code 3)")
    assert len(list((tmp_path / "store/tokens").iterdir())) == 8
    flow_run_id = str(state.state_details.flow_run_id)
    expected = {
        "tokenize a-00000 and 2 more": "Completed",
        "tokenize a-00003 and 2 more": "Completed",
        "tokenize a-00006 and 2 more": "Completed",
        "tokenize a-00004": "Failed",
    }
    until(lambda: tokenize_runs(prefect_api, flow_run_id) == expected)

    write_jsonl(tmp_path / "corpus/4.jsonl", ["cured"])
    summary = prepare_corpus(make_config(), return_state=True).result()
    assert (summary["shards_computed"], summary["shards_cached"]) == (1, 8)
