"""Runs whose process is known to be gone.

In: the URL of the API.
Out: their state is Crashed, from which a retry continues.
Promise: only runs of the worker that `up` starts; called only while that worker is down.
Never: touches a run that waits for its turn, or one of `cpt run`.
"""

from typing import Any

from flows.serving.api import ask

WORK_POOL = "local"

_STARTED = ["PENDING", "RUNNING", "CANCELLING"]


def crash_dead_runs(api_url: str) -> list[str]:
    """Mark them; their names."""
    question: dict[str, Any] = {
        "flow_runs": {"state": {"type": {"any_": _STARTED}}},
        "work_pools": {"name": {"any_": [WORK_POOL]}},
    }
    crashed = {
        "type": "CRASHED",
        "message": "The worker was stopped. Nothing that is committed is lost: a retry continues from there.",
    }
    runs = ask(api_url, "flow_runs/filter", question)
    for run in runs:
        ask(api_url, f"flow_runs/{run['id']}/set_state", {"state": crashed, "force": True})
    return [run["name"] for run in runs]
