"""Ctrl-C and SIGTERM: seconds to the end, one line, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import write_jsonl
from tests.flows.homes import new_home

LONG_SHARD = """
import time
from cpt_core.storage import Store
from flows.command import main
publish = Store.publish
def slow(*arguments):
    time.sleep(60)
    publish(*arguments)
Store.publish = slow
main()
"""
"""The command, with a shard that takes a minute to be finished."""


@pytest.fixture
def environment(home_with_schema, tmp_path, make_config) -> dict[str, str]:
    """A home, a configuration and a document."""
    write_jsonl(tmp_path / "corpus/1.jsonl", ["one", "two"])
    (tmp_path / "config.yaml").write_text(make_config().model_dump_json(), encoding="utf-8")
    return os.environ | {"CPT_HOME": str(new_home(home_with_schema, tmp_path / "home"))}


def start(program: str, environment: dict[str, str], folder: Path) -> "subprocess.Popen[str]":
    """``cpt prepare`` as a shell in the foreground starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", program, "prepare", "config.yaml", "--json"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        restore_signals=True,
    )


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_within_ten_seconds(number, exit_code, environment, tmp_path, until):
    """In the middle of a shard that would take a minute; nothing of it is visible."""
    run = start(LONG_SHARD, environment, tmp_path)
    until(lambda: list(tmp_path.glob("store/.tmp/*/*")))
    sent = time.monotonic()
    run.send_signal(number)
    stdout, stderr = run.communicate(timeout=300)
    assert time.monotonic() - sent < 10
    assert run.returncode == exit_code
    what = f"stopped by {number.name}; what is committed stays: run the same command again to go on from there"
    assert stderr.splitlines()[-1] == f"cpt: {what}"
    assert "Traceback" not in stderr
    assert json.loads(stdout) == {"error": what, "shards_failed": []}
    assert list(tmp_path.glob("store/tokens/*/*")) == []


def test_a_second_signal_ends_the_run_at_once_and_the_next_run_goes_on(environment, tmp_path, until):
    """Who asks twice does not wait; what the ended run staged is collected."""
    run = start(LONG_SHARD, environment, tmp_path)
    until(lambda: list(tmp_path.glob("store/.tmp/*/*")))
    run.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    sent = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=300)
    assert time.monotonic() - sent < 4
    assert run.returncode == 143
    assert stderr.splitlines()[-1].startswith("cpt: stopped by SIGTERM")

    again = start("from flows.command import main; main()", environment, tmp_path)
    stdout, stderr = again.communicate(timeout=300)
    assert again.returncode == 0, stderr
    assert json.loads(stdout)["documents_out"] == 2
    assert list(tmp_path.glob("store/.tmp/*")) == []


LONG_STOP = """
import sys, time
from cpt_core.config import LauncherConfig
from flows.command import running, stopping
from tasks.listening import Progress
stopping.GRACE_SECONDS = 0.5
stopping.end_on_signals()
launcher = LauncherConfig(kind=sys.argv[1], num_nodes=1)
running.grace_of(launcher)(Progress("training", 0, 1, "steps", ""))
try:
    print("training", flush=True)
    time.sleep(60)
finally:
    time.sleep(2)
    print("stopped", flush=True)
"""
"""A command whose job takes two seconds to end, where half a second is allowed to processes of this machine."""


@pytest.mark.parametrize(("kind", "said"), [("local", ""), ("slurm", "stopped\n")])
def test_a_job_on_other_machines_is_given_the_time_to_end(kind, said):
    """By the kind of its launcher."""
    command = subprocess.Popen([sys.executable, "-c", LONG_STOP, kind], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    assert command.stdout.readline() == "training\n"
    command.send_signal(signal.SIGTERM)
    assert command.communicate(timeout=300)[0] == said
    assert command.returncode == 143
