"""Runners: the data stages on a real Ray and a real Dask cluster of two worker processes on this machine."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cpt_core.config import PipelineConfig
from cpt_core.errors import ConfigError, ShardsFailedError, WorkerError
from cpt_core.storage import Store
from cpt_core.storage.owners import owner_tag
from cpt_core.tokenization import recall_tokenizer
from flows.prepare_corpus import prepare_corpus
from flows.serving.api import ask
from tasks.shards import find_shards, token_keys
from tests.conftest import REPOSITORY, write_jsonl
from tests.flows.clusters import dask_cluster, ray_cluster

SHARDS = 6
GOOD = gzip.compress(b'{"text": "the fifth file"}\n', mtime=0)

WITH_TOKEN = "with the RAY_AUTH_MODE and RAY_AUTH_TOKEN that this command has"


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


def computed_lines(api_url: str, flow_run_id: str) -> list[str]:
    """How many each task run has computed of its shards, as its log says."""
    lines = ask(api_url, "logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200})
    return sorted(found[1] for line in lines if (found := re.match(r"(\d of \d) computed in ", line["message"])))


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_cluster_gives_what_threads_give_and_a_retry_computes_only_what_failed(
    prefect_api, tmp_path, make_config, monkeypatch, until, runner
):
    """Six shards in three task runs, one of them broken: it fails under its own name, as a task run of its own; each
    has its line in the log, though the workers end with the run; after the repair it alone is computed, and every file
    is the one that threads write.
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
    flow_run_id = str(state.state_details.flow_run_id)
    until(lambda: tokenize_rows(prefect_api, flow_run_id) == expected)
    until(lambda: computed_lines(prefect_api, flow_run_id) == ["1 of 2", "2 of 2", "2 of 2"])

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


def run_ids(api_url: str, name: str) -> list[str]:
    """Of the runs of the configuration with this name."""
    return [run["id"] for run in ask(api_url, "flow_runs/filter", {"flow_runs": {"tags": {"all_": [name]}}})]


def waiting_shards(api_url: str, name: str) -> list[str]:
    """Shards that the workers of the configuration with this name have found claimed by somebody else."""
    question = {"logs": {"flow_run_id": {"any_": run_ids(api_url, name)}}, "limit": 200}
    lines = ask(api_url, "logs/filter", question)
    messages = [line["message"] for line in lines]
    return sorted(message.split()[0] for message in messages if "is being computed by another run" in message)


def shown_progress(api_url: str) -> str:
    """The newest stage's line in the UI."""
    question = {"artifacts": {"key": {"any_": ["tokenization"]}}, "sort": "CREATED_DESC", "limit": 1}
    return "".join(artifact["description"] for artifact in ask(api_url, "artifacts/filter", question))


def start_prepare(folder: Path, config: PipelineConfig, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """``cpt prepare --json`` with two task runs a stage."""
    (folder / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-c", RUN_OF_TWO_BATCHES, "prepare", "config.json", "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def waits(run: "subprocess.Popen[str]", api_url: str, name: str, shards: list[str]) -> bool:
    """Whether its workers wait for these shards; a run that has ended will not."""
    assert run.poll() is None, run.communicate()[1]
    return waiting_shards(api_url, name) == shards


def claim_shards(config: PipelineConfig, *positions: int) -> list[str]:
    """As another run does that computes these shards: whoever comes to them waits until the claims are forgotten."""
    store = Store(config.store_uri)
    tokenizer = recall_tokenizer(config.tokenization, store)
    keys = token_keys(find_shards(config, store), config, tokenizer)
    claims = [f".claims/{keys[position]}" for position in positions]
    for claim in claims:
        store.note(claim, owner_tag().encode())
    return claims


@pytest.mark.parametrize(
    ("started", "ends"),
    [
        pytest.param(dask_cluster, ["Cached", "Completed", "Completed", "Crashed"], id="dask"),
        pytest.param(ray_cluster, ["Completed", "Completed"], id="ray"),
    ],
)
def test_a_worker_that_dies_costs_only_what_it_was_computing(prefect_api, tmp_path, make_config, until, started, ends):
    """On a cluster that was there before, each of two workers has tokenized the first shard of its batch, which is
    seen at once, and is at the second when one is killed. Dask gives the batch up: it is split and computed by the
    other worker; Ray starts another process with it. Every file is the one that threads write.
    """
    for number in range(4):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}"])
    claims = claim_shards(make_config(), 1, 3)
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "CPT_HOME": str(tmp_path / "home")}
    with started(tmp_path, environment) as cluster:
        orchestration = {"runner": cluster.runner, "runner_address": cluster.address}
        config = make_config(name=f"loses-{cluster.runner}", orchestration=orchestration)
        run = start_prepare(tmp_path, config, environment | cluster.variables)
        try:
            until(lambda: waits(run, prefect_api, config.name, ["a-00001", "a-00003"]))
            so_far = "tokenization: 0 of 4 shards; 2 documents, 24 tokens, "
            until(lambda: shown_progress(prefect_api).startswith(so_far))
            cluster.kill_a_worker()
            for claim in claims:
                Store(config.store_uri).forget(claim)
            stdout, stderr = run.communicate(timeout=300)
        finally:
            run.kill()
    assert run.returncode == 0, stderr
    assert json.loads(stdout)["shards_total"] == 4
    (run_id,) = run_ids(prefect_api, config.name)
    until(lambda: sorted(tokenize_rows(prefect_api, run_id).values()) == ends)
    threads = {"store_uri": str(tmp_path / "by-threads"), "orchestration": make_config().orchestration}
    prepare_corpus(config.model_copy(update=threads), return_state=True).result()
    assert digests(tmp_path, "store") == digests(tmp_path, "by-threads")


