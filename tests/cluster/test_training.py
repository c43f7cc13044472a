"""Real trainings of two nodes: DeepSpeed, a lost rank, a lost node, and on by themselves."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil

from cpt_core.config import LauncherConfig
from cpt_core.launching.environment import current_environment, extensions_folder, free_port
from cpt_core.launching.status import Status
from cpt_core.storage import Store
from tests.cluster.hosts import NAMES, Hosts
from tests.cluster.slurm import Slurm
from tests.small_training import last_word, small_training

STEPS = 30
TORCH_EXTENSIONS = {"TORCH_EXTENSIONS_DIR": str(extensions_folder(LauncherConfig(), current_environment()))}


def test_two_hosts_train_through_the_loss_of_a_rank(
    tmp_path: Path,
    hosts: Hosts,
    search_path: str,
    config_only_folder: Path,
    tokenizer_folder: Path,
    commit_rows: Any,
    until: Any,
) -> None:
    """Rank 1 is killed on the second host; the job starts again from its newest checkpoint and ends with a model."""
    store = Store(str(tmp_path / "store"))
    (tmp_path / "hostfile").write_text("".join(f"{name} slots=1\n" for name in NAMES))
    command = small_training(
        store,
        commit_rows(store, 7).folder,
        model=config_only_folder,
        tokenizer=tokenizer_folder,
        launcher={
            "kind": "hostfile",
            "num_nodes": 2,
            "hostfile": str(tmp_path / "hostfile"),
            "max_restarts": 1,
            "environment": {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", **TORCH_EXTENSIONS},
        },
        max_steps=STEPS,
        save_steps=2,
        zero_stage=3,
    )
    training = subprocess.Popen(
        hosts.on_first(command),
        env={**os.environ, **hosts.variables, "PYTHONPATH": search_path},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: len(_checkpoints(tmp_path)) == 2, 240)
        os.kill(max(pid for pid in hosts.processes(NAMES[1]) if _is_rank(pid)), signal.SIGKILL)
        said = last_word(training.communicate(timeout=300)[0])
    finally:
        training.kill()
    (notice,) = said["notices"]
    assert "rank 1 on node 1 ended with signal 9 (SIGKILL) on cpt-node1" in notice
    assert said["counts"]["resumed_from_step"] >= 4
    assert (said["counts"]["steps"], said["counts"]["num_nodes"], said["counts"]["world_size"]) == (STEPS, 2, 2)
    assert Path(said["counts"]["hf_model_uri"], "model.safetensors").is_file()


def test_slurm_trains_through_the_loss_of_a_rank_a_flow_and_a_node(
    tmp_path: Path,
    cluster: Slurm,
    search_path: str,
    config_only_folder: Path,
    tokenizer_folder: Path,
    commit_rows: Any,
    until: Any,
) -> None:
    """A killed rank costs an attempt, and the next one goes on from the newest checkpoint; the flow is killed, and the
    next one follows; the node of rank 1 is lost, Slurm takes the job to another under its old number, and it goes on
    again, to the model. Every step is recorded once.
    """
    store = Store(str(tmp_path / "store"))
    steps = 80
    command = small_training(
        store,
        commit_rows(store, 7).folder,
        model=config_only_folder,
        tokenizer=tokenizer_folder,
        launcher={
            "kind": "slurm",
            "num_nodes": 2,
            "max_restarts": 1,
            "sbatch_options": ["--cpus-per-task=1", "--mem=1500"],
            "environment": {
                "MASTER_ADDR": "127.0.0.1",
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
                **TORCH_EXTENSIONS,
            },
        },
        max_steps=steps,
        save_steps=2,
    )
    variables = {**os.environ, **cluster.variables, "PYTHONPATH": search_path}
    flows: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        flows.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True))
        return flows[-1]

    def said_by(flow: "subprocess.Popen[str]") -> str:
        assert flow.stdout is not None
        notice: str = json.loads(flow.stdout.readline())["notice"]
        return notice

    def wait_for_a_checkpoint_after(step: int) -> int:
        until(lambda: max(_checkpoints(tmp_path), default=0) > step, 240)
        return max(_checkpoints(tmp_path))

    try:
        first = start()
        reached = wait_for_a_checkpoint_after(0)
        _worker_of(_newest_attempt(tmp_path), 1).kill()
        again = said_by(first)
        reached = wait_for_a_checkpoint_after(reached)
        first.kill()
        attempt = _newest_attempt(tmp_path)
        number = json.loads((attempt / "started.json").read_text())["slurm_job_id"]
        second = start()
        found = said_by(second)
        node = _worker_of(attempt, 1).environ()["SLURMD_NODENAME"]
        cluster.lose_node(node)
        said = last_word(second.communicate(timeout=300)[0])
        job = cluster.ask("scontrol", "show", "job", number)
        nodes = cluster.ask("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%N")
    finally:
        for flow in flows:
            flow.kill()
        cluster.bring_back_nodes()
    assert again.startswith(
        "starting again from the newest sealed checkpoint, 0 restarts left: cpt_core.training: rank 1"
    )
    assert found == f"attempt {attempt.name[:8]} is running already, and is followed from here on"
    assert len(list(tmp_path.glob("store/training_runs/*/attempts/*"))) == 2
    assert "Restarts=1" in job
    assert node not in nodes
    assert said["counts"]["steps"] == steps
    assert said["counts"]["resumed_from_step"] >= reached
    assert Path(said["counts"]["hf_model_uri"], "model.safetensors").is_file()
    (metrics,) = tmp_path.glob("store/training_runs/*/metrics.jsonl")
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, steps + 1))
    assert not cluster.processes()


def test_nodes_of_a_cluster_start_their_parts_again(
    tmp_path: Path, config_only_folder: Path, tokenizer_folder: Path, commit_rows: Any, search_path: str, until: Any
) -> None:
    """Kind env: each of two nodes, which know nothing of each other, names the lost rank and goes on."""
    store = Store(str(tmp_path / "store"))
    command = small_training(
        store,
        commit_rows(store, 7).folder,
        model=config_only_folder,
        tokenizer=tokenizer_folder,
        launcher={"kind": "env", "num_nodes": 2, "max_restarts": 1},
        max_steps=STEPS,
        save_steps=2,
    )
    cluster = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [
        subprocess.Popen(
            command,
            env={**os.environ, **cluster, "RANK": str(node), "PYTHONPATH": search_path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    try:
        until(lambda: len(_checkpoints(tmp_path)) == 2, 300)
        (record,) = (tmp_path / "store").glob("training_runs/*/attempt-of-node-00001.json")
        _worker_of(Path(json.loads(record.read_text())["folder"]), 1).kill()
        first, second = (last_word(node.communicate(timeout=300)[0]) for node in nodes)
    finally:
        for node in nodes:
            node.terminate()
            node.wait()
    assert first["counts"] == second["counts"]
    assert first["counts"]["resumed_from_step"] >= 4
    for said in (first, second):
        assert "rank 1 on node 1 ended with signal 9 (SIGKILL)" in said["notices"][0]


def _checkpoints(folder: Path) -> list[int]:
    """Steps of the sealed checkpoints."""
    return [int(path.name[5:]) for path in folder.glob("store/training_runs/*/checkpoints/step-*")]


def _newest_attempt(folder: Path) -> Path:
    (record,) = folder.glob("store/training_runs/*/attempt-of-node-00000.json")
    return Path(json.loads(record.read_text())["folder"])


def _worker_of(attempt: Path, rank: int) -> psutil.Process:
    return psutil.Process(Status.newest(attempt).alive()[rank].worker.pid)


def _is_rank(pid: int) -> bool:
    return b"cpt_core.launching.rank" in Path(f"/proc/{pid}/cmdline").read_bytes()
