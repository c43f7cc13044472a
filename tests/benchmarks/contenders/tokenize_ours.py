"""This project's tokenization stage, by worker processes or by threads: jsonl -> committed token shards.

With one worker the whole command has one core, for discovery and the followers of the workers are threads as well.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.storage import Store
from cpt_core.tokenization import TextTokenizer, choose_backend, load_tokenizer, tokenize_shard
from cpt_core.workers import WorkerPool
from tests.benchmarks.materials import FOLDER
from tests.benchmarks.measure import tell
from tests.benchmarks.prepared import config_of, load_engines


def main(arguments: dict[str, Any]) -> None:
    """Tokenize as often as asked, each time into an empty store and by engines that have not met a word yet."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments["workers"]])
    store_folder = Path(arguments["scratch"]) / "store"
    config = config_of([arguments["corpus"]], store_folder, arguments["shard_size_bytes"])
    size_bytes = Path(arguments["corpus"]).stat().st_size
    # The verdict on the engine is remembered in the benchmarks' own store, as a run remembers it in its store.
    tokenizer = choose_backend(
        load_tokenizer(config.tokenization), config.tokenization, size_bytes, store=Store(str(FOLDER / "store"))
    )
    seconds = []
    for _ in range(arguments["repeats"]):
        shutil.rmtree(store_folder, ignore_errors=True)
        with WorkerPool(arguments["workers"], silence_seconds=600) as pool:
            compute = _in_thread if arguments["threads"] else partial(_in_process, pool)
            with ThreadPoolExecutor(arguments["workers"]) as threads:
                each = range(arguments["workers"])
                list(threads.map(lambda _, c=compute: c(load_engines, tokenizer=tokenizer), each))
                started = time.perf_counter()
                tokens = tokenize(config, tokenizer, partial(compute, tokenize_shard), threads)
                seconds.append(time.perf_counter() - started)
    tell(
        [size_bytes / 1e6 / each for each in seconds],
        tokens=sum(artifact.counts["tokens"] for artifact in tokens),
    )


def _in_process(pool: WorkerPool, function: Callable[..., Any], **arguments: Any) -> Any:
    return pool.call(function, arguments, on_progress=lambda _: None)


def _in_thread(function: Callable[..., Any], **arguments: Any) -> Any:
    return function(**arguments)


def tokenize(
    config: PipelineConfig, tokenizer: TextTokenizer, compute: Callable[..., Artifact], threads: ThreadPoolExecutor
) -> list[Artifact]:
    """The whole stage."""
    store = Store(config.store_uri)
    manifest = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=store)
    common = {"config": config.tokenization, "tokenizer": tokenizer, "store": store}
    return list(threads.map(lambda shard: compute(shard=shard, **common), manifest.shards))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