def test_a_run_that_is_killed_takes_its_dask_cluster_with_it(prefect_api, tmp_path, make_config, until):
    """The cluster of this machine that it has started; its worker is in the middle of a shard."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["document"])
    config = make_config(name="killed", orchestration={"runner": "dask", "workers": 1})
    claim_shards(config, 0)
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "CPT_HOME": str(tmp_path / "home")}
    run = start_prepare(tmp_path, config, environment)
    try:
        until(lambda: waits(run, prefect_api, config.name, ["a-00000"]))
        programs = psutil.Process(run.pid).children(recursive=True)
    finally:
        run.kill()
        run.communicate()
    assert programs
    until(lambda: not any(program.is_running() for program in programs), 120)


@pytest.mark.parametrize(
    ("runner", "address", "reason", "start_it"),
    [
        ("dask", "tcp://127.0.0.1:9", "[Errno 111] Connection refused", "start it first"),
        ("dask", "the-cluster", "expected a host and a port", "start it first"),
        ("ray", "ray://127.0.0.1:9", "[Errno 111] Connection refused", f"start it first {WITH_TOKEN}"),
        ("ray", "auto", "expected a host and a port", f"start it first {WITH_TOKEN}"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(
    prefect_api, tmp_path, make_config, runner, address, reason, start_it
):
    """At once, and a mistake of the configuration."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["a"])
    config = make_config(orchestration={"runner": runner, "runner_address": address})
    error = prepare_corpus(config, return_state=True).result(raise_on_failure=False)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"orchestration.runner_address: no {runner} cluster answers at {address} ({reason}); {start_it}, or "
        "leave the key out for one on this machine"
    )


def test_a_cluster_that_does_not_start_here_is_one_line(prefect_api, tmp_path, make_config, monkeypatch):
    """Ray refuses to work with so little memory."""
    monkeypatch.setattr("tasks.runners.OBJECTS_BYTES", 1)
    write_jsonl(tmp_path / "corpus/1.jsonl", ["a"])
    error = prepare_corpus(make_config(orchestration={"runner": "ray"}), return_state=True).result(
        raise_on_failure=False
    )
    assert isinstance(error, WorkerError)
    assert str(error).startswith("orchestration.runner: ray could start no cluster on this machine (")
    assert str(error).endswith("); run the same command again when it is less busy, or choose threads")


RAY_IS_IMPORTED = """
import sys, ray
from cpt_core.config import PipelineConfig
from tasks.runners import RunCluster
with RunCluster(PipelineConfig.model_validate_json(sys.argv[1])) as cluster:
    print(type(cluster.runner()).__name__)
"""


def test_a_process_that_has_imported_ray_before_starts_a_cluster_that_asks_for_a_token(make_config):
    """Other libraries import it too, and it looks at its variables then."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    config = make_config(orchestration={"runner": "ray", "workers": 1}).model_dump_json()
    command = [sys.executable, "-c", RAY_IS_IMPORTED, config]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("RayTaskRunner\n", 0), done.stderr


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
