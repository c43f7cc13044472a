"""What runs, on one screen.

In: the home folder.
Out: ``ServingStatus``.
Promise: says what answers now, not what the state file hopes.
Never: starts, stops or waits for anything.
"""

import os
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from flows.serving.api import answers, ask
from flows.serving.dead_runs import WORK_POOL
from flows.serving.environment import ui_url_of
from flows.serving.state import ServingState, read_state

_RECENT = 10
_ACTIVE_STATES = ["PENDING", "RUNNING", "PAUSED", "CANCELLING", "SCHEDULED"]


@dataclass(frozen=True)
class RunLine:
    """One flow run."""

    name: str
    flow: str
    state: str
    started: str | None


@dataclass(frozen=True)
class ServingStatus:
    """Server, worker, deployments and runs."""

    server: bool = False
    """The server answers."""
    worker: bool = False
    """The worker lives and has reported to the server lately."""
    deployments: tuple[str, ...] = ()
    """Names for `prefect deployment run`."""
    active_runs: tuple[RunLine, ...] = ()
    """Runs without a final state."""
    recent_runs: tuple[RunLine, ...] = ()
    """The last runs that have one."""
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
        return ServingStatus()
    try:
        return _ask_for_status(state)
    except httpx.HTTPError:
        return ServingStatus(
            ui_url=ui_url_of(state.api_url),
            api_url=state.api_url,
            next_command=f"less {home / 'logs' / 'server.log'}",
        )


def describe(seen: ServingStatus) -> str:
    """The same as text."""
    if seen.api_url is None:
        return f"nothing is running\nnext         {seen.next_command}"
    found = " (was running already)" if seen.already_running else ""
    lines = [
        f"server       {seen.ui_url} {'answers' if seen.server else 'does not answer'}{found}",
        f"worker       {'online' if seen.worker else 'offline'}",
        f"deployments  {', '.join(seen.deployments) or 'none'}",
        *(f"active       {_describe_run(run)}" for run in seen.active_runs),
        *(f"ended        {_describe_run(run)}" for run in seen.recent_runs),
        f"next         {seen.next_command}",
    ]
    return "\n".join(lines)


def worker_is_online(state: ServingState) -> bool:
    """Whether the worker lives and the server has heard of it."""
    if state.worker is None or state.worker.process() is None:
        return False
    try:
        workers = ask(state.api_url, f"work_pools/{WORK_POOL}/workers/filter", {})
    except httpx.HTTPStatusError:
        return False  # the worker has not made its pool yet
    return any(worker["status"] == "ONLINE" for worker in workers)


def _ask_for_status(state: ServingState) -> ServingStatus:
    flows = {flow["id"]: flow["name"] for flow in ask(state.api_url, "flows/filter", {})}
    deployments = sorted(
        f"{flows[deployment['flow_id']]}/{deployment['name']}"
        for deployment in ask(state.api_url, "deployments/filter", {})
    )
    return ServingStatus(
        server=answers(state.api_url),
        worker=worker_is_online(state),
        deployments=tuple(deployments),
        active_runs=_runs(state.api_url, flows, {"any_": _ACTIVE_STATES}),
        recent_runs=_runs(state.api_url, flows, {"not_any_": _ACTIVE_STATES}),
        ui_url=ui_url_of(state.api_url),
        api_url=state.api_url,
        next_command=_next_command(state.api_url),
    )


def _runs(api_url: str, flows: dict[str, str], state_types: dict[str, list[str]]) -> tuple[RunLine, ...]:
    question = {
        "flow_runs": {"state": {"type": state_types}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": _RECENT,
    }
    return tuple(
        RunLine(
            name=run["name"], flow=flows.get(run["flow_id"], "?"), state=run["state_name"], started=run["start_time"]
        )
        for run in ask(api_url, "flow_runs/filter", question)
    )


def _describe_run(run: RunLine) -> str:
    started = f", started {run.started[:19].replace('T', ' ')} UTC" if run.started else ""
    return f"{run.state:<10} {run.flow} {run.name}{started}"


def _next_command(api_url: str) -> str:
    """A command that works as it stands in the current folder."""
    command = "prefect deployment run cpt/full-pipeline"
    return command if _known_here() == api_url else f"PREFECT_API_URL={api_url} {command}"


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
