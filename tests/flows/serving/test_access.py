"""Who may use the server, and where it keeps its history: the options before anything is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_core.errors import ConfigError
from flows.serving.access import choose_auth, require_safe_address
from flows.serving.address import Address
from flows.serving.database import describe_database, named_database, require_answer
from flows.serving.environment import embedded_environment, serving_environment, worker_environment
from flows.serving.prefect_server import free_port, port_is_free
from flows.serving.processes import marked_processes

URL = "postgresql+asyncpg://prefect:secret@db.example:5433/history"


@pytest.mark.parametrize(
    ("host", "auth", "is_refused"),
    [
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("127.9.9.9", None, False),
        ("0.0.0.0", None, True),
        ("192.168.1.7", None, True),
        ("node.example", None, True),
        ("0.0.0.0", "a:b", False),
    ],
)
def test_other_machines_need_a_password(host, auth, is_refused):
    """An address that others reach is refused without one."""
    if is_refused:
        with pytest.raises(ConfigError) as error:
            require_safe_address(host, auth)
        assert str(error.value) == (
            f"--host is {host}, which other machines reach, and whoever reaches Prefect's server runs programs here;"
            " expected --auth with it (user and password are then asked for), or no --host"
        )
    else:
        require_safe_address(host, auth)


def test_the_command_refuses_other_machines_without_a_password(home, served_config, tmp_path):
    """Exit code 2 and one line; nothing is started."""
    config = tmp_path / "config.yaml"
    config.write_text(served_config.model_dump_json(), encoding="utf-8")
    command = [Path(sys.executable).parent / "cpt", "up", config, "--host", "0.0.0.0", "--port", str(free_port())]
    refused = subprocess.run(command, env=os.environ | {"CPT_HOME": str(home)}, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout, refused.stderr) == (
        2,
        "",
        "cpt: --host is 0.0.0.0, which other machines reach, and whoever reaches Prefect's server runs programs here;"
        " expected --auth with it (user and password are then asked for), or no --host\n",
    )
    assert marked_processes(home) == []


def test_an_address_of_another_machine_is_one_line():
    """And one where nobody listens is free."""
    assert port_is_free(Address(free_port()))
    with pytest.raises(ConfigError) as error:
        port_is_free(Address(4200, "192.0.2.1"))
    assert str(error.value) == (
        "--host is 192.0.2.1, expected an IPv4 address or name of this machine, or 0.0.0.0 for all"
    )


def test_user_and_password_stay_until_they_are_changed(tmp_path, monkeypatch):
    """Made once, readable by their owner alone; those of the environment come before."""
    assert choose_auth(tmp_path, wanted=False) is None
    assert list(tmp_path.iterdir()) == []
    made = choose_auth(tmp_path, wanted=True)
    assert choose_auth(tmp_path, wanted=True) == made
    assert (tmp_path / "auth").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "ada:lovelace")
    assert choose_auth(tmp_path, wanted=False) == "ada:lovelace"
    assert (tmp_path / "auth").read_text(encoding="utf-8") == "ada:lovelace\n"
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "ada")
    with pytest.raises(ConfigError, match="is not of the form user:password"):
        choose_auth(tmp_path, wanted=True)


def test_the_database_is_named_without_its_password(monkeypatch):
    """In the command line it is refused and not repeated; in Prefect's variable it may stand, and is not shown."""
    monkeypatch.delenv("PREFECT_API_DATABASE_CONNECTION_URL", raising=False)
    assert named_database(None) is None
    assert describe_database(None) == "SQLite"
    assert named_database("postgresql://prefect@db/history") == "postgresql+asyncpg://prefect@db/history"
    for url in ("postgresql://prefect:secret@db/history", "postgresql://prefect@db/history?password=secret"):
        with pytest.raises(ConfigError) as error:
            named_database(url)
        assert str(error.value) == (
            "--database-url holds a password, which everyone on this machine could read in the list of processes;"
            " leave it out and put it into $PGPASSWORD or ~/.pgpass, or put the whole URL into"
            " $PREFECT_API_DATABASE_CONNECTION_URL"
        )
    with pytest.raises(ConfigError, match="expected a postgresql:// URL with user, host and database"):
        named_database("mysql://db/history")
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", URL)
    assert named_database(None) == URL
    assert describe_database(URL) == "PostgreSQL history on db.example:5433"


def test_a_database_that_does_not_answer_is_one_line():
    """Before anything is started."""
    port = free_port()
    with pytest.raises(ConfigError) as error:
        require_answer(f"postgresql+asyncpg://prefect:secret@127.0.0.1:{port}/history")
    message = str(error.value)
    assert message.startswith(f"PostgreSQL history on 127.0.0.1:{port} does not let us in: ")
    assert message.endswith(
        "expected a running server, an existing database, and the password in $PGPASSWORD or ~/.pgpass"
    )
    assert "secret" not in message


def test_only_the_server_knows_the_database(tmp_path, monkeypatch):
    """Flow runs do not; and a server for one run has a database of its own, whatever the environment names."""
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "someone:elsewhere")
    monkeypatch.setenv("PREFECT_LOGGING_ROOT_LEVEL", "DEBUG")
    server = serving_environment(tmp_path, Address(4200), "ada:lovelace", URL)
    assert "PREFECT_LOGGING_ROOT_LEVEL" not in server  # at which libraries log the password
    assert server["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == URL
    assert server["PREFECT_API_AUTH_STRING"] == "ada:lovelace"
    worker = worker_environment(server)
    assert [name for name, value in worker.items() if "secret" in value] == []
    assert worker["PREFECT_API_AUTH_STRING"] == "ada:lovelace"
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", URL)
    embedded = embedded_environment(tmp_path, 4200)
    assert [name for name, value in embedded.items() if "secret@" in value or "elsewhere" in value] == []


def test_nothing_that_serves_or_runs_sends_figures_about_its_use(tmp_path, monkeypatch):
    """Whatever the user's own environment says: server, worker, flow runs, and the server of one run."""
    silent = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    for said in (None, "0"):
        for name in silent:
            monkeypatch.delenv(name, raising=False)
            if said:
                monkeypatch.setenv(name, said)
        server = serving_environment(tmp_path, Address(4200), None, None)
        for environment in (server, worker_environment(server), embedded_environment(tmp_path, 4200)):
            assert {name: environment.get(name) for name in silent} == silent
