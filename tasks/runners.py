"""Where the task runs of a stage are computed: threads of this process, or the workers of a Ray or Dask cluster.

In: the section ``orchestration``.
Out: a started task runner.
Promise: Ray and Dask are imported only where they are chosen; a cluster without an address is made on this machine, for
all stages of a run, and ends with them; what is wrong with a cluster is told in one line.
Never: sends figures about its use anywhere, as Ray does unless it is told not to.
"""

import importlib
import logging
import os
import secrets
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from cpt_core.config import OrchestrationConfig, PipelineConfig
from cpt_core.errors import ConfigError, CptError, WorkerError
from tasks.computing import num_workers

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 10.0
OBJECTS_BYTES = 100_000_000
"""What passes between the processes is small; left alone, Ray takes a third of the memory for it."""


def require_runner(config: OrchestrationConfig) -> None:
    """Refuse a runner whose package is absent, before anything is computed.

    Raises:
        ConfigError: naming the package.
    """
    if config.runner != "threads" and find_spec(f"prefect_{config.runner}") is None:
        raise ConfigError(
            f"orchestration.runner: {config.runner} needs the package prefect-{config.runner}, which is not installed; "
            f"run `pip install prefect-{config.runner}` here and on every worker, or choose threads"
        )


@contextmanager
def thread_runner(workers: int) -> Iterator[TaskRunner[Any]]:
    """Threads of this process."""
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with runner:
        yield runner


class RunCluster:
    """The Ray or Dask cluster of a run: reached, or made, when a stage first has work for it; left with the run."""

    def __init__(self, config: PipelineConfig) -> None:
        """Of this configuration; nothing is reached yet."""
        self._config, self._workers = config.orchestration, num_workers(config)
        self._entered = ExitStack()
        self._runner: TaskRunner[Any] | None = None

    def __enter__(self) -> "RunCluster":
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.close()

    def runner(self) -> TaskRunner[Any]:
        """Its task runner, started.

        Raises:
            ConfigError: when nothing answers at the address, or the runner's package is absent.
            WorkerError: when this machine is too busy to start one.
        """
        if self._runner is None:
            require_runner(self._config)
            self._runner = self._start()
        return self._runner

    def _start(self, more_attempts: int = 2) -> TaskRunner[Any]:
        """Whoever answers at an address may be too busy to take a run in, and is asked again."""
        try:
            return self._entered.enter_context(_started(self._config, self._workers))
        except Exception as error:  # Ray has no narrower kind for what may go wrong
            if not more_attempts or isinstance(error, OSError | ValueError):
                raise _no_cluster(self._config, error) from error
            logger.warning("%s did not answer in time and is asked again: %s", self._config.runner, _reason(error))
        return self._start(more_attempts - 1)


@contextmanager
def _started(config: OrchestrationConfig, workers: int) -> Iterator[TaskRunner[Any]]:
    if config.runner_address:
        _knock(config.runner_address)
    package = importlib.import_module(f"prefect_{config.runner}")
    made = _ray(package, config, workers) if config.runner == "ray" else _dask(package, config, workers)
    with ExitStack() as stack:
        with _signals_kept(), warnings.catch_warnings(action="ignore"):
            stack.enter_context(made)
            if config.runner == "dask":
                made.client  # noqa: B018  (it connects when it is first asked for)
        yield made


def _no_cluster(config: OrchestrationConfig, error: Exception) -> CptError:
    runner, reason = config.runner, _reason(error)
    if config.runner_address is None:
        return WorkerError(
            f"orchestration.runner: {runner} could start no cluster on this machine ({reason}); run the same command "
            "again when it is less busy, or choose threads"
        )
    token = " with the RAY_AUTH_MODE and RAY_AUTH_TOKEN that this command has" if runner == "ray" else ""
    return ConfigError(
        f"orchestration.runner_address: no {runner} cluster answers at {config.runner_address} ({reason}); start it "
        f"first{token}, or leave the key out for one on this machine"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _knock(address: str) -> None:
    """Ray tries a dead address for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname is None or place.port is None:
        raise ValueError("expected a host and a port")
    socket.create_connection((place.hostname, place.port), timeout=CONNECT_SECONDS).close()


def _dask(package: Any, config: OrchestrationConfig, workers: int) -> Any:
    if config.runner_address:
        return package.DaskTaskRunner(address=config.runner_address)
    one_machine = {"n_workers": workers, "threads_per_worker": 1, "host": LOOPBACK, "memory_limit": 0}
    return package.DaskTaskRunner(cluster_kwargs={**one_machine, "dashboard_address": None})


def _ray(package: Any, config: OrchestrationConfig, workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.runner_address:
        return package.RayTaskRunner(address=config.runner_address, init_kwargs=settings)
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # one of its own, which Ray would write into the user's home
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _have_ray_read_variables()
    settings |= {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": LOOPBACK}
    settings["object_store_memory"] = OBJECTS_BYTES
    return package.RayTaskRunner(address="local", init_kwargs=settings)


def _have_ray_read_variables() -> None:
    """It does so once, at its import, which may have been before; there is no public way to ask for it."""
    raylet = importlib.import_module("ray._raylet")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    raylet.Config.initialize("")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the command's."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)
