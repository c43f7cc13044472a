"""Served runs that tokenize or train side by side, each as far as its lane is allowed to."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from transformers import LlamaConfig

from cpt_core.config import PipelineConfig
from flows.serving.api import answers
from flows.serving.deployments import PREFECT_FILE, load_deployments, register
from flows.serving.operation import up
from flows.serving.overview import worker_is_online
from flows.serving.prefect_server import free_port
from flows.serving.processes import marked_processes
from flows.serving.state import read_state
from tests.conftest import REPOSITORY, save_byte_tokenizer, write_jsonl

Until = Callable[[Callable[[], bool], float], None]

UNITS = 20
"""Shards of a tokenization, or steps of a training."""
_ENTRIES = {"tokenization": "data-only", "training": "full-pipeline"}


@dataclass
class Lane:
    """A deployment of its own that runs once at a time, its store, and its latest run."""

    api_url: str
    stage: str
    folder: Path
    run: str = ""
    killed_at: float = 0.0
    kept: int = 0
    """Units that were there when its process was killed."""

    @property
    def deployment(self) -> str:
        """Its name."""
        return self.folder.name

    def allow(self, units: int) -> None:
        """Open its gate this far."""
        gate = self.folder / ("shards" if self.stage == "tokenization" else "steps")
        gate.with_suffix(".new").write_text(str(units), encoding="utf-8")
        gate.with_suffix(".new").replace(gate)

    def start(self) -> str:
        """Start a run; its id."""
        (found,) = ask(self.api_url, "deployments/filter", {"deployments": {"name": {"any_": [self.deployment]}}})
        question = {"state": {"type": "SCHEDULED"}}
        self.run = str(ask(self.api_url, f"deployments/{found['id']}/create_flow_run", question)["id"])
        return self.run

    def state(self) -> str:
        """Its name."""
        return str(self._run()["state_name"])

    def has_begun(self) -> bool:
        """Whether its process has said so."""
        return bool(self._run()["state_type"] != "PENDING")

    def seconds_since_kill(self) -> float:
        """How long after the kill the run got its state."""
        return datetime.fromisoformat(self._run()["state"]["timestamp"]).timestamp() - self.killed_at

    def reached(self) -> tuple[str, int, str]:
        """State, finished units, and what the state says."""
        run = self._run()
        return run["state_name"], self.units(), run["state"]["message"]

    def units(self) -> int:
        """Committed token shards, or recorded steps."""
        return len(
            list(self.folder.glob("store/tokens/*/artifact.json")) if self.stage == "tokenization" else self.steps()
        )

    def steps(self) -> list[int]:
        """The steps that the training has recorded."""
        files = list(self.folder.glob("store/training_runs/*/metrics.jsonl"))
        return [json.loads(line)["step"] for file in files for line in file.read_text().splitlines()]

    def training(self) -> str:
        """The name of its training's folder."""
        (folder,) = self.folder.glob("store/training_runs/*")
        return folder.name

    def attempts(self) -> int:
        """How often the training was started."""
        return len(list(self.folder.glob("store/training_runs/*/attempts/*")))

    def follows(self) -> bool:
        """Whether the run has found a training that runs already."""
        lines = ask(self.api_url, "logs/filter", {"logs": {"flow_run_id": {"any_": [self.run]}}})
        return any("is running already, and is followed" in line["message"] for line in lines)

    def rows(self) -> dict[str, int]:
        """Of the run's tokenization: state -> how many shards."""
        runs = ask(self.api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [self.run]}}})
        states = [run["state_name"] for run in runs if run["name"].startswith("tokenize a-")]
        return {state: states.count(state) for state in sorted(set(states))}

    def ranks(self) -> list[psutil.Process]:
        """The training's processes, and those beside them."""
        return [process for process in psutil.process_iter() if _is_rank_of(process, self.folder)]

    def _run(self) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.api_url, f"flow_runs/{self.run}", {}, "GET")
        return found


