"""Clusters of two workers on this machine, started as docs/operations.md says."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.serving.prefect_server import free_port

RAY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


@dataclass(frozen=True)
class Cluster:
    """Its kind, where it is, what a command needs in its environment to reach it, and how one of its workers is lost."""

    runner: str
    address: str
    variables: dict[str, str]
    kill_a_worker: Callable[[], None]


@contextmanager
def dask_cluster(folder: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """A scheduler that gives up what a lost worker had, and two workers without a nanny."""
    programs: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, "--no-dashboard"]
        variables = environment | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        with (folder / f"{program}-{len(programs)}.log").open("wb") as log:
            programs.append(subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log))

    address = f"tcp://127.0.0.1:{free_port()}"
    try:
        start("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2])
        for _ in range(2):
            start("worker", address, "--nthreads", "1", "--no-nanny")
        until_it_listens(programs[0], "127.0.0.1", int(address.rpartition(":")[2]))
        yield Cluster("dask", address, {}, lambda: programs[1].kill())
    finally:
        for program in programs:
            program.kill()
            program.wait()


@contextmanager
def ray_cluster(folder: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """A head of two processors, which asks for a token."""
    port, variables = free_port(), environment | RAY_TOKEN
    with tempfile.TemporaryDirectory(prefix="cpt-ray-") as short:  # the names of its sockets have to be short
        options = {
            "num-cpus": 2,
            "temp-dir": short,
            "node-ip-address": "127.0.0.2",  # Ray takes 127.0.0.1 for a mistake
            "port": free_port(),
            "ray-client-server-port": port,
            "dashboard-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
            "object-store-memory": 100_000_000,
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (folder / "ray.log").open("wb") as log:
            head = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
        try:
            until_it_listens(head, "127.0.0.2", port)
            yield Cluster("ray", f"ray://127.0.0.2:{port}", RAY_TOKEN, lambda: _working(head.pid)[0].kill())
        finally:
            programs = psutil.Process(head.pid).children(recursive=True)
            head.kill()
            head.wait()
            for program in programs:
                with suppress(psutil.NoSuchProcess):
                    program.kill()


def _working(head_pid: int) -> list[psutil.Process]:
    """The processes that tokenize a batch now."""
    programs = psutil.Process(head_pid).children(recursive=True)
    return [program for program in programs if program.cmdline()[:1] == ["ray::tokenize"]]


def until_it_listens(program: subprocess.Popen[bytes], host: str, port: int) -> None:
    """Wait for a program that serves there, or fail."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        assert program.poll() is None and time.monotonic() < deadline, f"nobody listens at {host}:{port}"
        time.sleep(0.1)
