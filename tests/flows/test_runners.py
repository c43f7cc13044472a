"""Runners: the data stages on a real Ray and a real Dask cluster of two worker processes on this machine."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cpt_core.errors import ConfigError, ShardsFailedError
from cpt_core.storage import Store
from cpt_core.storage.owners import owner_tag
from cpt_core.tokenization import recall_tokenizer
from flows.prepare_corpus import prepare_corpus
from flows.serving.api import ask
from flows.serving.prefect_server import free_port
from tasks.shards import find_shards, token_keys
from tests.conftest import write_jsonl

SHARDS = 6
GOOD = gzip.compress(b'{"text": "the fifth file"}\n', mtime=0)


def digests(tmp_path, store: str) -> list[str]:
    """Every file of tokens, index and rows in this store; its name holds the digest of its content."""
    return sorted(
        str(path.relative_to(tmp_path / store))
        for stage in ("tokens", "index", "packed")
        for path in (tmp_path / store / stage).rglob("*.parquet")
    )


def tokenize_rows(api_url: str, flow_run_id: str) -> dict[str, str]:
    """Task run name -> state name."""
    found = ask(api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
    return {row["name"]: row["state_name"] for row in found if row["name"].startswith("tokenize")}


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_cluster_gives_what_threads_give_and_a_retry_computes_only_what_failed(
    prefect_api, tmp_path, make_config, monkeypatch, until, runner
):
    """Six shards in three task runs, one of them broken: it fails under its own name, as a task run of its own; after
    the repair it alone is computed, and every file is the one that threads write.
    """
    monkeypatch.setattr("tasks.batches.MAX_TASK_RUNS", 3)
    for number in range(SHARDS):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}", "x" * (3 * number + 1)])
    (tmp_path / "corpus/4.jsonl").unlink()
    (tmp_path / "corpus/4.jsonl.gz").write_bytes(GOOD[:-3])
    cluster = make_config(orchestration={"runner": runner, "workers": 2})
    state = prepare_corpus(cluster, return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ShardsFailedError), state.message
    assert list(error.failures) == ["a-00004"]
    assert "4.jsonl.gz: gzip data is truncated or corrupt" in error.failures["a-00004"]
    expected = {
        "tokenize a-00000 and 1 more": "Completed",
        "tokenize a-00002 and 1 more": "Completed",
        "tokenize a-00004 and 1 more": "Completed",
        "tokenize a-00004": "Failed",
    }
    until(lambda: tokenize_rows(prefect_api, str(state.state_details.flow_run_id)) == expected, 60)

    (tmp_path / "corpus/4.jsonl.gz").write_bytes(GOOD)
    summary = prepare_corpus(cluster, return_state=True).result()
    assert (summary["shards_computed"], summary["shards_cached"]) == (1, SHARDS - 1)
    threads = cluster.model_copy(update={"store_uri": str(tmp_path / "by-threads")})
    threads = threads.model_copy(update={"orchestration": make_config().orchestration})
    prepare_corpus(threads, return_state=True).result()
    assert digests(tmp_path, "store") == digests(tmp_path, "by-threads")
    assert len(digests(tmp_path, "store")) == SHARDS + 3


RUN_OF_TWO_BATCHES = """
import tasks.batches
tasks.batches.MAX_TASK_RUNS = 2
from flows.command import main
main()
"""


@contextmanager
def dask_cluster(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers without a nanny, as a user starts them; the address and the workers."""
    programs: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, "--no-dashboard"]
        with (folder / f"{program}-{len(programs)}.log").open("wb") as log:
            programs.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log))

    address = f"tcp://127.0.0.1:{free_port()}"
    try:
        start("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2])
        for _ in range(2):
            start("worker", address, "--nthreads", "1", "--no-nanny")
        yield address, programs[1:]
    finally:
        for program in programs:
            program.kill()
            program.wait()


def waiting_shards(api_url: str) -> list[str]:
    """Shards of the newest run whose workers have found them claimed by somebody else."""
    (newest,) = ask(api_url, "flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    lines = ask(api_url, "logs/filter", {"logs": {"flow_run_id": {"any_": [newest["id"]]}}, "limit": 200})
    messages = [line["message"] for line in lines]
    return sorted(message.split()[0] for message in messages if "is being computed by another run" in message)


def test_a_worker_that_dies_costs_only_what_it_was_computing(prefect_api, tmp_path, make_config, until):
    """Each of two workers is in the middle of a batch when one is killed, and the cluster gives its batch up: it is
    split and computed by the other worker.
    """
    for number in range(4):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}"])
    config = make_config()
    store = Store(config.store_uri)
    tokenizer = recall_tokenizer(config.tokenization, store)
    keys = token_keys(find_shards(config, store), config, tokenizer)
    claims = [f".claims/{keys[first]}" for first in (0, 2)]
    for claim in claims:  # as of another run that computes the first shard of each batch: the workers wait for it
        store.note(claim, owner_tag().encode())
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "CPT_HOME": str(tmp_path / "home")}
    with dask_cluster(tmp_path, environment | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}) as cluster:
        address, workers = cluster
        orchestration = {"runner": "dask", "runner_address": address}
        (tmp_path / "config.json").write_text(
            make_config(orchestration=orchestration).model_dump_json(), encoding="utf-8"
        )
        command = [sys.executable, "-c", RUN_OF_TWO_BATCHES, "prepare", "config.json", "--json"]
        run = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            until(lambda: waiting_shards(prefect_api) == ["a-00000", "a-00002"], 60)
            workers[0].kill()
            for claim in claims:
                store.forget(claim)
            stdout, stderr = run.communicate(timeout=120)
        finally:
            run.kill()
    assert run.returncode == 0, stderr
    assert json.loads(stdout)["shards_computed"] == 4
    (newest,) = ask(prefect_api, "flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    until(lambda: len(rows := tokenize_rows(prefect_api, newest["id"])) == 4 and "Running" not in rows.values(), 30)
    states = sorted(tokenize_rows(prefect_api, newest["id"]).values())
    assert states == ["Completed", "Completed", "Completed", "Crashed"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://127.0.0.1:9", "[Errno 111] Connection refused"),
        ("the-cluster", "expected a host and a port"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(prefect_api, tmp_path, make_config, address, reason):
    """At once, and a mistake of the configuration."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["a"])
    config = make_config(orchestration={"runner": "dask", "runner_address": address})
    error = prepare_corpus(config, return_state=True).result(raise_on_failure=False)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"orchestration.runner_address: no dask cluster answers at {address} ({reason}); start it first, or leave the "
        "key out for one on this machine"
    )


def test_a_runner_that_is_not_installed_is_named_before_anything_is_read(
    prefect_api, tmp_path, make_config, monkeypatch
):
    """There is no corpus here: nobody has looked for one."""
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    error = prepare_corpus(make_config(orchestration={"runner": "ray"}), return_state=True).result(
        raise_on_failure=False
    )
    assert str(error) == (
        "orchestration.runner: ray needs the package prefect-ray, which is not installed; run `pip install prefect-ray` "
        "here and on every worker, or choose threads"
    )
