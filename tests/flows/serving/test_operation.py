"""`up`, `status` and `down` against real servers."""

import base64
import os
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cpt_core.config import PipelineConfig
from cpt_core.errors import ConfigError
from flows.serving.api import answers, ask
from flows.serving.operation import down, up
from flows.serving.overview import RunLine, ServingStatus, describe, status
from flows.serving.prefect_server import free_port
from flows.serving.processes import marked_processes
from flows.serving.state import ServingState, read_state

CANARY = "admin:canary-of-prefect"
Until = Callable[..., None]
DEPLOYMENTS = (
    "cpt-prepare/data-only",
    "cpt-shard/retry-shard",
    "cpt-train/train-only",
    "cpt-watch/new-files",
    "cpt/full-pipeline",
)


def state_of(home: Path) -> ServingState:
    """The state file, which has to be there."""
    state = read_state(home)
    assert state is not None
    return state


def run_deployment(seen: ServingStatus, name: str) -> dict[str, Any]:
    """What `prefect deployment run` does."""
    api_url = str(seen.api_url)
    (deployment,) = ask(api_url, "deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    run: dict[str, Any] = ask(
        api_url, f"deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}}
    )
    return run


def test_up_returns_when_everything_answers(served: tuple[Path, ServingStatus]) -> None:
    """Server, worker and the deployments are there when `up` returns, and the next command names the server."""
    _, seen = served
    assert (seen.server, seen.worker, seen.deployments) == (True, True, DEPLOYMENTS)
    assert (seen.active_runs, seen.recent_runs, seen.already_running) == ((), (), False)
    assert seen.next_command == f"PREFECT_API_URL={seen.api_url} prefect deployment run cpt/full-pipeline"


def test_the_server_listens_on_this_machine_only(served: tuple[Path, ServingStatus]) -> None:
    """Nothing that `up` started listens on an address other than loopback."""
    home, _ = served
    listening = [c.laddr.ip for p in marked_processes(home) for c in p.net_connections() if c.status == "LISTEN"]
    assert set(listening) == {"127.0.0.1"}


def test_status_is_what_up_returned(served: tuple[Path, ServingStatus]) -> None:
    """`status` asks again and sees the same deployments, as plain values too."""
    home, seen = served
    assert status(home).as_json()["deployments"] == seen.deployments


def test_a_second_up_changes_the_defaults_of_the_deployments(
    served: tuple[Path, ServingStatus], served_config: PipelineConfig, until: Until
) -> None:
    """`up` while it runs keeps the processes; runs then get the new configuration, and fail for its tokenizer."""
    home, first = served
    before = state_of(home)
    config = served_config.model_copy(update={"name": "renamed"})
    second = up(config, home=home, port=free_port())
    assert (second.already_running, second.api_url) == (True, first.api_url)
    assert state_of(home) == before
    run = run_deployment(second, "data-only")
    assert run["parameters"] == {"config": config.model_dump(mode="json")}
    until(lambda: "Failed" in [line.state for line in status(home).recent_runs])
    (ended,) = ask(str(second.api_url), "flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert config.tokenization.tokenizer in ended["state"]["message"]


def test_a_killed_server_comes_back(served: tuple[Path, ServingStatus], until: Until) -> None:
    """The supervisor starts a killed server again on the same port, and says so in its log."""
    home, seen = served
    assert seen.api_url is not None
    killed = state_of(home).server
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: killed.process() is None)
    until(lambda: state_of(home).server not in (None, killed) and answers(seen.api_url or ""))
    assert "server ended with status -9" in (home / "logs" / "supervisor.log").read_text(encoding="utf-8")
    until(lambda: status(home).worker)


