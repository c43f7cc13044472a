"""A run over a finished corpus: what it does not load, open or call."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_core.config import TokenizationConfig
from cpt_core.model_folder import model_digest
from cpt_core.storage import Store
from cpt_core.tokenization import recall_tokenizer
from tasks.planning import plan_run
from tests.conftest import REPOSITORY, save_byte_tokenizer, write_jsonl
from tests.pipeline import packed

COMMAND = """
import json, os, sys

opened = []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)

from flows.command import app

try:
    app(sys.argv[1:])
finally:
    print(json.dumps({"opened": opened, "modules": sorted(sys.modules)}), file=sys.stderr)
"""

SLOW_TO_IMPORT = {
    "prefect",
    "torch",
    "transformers",
    "tokenizers",
    "gigatoken",
    "polars",
    "deepspeed",
    "huggingface_hub",
}


@pytest.fixture
def finished(tmp_path, make_config):
    """A configuration whose data stages are all in the store, planned once as every run is."""
    for number in range(5):
        write_jsonl(tmp_path / f"corpus/{number}.jsonl", [f"document {number}"])
    config = make_config()
    packed(config)
    assert plan_run(config, with_training=False).to_do() == []
    (tmp_path / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    return config


def test_nothing_of_the_corpus_is_opened_and_no_tokenizer_is_loaded(finished, tmp_path):
    """The process opens no input file, and never imports what could encode or orchestrate."""
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, "prepare", "config.yaml", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    summary, seen = json.loads(ran.stdout), json.loads(ran.stderr.splitlines()[-1])
    assert (summary["shards_total"], summary["shards_cached"], summary["shards_computed"]) == (5, 5, 0)
    assert [path for path in seen["opened"] if path.startswith(str(tmp_path / "corpus"))] == []
    assert [path for path in seen["opened"] if path.endswith("artifact.json")] != []
    assert SLOW_TO_IMPORT.intersection(seen["modules"]) == set()


def test_one_record_is_read_for_each_shard(finished, monkeypatch):
    """The work grows with the number of shards and by no more than that: no listing, one read and one size each."""
    calls = []
    for name in ("read_bytes", "size_bytes", "folders", "folders_ending"):
        original = getattr(Store, name)
        monkeypatch.setattr(
            Store,
            name,
            lambda self, first, *rest, name=name, original=original: (
                calls.append((name, first)) or original(self, first, *rest)
            ),
        )
    assert plan_run(finished, with_training=False).to_do() == []
    of_tokens = sorted(name for name, first in calls if first.startswith("tokens"))
    assert of_tokens == ["read_bytes"] * 5 + ["size_bytes"] * 5


def test_a_tokenizer_is_remembered_for_its_bytes_and_options(store, tmp_path):
    """The memory gives the very same tokenizer; another file or option is another memory; damage costs a second look."""
    folder = save_byte_tokenizer(tmp_path / "t")
    config = TokenizationConfig(tokenizer=str(folder))
    found = recall_tokenizer(config, store)
    assert recall_tokenizer(config, store) == found
    assert recall_tokenizer(config.model_copy(update={"add_bos": False}), store).bos_id is None
    save_byte_tokenizer(folder, adds_bos=True)
    assert recall_tokenizer(config, store).identity != found.identity
    memories = sorted(Path(store.root_uri, "tokenizer_memory").iterdir())
    assert len(memories) == 3
    for memory in memories:
        memory.write_bytes(b"{}")
    save_byte_tokenizer(folder)
    assert recall_tokenizer(config, store) == found


def test_the_weights_of_a_model_are_read_once(store, tmp_path, monkeypatch):
    """Until a file changes."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = model_digest(tmp_path, store)
    assert first == model_digest(tmp_path)
    with monkeypatch.context() as unreadable:
        unreadable.setattr("cpt_core.model_folder._sha256", lambda path: pytest.fail(f"{path} is read again"))
        assert model_digest(tmp_path, store) == first
    (tmp_path / "model.safetensors").write_bytes(b"WEIGHTS")
    assert model_digest(tmp_path, store) == model_digest(tmp_path) != first
