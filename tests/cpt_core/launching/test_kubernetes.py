"""Launcher kind kubernetes: the manifest, and a cluster that is a kubectl of our own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow.training import ApiClient

from cpt_core.config import KubernetesConfig, LauncherConfig
from cpt_core.errors import ConfigError
from cpt_core.launching.job import Job
from cpt_core.launching.kubernetes import KubernetesJob, render_manifest
from cpt_core.launching.launchers import launch
from cpt_core.launching.process_id import ProcessId
from cpt_core.launching.status import RankExit, SignOfLife
from cpt_core.launching.waiting import wait_for_job

POD = {
    "terminationGracePeriodSeconds": 30,
    "containers": [
        {
            "name": "pytorch",
            "image": "registry/cpt:1",
            "command": ["python", "-u", "-m", "cpt_core.launching.node", "/shared/runs/a1"],
            "ports": [{"name": "pytorchjob-port", "containerPort": 29500}],
            "env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}],
            "resources": {"limits": {"nvidia.com/gpu": 4, "memory": "512Gi", "cpu": 32}},
            "volumeMounts": [
                {"name": "shared", "mountPath": "/shared"},
                {"name": "shm", "mountPath": "/dev/shm"},
            ],
            "envFrom": [{"secretRef": {"name": "tokens"}}],
        }
    ],
    "volumes": [
        {"name": "shared", "persistentVolumeClaim": {"claimName": "shared-disk"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ],
}


def job_in(folder: Path, **changed: Any) -> Job:
    """Eight nodes of four GPUs."""
    pod = {
        "image": "registry/cpt:1",
        "namespace": "ml",
        "volume_claim": "shared-disk",
        "mount_path": "/shared",
        "cpus_per_pod": 32,
        "memory_per_pod": "512Gi",
        "environment_secret": "tokens",
    }
    launcher = LauncherConfig(
        kind="kubernetes",
        num_nodes=8,
        processes_per_node=4,
        environment={"NCCL_SOCKET_IFNAME": "eth0"},
        kubernetes=KubernetesConfig.model_validate(pod | changed),
    )
    return Job("m", folder / "job.json", folder, launcher, "0123abcdef")


def test_the_manifest() -> None:
    """A master and seven workers of one pod each, none of which is restarted alone; secrets only by reference."""
    manifest = render_manifest(job_in(Path("/shared/runs/a1")))
    assert manifest["metadata"] == {
        "name": "cpt-0123abcd",
        "namespace": "ml",
        "labels": {"app.kubernetes.io/name": "cpt"},
        "annotations": {"cpt/attempt-folder": "/shared/runs/a1"},
    }
    assert manifest["spec"] == {
        "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 0},
        "pytorchReplicaSpecs": {
            "Master": {"replicas": 1, "restartPolicy": "Never", "template": {"spec": POD}},
            "Worker": {"replicas": 7, "restartPolicy": "Never", "template": {"spec": POD}},
        },
    }


def as_known_to_the_operator(manifest: dict[str, Any]) -> Any:
    """The manifest through the models of the operator's own SDK, which drop what they do not know."""
    client, answer = ApiClient(), SimpleNamespace(data=json.dumps(manifest))
    return client.sanitize_for_serialization(client.deserialize(answer, "KubeflowOrgV1PyTorchJob"))


def test_the_operator_knows_every_field() -> None:
    """Nothing of the manifest is dropped, and no value is of another type; a misspelt field would be dropped.

    Its models write every quantity as a string, so those that may be numbers are left out here.
    """
    manifest = render_manifest(job_in(Path("/shared/runs/a1"), gpus_per_pod=0, cpus_per_pod=None))
    assert as_known_to_the_operator(manifest) == manifest
    manifest["spec"]["runPolicy"]["backOffLimit"] = 0
    assert as_known_to_the_operator(manifest) != manifest


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_pods_are_valid(version: str) -> None:
    """The pod of every kind of replica, by the published schema, with nothing in it that the schema does not know."""
    replicas = render_manifest(job_in(Path("/shared/runs/a1")))["spec"]["pytorchReplicaSpecs"]
    for kind in ("Master", "Worker"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, **replicas[kind]["template"]}
        assert kubernetes_validate.validate(pod, version, strict=True) == version


