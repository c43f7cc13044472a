"""Who may use the server, and from where.

In: the home folder; the address to listen on; whether a password is wanted.
Out: `user:password` in the file `auth` of the home, readable by its owner alone, and in the environment of those who
need it.
Promise: without a password nobody but this machine reaches the server.
Never: a password in a command line, in a log, in the state file or on the screen.
"""

import ipaddress
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpt_core.errors import ConfigError
from flows.serving.api import AUTH_VARIABLE, SERVER_AUTH_VARIABLE
from flows.serving.state import read_state


def auth_path(home: Path) -> Path:
    """The file with user and password."""
    return home / "auth"


def choose_auth(home: Path, *, wanted: bool) -> str | None:
    """User and password for a server that starts now: those of the environment, of the file, or new ones.

    Args:
        home: keeps them for the next start and for `cpt status`.
        wanted: False means none, unless the environment names them.

    Raises:
        ConfigError: what the environment names is not of the form user:password.
    """
    path = auth_path(home)
    if named := os.environ.get(SERVER_AUTH_VARIABLE):
        if not all(named.partition(":")):
            raise ConfigError(f"${SERVER_AUTH_VARIABLE} is not of the form user:password")
        path.unlink(missing_ok=True)
        return _written(path, named)
    if not wanted:
        return None
    return path.read_text(encoding="utf-8").strip() if path.exists() else _written(path, _invented())


def require_safe_address(host: str, auth: str | None) -> None:
    """Refuse to serve other machines without a password.

    Raises:
        ConfigError: as it says.
    """
    if auth is None and not _is_loopback(host):
        raise ConfigError(
            f"--host is {host}, which other machines reach, and whoever reaches Prefect's server runs programs here;"
            " expected --auth with it (user and password are then asked for), or no --host"
        )


@contextmanager
def access_to(home: Path, api_url: str | None = None) -> Iterator[None]:
    """Let the calls of this process to the server of this home carry its password.

    Args:
        home: the home folder.
        api_url: nothing is sent to another server than that of this home.
    """
    state = read_state(home)
    if state is None or not state.is_protected or api_url not in (None, state.api_url):
        yield
        return
    before = os.environ.get(AUTH_VARIABLE)
    os.environ[AUTH_VARIABLE] = auth_path(home).read_text(encoding="utf-8").strip()
    try:
        yield
    finally:
        if before is None:
            del os.environ[AUTH_VARIABLE]
        else:
            os.environ[AUTH_VARIABLE] = before


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _invented() -> str:
    return f"cpt:{secrets.token_urlsafe(24)}"


def _written(path: Path, auth: str) -> str:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(f"{auth}\n")
    return auth