class Site:
    """A served home, and lanes."""

    def __init__(self, home: Path, folder: Path, until: Until) -> None:
        self.home, self.folder, self._until = home, folder, until
        save_byte_tokenizer(folder / "tokenizer")
        _save_model(folder / "model")
        for number in range(UNITS):
            write_jsonl(folder / f"many/{number:03}.jsonl", [f"document {number}"])
        write_jsonl(folder / "few/a.jsonl", [f"document {number}" for number in range(64)])
        self.api_url = str(up(self._config("tokenization", folder, 1), home=home, port=free_port()).api_url)

    def pair(self, name: str, *, workers: int = 1) -> list[Lane]:
        """A lane that tokenizes, in as many worker processes or in the flow's own, and one that trains."""
        return [self.lane(f"{name} {stage}", stage, workers) for stage in _ENTRIES]

    def lane(self, name: str, stage: str, workers: int = 1) -> Lane:
        """A new deployment, whose gate is closed."""
        lane = Lane(self.api_url, stage, self.folder / name.replace(" ", "-"))
        lane.folder.mkdir()
        lane.allow(0)
        entries = {entry["name"]: entry for entry in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]}
        entry = entries[_ENTRIES[stage]] | {"name": lane.deployment}
        entry["concurrency_limit"] = entries["full-pipeline"]["concurrency_limit"]
        if stage == "tokenization":
            entry["entrypoint"] = "tests.flows.gates.runs.prepare_corpus"
        environment = {
            "CPT_TEST_GATES": str(lane.folder),
            "CPT_TEST_PROCESSES_PAY_FROM_BYTES": "0" if workers > 1 else str(2**60),
        }
        entry["work_pool"]["job_variables"]["env"] |= environment
        file = lane.folder / "prefect.yaml"
        file.write_text(yaml.safe_dump({"deployments": [entry]}), encoding="utf-8")
        register(load_deployments(self._config(stage, lane.folder, workers), prefect_file=file), self.api_url)
        return lane

    def start(self, lanes: Iterable[Lane], units: int) -> None:
        """A run in each, until so many units are done."""
        for lane in lanes:
            lane.start()
        self.go_on(lanes, units)

    def go_on(self, lanes: Iterable[Lane], units: int) -> None:
        """Let runs go on until so many units are done."""
        self.reach(lanes, "Running", units)

    def finish(self, lanes: Iterable[Lane]) -> None:
        """Let runs end."""
        self.reach(lanes, "Completed", UNITS)

    def reach(self, lanes: Iterable[Lane], state: str, units: int) -> None:
        """Open the gates so far, and wait until all have come so far."""
        for lane in lanes:
            lane.allow(units)
        deadline = time.monotonic() + 400
        for lane in lanes:
            while (seen := lane.reached())[:2] != (state, units):
                assert time.monotonic() < deadline, (lane.deployment, seen)
                time.sleep(0.1)

    def kill(self, *victims: str, flows: Iterable[Lane] = ()) -> None:
        """SIGKILL worker or server and the processes of these runs, and wait until the supervisor's are there again."""
        before = read_state(self.home)
        assert before is not None
        found = {"worker": before.worker, "server": before.server}
        processes = [process for victim in victims if (process := found[victim]) and (process := process.process())]
        assert len(processes) == len(victims)
        for lane in flows:
            lane.kept, lane.killed_at = lane.units(), time.time()
            processes.append(self.process(lane))
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        killed = {process.pid for process in processes}
        self._until(lambda: killed.isdisjoint(self._pids()) and self._serves(), 240)

    def process(self, lane: Lane) -> psutil.Process:
        """The process in which its run executes."""
        found = process_of_run(self.home, lane.run)
        assert found is not None
        return found

    def workers(self, lane: Lane) -> list[psutil.Process]:
        """The worker processes of its run."""
        return [child for child in self.process(lane).children() if "cpt_core.workers" in str(child.cmdline())]

    def _pids(self) -> set[int | None]:
        state = read_state(self.home)
        assert state is not None
        return {child and child.pid for child in (state.server, state.worker)}

    def _serves(self) -> bool:
        state = read_state(self.home)
        assert state is not None
        with suppress(httpx.HTTPError):
            return answers(self.api_url) and worker_is_online(state)
        return False

    def _config(self, stage: str, folder: Path, workers: int) -> PipelineConfig:
        is_training = stage == "training"
        common = {
            "name": folder.name,
            "store_uri": str(folder / "store"),
            "discovery": {"sources": [{"name": "a", "uris": [str(self.folder / ("few" if is_training else "many"))]}]},
            "tokenization": {"tokenizer": str(self.folder / "tokenizer")},
            "packing": {"row_len_tokens": 64},
            "orchestration": {"workers": workers},
        }
        training = {"training": _training(self.folder / "model")} if is_training else {}
        return PipelineConfig.model_validate(common | training)


def ask(api_url: str, path: str, question: dict[str, Any], method: str = "POST") -> Any:
    """A question to the server, which may take its time while all the runs start, or have its database locked."""
    while True:
        reply = httpx.request(method, f"{api_url}/{path}", json=question, timeout=120, trust_env=False)
        if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return reply.raise_for_status().json()
        time.sleep(0.5)


def is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def process_of_run(home: Path, run: str) -> psutil.Process | None:
    """The process in which a flow run executes, or is about to; None when there is none."""
    for process in marked_processes(home):
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run and "cpt_core" not in str(process.cmdline()):
                return process
    return None


def _is_rank_of(process: psutil.Process, folder: Path) -> bool:
    """Whether a process is a rank, or the guard of one, of the training in this folder."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "cpt_core.launching" in command and f"{folder}/" in command


def _save_model(folder: Path) -> None:
    LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ).save_pretrained(folder)


def _training(model: Path) -> dict[str, Any]:
    """A tiny model, and a checkpoint every five steps."""
    return {
        "model": str(model),
        "max_steps": UNITS,
        "save_steps": 5,
        "global_batch_rows": 1,
        "micro_batch_rows": 1,
        "zero_stage": 0,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "launcher": {"environment": {"PYTHONPATH": f"{REPOSITORY / 'tests/flows/gates'}:{REPOSITORY}"}},
    }