def test_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is written all the same, and one line says how to submit it by hand."""
    monkeypatch.setenv("PATH", str(tmp_path))
    job = job_in(tmp_path)
    path = tmp_path / "pytorchjob.yaml"
    with pytest.raises(ConfigError) as raised:
        KubernetesJob.start(job, {})
    assert str(raised.value) == (
        f"kubectl is not in PATH, so the job was not submitted; its manifest is {path}: run `kubectl apply -f {path}`"
        " where kubectl is, and this command again when the job has ended"
    )
    assert yaml.safe_load(path.read_text()) == render_manifest(job)


def test_a_job_that_was_submitted_by_hand_is_not_stopped_without_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ranks are seen in the shared folder, and one line says how to end them; when they have ended, there is nothing
    to stop.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    job, me = job_in(tmp_path), ProcessId.of(os.getpid())
    job.status().tell_alive(SignOfLife(0, 0, "pod0", "/logs/rank-00000.log", me, me, signs=1, meetings=0))
    handle = KubernetesJob.attach(job, {"name": "cpt-0123abcd", "namespace": "ml"})
    with pytest.raises(ConfigError) as raised:
        handle.stop()
    assert str(raised.value) == (
        "kubectl is not in PATH, so the PyTorchJob ml/cpt-0123abcd was not deleted and goes on: run `kubectl"
        " --namespace=ml delete pytorchjob cpt-0123abcd` where kubectl is"
    )
    assert handle.poll() == "running"
    job.status().tell_end(RankExit(rank=0, node=0, host="pod0", exit_code=0, log="/logs/rank-00000.log"))
    ended = KubernetesJob.attach(job, handle.identity())
    ended.stop()
    assert ended.poll() == "exited"


Say = Callable[[str], None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """A kubectl that notes what it is asked and answers what it is told."""
    said, asked = tmp_path / "said.json", tmp_path / "asked"
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexec cat {said}\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def say(kind: str) -> None:
        conditions = [{"type": "Created", "status": "True"}, {"type": kind, "status": "True", "message": "so it is"}]
        said.write_text(json.dumps({"status": {"conditions": conditions}}))

    return say


POD_WORK = """
import json, os, sys
from pathlib import Path
from cpt_core.launching.success import write_done
told = json.loads(Path(sys.argv[1]).read_text())
folder, names = Path(told["folder"]), ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "NCCL_SOCKET_IFNAME")
(folder / f"saw-{os.environ['RANK']}").write_text(" ".join(os.environ[name] for name in names))
if os.environ["RANK"] == "0":
    write_done(folder, "0123abcdef", {"pods": 2})
"""


def test_what_pods_do(tmp_path: Path, say: Say) -> None:
    """Two pods, started as the operator does, run two ranks each; the flow takes the result from the shared folder."""
    (tmp_path / "work_of_a_pod.py").write_text(POD_WORK)
    (tmp_path / "job.json").write_text(json.dumps({"folder": str(tmp_path)}))
    full = job_in(tmp_path)
    launcher = full.launcher.model_copy(update={"num_nodes": 2, "processes_per_node": 2})
    job = replace(full, module="work_of_a_pod", launcher=launcher)
    say("Running")
    handle = launch(job, num_cores=1)
    container = render_manifest(job)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    operator = {"WORLD_SIZE": "2", "MASTER_ADDR": "cpt-0123abcd-master-0", "MASTER_PORT": "29500"}
    search_path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    pods = [
        subprocess.Popen(
            [sys.executable, *container["command"][1:]],
            env={**os.environ, **variables, **operator, "RANK": str(node), "PYTHONPATH": search_path},
        )
        for node in range(2)
    ]
    assert [pod.wait(timeout=60) for pod in pods] == [0, 0]
    say("Succeeded")
    assert wait_for_job(job, handle) == {"pods": 2}
    assert [(tmp_path / f"saw-{rank}").read_text() for rank in range(4)] == [
        f"{rank} {rank % 2} 4 cpt-0123abcd-master-0 eth0" for rank in range(4)
    ]


def test_the_operators_words(tmp_path: Path, say: Say) -> None:
    """A job runs until the operator says Succeeded or Failed; stopping deletes it."""
    asked = tmp_path / "asked"
    say("Running")
    handle = KubernetesJob.start(job_in(tmp_path), {})
    assert handle.poll() == "running"
    again = KubernetesJob.attach(job_in(tmp_path), handle.identity())
    say("Failed")
    assert again.poll() == "exited"
    assert again.trouble() == "PyTorchJob ml/cpt-0123abcd ended; the operator said: Failed: so it is"
    handle.stop()
    assert handle.poll() == "exited"
    assert asked.read_text().splitlines() == [
        f"--namespace=ml apply -f {tmp_path / 'pytorchjob.yaml'}",
        "--namespace=ml get pytorchjob cpt-0123abcd --output=json",
        "--namespace=ml get pytorchjob cpt-0123abcd --output=json",
        "--namespace=ml delete pytorchjob cpt-0123abcd --ignore-not-found --cascade=foreground --timeout=90s",
    ]
