"""The planner on a manifest of made-up shards."""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from cpt_core.config import PipelineConfig
from cpt_core.manifest import Manifest, Shard
from tasks.planning import plan_manifest
from tests.benchmarks.measure import tell
from tests.conftest import save_byte_tokenizer
from tests.memory import peak_rss_bytes

SHARD_SIZE_BYTES = 52_500_000
NUM_PARAMETERS = 8_030_261_248


def main(arguments: dict[str, Any]) -> None:
    """Plan as often as asked."""
    shards = arguments["shards"]
    with tempfile.TemporaryDirectory(dir=arguments["scratch"]) as folder:
        config = _config(Path(folder))
        before = psutil.Process().memory_info().rss
        manifest = Manifest(tuple(map(_shard, range(shards))), files=shards, bytes_read=0)
        manifest_bytes = psutil.Process().memory_info().rss - before
        seconds = []
        for _ in range(arguments["repeats"]):
            started = time.perf_counter()
            plan = plan_manifest(config, manifest, with_training=True)
            seconds.append(time.perf_counter() - started)
    tell(
        [shards / each for each in seconds],
        tokens=plan.tokens,
        seconds=round(sorted(seconds)[len(seconds) // 2], 1),
        manifest_rss_mb=round(manifest_bytes / 1e6),
        peak_rss_mb_of_process=round(peak_rss_bytes() / 1e6),
        gpu_hours=round(plan.gpu.gpu_hours) if plan.gpu else None,
        disk=plan.disk.line(),
    )


def _shard(ordinal: int) -> Shard:
    digest = hashlib.sha256(str(ordinal).encode()).hexdigest()
    uri = f"s3://corpus/part-{ordinal:07d}.jsonl.zst"
    return Shard("web", ordinal, uri, "zstd", "text", 0, SHARD_SIZE_BYTES, SHARD_SIZE_BYTES, 1, {"sha256": digest})


def _config(folder: Path) -> PipelineConfig:
    """A production run: the size of the model stands in the head of an otherwise empty file of weights."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    head = json.dumps({"weight": {"dtype": "BF16", "shape": [NUM_PARAMETERS], "data_offsets": [0, 0]}}).encode()
    (model / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    return PipelineConfig.model_validate(
        {
            "name": "web",
            "store_uri": str(folder / "store"),
            "discovery": {"sources": [{"name": "web", "uris": ["s3://corpus/"]}]},
            "tokenization": {"tokenizer": str(save_byte_tokenizer(folder / "tokenizer"))},
            "training": {
                "model": str(model),
                "peak_tflops": 989,
                "num_train_epochs": 1,
                "launcher": {"kind": "env", "num_nodes": 8, "processes_per_node": 4},
            },
        }
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
