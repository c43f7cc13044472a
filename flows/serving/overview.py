"""What runs, on one screen.

In: the home folder.
Out: ``ServingStatus``.
Promise: says what answers now, not what the state file hopes.
Never: starts, stops or waits for anything.
"""

import os
import shlex
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from flows.serving.access import access_to, auth_path
from flows.serving.api import AUTH_VARIABLE, answers, ask
from flows.serving.dead_runs import WORK_POOL
from flows.serving.environment import ui_url_of
from flows.serving.jobs import jobs_of
from flows.serving.schedules import describe_schedule
from flows.serving.state import ServingState, read_state

_RECENT = 10
_SHOWN = 5
"""Lines of each kind in the text; the rest is a number."""
_WATCHER = "cpt-watch"
_BEGUN_STATES = ["PENDING", "RUNNING", "PAUSED", "CANCELLING"]
_ENDED_STATES = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_MAX_SCHEDULED = 200
"""Prefect plans at most 100 runs of a schedule ahead, and tells at most 200 runs at once."""


@dataclass(frozen=True)
class RunLine:
    """One flow run."""

    name: str
    flow: str
    state: str
    started: str | None
    message: str | None = None
    """What its state says, as far as that is told here."""


@dataclass(frozen=True)
class ServingStatus:
    """Server, worker, deployments and runs."""

    server: bool = False
    """The server answers."""
    database: str | None = None
    """What the server keeps its history in."""
    auth_file: str | None = None
    """Where user and password are, for a server that asks for them."""
    worker: bool = False
    """The worker lives and has reported to the server lately."""
    deployments: tuple[str, ...] = ()
    """Names for `prefect deployment run`."""
    schedules: tuple[str, ...] = ()
    """Which of them run by themselves, and when."""
    jobs: tuple[str, ...] = ()
    """What runs on this machine beside server and worker: flow runs and the processes of training."""
    active_runs: tuple[RunLine, ...] = ()
    """Runs without a final state, those that run first; not what a schedule will start later."""
    recent_runs: tuple[RunLine, ...] = ()
    """The last runs that have one."""
    last_look: RunLine | None = None
    """The last look of `cpt-watch` that has ended, which is in neither of them."""
    ui_url: str | None = None
    """The page to open in a browser."""
    api_url: str | None = None
    """What $PREFECT_API_URL has to be."""
    next_command: str = "cpt up CONFIG"
    """What to type next."""
    already_running: bool = False
    """`up` found it running."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def status(home: Path) -> ServingStatus:
    """What `up` has running in this home."""
    state = read_state(home)
    if state is None or state.supervisor.process() is None:
        return ServingStatus(jobs=jobs_of(home, is_supervised=False))
    here = ServingStatus(
        database=state.database,
        auth_file=str(auth_path(home)) if state.is_protected else None,
        jobs=jobs_of(home, is_supervised=True),
        ui_url=ui_url_of(state.api_url),
        api_url=state.api_url,
        next_command=f"less {home / 'logs' / 'server.log'}",
    )
    try:
        with access_to(home):
            return _ask_for_status(state, here)
    except httpx.HTTPError:
        return here


def describe(seen: ServingStatus) -> str:
    """The same as text."""
    jobs = _first("job", seen.jobs)
    if seen.api_url is None:
        first = (
            "the supervisor is gone, but not what it started; `cpt up` and `cpt down` end it"
            if jobs
            else "nothing is running"
        )
        return "\n".join([first, *jobs, f"next         {seen.next_command}"])
    found = " (was running already)" if seen.already_running else ""
    asks = f"; user and password are in {seen.auth_file}" if seen.auth_file else ""
    lines = [
        f"server       {seen.ui_url} {'answers' if seen.server else 'does not answer'}{found}{asks}",
        f"database     {seen.database}",
        f"worker       {'online' if seen.worker else 'offline'}",
        f"deployments  {', '.join(seen.deployments) or 'none'}",
        *_first("schedule", seen.schedules),
        *jobs,
        *_first("active", map(_describe_run, seen.active_runs)),
        *_first("ended", map(_describe_run, seen.recent_runs)),
        *([f"watcher      {_describe_run(seen.last_look)}"] if seen.last_look else []),
        f"next         {seen.next_command}",
    ]
    return "\n".join(lines)


def _first(kind: str, values: Iterable[str]) -> list[str]:
    """The first of them, a line each, and how many more there are."""
    lines = [f"{kind:12} {value}" for value in values]
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"{'':12} and {more} more: `cpt status --json`"] if more > 0 else [])]


def worker_is_online(state: ServingState) -> bool:
    """Whether the worker lives and the server has heard of it."""
    if state.worker is None or state.worker.process() is None:
        return False
    try:
        workers = ask(state.api_url, f"work_pools/{WORK_POOL}/workers/filter", {})
    except httpx.HTTPStatusError:
        return False  # the worker has not made its pool yet
    return any(worker["status"] == "ONLINE" for worker in workers)


def _ask_for_status(state: ServingState, here: ServingStatus) -> ServingStatus:
    flows = {flow["id"]: flow["name"] for flow in ask(state.api_url, "flows/filter", {})}
    deployments = {
        f"{flows[deployment['flow_id']]}/{deployment['name']}": deployment
        for deployment in ask(state.api_url, "deployments/filter", {})
    }
    return replace(
        here,
        server=answers(state.api_url),
        worker=worker_is_online(state),
        deployments=tuple(sorted(deployments)),
        schedules=tuple(
            f"{name} {describe_schedule(schedule['schedule'])}{'' if schedule['active'] else ', paused'}"
            for name, deployment in sorted(deployments.items())
            for schedule in deployment["schedules"]
        ),
        active_runs=_active_runs(state.api_url, flows),
        recent_runs=_recent_runs(state.api_url, flows),
        last_look=_last_look(state.api_url),
        next_command=_next_command(state.api_url, here.auth_file),
    )


def _active_runs(api_url: str, flows: dict[str, str]) -> tuple[RunLine, ...]:
    """Begun and due runs, and those that a person has put off."""
    begun = _runs(api_url, _BEGUN_STATES, flows, {"sort": "START_TIME_DESC", "limit": _RECENT})
    scheduled = _runs(api_url, ["SCHEDULED"], flows, {"sort": "EXPECTED_START_TIME_ASC", "limit": _MAX_SCHEDULED})
    due = [run for run in scheduled if not run["auto_scheduled"] or _is_past(run["expected_start_time"])]
    active = sorted([*begun, *due], key=lambda run: run["state_type"] != "RUNNING")
    return tuple(_line(run, flows) for run in active[:_RECENT])


def _recent_runs(api_url: str, flows: dict[str, str]) -> tuple[RunLine, ...]:
    runs = _runs(api_url, _ENDED_STATES, flows, {"sort": "EXPECTED_START_TIME_DESC", "limit": _RECENT})
    return tuple(_line(run, flows) for run in runs)


def _last_look(api_url: str) -> RunLine | None:
    """Every minute there is one: all of them would hide what they have started."""
    question = {
        "flows": {"name": {"any_": [_WATCHER]}},
        "flow_runs": {"state": {"type": {"any_": _ENDED_STATES}}, "start_time": {"is_null_": False}},
        "sort": "START_TIME_DESC",
        "limit": 1,
    }
    looks = ask(api_url, "flow_runs/filter", question)
    return replace(_line(looks[0], {}), flow=_WATCHER, message=looks[0]["state"]["message"]) if looks else None


def _runs(api_url: str, state_types: list[str], flows: dict[str, str], order: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs of everything but the watcher."""
    which = {
        "flows": {"id": {"any_": [flow for flow, name in flows.items() if name != _WATCHER]}},
        "flow_runs": {"state": {"type": {"any_": state_types}}},
    }
    return list(ask(api_url, "flow_runs/filter", which | order))


def _line(run: dict[str, Any], flows: dict[str, str]) -> RunLine:
    return RunLine(
        name=run["name"], flow=flows.get(run["flow_id"], "?"), state=run["state_name"], started=run["start_time"]
    )


def _is_past(time: str) -> bool:
    return datetime.fromisoformat(time) <= datetime.now(UTC)


def _describe_run(run: RunLine) -> str:
    started = f", started {run.started[:19].replace('T', ' ')} UTC" if run.started else ""
    said = f": {run.message}" if run.message else ""
    return f"{run.state:<10} {run.flow} {run.name}{started}{said}"


def _next_command(api_url: str, auth_file: str | None) -> str:
    """A command that works as it stands in the current folder."""
    command = "prefect deployment run cpt/full-pipeline"
    if _known_here() != api_url:
        command = f"PREFECT_API_URL={api_url} {command}"
    return f'{AUTH_VARIABLE}="$(cat {shlex.quote(auth_file)})" {command}' if auth_file else command


def _known_here() -> str | None:
    """The API that a bare `prefect` in this folder asks."""
    if named := os.environ.get("PREFECT_API_URL"):
        return named
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    url = project.get("tool", {}).get("prefect", {}).get("api", {}).get("url")
    return str(url) if url else None
