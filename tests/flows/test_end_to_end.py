"""The whole job: text becomes a further-trained model that loads and generates."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from flows.serving.prefect_server import free_port
from tests.conftest import REPOSITORY, SHARED
from tests.flows.homes import new_home

CPT = str(Path(sys.executable).parent / "cpt")


@pytest.fixture
def cpt(home_with_schema, tmp_path):
    """Start the command on a configuration, in a home and a folder of its own."""
    environment = os.environ | {"CPT_HOME": str(new_home(home_with_schema, tmp_path / "home"))}

    def start(
        subcommand: str, config: dict, *arguments: str, as_json: bool = True, **variables: str
    ) -> subprocess.Popen[str]:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return subprocess.Popen(
            [CPT, subcommand, "config.yaml", *(["--json"] if as_json else []), *arguments],
            cwd=tmp_path,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def screen(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The result and the progress of a command that ends well."""
    stdout, stderr = process.communicate(timeout=550)
    assert process.returncode == 0, stderr
    return stdout, stderr


def finish(process: subprocess.Popen[str]) -> tuple[dict, str]:
    """The same of one with ``--json``."""
    stdout, stderr = screen(process)
    return json.loads(stdout), stderr


def generates(model_folder: str, prompt: str) -> str:
    """What the exported folder continues a prompt with, through the ordinary transformers classes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False, pad_token_id=1)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])


@pytest.fixture
def code_config(tmp_path) -> dict:
    """Source code of this repository continues the demo's base model."""
    documents = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "cpt_core").rglob("*.py"))]
    lines = [json.dumps({"text": document}) for document in documents]
    (tmp_path / "code.jsonl").write_text("\n".join(lines), encoding="utf-8")
    base = str(REPOSITORY / "deployments/models/demo-base")
    return {
        "name": "end-to-end",
        "store_uri": "store",
        "discovery": {"sources": [{"name": "code", "uris": ["code.jsonl"], "held_out_fraction": 0.2}]},
        "tokenization": {"tokenizer": base, "shard_size_bytes": "64KB"},
        "packing": {"row_len_tokens": 256},
        "training": {
            "model": base,
            "max_steps": 8,
            "global_batch_rows": 8,
            "micro_batch_rows": 2,
            "learning_rate": 1.0e-3,
            "warmup_steps": 2,
            "zero_stage": 3,
            "precision": "fp32",
            "launcher": {"processes_per_node": 2},
        },
    }


def test_text_becomes_a_better_model_and_the_second_run_is_done(cpt, code_config, tmp_path):
    """Two ranks, ZeRO-3, loss before and after, a folder that generates; then all is in the store, for export too."""
    summary, progress = finish(cpt("run", code_config))
    assert (summary["steps"], summary["world_size"], summary["num_nodes"]) == (8, 2, 1)
    assert summary["shards_total"] > 2
    loss = summary["held_out_loss"]["code"]
    assert loss["after"] < loss["before"] - 0.1
    assert "training      8 steps by 2 processes; loss" in progress
    assert generates(summary["hf_model_uri"], "def load_config(path: str)")

    again, progress = finish(cpt("run", code_config))
    assert progress.endswith("every stage is in the store already: nothing to do\n")
    assert "training      cached; loss" in progress
    assert again["held_out_loss"] == summary["held_out_loss"]
    assert (again["shards_cached"], again["is_cached"]) == (summary["shards_total"], True)

    exported, _ = finish(cpt("export", code_config, "--to", "exported"))
    assert (exported["steps"], exported["checkpoint_uri"]) == (8, summary["checkpoint_uri"])
    for path in Path(summary["hf_model_uri"]).iterdir():
        assert (tmp_path / "exported" / path.name).read_bytes() == path.read_bytes()


