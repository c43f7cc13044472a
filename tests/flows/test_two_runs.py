"""Two runs of one configuration on one store at the same time."""

import json
import os
import subprocess
import sys

from tests.conftest import write_jsonl
from tests.flows.homes import new_home

MEETING_RUNS = """
import os
import time
from pathlib import Path
import tasks.computing
from cpt_core.claims import Claims
from flows.command import main
compute_once, tokenize_shard = Claims.compute_once, tasks.computing.tokenize_shard
def arrive(*arguments):
    Path(f"arrived-{os.getpid()}").touch()
    return compute_once(*arguments)
def tokenize(**arguments):
    while len(list(Path().glob("arrived-*"))) < 2:
        time.sleep(0.05)
    return tokenize_shard(**arguments)
Claims.compute_once, tasks.computing.tokenize_shard = arrive, tokenize
main()
"""
"""The command; no shard is computed before both runs have asked for their first one."""
SHARDS = 8


def test_no_shard_is_computed_twice_and_both_end_right(home_with_schema, tmp_path, make_config):
    """They meet before anything is computed: each shard is computed by one of them, and cached for the other; both name
    the same artifacts.
    """
    for number in range(SHARDS):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}"])
    config = make_config(orchestration={"workers": 2})
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    environment = os.environ | {"CPT_HOME": str(new_home(home_with_schema, tmp_path / "home"))}
    command = [sys.executable, "-c", MEETING_RUNS, "prepare", "config.yaml", "--json"]
    runs = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    first, second = (json.loads(stdout) for stdout, _ in ended)
    assert first["shards_computed"] + second["shards_computed"] == SHARDS
    assert first["shards_cached"] + second["shards_cached"] == SHARDS
    assert first["artifacts"] == second["artifacts"]
    assert [path for path in (tmp_path / "store/.claims").rglob("*") if path.is_file()] == []
