"""From deployments/prefect.yaml to the server.

In: the file, the configuration, the URL of the API.
Out: registered deployments with the configuration as their default, and a rule that ends dead runs.
Promise: the same deployments as `prefect deploy --all --prefect-file deployments/prefect.yaml`.
Never: a value of its own: all of them are in the file.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.process import ProcessWorker

from cpt_core.config import PipelineConfig
from flows.serving.api import ask

PREFECT_FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"

_ZOMBIES = "cpt: runs without a sign of life are Crashed"


def load_deployments(config: PipelineConfig, prefect_file: Path = PREFECT_FILE) -> list[RunnerDeployment]:
    """The deployments of the file; imports their flows, which takes seconds and needs no server."""
    entries = yaml.safe_load(prefect_file.read_text(encoding="utf-8"))["deployments"]
    return [_deployment(entry, config.model_dump(mode="json")) for entry in entries]


def register(deployments: list[RunnerDeployment], api_url: str) -> None:
    """Create or update them on the server."""
    with temporary_settings({PREFECT_API_URL: api_url}):
        for pool in {deployment.work_pool_name for deployment in deployments}:
            _make_work_pool(str(pool))
        for deployment in deployments:
            deployment.apply()
    _crash_zombies(api_url)


def _deployment(entry: dict[str, Any], config: dict[str, Any]) -> RunnerDeployment:
    """The keys are those of prefect.yaml; one that is not known here is a KeyError of the test, not ignored."""
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
    deployment = RunnerDeployment(
        name=entry["name"],
        flow_name=flow.name,
        entrypoint=entry["entrypoint"],
        description=entry["description"],
        tags=entry["tags"],
        work_pool_name=entry["work_pool"]["name"],
        job_variables=entry["work_pool"]["job_variables"],
        parameters={"config": config},
        enforce_parameter_schema=True,
    )
    deployment._set_defaults_from_flow(flow)
    return deployment


def _make_work_pool(name: str) -> None:
    pool = WorkPoolCreate(
        name=name,
        type=ProcessWorker.type,
        base_job_template=ProcessWorker.get_default_base_job_template(),
    )
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)


def _crash_zombies(api_url: str) -> None:
    """A run whose process and worker were killed reports nothing: after two minutes of silence it is Crashed."""
    if ask(api_url, "automations/count", {"automations": {"name": {"any_": [_ZOMBIES]}}}):
        return
    trigger = {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.*"],
        "threshold": 1,
        "within": 120,
    }
    action = {
        "type": "change-flow-run-state",
        "state": "CRASHED",
        "message": "No heartbeat for two minutes: the process is gone. Retry continues where it stopped.",
    }
    ask(api_url, "automations/", {"name": _ZOMBIES, "trigger": trigger, "actions": [action]})
