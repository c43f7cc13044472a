"""The server of one run."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL

from flows.serving.api import answers
from flows.serving.embedded import embedded_server, running_server
from flows.serving.overview import ServingStatus

Until = Callable[..., None]


@task
def number(value: int) -> int:
    """A task."""
    return value


@flow
def numbers(fail: bool) -> None:
    """A run of fifty tasks."""
    number.map(list(range(50))).wait()
    if fail:
        raise ValueError("as asked")


def task_states(home: Path) -> list[tuple[str, int]]:
    """How many task runs of the first database are in which state."""
    with closing(sqlite3.connect(home / "embedded" / "0" / "prefect.db")) as database:
        return database.execute("SELECT state_name, COUNT(*) FROM task_run GROUP BY 1").fetchall()


def test_a_run_finds_its_server_and_nothing_is_lost(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows use the server although Prefect was imported before, and tell nobody else of it; the next run finds its
    history, even a failed one.
    """
    before = PREFECT_API_URL.value()
    monkeypatch.delenv("DO_NOT_TRACK")
    with pytest.raises(ValueError, match="as asked"), embedded_server(home) as api_url:
        assert os.environ["DO_NOT_TRACK"] == "1"
        assert (PREFECT_API_URL.value(), os.environ["PREFECT_API_URL"]) == (api_url, api_url)
        numbers(fail=True)
    assert not answers(api_url)
    assert (PREFECT_API_URL.value(), os.environ.get("PREFECT_API_URL")) == (before, None)
    assert task_states(home) == [("Completed", 50)]
    with embedded_server(home):
        numbers(fail=False)
    assert task_states(home) == [("Completed", 100)]


def test_runs_at_the_same_time_and_a_killed_run(home: Path, hold_a_server: str, until: Until) -> None:
    """A second run beside the first has its own server and database; a server ends with its killed run."""
    command = [sys.executable, "-c", hold_a_server, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        others_url = other.stdout.readline().strip()
        (server,) = psutil.Process(other.pid).children()
        with embedded_server(home) as api_url:
            assert api_url != others_url
            assert answers(others_url)
        assert sorted(folder.name for folder in (home / "embedded").iterdir()) == ["0", "1"]
        os.kill(other.pid, signal.SIGKILL)
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, 60)
    assert not answers(others_url)


def test_a_server_that_runs_is_used_and_left_alone(served: tuple[Path, ServingStatus]) -> None:
    """In a home where `up` serves, a run is recorded there."""
    home, seen = served
    with embedded_server(home) as api_url:
        assert api_url == seen.api_url
        assert PREFECT_API_URL.value() == api_url
    assert answers(api_url)
    assert not (home / "embedded").exists()


def test_a_named_server_that_is_silent_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$PREFECT_API_URL of a server that is gone does not stop a run."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert running_server(tmp_path) is None
