"""Runs whose process is known to be gone.

In: the URL of the API; the home folder, where it matters which processes live.
Out: their state is Crashed, from which a retry continues.
Promise: only runs of the worker that `up` starts, and that a worker had claimed which is down since.
Never: touches a run that waits for its turn, or one of `cpt run`.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from flows.serving.api import ask
from flows.serving.jobs import runs_with_a_process

WORK_POOL = "local"

_STARTED = ["PENDING", "RUNNING", "CANCELLING"]


def crash_dead_runs(api_url: str) -> list[str]:
    """Mark them, while no worker and no flow run lives; their names."""
    runs = _runs(api_url, _STARTED)
    _crash(api_url, runs, "The worker was stopped.")
    return [run["name"] for run in runs]


def crash_runs_that_never_start(api_url: str, home: Path, *, worker_ended: datetime) -> bool:
    """Mark those that a worker had claimed and that lost their process, with it or later, before its first word.

    Args:
        api_url: the server.
        home: marks the processes that still live.
        worker_ended: what is claimed later belongs to the next worker.

    Returns:
        Whether some are left that may yet start.
    """
    alive = runs_with_a_process(home)  # first: one that has none now gets none any more
    claimed = [run for run in _runs(api_url, ["PENDING"]) if _claimed(run) <= worker_ended]
    _crash(api_url, [run for run in claimed if run["id"] not in alive], "It was killed before it began.")
    return any(run["id"] in alive for run in claimed)


def _runs(api_url: str, state_types: list[str]) -> list[dict[str, Any]]:
    question: dict[str, Any] = {
        "flow_runs": {"state": {"type": {"any_": state_types}}},
        "work_pools": {"name": {"any_": [WORK_POOL]}},
    }
    return list(ask(api_url, "flow_runs/filter", question))


def _claimed(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["state"]["timestamp"])


def _crash(api_url: str, runs: list[dict[str, Any]], reason: str) -> None:
    message = f"{reason} Nothing that is committed is lost: a retry continues from there."
    crashed = {"state": {"type": "CRASHED", "message": message}, "force": True}
    for run in runs:
        ask(api_url, f"flow_runs/{run['id']}/set_state", crashed)
