"""Starting a Prefect server: its database before, its answer after.

In: the home folder; the folder of the database; the process that was started.
Out: a server that answers, or one line that says why not, with the end of its log.
Promise: the schema is built once for each home (12 to 20 s) and copied from then on.
Never: touches a database that exists.
"""

import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from cpt_core.errors import CptError
from flows.serving.api import answers

START_SECONDS = 300.0
"""For machines that are busy with other work: an idle one needs 5 s, and 20 s the first time."""


class ServingError(CptError):
    """Server, worker or deployments do not come up."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def prepare_database(home: Path, folder: Path) -> None:
    """Give a new database its schema from the copy that an earlier server of this home left."""
    folder.mkdir(parents=True, exist_ok=True)
    database, empty = folder / "prefect.db", _empty_database(home)
    if empty.exists() and not database.exists():
        temporary = database.with_suffix(".tmp")
        shutil.copyfile(empty, temporary)
        temporary.replace(database)


def keep_empty_database(home: Path, folder: Path) -> None:
    """Copy the database of a server that has just come up for the first time, for the next new one."""
    database, empty = folder / "prefect.db", _empty_database(home)
    if empty.exists() or not database.exists():
        return
    temporary = empty.with_suffix(f".{folder.name}.tmp")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(temporary)) as target:
        source.backup(target)
    temporary.replace(empty)


def wait_until_answers(api_url: str, *, alive: Callable[[], bool], log: Path) -> None:
    """Return when the server answers.

    Raises:
        ServingError: it ended, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while not answers(api_url):
        if not alive():
            raise ServingError(f"the Prefect server for {api_url} ended while starting: {last_line(log)} (log: {log})")
        if time.monotonic() > deadline:
            raise ServingError(
                f"the Prefect server for {api_url} does not answer after {START_SECONDS:.0f} s; see its log {log}"
            )
        time.sleep(0.05)


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    return lines[-1].strip() if lines else "it wrote nothing"


def _empty_database(home: Path) -> Path:
    return home / f"empty-prefect-{version('prefect')}.db"
