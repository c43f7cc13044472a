"""Starting a Prefect server: its database before, its answer after.

In: the home folder; the folder of the database; the process that was started.
Out: a server that answers, or one line that says why not, with the end of its log.
Promise: the schema is built once for each home (12 to 20 s) and copied from then on.
Never: touches a database that exists, but to move one out of the way that SQLite cannot read: Prefect's history is no
truth, the store is.
"""

import errno
import logging
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from cpt_core.errors import ConfigError, CptError
from flows.serving.address import Address
from flows.serving.api import answers

logger = logging.getLogger(__name__)

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


def port_is_free(address: Address) -> bool:
    """Whether a server could listen there.

    Raises:
        ConfigError: it is no address of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(
                    f"--host is {address.host}, expected an IPv4 address or name of this machine, or 0.0.0.0 for all"
                ) from error
            return False
        return True


def prepare_database(home: Path, folder: Path) -> None:
    """Give a new database its schema from the copy that an earlier server of this home left."""
    folder.mkdir(parents=True, exist_ok=True)
    database, empty = folder / "prefect.db", _empty_database(home)
    if database.exists():
        _move_unreadable(database)
    if not database.exists():
        for part in ("wal", "shm"):  # of a database that was moved away: with a new one they make a damaged one
            database.with_name(f"{database.name}-{part}").unlink(missing_ok=True)
    if empty.exists() and not database.exists():
        temporary = database.with_suffix(".tmp")
        shutil.copyfile(empty, temporary)
        temporary.replace(database)


def _move_unreadable(database: Path) -> None:
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return  # busy, or not to be opened: the server will say so
    except sqlite3.DatabaseError as error:
        logger.warning("%s: %s; it is kept as *.damaged, and the run goes on with an empty history", database, error)
        for path in (database, *(database.with_name(f"{database.name}-{part}") for part in ("wal", "shm"))):
            if path.exists():
                path.replace(path.with_name(f"{path.name}.damaged"))


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
