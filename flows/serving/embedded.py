"""A Prefect server for the length of one run.

In: the home folder.
Out: the URL of an API that answers, in force for this thread and for its child processes.
Promise: a server that runs already is used and left alone; an own one is gone at the end, its history kept.
Never: two runs on one database; a server that outlives its run.

Prefect's own ephemeral mode loses most task runs under load (62 of 3,000 kept), so this is a real server.
"""

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from flows.serving.api import answers
from flows.serving.drain import drain
from flows.serving.environment import QUIET, api_url_of, embedded_environment
from flows.serving.prefect_server import free_port, keep_empty_database, prepare_database, wait_until_answers
from flows.serving.state import read_state

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10.0


@contextmanager
def embedded_server(home: Path) -> Iterator[str]:
    """A Prefect API for the `with` block, for the thread that enters it: the main one.

    Raises:
        ServingError: the server does not come up.
    """
    with ExitStack() as stack:
        api_url = running_server(home)
        if api_url is None:
            api_url = stack.enter_context(_own_server(home))
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
def _own_server(home: Path) -> Iterator[str]:
    folder, lock = _free_folder(home)
    api_url = api_url_of(port := free_port())
    with lock, (folder / "server.log").open("wb") as log:
        prepare_database(home, folder)
        started = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.serving.server_process", str(port), str(os.getpid())],
            env=embedded_environment(folder, port),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the run, which then still has a server to report to
            pass_fds=[lock.fileno()],  # the folder is taken for as long as the server lives
        )
        try:
            import prefect  # noqa: F401  (2 s of import, while the server starts on another core)

            wait_until_answers(api_url, alive=lambda: process.poll() is None, log=folder / "server.log")
            keep_empty_database(home, folder)
            with _in_force(api_url):
                try:
                    yield api_url
                finally:
                    if process.poll() is None:
                        drain(api_url, since=started)
        finally:
            _stop(process)


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
        "DO_NOT_TRACK": QUIET["DO_NOT_TRACK"],
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        with temporary_settings({PREFECT_API_URL: api_url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
