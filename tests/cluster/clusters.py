"""A Dask and a Ray of two hosts, started as docs/operations.md says: what runs on each, as arguments of ``python -m``."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
from distributed import Client

from tests.flows.clusters import RAY_TOKEN

DASK_PORT, RAY_PORT, RAY_CLIENT_PORT = 8786, 6379, 10001
_RAY = ("ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--object-store-memory=100000000")


@dataclass(frozen=True)
class Cluster:
    """Its kind, how it is started, and how it is reached.

    Attributes:
        runner: its name in the configuration.
        scheme: of its address.
        port: of its address; when the first program on the first host listens there, others may come.
        variables: what everyone, the command too, needs in the environment when Ray is imported.
        on_first: programs of the first host, by its address and a folder with a short name.
        on_second: the program of the second host, by the addresses of both.
        wait_for_both: returns when both hosts are there.
    """

    runner: str
    scheme: str
    port: int
    variables: dict[str, str]
    on_first: Callable[[str, Path], list[list[str]]]
    on_second: Callable[[str, str], list[str]]
    wait_for_both: Callable[[str], None]

    def address(self, first: str) -> str:
        """For ``orchestration.runner_address``."""
        return f"{self.scheme}://{first}:{self.port}"


def _dask_worker(first: str, _second: str = "") -> list[str]:
    return ["distributed.cli.dask_worker", f"tcp://{first}:{DASK_PORT}", "--nthreads", "1", "--no-dashboard"]


def _dask_on_first(first: str, _folder: Path) -> list[list[str]]:
    scheduler = ["distributed.cli.dask_scheduler", "--host", first, "--port", str(DASK_PORT), "--no-dashboard"]
    return [scheduler, _dask_worker(first)]


def _dask_waits(address: str) -> None:
    with Client(address) as client:
        client.wait_for_workers(2, timeout=120)


def _ray_on_first(first: str, folder: Path) -> list[list[str]]:
    return [[*_RAY, "--head", "--disable-usage-stats", f"--node-ip-address={first}", f"--temp-dir={folder}"]]


def _ray_on_second(first: str, second: str) -> list[str]:
    return [*_RAY, f"--address={first}:{RAY_PORT}", f"--node-ip-address={second}"]


def _ray_waits(address: str) -> None:
    deadline = time.monotonic() + 120
    with ray.init(address, log_to_driver=False):
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            assert time.monotonic() < deadline, ray.nodes()
            time.sleep(0.5)


CLUSTERS = {
    "dask": Cluster("dask", "tcp", DASK_PORT, {}, _dask_on_first, _dask_worker, _dask_waits),
    "ray": Cluster("ray", "ray", RAY_CLIENT_PORT, RAY_TOKEN, _ray_on_first, _ray_on_second, _ray_waits),
}
