"""SIGKILL of the flow's process, of the worker, of the server, of both, of all, in tokenization and in training."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml

from cpt_core.config import PipelineConfig
from flows.serving.api import answers, ask
from flows.serving.deployments import PREFECT_FILE, load_deployments, register
from flows.serving.operation import down, up
from flows.serving.overview import status
from flows.serving.prefect_server import free_port
from flows.serving.processes import marked_processes
from flows.serving.state import ServingState, read_state
from tests.conftest import REPOSITORY, save_byte_tokenizer, write_jsonl
from tests.flows.homes import new_home
from tests.small_training import save_small_llama

SHARDS, STEPS = 30, 120
CRASHED_WITHIN_SECONDS = 120
"""The promise."""
SLOT_WITHIN_SECONDS = 200
"""Sooner than a slot that nobody gave back is free by itself, which takes 300 seconds."""


class Site:
    """A served home with two configurations, one that tokenizes and one that trains, as far as they are allowed to."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.api_url = str(up(tokenizing(folder), home=home, port=free_port()).api_url)
        entries = {entry["name"]: entry for entry in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]}
        entries["data-only"]["entrypoint"] = "tests.flows.gates.runs.prepare_corpus"
        entries["data-only"]["concurrency_limit"] = entries["full-pipeline"]["concurrency_limit"]
        for name, config in (("data-only", tokenizing(folder)), ("full-pipeline", training(folder))):
            environment = entries[name]["work_pool"]["job_variables"]["env"]
            entries[name]["work_pool"]["job_variables"] = {"env": environment | {"CPT_TEST_GATES": str(folder)}}
            file = folder / f"{name}.yaml"
            file.write_text(yaml.safe_dump({"deployments": [entries[name]]}), encoding="utf-8")
            register(load_deployments(config, prefect_file=file), self.api_url)

    def allow(self, shards: int, steps: int) -> None:
        """Open the gates this far."""
        for name, number in (("shards", shards), ("steps", steps)):
            (self.folder / f"{name}.new").write_text(str(number), encoding="utf-8")
            (self.folder / f"{name}.new").replace(self.folder / name)

    def reached(self, runs: list[str]) -> tuple[int, int, list[str]]:
        """How many shards are committed, how many steps are recorded, and the states of the runs."""
        return self.shards(), len(self.steps()), self.states(runs)

    def start(self, deployment: str) -> str:
        """Start a run; its id."""
        (found,) = ask(self.api_url, "deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        question = {"state": {"type": "SCHEDULED"}}
        return str(ask(self.api_url, f"deployments/{found['id']}/create_flow_run", question)["id"])

    def start_both(self) -> list[str]:
        """A run of each configuration."""
        return [self.start("data-only"), self.start("full-pipeline")]

    def states(self, runs: list[str]) -> list[str]:
        """The names of their states."""
        found = ask(self.api_url, "flow_runs/filter", {"flow_runs": {"id": {"any_": runs}}})
        names = {run["id"]: run["state_name"] for run in found}
        return [names[run] for run in runs]

    def messages(self, runs: list[str]) -> list[str]:
        """What their states say, for whoever has to find out why a test failed."""
        return [ask(self.api_url, f"flow_runs/{run}", {}, "GET")["state"]["message"] for run in runs]

    def serving(self) -> ServingState:
        """What the supervisor wrote down."""
        state = read_state(self.home)
        assert state is not None
        return state

    def processes(self, *runs: str) -> list[psutil.Process]:
        """The processes in which these runs execute."""
        found = [process for process in marked_processes(self.home) if is_flow(process, set(runs))]
        assert len(found) == len(runs)
        return found

    def follows(self, run: str) -> bool:
        """Whether a run has found a training that runs already."""
        lines = ask(self.api_url, "logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
        return any("is running already, and is followed" in line["message"] for line in lines)

    def ranks(self) -> list[psutil.Process]:
        """The training's processes, and those beside them."""
        found = [process for process in psutil.process_iter() if is_rank_of(process, self.folder)]
        assert len(found) == 2
        return found

    def shards(self) -> int:
        """Committed token shards of the run that tokenizes."""
        return len(list(self.folder.glob("store-tokenizing/tokens/*/artifact.json")))

    def steps(self) -> list[int]:
        """Steps that the training has recorded."""
        files = list(self.folder.glob("store-training/training_runs/*/metrics.jsonl"))
        return [json.loads(line)["step"] for file in files for line in file.read_text().splitlines()]


def is_flow(process: psutil.Process, wanted: set[str]) -> bool:
    """Whether a process is the one in which one of these runs executes, and not one that it started."""
    try:
        return process.environ().get("PREFECT__FLOW_RUN_ID") in wanted and "cpt_core" not in str(process.cmdline())
    except psutil.Error:
        return False


def is_rank_of(process: psutil.Process, folder: Path) -> bool:
    """Whether a process is a rank, or the guard of one, of the training in this folder."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "cpt_core.launching" in command and str(folder) in command


def tokenizing(folder: Path) -> PipelineConfig:
    """One document a shard."""
    for number in range(SHARDS):
        write_jsonl(folder / f"many/{number:03}.jsonl", [f"document {number}"])
    return PipelineConfig.model_validate(
        {
            "name": "tokenizing",
            "store_uri": str(folder / "store-tokenizing"),
            "discovery": {"sources": [{"name": "a", "uris": [str(folder / "many")]}]},
            "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
            "packing": {"row_len_tokens": 64},
            "orchestration": {"workers": 1},
        }
    )


def training(folder: Path) -> PipelineConfig:
    """A tiny model, and a checkpoint every ten steps."""
    write_jsonl(folder / "few/a.jsonl", [f"document {number}" for number in range(64)])
    return PipelineConfig.model_validate(
        {
            "name": "training",
            "store_uri": str(folder / "store-training"),
            "discovery": {"sources": [{"name": "a", "uris": [str(folder / "few")]}]},
            "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
            "packing": {"row_len_tokens": 64},
            "training": {
                "model": str(save_small_llama(folder / "model")),
                "max_steps": STEPS,
                "save_steps": 10,
                "global_batch_rows": 1,
                "micro_batch_rows": 1,
                "zero_stage": 0,
                "precision": "fp32",
                "gradient_checkpointing": False,
                "launcher": {"environment": {"PYTHONPATH": f"{REPOSITORY / 'tests/flows/gates'}:{REPOSITORY}"}},
            },
        }
    )


@pytest.fixture
def site(home_with_schema, tmp_path):
    """Both configurations, served."""
    home = new_home(home_with_schema, tmp_path / "home")
    try:
        yield Site(home, tmp_path)
    finally:
        down(home)


def kill(*processes: psutil.Process | None) -> None:
    """SIGKILL."""
    for process in processes:
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.timeout(1500)
def test_killed_runs_are_crashed_and_new_ones_go_on_from_the_store(site, until):
    """One after the other, then the worker with the server, then all together. Every run that lost its process is
    Crashed within two minutes, the others go on; the next one gets its slot, and in the end each shard and each step
    was done. The training outlives its flows: it is found again each time, and started once; cancelling ends it, and
    the next run starts it again.
    """

    def start_both() -> list[str]:
        runs = site.start_both()
        until(lambda: site.states(runs) == ["Running", "Running"], SLOT_WITHIN_SECONDS)
        return runs

    def go_on(shards: int, steps: int) -> None:
        site.allow(shards, steps)
        deadline = time.monotonic() + 240
        while (reached := site.reached(runs)) != (shards, steps, ["Running", "Running"]):
            assert time.monotonic() < deadline, (reached, site.messages(runs))
            time.sleep(0.1)

    site.allow(0, 0)
    runs = start_both()
    go_on(5, 20)
    seen = status(site.home)
    assert sorted((run.state, run.flow) for run in seen.active_runs) == [("Running", "cpt"), ("Running", "cpt-prepare")]
    (folder,) = site.folder.glob("store-training/training_runs/*")
    jobs = sorted(job.partition(", since")[0] for job in seen.jobs)
    assert jobs == sorted([*(f"flow run {run}" for run in runs), f"training {folder.name}"])
    kill(*site.processes(*runs))  # the worker sees it
    until(lambda: site.states(runs) == ["Crashed", "Crashed"], CRASHED_WITHIN_SECONDS)

    runs = start_both()
    go_on(10, 40)
    state = site.serving()
    kill(state.server.process())
    until(lambda: site.serving().server not in (None, state.server) and answers(site.api_url))
    go_on(15, 60)
    kill(state.worker.process())
    until(lambda: site.serving().worker not in (None, state.worker) and status(site.home).worker)
    go_on(20, 80)
    state = site.serving()
    kill(state.worker.process(), state.server.process())
    until(lambda: site.serving().server not in (None, state.server) and answers(site.api_url))
    until(lambda: site.serving().worker not in (None, state.worker) and status(site.home).worker)
    go_on(25, 100)
    assert site.states(runs) == ["Running", "Running"]

    state = site.serving()
    kill(*site.processes(*runs), state.worker.process(), state.server.process())
    killed_at = time.monotonic()
    until(lambda: site.serving().server not in (None, state.server) and answers(site.api_url))
    until(lambda: site.states(runs) == ["Crashed", "Crashed"], CRASHED_WITHIN_SECONDS)
    assert time.monotonic() - killed_at < CRASHED_WITHIN_SECONDS

    cancelled = site.start("full-pipeline")
    until(lambda: site.follows(cancelled))
    ranks = site.ranks()
    question = {"state": {"type": "CANCELLING"}}
    ask(site.api_url, f"flow_runs/{cancelled}/set_state", question)  # as `prefect flow-run cancel` does
    until(lambda: site.states([cancelled]) == ["Cancelled"])
    assert [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE] == []

    site.allow(1000, 1000)
    last = site.start_both()
    until(lambda: site.states(last) == ["Completed", "Completed"], 240)
    assert site.shards() == SHARDS
    assert site.steps() == list(range(1, STEPS + 1))
    assert len(list(site.folder.glob("store-training/training_runs/*/attempts/*"))) == 2


def test_down_ends_a_training_that_runs(site, until):
    """The ranks and their guards too, though they would outlive a flow that was killed."""
    site.allow(0, 20)
    run = site.start("full-pipeline")
    until(lambda: site.reached([run])[1:] == (20, ["Running"]))
    ranks = site.ranks()
    down(site.home)
    assert marked_processes(site.home) == []
    assert [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE] == []
