"""deployments/kubernetes against the schemas of Kubernetes, and against Prefect's server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cpt_core.config import PipelineConfig
from flows.serving.api import ask
from flows.serving.operation import up
from flows.serving.overview import ServingStatus
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "deployments/kubernetes"
KUBERNETES = "1.34"


def objects() -> list[dict[str, Any]]:
    """Every object of every manifest."""
    return [found for path in sorted(FOLDER.glob("*.yaml")) for found in yaml.safe_load_all(path.read_text())]


def name_of(found: dict[str, Any]) -> str:
    """Kind and name."""
    return f"{found['kind']} {found['metadata']['name']}"


def template() -> dict[str, Any]:
    """The base job template."""
    return json.loads((FOLDER / "work-pool.json").read_text())


@pytest.mark.parametrize("found", objects(), ids=name_of)
def test_manifests_follow_their_schemas(found):
    """Each object, with no field that its kind does not have."""
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_the_job_of_a_flow_run_follows_its_schema():
    """The template filled with its own defaults, and with what Prefect gives each run."""
    defaults = {name: field.get("default") for name, field in template()["variables"]["properties"].items()}
    given = {
        "name": "a-run",
        "command": ["prefect", "flow-run", "execute"],
        "env": [{"name": "PREFECT_API_URL", "value": "http://prefect-server.cpt:4200/api"}],
        "labels": {"prefect.io/flow-run-name": "a-run"},
        "annotations": {},
    }
    job = filled(template()["job_configuration"]["job_manifest"], defaults | given)
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"memory": "16Gi"}


def filled(value: Any, variables: dict[str, Any]) -> Any:
    """Placeholders replaced as Prefect does: whole ones by the value itself, those within a text by its words."""
    if isinstance(value, dict):
        return {key: filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    for name, replacement in variables.items():
        if value == f"{{{{ {name} }}}}":
            return replacement
        if isinstance(value, str):
            value = value.replace(f"{{{{ {name} }}}}", str(replacement))
    return value


def test_a_wrong_manifest_is_found():
    """The check can fail."""
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": 4200}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_commands_of_the_page_make_pool_rule_deployment_and_run(
    served: tuple[Path, ServingStatus], served_config: PipelineConfig, tmp_path: Path
) -> None:
    """The lines of docs/operations.md that begin with `config=` or `prefect`, as they stand there: the work pool has the
    template, the rule that ends silent runs is that of `cpt up`, the deployment has the configuration, and a run waits.
    """
    home, seen = served
    api_url = str(seen.api_url)
    (tmp_path / "my-domain.yaml").write_text(yaml.safe_dump(served_config.model_dump(mode="json")), encoding="utf-8")
    (tmp_path / "deployments").symlink_to(REPOSITORY / "deployments")
    section = (
        (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8").partition("## It shall run on Kubernetes")[2]
    )
    lines = [line for line in section.splitlines() if line.startswith(("config=", "prefect "))]
    assert len(lines) == 5
    rules_before = rules_of(api_url)
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        cwd=tmp_path,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        | {"PREFECT_API_URL": api_url, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    (pool,) = ask(api_url, "work_pools/filter", {"work_pools": {"name": {"any_": ["kubernetes"]}}})
    assert pool["base_job_template"] == template()
    (deployment,) = ask(api_url, "deployments/filter", {"deployments": {"name": {"any_": ["full-pipeline"]}}})
    assert deployment["work_pool_name"] == "kubernetes"
    assert deployment["parameters"] == {"config": served_config.model_dump(mode="json")}
    (made,) = [rule for found, rule in rules_of(api_url).items() if found not in rules_before]
    assert made in rules_before.values()
    (run,) = ask(api_url, "flow_runs/filter", {"work_pools": {"name": {"any_": ["kubernetes"]}}})
    assert (run["deployment_id"], run["state_type"]) == (deployment["id"], "SCHEDULED")

    for found in set(rules_of(api_url)) - set(rules_before):
        ask(api_url, f"automations/{found}", {}, method="DELETE")
    ask(api_url, f"flow_runs/{run['id']}", {}, method="DELETE")
    up(served_config, home=home)  # the deployment is on this machine again


def rules_of(api_url: str) -> dict[str, tuple[Any, ...]]:
    """Id -> what an automation is called, waits for and does."""
    return {
        rule["id"]: (rule["name"], rule["description"], _trigger(rule["trigger"]), rule["actions"])
        for rule in ask(api_url, "automations/filter", {})
    }


def _trigger(stored: dict[str, Any]) -> dict[str, Any]:
    """Without its id. The server keeps the kinds of event as sets: their order is any."""
    return {name: sorted(value) if isinstance(value, list) else value for name, value in stored.items() if name != "id"}
