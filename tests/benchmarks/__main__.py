"""Measures the data stages on this machine and prints one table: median of five, with the range.

The corpus is the demo's (Python's standard library) and the tokenizer is the demo's, so that nothing is downloaded.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cpt_core.config import PipelineConfig
from cpt_core.demo_corpus import write_demo_corpus
from cpt_core.discovery import discover_sources
from cpt_core.packing.plan import cut_documents, plan_best_fit
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from tests.conftest import REPOSITORY
from tests.pipeline import packed

REPEATS = 5
PLANNED_DOCUMENTS = 10_000_000


def main() -> None:
    """Print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, median of {REPEATS}\n")
    print("| what | median | min - max |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_demo_corpus(Path(folder) / "corpus")
        for workers in (1, os.cpu_count() or 1):
            measure(f"tokenization, {workers} worker(s), MB/s of jsonl", lambda n=workers: tokenize(Path(folder), n))
        measure("packing, token shards to packed shard, M tokens/s", lambda: pack(Path(folder)))
        measure("nothing to do, whole data half, s", lambda: rerun(Path(folder)))
    measure(f"best-fit plan of {PLANNED_DOCUMENTS:,} documents, M documents/s", plan)


def measure(what: str, run: Callable[[], float]) -> None:
    """One row of the table."""
    values = [run() for _ in range(REPEATS)]
    print(f"| {what} | {statistics.median(values):.2f} | {min(values):.2f} - {max(values):.2f} |", flush=True)


def config_of(folder: Path, store: Path) -> PipelineConfig:
    """The demo's corpus with a store of its own."""
    return PipelineConfig.model_validate(
        {
            "name": "bench",
            "store_uri": str(store),
            "discovery": {"sources": [{"name": "python", "uris": [str(folder / "corpus")]}]},
            "tokenization": {
                "tokenizer": str(REPOSITORY / "deployments/models/demo-base"),
                "shard_size_bytes": "500KB",
            },
        }
    )


def tokenize(folder: Path, workers: int) -> float:
    """MB of jsonl a second, from files to committed token shards."""
    with tempfile.TemporaryDirectory(dir=folder) as store_folder:
        config = config_of(folder, Path(store_folder))
        store, tokenizer = Store(store_folder), load_tokenizer(config.tokenization)
        started = time.perf_counter()
        manifest = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=store)
        with ThreadPoolExecutor(workers) as pool:
            tasks = [
                pool.submit(tokenize_shard, shard, config.tokenization, tokenizer=tokenizer, store=store)
                for shard in manifest.shards
            ]
            for task in tasks:
                task.result()
        return manifest.size_bytes / 1e6 / (time.perf_counter() - started)


def pack(folder: Path) -> float:
    """M tokens a second of the packing stage, by its own clock."""
    with tempfile.TemporaryDirectory(dir=folder) as store_folder:
        artifacts = packed(config_of(folder, Path(store_folder)))
        tokens = sum(artifact.counts["num_tokens"] for artifact in artifacts)
        return tokens / 1e6 / sum(artifact.seconds for artifact in artifacts)


def rerun(folder: Path) -> float:
    """Seconds of a second run over the same store."""
    store = folder / "warm"
    packed(config_of(folder, store))
    started = time.perf_counter()
    packed(config_of(folder, store))
    return time.perf_counter() - started


def plan() -> float:
    """M documents a second: cutting, planning and assigning log-normal lengths to rows of 8,192."""
    lengths = np.random.default_rng(0).lognormal(6.4, 1.1, PLANNED_DOCUMENTS).astype(np.int64) + 1
    started = time.perf_counter()
    plan_best_fit(cut_documents(lengths, 8192, "split"), 8192)
    return PLANNED_DOCUMENTS / 1e6 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
