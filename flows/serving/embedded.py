"""A Prefect server for the length of one run.

In: the home folder.
Out: the URL of an API that answers, in force for this thread and for its child processes.
Promise: a server that runs already is used and left alone; an own one is gone at the end, its history kept; one that
dies on the way is started again, while the run's calls to it wait.
Never: two runs on one database; a server that outlives its run.

Prefect's own ephemeral mode loses most task runs under load (62 of 3,000 kept), so this is a real server.
"""

import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from flows.serving.access import access_to
from flows.serving.address import LOOPBACK, Address
from flows.serving.api import AUTH_VARIABLE, answers
from flows.serving.drain import drain
from flows.serving.environment import QUIET, embedded_environment
from flows.serving.prefect_server import free_port, keep_empty_database, prepare_database, wait_until_answers
from flows.serving.state import read_state

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_MAX_RESTARTS = 5
_CLIENT_RETRIES = 4
"""Half a minute in all: a server that is started again answers within that; one more retry would double the wait."""


@contextmanager
def embedded_server(home: Path, tell: Callable[[str], None] = logger.warning) -> Iterator[str]:
    """A Prefect API for the `with` block, for the thread that enters it: the main one.

    Args:
        home: the home folder.
        tell: hears in a line of what a user should know.

    Raises:
        ServingError: the server does not come up.
    """
    with ExitStack() as stack:
        api_url = running_server(home)
        if api_url is None:
            api_url = stack.enter_context(_own_server(home, tell))
        stack.enter_context(access_to(home, api_url))
        stack.enter_context(_in_force(api_url))
        yield api_url


def running_server(home: Path) -> str | None:
    """The API that $PREFECT_API_URL names, or the one that `cpt up` serves from this home, if it answers."""
    named = os.environ.get("PREFECT_API_URL")
    if named and answers(named):
        return named
    if named:
        logger.warning("$PREFECT_API_URL is %s, but nothing answers there; it is ignored for this run", named)
    state = read_state(home)
    return state.api_url if state and answers(state.api_url) else None


@contextmanager
def _own_server(home: Path, tell: Callable[[str], None]) -> Iterator[str]:
    folder, lock = _free_folder(home)
    api_url = Address(port := free_port()).api_url
    with lock, (folder / "server.log").open("wb") as log:
        prepare_database(home, folder)
        started = time.time()
        server = _OwnServer(port, folder, lock, log)
        try:
            import prefect  # noqa: F401  (2 s of import, while the server starts on another core)

            wait_until_answers(api_url, alive=server.is_alive, log=folder / "server.log")
            keep_empty_database(home, folder)
            server.keep(tell)
            with _in_force(api_url):
                try:
                    yield api_url
                finally:
                    if server.is_alive():
                        drain(api_url, since=started)
        finally:
            server.stop()


class _OwnServer:
    """The server's process, and from ``keep`` on another one in its place when it dies."""

    def __init__(self, port: int, folder: Path, lock: BinaryIO, log: BinaryIO) -> None:
        self._port, self._folder, self._lock, self._log = port, folder, lock, log
        self._changing = threading.Lock()
        self._is_stopped = False
        self._process = self._start()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def keep(self, tell: Callable[[str], None]) -> None:
        """From now on, start it again when it dies."""
        threading.Thread(target=self._keep, args=(tell,), name="cpt-server", daemon=True).start()

    def stop(self) -> None:
        """End it."""
        with self._changing:
            self._is_stopped = True
        self._process.terminate()
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _keep(self, tell: Callable[[str], None]) -> None:
        for _ in range(_MAX_RESTARTS):
            status = self._process.wait()
            with self._changing:
                if self._is_stopped:
                    return
                tell(f"Prefect's server ended with status {status} and is started again; the run goes on")
                self._process = self._start()
        self._process.wait()  # this thread must not end before its child, see server_process

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "flows.serving.server_process", LOOPBACK, str(self._port), str(os.getpid())],
            env=embedded_environment(self._folder, self._port),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the run, which then still has a server to report to
            pass_fds=[self._lock.fileno()],  # the folder is taken for as long as the server lives
        )


def _free_folder(home: Path) -> tuple[Path, BinaryIO]:
    """The first folder with a database that no other run holds; the lock goes with its last process."""
    number = 0
    while True:
        folder = home / "embedded" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
        else:
            return folder, lock


@contextmanager
def _in_force(api_url: str) -> Iterator[None]:
    """Variables reach child processes and a later import of Prefect; settings reach a Prefect imported before."""
    variables = {
        "PREFECT_API_URL": api_url,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_CLIENT_MAX_RETRIES": str(_CLIENT_RETRIES),
        "DO_NOT_TRACK": QUIET["DO_NOT_TRACK"],
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        from prefect.settings import (
            PREFECT_API_AUTH_STRING,
            PREFECT_API_URL,
            PREFECT_CLIENT_MAX_RETRIES,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            temporary_settings,
        )

        with temporary_settings(
            {
                PREFECT_API_URL: api_url,
                PREFECT_API_AUTH_STRING: os.environ.get(AUTH_VARIABLE),
                PREFECT_CLIENT_MAX_RETRIES: _CLIENT_RETRIES,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30,
            }
        ):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
