"""A real PostgreSQL server on a free port of this machine, with a database, a user and a password for the test."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.serving.prefect_server import free_port

USER = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user for it."""


@dataclass(frozen=True)
class PostgresServer:
    """A server that runs."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """Without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{USER}"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Its data lie outside of pytest's folders, which other users cannot enter; nothing of it is left behind."""
    folder = Path(tempfile.mkdtemp(prefix="cpt-postgres-", dir="/tmp"))
    server = PostgresServer(free_port(), secrets.token_urlsafe(12))
    password_file = folder / "password"
    password_file.write_text(server.password, encoding="utf-8")
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
        shutil.chown(password_file, USER)
    try:
        run("initdb", "-D", f"{folder}/data", "-U", USER, "-A", "scram-sha-256", f"--pwfile={password_file}")
        options = f"-p {server.port} -h 127.0.0.1 -k {folder} -c fsync=off"
        run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield server
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def run(program: str, *arguments: str) -> None:
    """A program of PostgreSQL, as the user that may."""
    as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"] if os.geteuid() == 0 else []
    programs = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    assert programs, "PostgreSQL is not installed; .ci/run names the Debian packages that the tests need"
    command = [*as_user, str(programs[-1]), *arguments]
    done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
