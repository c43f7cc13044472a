"""deployments/prefect.yaml, read by us and by Prefect's own command."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cpt_core.config import PipelineConfig
from flows.serving.api import ask
from flows.serving.deployments import PREFECT_FILE
from flows.serving.overview import ServingStatus

REPOSITORY = Path(__file__).parents[3]


def create_run(api_url: str, config: dict[str, Any]) -> httpx.Response:
    """What the server says to a run with this configuration."""
    (deployment,) = ask(api_url, "deployments/filter", {"deployments": {"name": {"any_": ["train-only"]}}})
    body = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
    return httpx.post(f"{api_url}/deployments/{deployment['id']}/create_flow_run", json=body)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (
            "packing",
            "row_len",
            8,
            "Error creating flow run: Validation failed for field 'config.packing'. Failure reason: "
            "Additional properties are not allowed ('row_len' was unexpected)",
        ),
        (
            "packing",
            "row_len_tokens",
            1,
            "Error creating flow run: Validation failed for field 'config.packing.row_len_tokens'. Failure reason: "
            "1 is less than the minimum of 2",
        ),
    ],
    ids=["unknown key", "value out of range"],
)
def test_the_server_refuses_wrong_parameters(
    served: tuple[Path, ServingStatus],
    served_config: PipelineConfig,
    section: str,
    key: str,
    value: int,
    message: str,
) -> None:
    """A run with wrong parameters is refused before it exists, with the name of the field."""
    _, seen = served
    assert seen.api_url is not None
    config = copy.deepcopy(served_config.model_dump(mode="json"))
    config[section][key] = value
    reply = create_run(seen.api_url, config)
    assert (reply.status_code, reply.json()["detail"]) == (409, message)


def test_prefect_deploys_the_same_file(served: tuple[Path, ServingStatus]) -> None:
    """Prefect's own command registers the file from the repository root, with the values that we register."""
    _, seen = served
    assert seen.api_url is not None
    ours = registered(seen.api_url)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    subprocess.run(
        [*command, "--prefect-file", str(PREFECT_FILE)],
        cwd=REPOSITORY,
        env=os.environ | {"PREFECT_API_URL": seen.api_url, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert registered(seen.api_url) == ours


def registered(api_url: str) -> list[dict[str, Any]]:
    """What the server knows of each deployment, but for its parameters."""
    keys = (
        *("name", "entrypoint", "description", "tags", "work_pool_name", "job_variables", "pull_steps", "path"),
        *("concurrency_options", "schedules"),
    )
    found = ask(api_url, "deployments/filter", {"sort": "NAME_ASC"})
    limits = [(deployment["global_concurrency_limit"] or {}).get("limit") for deployment in found]
    return [{key: deployment[key] for key in keys} | {"limit": n} for deployment, n in zip(found, limits, strict=True)]


def test_every_deployment_has_the_same_keys() -> None:
    """A key that `up` does not read is not in the file."""
    entries = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]
    always = {"name", "entrypoint", "description", "tags", "work_pool"}
    assert {frozenset(entry) for entry in entries} <= {frozenset(always), frozenset(always | {"concurrency_limit"})}
    assert {frozenset(entry["work_pool"]) for entry in entries} == {frozenset({"name", "job_variables"})}
