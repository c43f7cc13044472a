"""Launcher kind hostfile: DeepSpeed's launcher between two hosts, and every way in which it fails."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.flow import Flow
from tests.cluster.hosts import NAMES, Hosts

SECRET = "hf_0123456789abcdef"
LAUNCHER = {
    "kind": "hostfile",
    "num_nodes": 2,
    "timeout_seconds": 120,
    "silence_seconds": 5,
    "environment": {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
}
Until = Callable[..., None]


class HostfileFlow(Flow):
    """Processes on the first host."""

    def __init__(self, hosts: Hosts, folder: Path, search_path: str) -> None:
        folder.joinpath("hostfile").write_text("".join(f"{name} slots=1\n" for name in NAMES))
        launcher = {**LAUNCHER, "hostfile": str(folder / "hostfile")}
        super().__init__(folder, launcher, {**hosts.variables, "PYTHONPATH": search_path, "HF_TOKEN": SECRET})
        self._hosts = hosts

    def start_on_first(self, steps: int = 4000) -> "subprocess.Popen[str]":
        """A job of so many steps."""
        return self.start(steps, self._hosts.on_first)

    def pid(self, name: str, program: str) -> int:
        """Number of the process on this host whose command line holds these words."""
        found = [
            pid
            for pid in self._hosts.processes(name)
            if program in " ".join(psutil.Process(pid).cmdline()).replace("\n", " ")
        ]
        return max(found)


@pytest.fixture
def flow(hosts: Hosts, tmp_path: Path, search_path: str) -> Iterator[HostfileFlow]:
    """One flow, and no process on any host after it."""
    flow = HostfileFlow(hosts, tmp_path, search_path)
    yield flow
    flow.end()
    hosts.plug_in(tmp_path)
    for name in NAMES:
        for pid in hosts.processes(name):
            psutil.Process(pid).kill()


def require_nothing_left(hosts: Hosts, until: Until) -> None:
    """No process on either host."""
    until(lambda: not any(hosts.processes(name) for name in NAMES), 60)


def test_two_hosts_train_together(flow: HostfileFlow, hosts: Hosts, until: Until) -> None:
    """Ranks on both hosts meet; each has its log; a secret reaches them and stands in no command line."""
    process = flow.start_on_first(steps=60)
    until(flow.is_training, 300)
    command_lines = [psutil.Process(pid).cmdline() for name in NAMES for pid in hosts.processes(name)]
    assert len(command_lines) >= 6
    assert SECRET not in str(command_lines)
    assert (flow.folder / "variables.json").stat().st_mode & 0o777 == 0o600
    assert flow.answer(process) == {"world_size": 2, "steps": 60}
    for rank, name in enumerate(NAMES):
        assert (
            f"rank {rank} of 2 on {name}, network eth0, secret {SECRET}"
            in (flow.folder / f"rank-{rank:05}.log").read_text()
        )
    assert not (flow.folder / "variables.json").exists()
    require_nothing_left(hosts, until)


def _kill_rank(flow: HostfileFlow, _: Hosts) -> None:
    os.kill(flow.pid(NAMES[1], "launching.rank"), signal.SIGKILL)


def _stop_rank(flow: HostfileFlow, _: Hosts) -> None:
    os.kill(flow.pid(NAMES[1], "launching.rank"), signal.SIGSTOP)


def _kill_remote_launcher(flow: HostfileFlow, _: Hosts) -> None:
    os.kill(flow.pid(NAMES[1], "deepspeed.launcher.launch"), signal.SIGKILL)


def _kill_pdsh(flow: HostfileFlow, _: Hosts) -> None:
    os.kill(flow.pid(NAMES[0], "pdsh -S"), signal.SIGKILL)


def _kill_deepspeed(flow: HostfileFlow, _: Hosts) -> None:
    os.kill(flow.pid(NAMES[0], "deepspeed.launcher.runner"), signal.SIGKILL)


def _unplug(flow: HostfileFlow, hosts: Hosts) -> None:
    hosts.unplug(flow.folder)


@pytest.mark.parametrize(
    ("hurt", "expected"),
    [
        (_kill_rank, f"rank 1 on node 1 ended with signal 9 (SIGKILL) on {NAMES[1]} before any other did"),
        (_stop_rank, f"rank 1 on node 1 gave no sign of life for 5 seconds on {NAMES[1]} before any other did"),
        (_kill_remote_launcher, f"rank 1 on node 1 lost the launcher that had started it on {NAMES[1]}"),
        (_kill_pdsh, "DeepSpeed's launcher ended"),
        (_kill_deepspeed, "DeepSpeed's launcher ended"),
        (_unplug, "rank 1 on node 1 was not heard of for 15 seconds: it hangs, or its node is lost"),
    ],
)
def test_what_breaks_ends_the_job_within_a_minute(
    flow: HostfileFlow, hosts: Hosts, until: Until, hurt: Callable[[HostfileFlow, Hosts], None], expected: str
) -> None:
    """A rank, a launcher or a cable: the error says which, and no host runs anything afterwards."""
    process = flow.start_on_first()
    until(flow.is_training, 300)
    hurt(flow, hosts)
    started = time.monotonic()
    answer = flow.answer(process)
    assert time.monotonic() - started < 60
    assert answer["kind"] == "JobInterruptedError"
    assert expected in answer["error"]
    if "rank 1" in expected:
        assert answer["error"].endswith(f"Last lines of rank-00001.log:\n{flow.last_lines(1)}")
    require_nothing_left(hosts, until)


def test_cancelling(flow: HostfileFlow, hosts: Hosts, until: Until) -> None:
    """SIGTERM to the flow, which is how Prefect cancels it, leaves nothing on either host, in less than the half minute
    that Prefect allows for it.
    """
    cancelled = flow.start_on_first()
    until(flow.is_training, 300)
    os.kill(flow.pid(NAMES[0], "tests.cluster.follow"), signal.SIGTERM)
    cancelled.wait(timeout=25)
    require_nothing_left(hosts, until)


def test_a_flow_that_was_killed_finds_its_job_again(flow: HostfileFlow, hosts: Hosts, until: Until) -> None:
    """The ranks go on; the next flow follows the same job to its end and starts none."""
    killed = flow.start_on_first(steps=300)
    until(flow.is_training, 300)
    rank = flow.pid(NAMES[1], "launching.rank")
    os.kill(flow.pid(NAMES[0], "tests.cluster.follow"), signal.SIGKILL)
    killed.wait()
    second = flow.start_on_first(steps=300)
    assert flow.pid(NAMES[1], "launching.rank") == rank
    assert flow.answer(second) == {"world_size": 2, "steps": 300}
    steps = [json.loads(line)["step"] for line in (flow.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 301))
    require_nothing_left(hosts, until)


def test_every_host_is_tried_first(flow: HostfileFlow, hosts: Hosts) -> None:
    """With one host out of reach nothing starts, and the line names it."""
    hosts.set_link(up=False)
    answer = flow.answer(flow.start_on_first())
    assert answer["kind"] == "JobFailedError"
    assert answer["error"].startswith("1 of 2 hosts cannot take part, so nothing was started. cpt-node1: ")
    assert not list(flow.folder.glob("rank-*.log"))