def test_a_cluster_starts_the_same_command_on_every_node(cpt, code_config):
    """Launcher env: after `cpt prepare`, two nodes run `cpt train`; the first evaluates, both name one model."""
    code_config["training"] |= {"max_steps": 2, "launcher": {"kind": "env", "num_nodes": 2}}
    too_early = cpt("train", code_config, WORLD_SIZE="2", RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    assert "run `cpt prepare CONFIG` once before" in too_early.communicate(timeout=300)[1]
    assert too_early.returncode == 2

    finish(cpt("prepare", code_config))
    meeting_point = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [cpt("train", code_config, RANK=str(rank), **meeting_point) for rank in (0, 1)]
    (first, _), (second, _) = (finish(node) for node in nodes)
    assert (first["steps"], first["num_nodes"], first["world_size"]) == (2, 2, 2)
    assert first["hf_model_uri"] == second["hf_model_uri"]
    assert list(first["held_out_loss"]) == ["code"]
    assert "held_out_loss" not in second


def kill_in_the_middle(run: subprocess.Popen[str], store: Path, step: int) -> None:
    """SIGKILL for the command and every process of its training, after this step."""
    deadline = time.monotonic() + 500
    while not any(len(path.read_bytes().splitlines()) > step for path in store.glob("training_runs/*/metrics.jsonl")):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[1]
        time.sleep(0.1)
    run.kill()
    run.communicate()
    for process in psutil.process_iter(["cmdline"]):
        if any(str(store) in argument for argument in process.info["cmdline"] or ()):
            process.kill()
            process.wait()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the model and the corpora of {SHARED}")
def test_a_real_model_is_continued_on_gsm8k(cpt, tmp_path):
    """Where the real parts are at hand: stories260K learns grade-school mathematics from 7,473 problems.

    The run is killed in the middle, and goes on; in the end the losses on held-out problems before and after are shown.
    """
    model = str(SHARED / "models/stories260K-hf")
    config = {
        "name": "gsm8k",
        "store_uri": "store",
        "discovery": {
            "sources": [
                {"name": "gsm8k-train", "uris": [str(SHARED / "corpora/gsm8k-train.jsonl")]},
                {
                    "name": "gsm8k-test",
                    "uris": [str(SHARED / "corpora/gsm8k-test.jsonl.gz")],
                    "held_out_fraction": 1.0,
                },
            ]
        },
        "tokenization": {"tokenizer": model, "shard_size_bytes": "1MB"},
        "packing": {"row_len_tokens": 512},
        "training": {
            "model": model,
            "max_steps": 20,
            "save_steps": 5,
            "global_batch_rows": 16,
            "learning_rate": 2.0e-3,
            "warmup_steps": 5,
            "zero_stage": 2,
            "precision": "fp32",
            "gradient_checkpointing": False,
            "launcher": {"processes_per_node": 2},
        },
    }
    kill_in_the_middle(cpt("run", config), tmp_path / "store", step=12)
    shown, progress = screen(cpt("run", config, as_json=False))
    summary, _ = finish(cpt("run", config))
    assert (summary["documents_in"], summary["documents_quarantined"], summary["shards_total"]) == (8792, 0, 6)
    assert (summary["shards_cached"], summary["steps"], summary["resumed_from_step"]) == (6, 20, 10)
    assert summary["padding_fraction"] < 0.1
    loss = summary["held_out_loss"]["gsm8k-test"]
    assert loss["after"] < loss["before"] - 0.5
    before, after, change = f"{loss['before']:.4f}", f"{loss['after']:.4f}", f"{loss['after'] - loss['before']:.4f}"
    assert f"held-out loss   before    after   change\ngsm8k-test      {before}   {after}  {change}\n" in shown
    for which, printed in (("base", before), ("trained", after)):
        assert re.search(rf"evaluation    {which} model(, cached)?: held-out loss gsm8k-test {printed}\n", progress)
    print(shown)
    exported, _ = finish(cpt("export", config, "--checkpoint", "20", "--to", "exported"))
    assert exported["checkpoint_uri"] == summary["checkpoint_uri"]
    assert generates(str(tmp_path / "exported"), "Tom has 3 apples.")
