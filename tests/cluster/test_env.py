"""Launcher kind env: the same command on each of two hosts, which know of each other by the shared folder alone."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.flow import Flow
from tests.cluster.hosts import ADDRESSES, NAMES, Hosts

LAUNCHER = {
    "kind": "env",
    "num_nodes": 2,
    "timeout_seconds": 120,
    "silence_seconds": 5,
    "environment": {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"},
}
Until = Callable[..., None]


@pytest.fixture
def nodes(hosts: Hosts, tmp_path: Path, search_path: str) -> Iterator[list[Flow]]:
    """The two nodes' parts of one job, and no process on any host after it."""
    cluster = {"WORLD_SIZE": "2", "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "PYTHONPATH": search_path}
    folders = [tmp_path / f"node-{node}" for node in range(2)]
    for folder in folders:
        folder.mkdir()
    flows = [
        Flow(folder, LAUNCHER, {**cluster, "RANK": str(node)}, first_folder=folders[0])
        for node, folder in enumerate(folders)
    ]
    yield flows
    for flow in flows:
        flow.end()
    hosts.plug_in(tmp_path)
    for name in NAMES:
        for pid in hosts.processes(name):
            psutil.Process(pid).kill()


def _kill_rank(nodes: list[Flow], _: Hosts) -> None:
    os.kill(nodes[1].ranks()[1], signal.SIGKILL)


def _unplug(nodes: list[Flow], hosts: Hosts) -> None:
    hosts.unplug(nodes[0].folder.parent)


def _lose_first(_: list[Flow], hosts: Hosts) -> None:
    hosts.lose_first()


@pytest.mark.parametrize(
    ("hurt", "expected"),
    [
        (_kill_rank, ["rank 1 on node 1 ended with signal 9 (SIGKILL) on cpt-node1"] * 2),
        (
            _unplug,
            [
                "rank 1 on node 1 was not heard of for 15 seconds: it hangs, or its node is lost on cpt-node1",
                "rank 0 on node 0 was not heard of for 15 seconds: it hangs, or its node is lost on cpt-node0",
            ],
        ),
        (_lose_first, [None, "rank 0 on node 0 was not heard of for 15 seconds: it hangs, or its node is lost"]),
    ],
    ids=["kill rank", "unplug", "lose first"],
)
def test_what_breaks_ends_both_nodes_within_a_minute(
    nodes: list[Flow], hosts: Hosts, until: Until, hurt: Callable[[list[Flow], Hosts], None], expected: list[str | None]
) -> None:
    """A rank, a cable, the first node: every node that is left says which, and runs nothing afterwards."""
    started = [nodes[0].start(place=hosts.on_first), nodes[1].start(place=hosts.on_second)]
    until(nodes[0].is_training, 300)
    until(lambda: len(nodes[0].ranks()) == 2)
    hurt(nodes, hosts)
    hurt_at = time.monotonic()
    for node, process, error in zip(nodes, started, expected, strict=True):
        if error is not None:
            answer = node.answer(process)
            assert answer["kind"] == "JobInterruptedError"
            assert error in answer["error"]
            if "rank 1" in error:
                assert answer["error"].endswith(f"Last lines of rank-00001.log:\n{nodes[1].last_lines(1)}")
    assert time.monotonic() - hurt_at < 60
    until(lambda: not any(hosts.processes(name) for name in NAMES), 60)
