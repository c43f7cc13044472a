"""This project's packing stage, with as many groups at a time as there are cores."""

import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from cpt_core.artifacts import Artifact
from cpt_core.packing import pack_group, plan_pack_groups
from tests.benchmarks.measure import tell
from tests.benchmarks.prepared import Prepared, prepare


def main(arguments: dict[str, Any]) -> None:
    """Pack as often as asked, each time anew."""
    config = arguments["config"]
    prepared = prepare(config["discovery"]["sources"][0]["uris"])
    packing = prepared.config.packing.model_copy(update={"strategy": arguments["strategy"]})
    seconds = []
    for _ in range(arguments["repeats"]):
        shutil.rmtree(Path(prepared.config.store_uri) / "packed", ignore_errors=True)
        started = time.perf_counter()
        packed = pack(prepared, packing, arguments["workers"])
        seconds.append(time.perf_counter() - started)
    rows, row_len_tokens = sum(artifact.counts["rows"] for artifact in packed), packing.row_len_tokens
    tokens = sum(artifact.counts["num_tokens"] for artifact in packed)
    tell(
        [prepared.num_tokens / 1e6 / each for each in seconds],
        padding=f"{1 - tokens / (rows * row_len_tokens):.4%}",
        rows=rows,
        fewest_rows=-(-tokens // row_len_tokens),
        documents_cut=documents_cut(packed, row_len_tokens),
        tokens_lost=prepared.num_tokens - tokens,
    )


def pack(prepared: Prepared, packing: Any, workers: int) -> list[Artifact]:
    """The whole stage."""
    tokens = {(shard.source, shard.ordinal): shard.tokens for shard in prepared.shards}
    fractions = {source.name: source.held_out_fraction for source in prepared.config.discovery.sources}
    groups = plan_pack_groups(prepared.index, tokens, fractions, packing.group_size_tokens, store=prepared.store)
    with ThreadPoolExecutor(workers) as pool:
        return list(
            pool.map(
                lambda group: pack_group(
                    group, packing, index=prepared.index, pad_id=prepared.pad_id, store=prepared.store
                ),
                groups,
            )
        )


def documents_cut(packed: list[Artifact], row_len_tokens: int) -> int:
    """Documents of at most a row that are in more than one piece."""
    files = [f"{artifact.uri}/{artifact.files['rows'].name}" for artifact in packed]
    pieces = pl.scan_parquet(files).select("pieces").explode("pieces").unnest("pieces")
    documents = pieces.group_by("tokens_key", "document").agg(pl.len(), pl.col("num_tokens").sum())
    return documents.filter((pl.col("len") > 1) & (pl.col("num_tokens") <= row_len_tokens)).collect().height


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
