"""The indexing stage: token shards -> document index.

In: the manifest and its token shards, in the same order.
Out: an artifact with ``documents`` (one row a document) and ``shards`` (totals of each shard and split).
Promise: every document of every token shard is listed once; the split of a document depends only on its token
shard, its row and the seed, so that adding files moves no document between splits.
Never: opens a token shard that has no record, or decodes token ids.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cpt_core.artifacts import Artifact, Draft, commit, find, missing_files
from cpt_core.config import PipelineConfig
from cpt_core.errors import ConservationError, StoreError
from cpt_core.permutation import mix64, seed_from
from cpt_core.schemas import DOCUMENT_INDEX, HELD_OUT, SHARD_TOTALS, TOKEN_SHARD, TRAIN, require_columns
from cpt_core.storage import Store

STAGE = "index"
STAGE_VERSION = 1


@dataclass(frozen=True)
class TokenizedShard:
    """A token shard and its place: source and ordinal within the source."""

    source: str
    ordinal: int
    tokens: Artifact


def index_key_parts(shards: list[TokenizedShard], config: PipelineConfig) -> dict[str, Any]:
    """What the index depends on."""
    return {
        "stage": STAGE,
        "stage_version": STAGE_VERSION,
        "seed": config.packing.seed,
        "sources": [
            {
                "name": source.name,
                "held_out_fraction": source.held_out_fraction,
                "token_shards": [shard.tokens.key for shard in shards if shard.source == source.name],
            }
            for source in config.discovery.sources
        ],
    }


def build_index(shards: list[TokenizedShard], config: PipelineConfig, *, store: Store) -> Artifact:
    """List all documents of the token shards, or find the list in the store.

    Args:
        shards: in order of source (as configured) and ordinal.
        config: names, held-out fractions and the seed.
        store: where to commit.

    Raises:
        StoreError: when a token shard is not committed as its record says.
        ConservationError: when the index does not hold the documents that the records count.
    """
    key_parts = index_key_parts(shards, config)
    if (artifact := find(store, STAGE, config.name, key_parts)) is not None:
        return artifact
    started = time.perf_counter()
    fractions = {source.name: source.held_out_fraction for source in config.discovery.sources}
    with store.staging() as folder:
        staged = {"documents": folder / "documents.parquet", "shards": folder / "shards.parquet"}
        totals = []
        with pq.ParquetWriter(staged["documents"], DOCUMENT_INDEX, compression="zstd") as writer:
            for shard in shards:
                documents = _documents_of(shard, fractions[shard.source], config.packing.seed, store)
                if documents.height:
                    writer.write_table(documents.to_arrow().cast(DOCUMENT_INDEX))
                totals.append(_totals_of(shard, documents))
        pq.write_table(pa.Table.from_pylist(totals, schema=SHARD_TOTALS), staged["shards"])
        counts = _counts(staged["documents"], shards)
        return commit(store, Draft(STAGE, config.name, key_parts, staged, counts, time.perf_counter() - started))


def is_held_out(tokens_key: str, num_rows: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which documents of a token shard are held out of training.

    Args:
        tokens_key: key of the token shard.
        num_rows: number of its documents.
        fraction: share to hold out, 0.0 to 1.0.
        seed: of the choice.

    Returns:
        bool[num_rows].
    """
    if fraction >= 1.0:
        return np.ones(num_rows, dtype=bool)
    scattered = mix64(np.arange(num_rows, dtype=np.uint64) ^ np.uint64(seed_from("split", seed, tokens_key)))
    return scattered < np.uint64(int(fraction * 2**64))


def _documents_of(shard: TokenizedShard, fraction: float, seed: int, store: Store) -> pl.DataFrame:
    if missing := missing_files(store, shard.tokens):
        raise StoreError(f"{shard.tokens.uri}: {', '.join(missing)} is gone or has another size; run again")
    with store.open(shard.tokens.path("tokens")) as stream:
        require_columns(pq.read_schema(stream), TOKEN_SHARD, shard.tokens.uri)
        stream.seek(0)
        lengths = pl.read_parquet(stream, columns=["num_tokens"])
    held_out = is_held_out(shard.tokens.key, lengths.height, fraction, seed)
    return lengths.select(
        source=pl.lit(shard.source),
        shard=pl.lit(shard.ordinal, pl.Int32),
        row=pl.int_range(pl.len(), dtype=pl.Int64),
        num_tokens="num_tokens",
        split=pl.when(pl.Series(held_out)).then(pl.lit(HELD_OUT)).otherwise(pl.lit(TRAIN)),
    )


def _totals_of(shard: TokenizedShard, documents: pl.DataFrame) -> dict[str, Any]:
    totals: dict[str, Any] = {
        "source": shard.source,
        "shard": shard.ordinal,
        "tokens_key": shard.tokens.key,
    }
    for split in (TRAIN, HELD_OUT):
        lengths = documents.filter(pl.col("split") == split)["num_tokens"]
        totals |= {f"{split}_documents": lengths.len(), f"{split}_tokens": int(lengths.cast(pl.Int64).sum())}
    return totals


def _counts(documents: Path, shards: list[TokenizedShard]) -> dict[str, Any]:
    per_source = (
        pl.scan_parquet(documents)
        .group_by("source", "split")
        .agg(
            documents=pl.len(),
            tokens=pl.col("num_tokens").cast(pl.Int64).sum(),
            max_tokens=pl.col("num_tokens").max(),
        )
        .sort("source", "split")
        .collect()
    )
    counts = {
        "documents": int(per_source["documents"].sum()),
        "tokens": int(per_source["tokens"].sum()),
        "sources": per_source.to_dicts(),
    }
    recorded = {
        "documents": sum(shard.tokens.counts["documents_out"] for shard in shards),
        "tokens": sum(shard.tokens.counts["tokens"] for shard in shards),
    }
    if any(counts[unit] != recorded[unit] for unit in recorded):
        raise ConservationError(f"indexing: the token shards record {recorded}, but their files hold {counts}")
    return counts
