"""Launcher kind ``kubernetes``: a PyTorchJob of the Kubeflow training operator, one pod a node.

In: a job, what a pod needs.
Out: the manifest, written into the job's folder and submitted with kubectl; a handle that asks kubectl.
Promise: the manifest is a pure function of the job; the operator's variables are those of kind ``env``; a lost pod ends
the job, which is restarted as a whole.
Never: restarts single pods (a rank cannot join a running job), or writes a secret into the manifest.
"""

import json
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import yaml

from cpt_core.config import KubernetesConfig
from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.launching.job import Job, JobState
from cpt_core.launching.record import note_start

MANIFEST_NAME = "pytorchjob.yaml"
DEFAULT_PORT = 29500
SECONDS_BETWEEN_QUESTIONS = 5.0
_SECONDS_TO_STOP = 90.0
_PORT_NAME = "pytorchjob-port"


class KubernetesJob:
    """Handle of a PyTorchJob."""

    seconds_to_stop = _SECONDS_TO_STOP

    def __init__(self, job: Job, name: str, namespace: str) -> None:
        self._job = job
        self._name = name
        self._namespace = namespace
        self._is_over = False
        self._next_question = 0.0
        self._last_word = "nothing"

    @classmethod
    def start(cls, job: Job, base: Mapping[str, str]) -> "KubernetesJob":
        """Write the manifest and submit it."""
        manifest = render_manifest(job)
        path = job.folder / MANIFEST_NAME
        path.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
        handle = cls(job, manifest["metadata"]["name"], manifest["metadata"]["namespace"])
        try:
            answer = handle._kubectl("apply", "-f", str(path))
        except FileNotFoundError:
            note_start(job.folder, {"kind": "kubernetes", **handle.identity()})  # it may be submitted by hand
            raise ConfigError(
                f"kubectl is not in PATH, so the job was not submitted; its manifest is {path}: run `kubectl apply -f"
                f" {path}` where kubectl is, and this command again when the job has ended"
            ) from None
        if answer.returncode:
            raise JobFailedError(f"kubectl refused {path}: {answer.stderr.strip() or answer.stdout.strip()}")
        return handle

    @classmethod
    def attach(cls, job: Job, identity: dict[str, Any]) -> "KubernetesJob":
        """The job that was submitted before."""
        return cls(job, identity["name"], identity["namespace"])

    def identity(self) -> dict[str, Any]:
        """Its name in the cluster."""
        return {"name": self._name, "namespace": self._namespace}

    def poll(self) -> JobState:
        """``exited`` once the operator says that it has succeeded or failed, or knows it no longer."""
        if not self._is_over and time.monotonic() >= self._next_question:
            self._next_question = time.monotonic() + SECONDS_BETWEEN_QUESTIONS
            try:
                self._is_over = self._ask_whether_over()
            except FileNotFoundError:
                self._is_over = not self._has_running_ranks()
        return "exited" if self._is_over else "running"

    def stop(self) -> None:
        """Delete the job and wait for the end of its pods.

        Raises:
            ConfigError: when kubectl is not here, so that the job goes on.
        """
        if self.poll() == "exited":
            return
        delete = ("delete", "pytorchjob", self._name, "--ignore-not-found", "--cascade=foreground", "--timeout=90s")
        try:
            self._kubectl(*delete)
        except FileNotFoundError:
            raise ConfigError(
                f"kubectl is not in PATH, so the PyTorchJob {self._namespace}/{self._name} was not deleted and goes on:"
                f" run `kubectl --namespace={self._namespace} delete pytorchjob {self._name}` where kubectl is"
            ) from None
        self._is_over = True

    def trouble(self) -> str:
        """The operator's last word."""
        return f"PyTorchJob {self._namespace}/{self._name} ended; the operator said: {self._last_word}"

    def _ask_whether_over(self) -> bool:
        answer = self._kubectl("get", "pytorchjob", self._name, "--output=json")
        if answer.returncode:
            self._last_word = answer.stderr.strip()
            return "NotFound" in answer.stderr
        conditions = json.loads(answer.stdout).get("status", {}).get("conditions", [])
        holding = [condition for condition in conditions if condition.get("status") == "True"]
        if holding:
            self._last_word = f"{holding[-1].get('type')}: {holding[-1].get('message', '')}"
        return any(condition.get("type") in ("Succeeded", "Failed") for condition in holding)

    def _has_running_ranks(self) -> bool:
        """By the shared folder alone, for a job that was submitted by hand."""
        status = self._job.status()
        return bool(status.alive().keys() - status.ends().keys())

    def _kubectl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["kubectl", f"--namespace={self._namespace}", *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def render_manifest(job: Job) -> dict[str, Any]:
    """The PyTorchJob of a job."""
    launcher = job.launcher
    pod = launcher.kubernetes
    assert pod is not None
    replicas = {"Master": _replicas(1, job, pod)}
    if launcher.num_nodes > 1:
        replicas["Worker"] = _replicas(launcher.num_nodes - 1, job, pod)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": f"cpt-{job.attempt[:8]}",
            "namespace": pod.namespace,
            "labels": {"app.kubernetes.io/name": "cpt"},
            "annotations": {"cpt/attempt-folder": str(job.folder)},
        },
        "spec": {"runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 0}, "pytorchReplicaSpecs": replicas},
    }


def _replicas(count: int, job: Job, pod: KubernetesConfig) -> dict[str, Any]:
    return {
        "replicas": count,
        "restartPolicy": "Never",
        "template": {
            "spec": {
                "terminationGracePeriodSeconds": 30,
                "containers": [_container(job, pod)],
                "volumes": [
                    {"name": "shared", "persistentVolumeClaim": {"claimName": pod.volume_claim}},
                    {"name": "shm", "emptyDir": {"medium": "Memory"}},
                ],
            }
        },
    }


def _container(job: Job, pod: KubernetesConfig) -> dict[str, Any]:
    """The operator looks for a container and a port of these very names."""
    launcher = job.launcher
    container = {
        "name": "pytorch",
        "image": pod.image,
        "command": [pod.python, "-u", "-m", "cpt_core.launching.node", str(job.folder)],
        "ports": [{"name": _PORT_NAME, "containerPort": launcher.master_port or DEFAULT_PORT}],
        "env": [{"name": name, "value": value} for name, value in sorted(launcher.environment.items())],
        "resources": _resources(pod, launcher.processes_per_node),
        "volumeMounts": [
            {"name": "shared", "mountPath": pod.mount_path},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    if pod.environment_secret is not None:
        container["envFrom"] = [{"secretRef": {"name": pod.environment_secret}}]
    return container


def _resources(pod: KubernetesConfig, processes: int) -> dict[str, Any]:
    gpus = processes if pod.gpus_per_pod is None else pod.gpus_per_pod
    limits: dict[str, Any] = {"nvidia.com/gpu": gpus} if gpus else {}
    if pod.memory_per_pod is not None:
        limits["memory"] = pod.memory_per_pod
    if pod.cpus_per_pod is not None:
        limits["cpu"] = pod.cpus_per_pod
    return {"limits": limits}
