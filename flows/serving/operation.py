"""`cpt up` and `cpt down`.

In: a configuration; the home folder.
Out: what runs afterwards, or what was stopped.
Promise: `up` returns when server, worker and deployments answer; `down` when no process is left.
Never: two servers from one home; a database or a log deleted.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cpt_core.config import PipelineConfig
from cpt_core.errors import ConfigError
from flows.serving.access import access_to, choose_auth, require_safe_address
from flows.serving.address import LOOPBACK, Address
from flows.serving.database import describe_database, named_database, require_answer
from flows.serving.environment import serving_environment
from flows.serving.overview import ServingStatus, status, worker_is_online
from flows.serving.prefect_server import (
    ServingError,
    keep_empty_database,
    last_line,
    port_is_free,
    prepare_database,
    wait_until_answers,
)
from flows.serving.processes import ProcessId, marked_processes, stop_processes
from flows.serving.schedules import Schedule
from flows.serving.state import ServingState, read_state, remove_state

_SUPERVISOR_SECONDS = 60.0
_WORKER_SECONDS = 180.0
_SUPERVISOR_STOPS_SECONDS = 40.0
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class ServerOptions:
    """How the server is to be reached, and where it keeps its history."""

    host: str | None = None
    """Address to listen on; None is loopback."""
    database_url: str | None = None
    """A PostgreSQL without password; None is what the environment names, and else SQLite in the home."""
    with_auth: bool = False
    """Whether it asks for user and password."""


def up(
    config: PipelineConfig,
    *,
    home: Path,
    port: int = 4200,
    options: ServerOptions = ServerOptions(),
    schedule: Schedule | None = None,
) -> ServingStatus:
    """Serve the deployments of this configuration. What runs already goes on, on the port it has.

    Args:
        config: default parameter of the deployments.
        home: the home folder.
        port: of a server that has to be started.
        options: the same.
        schedule: when the deployment that does all of this configuration runs by itself.

    Raises:
        ConfigError: the port belongs to another program, or the options are wrong or not those of what runs.
        ServingError: something does not come up.
    """
    (home / "logs").mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(home):
        already_running = _supervisor_lives(home)
        if already_running:
            _require_same(options, home)
            _serve(config, home, schedule)
        else:
            down(home)  # what a killed supervisor left
            _start_supervisor(home, port, options)
            try:
                _serve(config, home, schedule)
            except BaseException:
                down(home)
                raise
    return replace(status(home), already_running=already_running)


def down(home: Path) -> list[str]:
    """Stop what `up` started, flow runs included; the names of what was stopped, empty when nothing ran.

    Raises:
        ServingError: a process cannot be ended.
    """
    state = read_state(home)
    stopped = [_describe(process.pid, state) for process in marked_processes(home)]
    if state and (supervisor := state.supervisor.process()):
        stop_processes([supervisor], grace_seconds=_SUPERVISOR_STOPS_SECONDS)
    stop_processes(marked_processes(home), grace_seconds=_GRACE_SECONDS)
    if left := marked_processes(home):
        pids = ", ".join(str(process.pid) for process in left)
        raise ServingError(f"processes {pids} do not end, not even when killed; look at them with: ps -fp {pids}")
    remove_state(home)
    return stopped


def _require_same(options: ServerOptions, home: Path) -> None:
    state = read_state(home)
    assert state is not None
    wanted = {
        "--host": options.host in (None, state.host),
        "--database-url": options.database_url is None
        or describe_database(named_database(options.database_url)) == state.database,
        "--auth": state.is_protected or not options.with_auth,
    }
    if other := [option for option, is_same in wanted.items() if not is_same]:
        raise ConfigError(
            f"{' and '.join(other)} cannot change while the server runs; type `cpt down`, then this command again"
        )


def _serve(config: PipelineConfig, home: Path, schedule: Schedule | None) -> None:
    # Prefect takes seconds to import: the server starts meanwhile, and `down` and `status` do without.
    from flows.serving.deployments import load_deployments, register

    deployments = load_deployments(config, schedule)
    state = _wait_for_server(home)
    with access_to(home):
        register(deployments, state.api_url)
    _wait_until(lambda: _worker_lives(home), _WORKER_SECONDS, "the worker", home / "logs" / "worker.log")


def _start_supervisor(home: Path, port: int, options: ServerOptions) -> None:
    address = Address(port, options.host or LOOPBACK)
    database_url = named_database(options.database_url)
    auth = choose_auth(home, wanted=options.with_auth)
    require_safe_address(address.host, auth)
    if not port_is_free(address):
        raise ConfigError(
            f"port {port} of {address.host} is in use by another program, expected a free one;"
            f" stop that program, or choose another port: cpt up CONFIG --port {port + 1}"
        )
    if database_url is None:
        prepare_database(home, home / "prefect")
    elif database_url.startswith("postgresql"):
        require_answer(database_url)
    with (home / "logs" / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "flows.serving.supervisor", str(home), str(port), address.host],
            env=serving_environment(home, address, auth, database_url),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_for_server(home: Path) -> ServingState:
    log = home / "logs" / "server.log"
    supervisor_log = home / "logs" / "supervisor.log"
    _wait_until(lambda: _server_lives(home), _SUPERVISOR_SECONDS, "the supervisor", supervisor_log)
    state = read_state(home)
    assert state is not None
    wait_until_answers(state.api_url, alive=lambda: _server_lives(home), log=log)
    keep_empty_database(home, home / "prefect")
    return state


def _wait_until(ready: Callable[[], bool], seconds: float, what: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise ServingError(f"{what} is not ready after {seconds:.0f} s: {last_line(log)} (log: {log})")
        time.sleep(0.1)


def _supervisor_lives(home: Path) -> bool:
    state = read_state(home)
    return state is not None and state.supervisor.process() is not None


def _server_lives(home: Path) -> bool:
    state = read_state(home)
    return state is not None and _lives(state.server)


def _worker_lives(home: Path) -> bool:
    state = read_state(home)
    with access_to(home):
        return state is not None and worker_is_online(state)


def _lives(identity: ProcessId | None) -> bool:
    return identity is not None and identity.process() is not None


def _describe(pid: int, state: ServingState | None) -> str:
    roles = {
        identity.pid: role
        for role, identity in (
            [("supervisor", state.supervisor), ("server", state.server), ("worker", state.worker)] if state else []
        )
        if identity
    }
    return f"{roles.get(pid, 'flow run process')} (pid {pid})"


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """A second `up` waits for the first, and then finds it running. The lock is on the folder: no file is left."""
    folder = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
