"""Prefect's server dies in the middle of a run: the store is whole, and the next run goes on from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import write_jsonl
from tests.flows.homes import new_home

SLOW_SHARDS = """
import time
from cpt_core.storage import Store
from flows.command import main
publish = Store.publish
def slow(*arguments):
    time.sleep(0.5)
    publish(*arguments)
Store.publish = slow
main()
"""
"""The command, with shards that take half a second each."""
SHARDS = 12


@pytest.fixture
def start(home_with_schema, tmp_path, make_config):
    """Start ``cpt prepare`` on a corpus of some files."""
    for number in range(SHARDS):
        write_jsonl(tmp_path / f"corpus/{number:02}.jsonl", [f"document {number}"])
    config = make_config(orchestration={"workers": 1})
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    environment = os.environ | {"CPT_HOME": str(new_home(home_with_schema, tmp_path / "home"))}

    def run(program: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", program, "prepare", "config.yaml", "--json"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def kill_server(run: "subprocess.Popen[str]") -> None:
    """End the Prefect server of a run, with all its processes."""
    servers = [
        child
        for child in psutil.Process(run.pid).children(recursive=True)
        if "flows.serving.server_process" in child.cmdline()
    ]
    assert servers
    for server in servers:
        for process in [*server.children(recursive=True), server]:
            process.kill()


def records(folder: Path) -> set[Path]:
    """Committed token shards."""
    return set(folder.glob("store/tokens/*/artifact.json"))


def test_a_run_that_loses_its_server_goes_on_with_another_and_the_next_one_is_all_hits(start, tmp_path, until):
    """Killed in the middle, with all its processes: the run says so, waits for the new one, and ends well."""
    run = start(SLOW_SHARDS)
    until(lambda: len(records(tmp_path)) >= 3)
    kill_server(run)
    stdout, stderr = run.communicate(timeout=300)
    assert run.returncode == 0, stderr
    assert "Prefect's server ended with status -9 and is started again; the run goes on" in stderr
    assert "Traceback" not in stderr
    summary = json.loads(stdout)
    assert (summary["shards_computed"], summary["documents_out"]) == (SHARDS, SHARDS)

    again = start("from flows.command import main; main()")
    stdout, stderr = again.communicate(timeout=300)
    assert again.returncode == 0, stderr
    assert json.loads(stdout)["shards_cached"] == SHARDS
    assert json.loads(stdout)["artifacts"] == summary["artifacts"]
    assert list(tmp_path.glob("store/.tmp/*")) == []
