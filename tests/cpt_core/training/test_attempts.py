"""A training whose flow is killed, and whose ranks are killed: found again, started anew, never started twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cpt_core.launching.status import Status
from cpt_core.storage import Store
from tests.small_training import last_word, small_training

STEPS = 30


def _start(command: list[str]) -> "subprocess.Popen[str]":
    search_path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search_path}, stdout=subprocess.PIPE, text=True)


def test_one_job_whatever_is_killed(
    tmp_path: Path, config_only_folder: Path, tokenizer_folder: Path, commit_rows: Any, until: Any
) -> None:
    """A second flow on the same output follows the job of the first; the first is killed and the job goes on; a rank is
    killed and the job starts again.
    """
    store = Store(str(tmp_path / "store"))
    command = small_training(
        store,
        commit_rows(store, 7).folder,
        model=config_only_folder,
        tokenizer=tokenizer_folder,
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
