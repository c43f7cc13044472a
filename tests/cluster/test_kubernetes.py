"""Launcher kind kubernetes: what a Kubernetes API server would say about the pods."""

from pathlib import Path

import kubernetes_validate
import pytest

from cpt_core.launching.kubernetes import render_manifest
from tests.cpt_core.launching.test_kubernetes import job_in


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_pods_are_valid(version: str) -> None:
    """The pod of every kind of replica, by the published schema, with nothing in it that the schema does not know."""
    replicas = render_manifest(job_in(Path("/shared/runs/a1")))["spec"]["pytorchReplicaSpecs"]
    for kind in ("Master", "Worker"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, **replicas[kind]["template"]}
        assert kubernetes_validate.validate(pod, version, strict=True) == version
