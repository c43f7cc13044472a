"""Where the server keeps its history: SQLite in the home folder, or a PostgreSQL that is named.

In: `--database-url`, or the variable of Prefect for the same.
Out: the URL as Prefect wants it; a description without secrets.
Promise: a database that cannot be reached is one line, before anything is started.
Never: a password in a command line: it comes from $PGPASSWORD, from ~/.pgpass, or within the variable.
"""

import asyncio
import os
import re
from urllib.parse import parse_qsl, urlsplit

from cpt_core.errors import ConfigError
from cpt_core.redaction import redacted

VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Prefect reads either."""
FOR_THE_SERVER_ALONE = (*VARIABLES, "PGPASSWORD", "PGPASSFILE")

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_CONNECT_SECONDS = 20.0


def named_database(option: str | None) -> str | None:
    """The URL that the option or the environment names, as Prefect wants it; None means SQLite in the home.

    Raises:
        ConfigError: it is no PostgreSQL URL, or the command line holds a password.
    """
    if option is None:
        return next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)
    parts = urlsplit(option)
    if parts.scheme not in _SCHEMES:
        raise ConfigError(
            f"--database-url is {redacted(option)}, expected a postgresql:// URL with user, host and database"
        )
    if parts.password is not None or "password" in dict(parse_qsl(parts.query)):
        raise ConfigError(
            "--database-url holds a password, which everyone on this machine could read in the list of processes;"
            f" leave it out and put it into $PGPASSWORD or ~/.pgpass, or put the whole URL into ${VARIABLES[1]}"
        )
    return parts._replace(scheme="postgresql+asyncpg").geturl()


def describe_database(url: str | None) -> str:
    """What it is and where, without user and password."""
    if url is None:
        return "SQLite"
    parts = urlsplit(url)
    if not parts.scheme.startswith("postgres"):
        return parts.scheme
    place = f"{parts.hostname or dict(parse_qsl(parts.query)).get('host', 'localhost')}"
    return f"PostgreSQL {parts.path.lstrip('/')} on {place}{f':{parts.port}' if parts.port else ''}"


def require_answer(url: str) -> None:
    """Connect once, as the server will.

    Raises:
        ConfigError: that fails.
    """
    problem = asyncio.run(_problem_of(url))
    if problem is not None:
        raise ConfigError(
            f"{describe_database(url)} does not let us in: {problem}; expected a running server, an existing"
            " database, and the password in $PGPASSWORD or ~/.pgpass"
        )


def _in_words(error: Exception) -> str:
    """The message of a driver, without the names of classes around it."""
    text = re.sub(r"^\([\w.]+\) (<class '[\w.]+'>: )?", "", str(error))
    return text.splitlines()[0] if text else type(error).__name__


async def _problem_of(url: str) -> str | None:
    from asyncpg import InterfaceError, PostgresError
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.ext.asyncio import create_async_engine

    try:
        engine = create_async_engine(url)
        async with asyncio.timeout(_CONNECT_SECONDS), engine.connect():
            pass
        await engine.dispose()
    except TimeoutError:
        return f"no answer within {_CONNECT_SECONDS:.0f} s"
    except (OSError, SQLAlchemyError, PostgresError, InterfaceError, ValueError) as error:
        return _in_words(error)
    return None
