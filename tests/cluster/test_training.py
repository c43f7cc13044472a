"""Real trainings of two and three nodes: DeepSpeed, a lost rank, a lost node, and on by themselves."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cpt_core.config import LauncherConfig
from cpt_core.launching.environment import current_environment, extensions_folder, free_port
from cpt_core.launching.status import Status
from tests.cluster.hosts import NAMES, Hosts
from tests.cluster.slurm import Slurm
from tests.small_training import last_word

STEPS = 30
TORCH_EXTENSIONS = {"TORCH_EXTENSIONS_DIR": str(extensions_folder(LauncherConfig(), current_environment()))}


def test_two_hosts_train_through_the_loss_of_a_rank(
    tmp_path: Path,
    hosts: Hosts,
    search_path: str,
    training_command: Any,
    until: Any,
) -> None:
    """Rank 1 is killed on the second host; the job starts again from its newest checkpoint and ends with a model."""
    (tmp_path / "hostfile").write_text("".join(f"{name} slots=1\n" for name in NAMES))
    command = training_command(
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
    training_command: Any,
    until: Any,
) -> None:
    """A killed rank costs an attempt, and the next one goes on from the newest checkpoint; the flow is killed, and the
    next one follows; the node of rank 1 is lost, Slurm takes the job to another under its old number, and it goes on
    again, to the model. Every step is recorded once.
    """
    steps = 80
    command = training_command(
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


@pytest.mark.parametrize("num_nodes", [2, 3])
def test_nodes_of_a_cluster_start_their_parts_again(
    num_nodes: int,
    tmp_path: Path,
    training_command: Any,
    search_path: str,
    until: Any,
) -> None:
    """Kind env: each of the nodes, which know nothing of each other, names the lost rank and goes on."""
    command = training_command(
        launcher={"kind": "env", "num_nodes": num_nodes, "max_restarts": 1},
        max_steps=STEPS,
        save_steps=2,
        global_batch_rows=num_nodes,
    )
    with _nodes(num_nodes, command, search_path) as start:
        nodes = [start(node) for node in range(num_nodes)]
        until(lambda: len(_checkpoints(tmp_path)) == 2, 300)
        _worker_of(_newest_attempt(tmp_path, node=1), 1).kill()
        said = [last_word(node.communicate(timeout=300)[0]) for node in nodes]
    first = said[0]["counts"]
    assert (first["steps"], first["num_nodes"], first["world_size"]) == (STEPS, num_nodes, num_nodes)
    assert first["resumed_from_step"] >= 4
    for each in said:
        assert each["counts"] == first
        (notice,) = each["notices"]
        assert "rank 1 on node 1 ended with signal 9 (SIGKILL)" in notice


@pytest.mark.parametrize("node", [0, 1])
def test_a_rank_that_is_lost_before_the_ranks_have_met_ends_every_node(
    node: int,
    tmp_path: Path,
    training_command: Any,
    search_path: str,
    until: Any,
) -> None:
    """Kind env: the other node waits for it in torch's rendezvous, which would take half an hour."""
    command = training_command(
        launcher={"kind": "env", "num_nodes": 2},
    )
    with _nodes(2, command, search_path) as start:
        nodes = {1 - node: start(1 - node)}
        until(lambda: _has_begun(tmp_path, 1 - node), 60)
        nodes[node] = start(node)
        until(lambda: _has_begun(tmp_path, node), 60)
        lost_at = time.monotonic()
        _worker_of(_newest_attempt(tmp_path, node=node), node).kill()
        errors = [last_word(nodes[each].communicate(timeout=120)[0])["error"] for each in range(2)]
        seconds = time.monotonic() - lost_at
    for error in errors:
        assert f"rank {node} on node {node} ended with signal 9 (SIGKILL)" in error
        assert f"Last lines of rank-0000{node}.log:" in error
    assert seconds < 60


@contextmanager
def _nodes(number: int, command: list[str], search_path: str) -> Iterator[Callable[[int], "subprocess.Popen[str]"]]:
    """Starts the part of a node, as a cluster does that sets four variables."""
    cluster = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started: list[subprocess.Popen[str]] = []

    def start(node: int) -> "subprocess.Popen[str]":
        variables = {**os.environ, **cluster, "RANK": str(node), "PYTHONPATH": search_path}
        started.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
            process.wait()


def _has_begun(folder: Path, node: int) -> bool:
    records = list(folder.glob(f"store/training_runs/*/attempt-of-node-{node:05}.json"))
    return bool(records) and node in Status.newest(_newest_attempt(folder, node=node)).alive()


def _checkpoints(folder: Path) -> list[int]:
    """Steps of the sealed checkpoints."""
    return [int(path.name[5:]) for path in folder.glob("store/training_runs/*/checkpoints/step-*")]


def _newest_attempt(folder: Path, *, node: int = 0) -> Path:
    (record,) = folder.glob(f"store/training_runs/*/attempt-of-node-{node:05}.json")
    return Path(json.loads(record.read_text())["folder"])


def _worker_of(attempt: Path, rank: int) -> psutil.Process:
    return psutil.Process(Status.newest(attempt).alive()[rank].worker.pid)


def _is_rank(pid: int) -> bool:
    return b"cpt_core.launching.rank" in Path(f"/proc/{pid}/cmdline").read_bytes()
