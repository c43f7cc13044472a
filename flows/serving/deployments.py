"""From deployments/prefect.yaml to the server.

In: the file, the configuration, the URL of the API.
Out: registered deployments with the configuration as their default, one of them perhaps on a schedule.
Promise: the same deployments as `prefect deploy --all --prefect-file deployments/prefect.yaml`.
Never: a value of its own: all of them are in the file.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.process import ProcessWorker

from cpt_core.config import PipelineConfig
from flows.serving.api import ask
from flows.serving.automations import keep_automations
from flows.serving.schedules import Schedule

PREFECT_FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"


def load_deployments(
    config: PipelineConfig, schedule: Schedule | None = None, prefect_file: Path = PREFECT_FILE
) -> list[RunnerDeployment]:
    """The deployments of the file; imports their flows, which takes seconds and needs no server.

    Args:
        config: the default of their parameter.
        schedule: when the deployment that does all of this configuration runs by itself; others wait to be started.
        prefect_file: the file.
    """
    entries = yaml.safe_load(prefect_file.read_text(encoding="utf-8"))["deployments"]
    return [_deployment(entry, config, schedule) for entry in entries]


def register(deployments: list[RunnerDeployment], api_url: str) -> None:
    """Create or update them on the server."""
    with temporary_settings({PREFECT_API_URL: api_url}):
        for pool in {deployment.work_pool_name for deployment in deployments}:
            _make_work_pool(str(pool))
        for deployment in deployments:
            deployment_id: UUID = deployment.apply()  # type: ignore[assignment]  # typed as async, too
            _begin_at_once(deployment, deployment_id, api_url)
    keep_automations(api_url)


def _deployment(entry: dict[str, Any], config: PipelineConfig, schedule: Schedule | None) -> RunnerDeployment:
    """The keys are those of prefect.yaml; one that is not known here is a KeyError of the test, not ignored."""
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
    with_training = config.training is not None
    is_scheduled = schedule is not None and schedule.is_for(entry["entrypoint"], with_training=with_training)
    deployment = RunnerDeployment(
        name=entry["name"],
        flow_name=flow.name,
        entrypoint=entry["entrypoint"],
        description=entry["description"],
        tags=entry["tags"],
        work_pool_name=entry["work_pool"]["name"],
        job_variables=entry["work_pool"]["job_variables"],
        parameters={"config": config.model_dump(mode="json")},
        enforce_parameter_schema=True,
        schedules=[DeploymentScheduleCreate(schedule=_prefect_schedule(schedule))] if schedule and is_scheduled else [],
        **_concurrency(entry.get("concurrency_limit"), is_scheduled=is_scheduled),
    )
    deployment._set_defaults_from_flow(flow)
    return deployment


def _concurrency(limit: dict[str, Any] | None, *, is_scheduled: bool) -> dict[str, Any]:
    """How many runs at a time. A run that a schedule starts while the last one goes on is cancelled: the next one
    does its work, where a queue would grow all night.
    """
    if is_scheduled:
        limit = {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    if limit is None:
        return {}
    options = ConcurrencyOptions(collision_strategy=limit["collision_strategy"])
    return {"concurrency_limit": limit["limit"], "concurrency_options": options}


def _prefect_schedule(schedule: Schedule) -> IntervalSchedule | CronSchedule:
    values = schedule.as_prefect()
    return CronSchedule(**values) if "cron" in values else IntervalSchedule(**values)


def _begin_at_once(deployment: RunnerDeployment, deployment_id: UUID, api_url: str) -> None:
    """By itself Prefect would let a whole interval pass before the first run."""
    if any(isinstance(entry.schedule, IntervalSchedule) for entry in deployment.schedules or []):
        ask(api_url, f"deployments/{deployment_id}/create_flow_run", {"state": {"type": "SCHEDULED"}})


def _make_work_pool(name: str) -> None:
    pool = WorkPoolCreate(
        name=name,
        type=ProcessWorker.type,
        base_job_template=ProcessWorker.get_default_base_job_template(),
    )
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
