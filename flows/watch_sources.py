"""The sensor: looks at the sources, and starts the run that new files need.

In: a configuration.
Out: at most one run for each state of the sources; its idempotency key is the digest of the listing and of the
configuration, so Prefect's server is the only memory.
Promise: no byte of an input is read; files that are still being written, and a run that is still going on, are waited
for.
Never: starts a failed run again: its cause has to be mended first. A crashed one is continued, a few times: its cause
was the machine.
"""

import time
from typing import Any

from prefect import State, flow, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.states import AwaitingRetry, Completed

from cpt_core.config import PipelineConfig
from cpt_core.discovery import list_sources
from cpt_core.errors import ConfigError
from cpt_core.fingerprint import fingerprint

SETTLE_SECONDS = 10.0
"""Two looks this far apart have to agree: a file that is being copied grows in between."""

MAX_STARTS = 3
"""A run that crashes again and again needs a person."""

_GOING_ON = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


@flow(name="cpt-watch", flow_run_name="watch {config.name}", persist_result=False)
def watch_sources(config: PipelineConfig) -> State[Any]:
    """Start the run that the sources need, if there is one."""
    message = look(config)
    get_run_logger().info("%s", message)
    return Completed(message=message)


def look(config: PipelineConfig) -> str:
    """What was seen and done, in a line."""
    try:
        seen = _state_of_sources(config)
    except ConfigError as error:
        return f"nothing to do yet: {error}"
    deployment = "full-pipeline" if config.training else "data-only"
    if run := _first(FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[seen]))):
        return _about(run)
    going_on = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_GOING_ON)))
    if run := _first(going_on, DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))):
        return f"new files wait for the end of the run {run.name}, which is {run.state_name}"
    time.sleep(SETTLE_SECONDS)
    if _state_of_sources(config) != seen:
        return "new files are still being written"
    return f"new files: started the run {_start(deployment, config, seen).name}"


def _about(run: FlowRun) -> str:
    """What there is to say of the run of these files, which is continued when it has crashed."""
    if run.state_type == StateType.CRASHED and _continue(run):
        return f"the run {run.name} had crashed and is continued"
    return f"nothing new; these files are those of the run {run.name}, which is {run.state_name}"


def _continue(run: FlowRun) -> bool:
    """Whether it was not started often enough yet; one that died before its first word was started, too."""
    with get_client(sync_client=True) as client:
        continued = [state for state in client.read_flow_run_states(run.id) if state.name == AwaitingRetry().name]
        if len(continued) + 1 >= MAX_STARTS:
            return False
        client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
    return True


def _state_of_sources(config: PipelineConfig) -> str:
    files = [[file.uri, file.size_bytes, file.version] for file in list_sources(config.discovery)]
    listing = {"files": files, "config": config.model_dump(mode="json")}
    return f"cpt-watch-{fingerprint(listing)}"


def _start(deployment: str, config: PipelineConfig, key: str) -> FlowRun:
    run: FlowRun = run_deployment(  # type: ignore[assignment]  # typed as async, too
        f"{'cpt' if config.training else 'cpt-prepare'}/{deployment}",
        parameters={"config": config.model_dump(mode="json")},
        idempotency_key=key,
        timeout=0,
        as_subflow=False,
    )
    return run


def _first(which: FlowRunFilter, deployment: DeploymentFilter | None = None) -> FlowRun | None:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=which, deployment_filter=deployment, limit=1)
    return runs[0] if runs else None