def test_down_leaves_nothing_behind(
    home: Path, served_config: PipelineConfig, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supervisor, server, worker and a run's process end, the run is Crashed, and database and logs stay.

    Whatever they log, what authenticates against another server is not in it.
    """
    for name in ("LOGGING_ROOT_LEVEL", "LOGGING_HANDLERS_CONSOLE_LEVEL", "SERVER_LOGGING_LEVEL"):
        monkeypatch.setenv(f"PREFECT_{name}", "DEBUG")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", CANARY)
    seen = up(served_config, home=home, port=free_port())
    run_deployment(seen, "data-only")
    until(lambda: len(marked_processes(home)) == 4)
    processes = marked_processes(home)
    children = psutil.Process(state_of(home).supervisor.pid).children(recursive=True)
    stopped = down(home)
    assert sorted(name.split(" (")[0] for name in stopped) == [
        "flow run process",
        "server",
        "supervisor",
        "worker",
    ]
    assert not [p for p in [*processes, *children] if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert marked_processes(home) == []
    assert not answers(str(seen.api_url))
    assert not (home / "serving.json").exists()
    assert (home / "logs" / "server.log").exists()
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        assert database.execute("SELECT state_name FROM flow_run").fetchall() == [("Crashed",)]
    assert down(home) == []
    assert status(home) == ServingStatus()
    kept = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert b"websockets.client - > TEXT" in kept[home / "logs" / "worker.log"]
    spellings = (CANARY.encode(), base64.b64encode(CANARY.encode()))
    assert [path for path, content in kept.items() if any(each in content for each in spellings)] == []


def test_a_port_of_another_program_is_one_line(home: Path, served_config: PipelineConfig) -> None:
    """`up` on a port in use names the port and a way out, and starts nothing."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as error:
            up(served_config, home=home, port=port)
    assert str(error.value) == (
        f"port {port} of 127.0.0.1 is in use by another program, expected a free one;"
        f" stop that program, or choose another port: cpt up CONFIG --port {port + 1}"
    )
    assert marked_processes(home) == []


def test_the_status_fits_one_screen() -> None:
    """Each thing has its line, and the last line says what to type next."""
    seen = ServingStatus(
        server=True,
        worker=True,
        database="SQLite",
        deployments=DEPLOYMENTS,
        schedules=("cpt/full-pipeline every 15m",),
        jobs=("training one, since 2026-01-02 03:04:06 UTC, pid 7, 8",),
        active_runs=(RunLine("one", "cpt", "Running", "2026-01-02T03:04:05.678Z"),),
        recent_runs=(RunLine("two", "cpt-prepare", "Failed", None),),
        last_look=RunLine("watch two", "cpt-watch", "Completed", "2026-01-02T03:05:00Z", "nothing new"),
        ui_url="http://127.0.0.1:4200",
        api_url="http://127.0.0.1:4200/api",
        next_command="prefect deployment run cpt/full-pipeline",
    )
    assert describe(seen) == (
        "server       http://127.0.0.1:4200 answers\n"
        "database     SQLite\n"
        "worker       online\n"
        "deployments  cpt-prepare/data-only, cpt-shard/retry-shard, cpt-train/train-only, cpt-watch/new-files,"
        " cpt/full-pipeline\n"
        "schedule     cpt/full-pipeline every 15m\n"
        "job          training one, since 2026-01-02 03:04:06 UTC, pid 7, 8\n"
        "active       Running    cpt one, started 2026-01-02 03:04:05 UTC\n"
        "ended        Failed     cpt-prepare two\n"
        "watcher      Completed  cpt-watch watch two, started 2026-01-02 03:05:00 UTC: nothing new\n"
        "next         prefect deployment run cpt/full-pipeline"
    )
    assert describe(ServingStatus()) == "nothing is running\nnext         cpt up CONFIG"
    crowded = replace(
        seen,
        schedules=seen.schedules * 9,
        jobs=tuple(f"training {number}" for number in range(9)),
        active_runs=seen.active_runs * 9,
        recent_runs=seen.recent_runs * 9,
    )
    assert len(describe(crowded).splitlines()) == 30
    assert [line for line in describe(crowded).splitlines() if "training" in line or "more" in line] == [
        "             and 4 more: `cpt status --json`",
        *(f"job          training {number}" for number in range(5)),
        *["             and 4 more: `cpt status --json`"] * 3,
    ]
