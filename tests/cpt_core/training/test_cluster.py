"""Launcher kind env: the same program once a node, here two nodes on one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cpt_core.config import LauncherConfig
from cpt_core.launching.environment import free_port, local_environments
from cpt_core.launching.success import read_done
from cpt_core.storage import Store

PROGRAM = """
import json, sys
from cpt_core.artifacts import read_record
from cpt_core.config import TrainingConfig
from cpt_core.errors import CptError
from cpt_core.storage import Store
from cpt_core.training import train_model
told = json.loads(sys.argv[1])
store = Store(told["store"])
config = TrainingConfig(**told["config"])
try:
    trained = train_model([read_record(store, told["packed"])], config, store=store, name="tiny", tokenizer_uri=told["tokenizer"])
    print(json.dumps({"counts": trained.counts, "attempts": len(list(store.local_path("training_runs").glob("*/attempts/*/DONE.json")))}))
except CptError as error:
    print(json.dumps({"error": str(error)}))
"""


def _run_nodes(told: list[dict[str, Any]], cluster: dict[str, str]) -> list[dict[str, Any]]:
    """What the same program says on every node."""
    search_path = os.pathsep.join(filter(None, sys.path))
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(values)],
            env={**os.environ, **cluster, "RANK": str(node), "PYTHONPATH": search_path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for node, values in enumerate(told)
    ]
    try:
        return [json.loads(node.communicate(timeout=300)[0]) for node in nodes]
    finally:
        for started in nodes:
            started.kill()


def test_two_nodes(tmp_path: Path, model_folder: Path, tokenizer_folder: Path, commit_rows: Any) -> None:
    """Both nodes end with the same record; a node with another configuration is told so; a wrong size as well."""
    store = Store(str(tmp_path / "store"))
    config = {
        "model": str(model_folder),
        "global_batch_rows": 2,
        "micro_batch_rows": 1,
        "precision": "fp32",
        "zero_stage": 1,
        "device": "cpu",
        "launcher": {"kind": "env", "num_nodes": 2, "timeout_seconds": 60},
    }
    packed = commit_rows(store, 4).folder
    told = {"store": store.root_uri, "packed": packed, "tokenizer": str(tokenizer_folder), "config": config}
    cluster = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    other = {**told, "config": {**config, "seed": 1}}
    for refused in _run_nodes([told, other], cluster):
        assert refused["error"] == (
            "1 of 2 ranks were started with another configuration or other data than rank 0; start the same command "
            "with the same configuration on every node"
        )

    first, second = _run_nodes([told, told], cluster)
    assert first["counts"] == second["counts"]
    assert (first["counts"]["world_size"], first["counts"]["num_nodes"], first["counts"]["steps"]) == (2, 2, 2)
    assert second["attempts"] == 2

    (alone,) = _run_nodes([{**told, "config": {**config, "seed": 2}}], {**cluster, "WORLD_SIZE": "1"})
    assert "WORLD_SIZE is 1, expected num_nodes = 2" in alone["error"]


OTHER_WORLD_SIZE = """
from pathlib import Path
import torch
from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.training.job_file import TrainingJob
from cpt_core.training.ranks import Ranks
from cpt_core.training.worker import _require_global_batch
launcher = {"processes_per_node": 2}
config = TrainingConfig(model="m", global_batch_rows=8, micro_batch_rows=2, launcher=launcher)
job = TrainingJob("a1", "k", {}, config, *[Path("/nowhere")] * 4, "s", [])
for world_size in (2, 3):
    try:
        print(_require_global_batch(job, Ranks(0, world_size, torch.device("cpu"))))
    except ConfigError as error:
        print(error)
"""


def test_the_processes_that_met_are_those_of_the_global_batch() -> None:
    """Any other number of them would train on other batches than the plan says, and none does."""
    search_path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", OTHER_WORLD_SIZE]
    said = subprocess.run(command, env=os.environ | search_path, capture_output=True, text=True, timeout=300).stdout
    assert said.splitlines()[-2:] == [
        "None",
        "3 processes x 2 rows x 2 accumulation steps = 12 rows a step, expected global_batch_rows = 8; start 1 x 2"
        " processes",
    ]


SUCCESS = """
import os, resource, sys
from dataclasses import replace
from pathlib import Path
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from cpt_core.config import TrainingConfig
from cpt_core.training.job_file import TrainingJob
from cpt_core.training.ranks import join_ranks
from cpt_core.training.worker import _finish
folder = Path(sys.argv[1])
launcher = {"kind": "hostfile", "num_nodes": 2, "hostfile": "hosts"}
job = TrainingJob("a1", "k", {}, TrainingConfig(model="m", launcher=launcher), folder, folder, folder, folder, "s", [])
ranks = join_ranks(torch.device("cpu"), 60)
if not ranks.is_first:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
_finish(job, job, {"steps": 3}, ranks)
os._exit(0)
"""


def test_where_all_nodes_share_the_attempt_rank_0_alone_writes_its_record(tmp_path: Path) -> None:
    """With any launcher but env: the first rank of the second node, which here could write nothing, ends well."""
    (tmp_path / "model").mkdir()
    ranks = _start_ranks(SUCCESS, str(tmp_path))
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    assert read_done(tmp_path, "a1") == {"steps": 3, "model_files": {}}


LOST_RANK = """
import os, sys, time
os.environ["DS_ACCELERATOR"] = "cpu"
import torch, torch.distributed
from cpt_core.training.ranks import join_ranks
ranks = join_ranks(torch.device("cpu"), 5)
if ranks.is_first:
    started = time.monotonic()
    try:
        torch.distributed.new_group([0, 1])
    except torch.distributed.DistStoreError:
        print("gave up" if time.monotonic() - started < 20 else "late")
    sys.stdout.flush()
else:
    time.sleep(10)
os._exit(0)
"""


def test_a_lost_rank_is_given_up_in_time() -> None:
    """The timeout also holds for the groups that DeepSpeed makes for itself."""
    said = [rank.communicate(timeout=300)[0].splitlines()[-1:] for rank in _start_ranks(LOST_RANK)]
    assert said[0] == ["gave up"]


def _start_ranks(program: str, *arguments: str) -> list["subprocess.Popen[str]"]:
    """Two ranks of a program, as a launcher starts them."""
    search_path = os.pathsep.join(filter(None, sys.path))
    meeting_point = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    (launched,) = local_environments(LauncherConfig(), os.environ, port=1, num_cores=1)
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**launched, **meeting_point, "RANK": str(rank), "PYTHONPATH": search_path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
