"""A corpus of many tiny files, and the ways to prepare it."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from cpt_core.config import PipelineConfig
from cpt_core.indexing import build_index
from cpt_core.packing import pack_group
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from tasks.shards import find_shards, pack_groups, tokenized_shards
from tests.conftest import REPOSITORY, save_byte_tokenizer

_COMMAND = [sys.executable, "-c", "from flows.command import main; main()"]


def write_many_shards(folder: Path, shards: int) -> Path:
    """A corpus of so many files of one document, a tokenizer, and a configuration; returns its path."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number in range(shards):
        (corpus / f"{number:05d}.jsonl").write_text(json.dumps({"text": f"document {number}"}) + "\n")
    config = {
        "name": "many",
        "store_uri": str(folder / "store"),
        "discovery": {"sources": [{"name": "a", "uris": [str(corpus)]}]},
        "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
        "packing": {"row_len_tokens": 64},
    }
    path = folder / "config.json"  # JSON is YAML
    path.write_text(json.dumps(config))
    return path


def add_training(config: Path) -> None:
    """One step of a tiny random model, in the same configuration."""
    from transformers import LlamaConfig  # takes seconds, and few callers train

    model = config.parent / "model"
    LlamaConfig(
        vocab_size=258, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    ).save_pretrained(model)
    training = {"model": str(model), "max_steps": 1, "global_batch_rows": 1, "micro_batch_rows": 1, "zero_stage": 0}
    training |= {"precision": "fp32", "device": "cpu", "launcher": {"kind": "local", "processes_per_node": 1}}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"training": training}))


def seconds_of_command(config: Path, home: Path, command: str = "prepare") -> tuple[float, float]:
    """Wall time of ``cpt prepare``, or another command, from the shell, and of the stages by the graph's own clock.

    Raises:
        subprocess.CalledProcessError: when it fails.
    """
    environment = os.environ | {"CPT_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    started = time.perf_counter()
    ran = subprocess.run(
        [*_COMMAND, command, str(config), "--json"], env=environment, check=True, stdout=subprocess.PIPE
    )
    wall = time.perf_counter() - started
    return wall, sum(json.loads(ran.stdout)["seconds"].values())


def seconds_of_stages(config: Path, store_uri: Path) -> float:
    """Wall time of the stages alone, into a store of their own."""
    loaded = PipelineConfig.model_validate(json.loads(config.read_text()) | {"store_uri": str(store_uri)})
    started = time.perf_counter()
    _run_stages(loaded)
    return time.perf_counter() - started


def task_runs(home: Path) -> tuple[int, int]:
    """Task runs in the database of the last embedded server: in all, and without a final state."""
    with closing(sqlite3.connect(home / "embedded" / "0" / "prefect.db")) as database:
        states: dict[str, int] = dict(database.execute("SELECT state_type, COUNT(*) FROM task_run GROUP BY 1"))
    final = sum(states.get(state, 0) for state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
    return sum(states.values()), sum(states.values()) - final


def _run_stages(config: PipelineConfig) -> Any:
    store, tokenizer = Store(config.store_uri), load_tokenizer(config.tokenization)
    manifest = find_shards(config, store)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tokens = list(
            pool.map(
                lambda shard: tokenize_shard(shard, config.tokenization, tokenizer=tokenizer, store=store),
                manifest.shards,
            )
        )
    index = build_index(tokenized_shards(manifest, tokens), config, store=store)
    groups = pack_groups(manifest, tokens, index, config, store)
    return [pack_group(group, config.packing, index=index, pad_id=tokenizer.pad_id, store=store) for group in groups]
