"""A run of Prefect that trains on a Slurm: followed while it goes on, and cancelled."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import LlamaConfig

from cpt_core.config import PipelineConfig
from flows.serving.api import ask
from flows.serving.operation import down, up
from flows.serving.prefect_server import free_port
from tests.cluster.slurm import Slurm
from tests.cluster.test_slurm import LAUNCHER
from tests.conftest import save_byte_tokenizer, write_jsonl
from tests.flows.homes import new_home

STEPS = 20_000
"""More than a test waits for."""
Until = Callable[..., None]


class Site:
    """A served configuration, and what a user sees of its runs."""

    def __init__(self, home: Path, config: PipelineConfig) -> None:
        self.home = home
        self.api_url = str(up(config, home=home, port=free_port()).api_url)

    def start(self) -> str:
        """Start a run; its id."""
        (found,) = ask(self.api_url, "deployments/filter", {"deployments": {"name": {"any_": ["full-pipeline"]}}})
        question = {"state": {"type": "SCHEDULED"}}
        return str(ask(self.api_url, f"deployments/{found['id']}/create_flow_run", question)["id"])

    def cancel(self, run: str) -> None:
        """As a user does."""
        command = [sys.executable, "-m", "prefect", "flow-run", "cancel", run]
        server = {"PREFECT_API_URL": self.api_url, "PREFECT_HOME": str(self.home / "prefect")}
        subprocess.run(command, env=os.environ | server, check=True, timeout=120)

    def state(self, run: str) -> str:
        """The name of its state."""
        return str(ask(self.api_url, f"flow_runs/{run}", {}, "GET")["state_name"])

    def percent(self, run: str) -> float:
        """What the progress artifact of its training says."""
        question = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["training"]}}}
        return float(next((found["data"] for found in ask(self.api_url, "artifacts/filter", question)), 0.0))

    def steps_in_log(self, run: str) -> int:
        """How many lines of its log tell of a step."""
        lines = ask(self.api_url, "logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
        return sum(f" of {STEPS}: loss " in line["message"] for line in lines)


@pytest.fixture
def config(tmp_path: Path, llama_config: LlamaConfig) -> PipelineConfig:
    """Two ranks on two nodes, a tiny model."""
    write_jsonl(tmp_path / "corpus/a.jsonl", [f"document {number}" for number in range(64)])
    LlamaConfig(**llama_config.to_dict() | {"vocab_size": 258}).save_pretrained(tmp_path / "model")
    return PipelineConfig.model_validate(
        {
            "name": "on-slurm",
            "store_uri": str(tmp_path / "store"),
            "discovery": {"sources": [{"name": "a", "uris": [str(tmp_path / "corpus")]}]},
            "tokenization": {"tokenizer": str(save_byte_tokenizer(tmp_path / "tokenizer"))},
            "packing": {"row_len_tokens": 64},
            "training": {
                "model": str(tmp_path / "model"),
                "max_steps": STEPS,
                "global_batch_rows": 2,
                "micro_batch_rows": 1,
                "zero_stage": 1,
                "precision": "fp32",
                "gradient_checkpointing": False,
                "device": "cpu",
                "launcher": LAUNCHER | {"sbatch_options": ["--cpus-per-task=1", "--mem=1500"]},
            },
        }
    )


@pytest.fixture
def site(
    home_with_schema: Path,
    tmp_path: Path,
    cluster: Slurm,
    config: PipelineConfig,
    search_path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A server and a worker whose runs know the Slurm; no process of either after it."""
    for name, value in {**cluster.variables, "PYTHONPATH": search_path}.items():
        monkeypatch.setenv(name, value)
    home = new_home(home_with_schema, tmp_path / "home")
    try:
        yield Site(home, config)
    finally:
        down(home)
        cluster.bring_back_nodes()


@pytest.mark.timeout(1500)
def test_a_run_is_followed_live_and_its_cancellation_cancels_the_job(site: Site, cluster: Slurm, until: Until) -> None:
    """Progress and log move while both nodes train; `prefect flow-run cancel` leaves no job and no process on any node."""
    run = site.start()
    until(lambda: site.percent(run) > 0.0, 300)
    first_percent, first_steps = site.percent(run), site.steps_in_log(run)
    until(lambda: site.percent(run) > first_percent and site.steps_in_log(run) > first_steps)
    assert 0.0 < first_percent < site.percent(run) < 100.0
    assert site.state(run) == "Running"
    number, *job = cluster.ask("squeue", "--noheader", "--format=%i %T %D").split()
    assert job == ["RUNNING", "2"]

    site.cancel(run)
    until(lambda: site.state(run) == "Cancelled")
    assert cluster.ask("squeue", "--noheader", f"--jobs={number}", "--states=all", "--format=%T") == "CANCELLED"
    assert cluster.ask("squeue", "--noheader") == ""
    assert cluster.processes() == []
