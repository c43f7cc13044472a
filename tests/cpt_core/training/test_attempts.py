"""A training whose flow is killed, and whose ranks are killed: found again, started anew, never started twice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cpt_core.config import TrainingConfig
from cpt_core.errors import JobFailedError, JobInterruptedError
from cpt_core.launching.status import Status
from cpt_core.storage import Store
from cpt_core.training import attempts, train_model
from tests.small_training import last_word

STEPS = 30
UNREACHABLE = "ssh: connect to host node0 port 22: No route to host"
SSH = """#!/bin/sh
if [ -e {folder}/down ]; then echo "{unreachable}" >&2; exit 255; fi
for command; do :; done
exec sh -c "$command"
"""
PDSH = """#!/bin/sh
while [ "$1" != -w ]; do shift; done
shift 2
exec sh -c "$(echo "$*" | sed s/%n/0/g)"
"""


def _start(command: list[str]) -> "subprocess.Popen[str]":
    search_path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search_path}, stdout=subprocess.PIPE, text=True)


def test_one_job_whatever_is_killed(tmp_path: Path, training_command: Any, until: Any) -> None:
    """A second flow on the same output follows the job of the first; the first is killed and the job goes on; a rank is
    killed and the job starts again.
    """
    command = training_command(
        launcher={"processes_per_node": 2, "max_restarts": 1},
        max_steps=STEPS,
        save_steps=2,
    )

    def folders(pattern: str) -> list[Path]:
        return sorted((tmp_path / "store" / "training_runs").glob(pattern))

    first = _start(command)
    second: subprocess.Popen[str] | None = None
    try:
        until(lambda: len(folders("*/attempts/*/status-0/alive-*.json")) == 2)
        (attempt,) = folders("*/attempts/*")
        second = _start(command)
        assert second.stdout is not None
        found = json.loads(second.stdout.readline())["notice"]
        assert found == f"attempt {attempt.name[:8]} is running already, and is followed from here on"
        assert first.poll() is None
        first.kill()
        first.wait()
        rank_1 = Status.newest(attempt).alive()[1].worker
        until(lambda: len(folders("*/checkpoints/step-*")) == 2, 240)
        assert folders("*/attempts/*") == [attempt]
        rank_1.send(signal.SIGKILL)
        said = last_word(second.communicate(timeout=300)[0])
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
    _, again = said["notices"]
    assert again.startswith(
        "starting again from the newest sealed checkpoint, 0 restarts left: cpt_core.training: rank 1"
    )
    assert len(folders("*/attempts/*")) == 2
    assert said["counts"]["steps"] == STEPS
    assert said["counts"]["resumed_from_step"] >= 4
    (metrics,) = folders("*/metrics.jsonl")
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, STEPS + 1))


@pytest.fixture
def one_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A launcher with one host: this machine, by an ssh and a pdsh that reach nothing while there is a file ``down``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, program in (("ssh", SSH.format(folder=tmp_path, unreachable=UNREACHABLE)), ("pdsh", PDSH)):
        (folder / name).write_text(program)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    (tmp_path / "hostfile").write_text("node0 slots=1\n")
    variables = {"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"}
    return {"kind": "hostfile", "hostfile": str(tmp_path / "hostfile"), "environment": variables}


def test_a_host_that_does_not_come_back_uses_up_the_restarts(
    tmp_path: Path,
    one_host: dict[str, Any],
    config_only_folder: Path,
    tokenizer_folder: Path,
    commit_rows: Any,
    until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is lost with its rank; each restart that finds it out of reach is told and followed by a pause. At a first start
    there is neither: the command ends at once.
    """
    monkeypatch.setattr(attempts, "_SECONDS_BEFORE_ANOTHER_TRY", 1.0)
    store, notices = Store(str(tmp_path / "store")), list[str]()
    packed = [commit_rows(store, 7)]

    def lose_the_host() -> None:
        folders = (tmp_path / "store" / "training_runs").glob
        until(lambda: any(folders("*/attempts/*/status-0/alive-00000.json")), 120)
        (tmp_path / "down").touch()
        (attempt,) = folders("*/attempts/*")
        Status.newest(attempt).alive()[0].worker.send(signal.SIGKILL)

    def train(**changed: Any) -> None:
        config = {
            "model": str(config_only_folder),
            "global_batch_rows": 2,
            "micro_batch_rows": 1,
            "precision": "fp32",
            "device": "cpu",
            "launcher": one_host | {"max_restarts": 3},
        }
        trained = TrainingConfig(**config | changed)
        tokenizer = str(tokenizer_folder)
        train_model(packed, trained, store=store, name="tiny", tokenizer_uri=tokenizer, on_notice=notices.append)

    Thread(target=lose_the_host).start()
    out_of_reach = f"1 of 1 hosts cannot take part, so nothing was started. node0: ssh says: {UNREACHABLE}"
    not_again = f"the job was broken off and could not be started again: {out_of_reach}"
    with pytest.raises(JobInterruptedError) as raised:
        train()
    assert str(raised.value) == not_again
    again = "starting again from the newest sealed checkpoint"
    assert notices[0].startswith(f"{again}, 2 restarts left: cpt_core.training: rank 0 on node 0 ended with signal 9")
    assert notices[1:] == [f"{again}, 1 restarts left: {not_again}", f"{again}, 0 restarts left: {not_again}"]
    with pytest.raises(JobFailedError) as refused:
        train(seed=7)
    assert (type(refused.value), str(refused.value)) == (JobFailedError, out_of_reach)
    assert len(notices) == 3
