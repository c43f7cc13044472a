"""Launcher kind slurm, on a real Slurm of three nodes."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.flow import Flow
from tests.cluster.slurm import Slurm

LAUNCHER = {
    "kind": "slurm",
    "num_nodes": 2,
    "timeout_seconds": 120,
    "silence_seconds": 3,
    "sbatch_options": ["--cpus-per-task=1", "--mem=500"],
    "environment": {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
}
SECRET = "hf_0123456789abcdef"
Until = Callable[..., None]


@pytest.fixture
def flow(cluster: Slurm, tmp_path: Path, search_path: str) -> Iterator[Flow]:
    """One flow, and no job or lost node after it."""
    flow = Flow(tmp_path, LAUNCHER, {**cluster.variables, "PYTHONPATH": search_path, "HF_TOKEN": SECRET})
    yield flow
    flow.end()
    cluster.bring_back_nodes()


def state_of_job(flow: Flow, cluster: Slurm) -> str:
    """Slurm's word for it."""
    number = json.loads((flow.folder / "started.json").read_text())["slurm_job_id"]
    return cluster.ask("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T")


def test_a_secret(flow: Flow, cluster: Slurm, until: Until) -> None:
    """It reaches the ranks with the environment of `sbatch`, and stands in no command line of the machine, no file of the
    job but what the ranks print themselves, and nothing that Slurm tells.
    """
    process = flow.start(steps=100)
    until(flow.is_training, 300)
    command_lines = [line for each in psutil.process_iter(["cmdline"]) if (line := each.info["cmdline"])]
    assert sum("cpt_core.launching.guard" in line for line in command_lines) >= 2
    told = [cluster.ask("scontrol", "show", "job", "--details"), cluster.ask("squeue", "--Format=all")]
    assert "job.sbatch" in told[0]
    assert flow.answer(process) == {"world_size": 2, "steps": 100}
    logs = {flow.folder / f"rank-{rank:05}.log" for rank in range(2)}
    assert all(f", secret {SECRET}" in log.read_text() for log in logs)
    files = {path for path in flow.folder.rglob("*") if path.is_file()} - logs
    assert flow.folder / "job.sbatch" in files
    assert SECRET not in str([command_lines, told, [path.read_bytes() for path in files]])


def test_a_lost_rank(flow: Flow, cluster: Slurm, until: Until) -> None:
    """A killed rank is named with its node and its last lines, the batch job has failed, and no process is left. The
    ranks had the configuration's variables.
    """
    failing = flow.start()
    until(flow.is_training, 300)
    os.kill(flow.ranks()[1], signal.SIGKILL)
    started = time.monotonic()
    answer = flow.answer(failing)
    assert time.monotonic() - started < 60
    assert "rank 1 on node 1 ended with signal 9 (SIGKILL)" in answer["error"]
    assert answer["error"].endswith(f"Last lines of rank-00001.log:\n{flow.last_lines(1)}")
    assert state_of_job(flow, cluster) == "FAILED"
    until(lambda: not cluster.processes(), 60)
    for rank in range(2):
        assert ", network lo, " in (flow.folder / f"rank-{rank:05}.log").read_text()


def test_a_lost_node(flow: Flow, cluster: Slurm, until: Until) -> None:
    """Without restarts the job ends within a minute, although Slurm itself waits longer for the node; the rank that
    went with it is named, not the one that broke off in consequence, and no process is left on the others.
    """
    failing = flow.start()
    until(flow.is_training, 300)
    cluster.lose_node(psutil.Process(flow.ranks()[1]).environ()["SLURMD_NODENAME"])
    started = time.monotonic()
    answer = flow.answer(failing)
    assert time.monotonic() - started < 60
    assert "rank 1 on node 1 was lost on " in answer["error"]
    assert answer["error"].endswith(f"Last lines of rank-00001.log:\n{flow.last_lines(1)}")
    until(lambda: not cluster.processes(), 60)


def test_cancelling(flow: Flow, cluster: Slurm, until: Until) -> None:
    """SIGTERM to the flow, which is how Prefect cancels it, cancels the batch job, and no process is left."""
    cancelled = flow.start()
    until(flow.is_training, 300)
    cancelled.send_signal(signal.SIGTERM)
    cancelled.wait(timeout=30)
    assert state_of_job(flow, cluster) == "CANCELLED"
    until(lambda: not cluster.processes(), 60)
