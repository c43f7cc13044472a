"""The rules by which the server itself ends runs whose process is gone.

In: the URL of the API.
Out: automations, the same after any number of calls.
Promise: a run that was killed together with its worker is Crashed within two minutes, and gives its slot back. One
that had not begun is seen by the supervisor, and where that is gone too, after five minutes by the rule here.
Never: touches a run that shows signs of life, or one that waits for its turn.
"""

from typing import Any

from cpt_core.fingerprint import fingerprint
from flows.serving.api import ask
from flows.serving.dead_runs import WORK_POOL

HEARTBEAT_SECONDS = 30
"""The shortest that Prefect allows."""
_SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
"""Two heartbeats may be lost. With the 10 s between Prefect's looks, a killed run is Crashed after 100 s at most."""
_START_SECONDS = 300
"""How long a process may take from its start to its first word: it imports Prefect, on a machine that may be busy."""


def keep_automations(api_url: str) -> None:
    """Create them, or bring them up to date."""
    known = {automation["name"]: automation for automation in ask(api_url, "automations/filter", {})}
    for automation in (_silent_runs(), _runs_that_never_started()):
        found = known.get(automation["name"])
        if found is None:
            ask(api_url, "automations/", automation)
        elif found["description"] != automation["description"]:  # replacing one forgets the runs that it watches
            ask(api_url, f"automations/{found['id']}", automation, method="PUT")


def _silent_runs() -> dict[str, Any]:
    """A run whose process and worker were killed reports nothing any more."""
    trigger = {
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "after": [f"prefect.flow-run.{event}" for event in ("heartbeat", "Running", "Retrying", "Cancelling")],
        "within": _SILENCE_SECONDS,
    }
    message = f"No heartbeat for {_SILENCE_SECONDS} s: the process is gone. Retry continues where it stopped."
    return _automation("cpt: runs without a sign of life are Crashed", trigger, message)


def _runs_that_never_started() -> dict[str, Any]:
    """Killed between the worker's claim and the first heartbeat; elsewhere than here a start may take its time."""
    trigger = {
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "work-pool", "prefect.resource.name": WORK_POOL},
        "after": [f"prefect.flow-run.{event}" for event in ("Pending", "Submitting", "InfrastructurePending")],
        "within": _START_SECONDS,
    }
    message = f"The process did not report within {_START_SECONDS} s of its start. Retry starts it again."
    return _automation("cpt: runs that never started are Crashed", trigger, message)


def _automation(name: str, trigger: dict[str, Any], message: str) -> dict[str, Any]:
    every_run = {
        "type": "event",
        "posture": "Proactive",
        "for_each": ["prefect.resource.id"],
        "expect": ["prefect.flow-run.*"],
        "threshold": 1,
    }
    action = {"type": "change-flow-run-state", "state": "CRASHED", "message": message}
    rule = {"name": name, "trigger": every_run | trigger, "actions": [action]}
    return rule | {"description": f"Made by `cpt up`, version {fingerprint(rule)[:8]}."}
