"""The indexing stage: token shards -> document index.

In: the manifest and its token shards, in the same order.
Out: an artifact with ``documents`` (one row a document) and ``shards`` (totals of each shard and split).
Promise: every document of every token shard is listed once; the split of a document depends only on its token
shard, its row and the seed, so that adding files moves no document between splits.
Never: opens a token shard that has no record, or decodes token ids.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cpt_core.artifacts import Artifact, Draft, commit, find, missing_files
from cpt_core.config import PipelineConfig
from cpt_core.errors import ConservationError, StoreError
from cpt_core.permutation import mix64, seed_from
from cpt_core.schemas import DOCUMENT_INDEX, HELD_OUT, SHARD_TOTALS, TOKEN_SHARD, TRAIN, require_columns
from cpt_core.storage import Store
from cpt_core.table_digest import TableDigest, table_digest
from cpt_core.table_file import TableFile

STAGE = "index"
STAGE_VERSION = 1
ROWS_IN_GROUP = 100_000
"""Of a row group: thousands of small shards must not become thousands of row groups."""
STORED_BYTES_PER_DOCUMENT = 4
"""Guess; only the message of a full disk relies on it."""


OnProgress = Callable[[int, int], None]
"""Called with (shards read, documents in them)."""


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


def build_index(
    shards: list[TokenizedShard],
    config: PipelineConfig,
    *,
    store: Store,
    on_progress: OnProgress = lambda shards, documents: None,
) -> Artifact:
    """List all documents of the token shards, or find the list in the store.

    Args:
        shards: in order of source (as configured) and ordinal.
        config: names, held-out fractions and the seed.
        store: where to commit.
        on_progress: told after each token shard.

    Raises:
        StoreError: when a token shard is not committed as its record says.
        ConservationError: when the index does not hold the documents that the records count.
    """
    key_parts = index_key_parts(shards, config)
    if (artifact := find(store, STAGE, config.name, key_parts)) is not None:
        return artifact
    started = time.perf_counter()
    num_documents = sum(shard.tokens.counts["documents_out"] for shard in shards)
    with store.staging(num_documents * STORED_BYTES_PER_DOCUMENT) as folder:
        staged = {"documents": folder / "documents.parquet", "shards": folder / "shards.parquet"}
        totals, counts, digest = _write_documents(staged["documents"], shards, config, store, on_progress)
        _require_conserved(counts, shards)
        shard_totals = pa.Table.from_pylist(totals, schema=SHARD_TOTALS)
        with TableFile(staged["shards"], SHARD_TOTALS) as writer:
            writer.write_table(shard_totals)
        logical = {"documents": digest, "shards": table_digest(SHARD_TOTALS, [shard_totals])}
        seconds = time.perf_counter() - started
        return commit(store, Draft(STAGE, config.name, key_parts, staged, counts, seconds, logical))


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


def _write_documents(
    path: Path, shards: list[TokenizedShard], config: PipelineConfig, store: Store, on_progress: OnProgress
) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """Write the list: (totals of each shard, counts, logical digest)."""
    fractions = {source.name: source.held_out_fraction for source in config.discovery.sources}
    totals: list[dict[str, Any]] = []
    reader, count, digest = _Reader(store, on_progress), _Count(), TableDigest(DOCUMENT_INDEX)
    with TableFile(path, DOCUMENT_INDEX, compression="zstd") as writer:
        for group in _row_groups(shards):
            lengths = [reader.lengths_of(shard) for shard in group]
            held_out = [
                is_held_out(shard.tokens.key, len(some), fractions[shard.source], config.packing.seed)
                for shard, some in zip(group, lengths, strict=True)
            ]
            totals += map(count.add, group, lengths, held_out)
            rows = _rows_of(group, lengths, held_out)
            digest.update(rows)
            if rows.num_rows:
                writer.write_table(rows)
    return totals, count.result(), digest.hexdigest()


def _row_groups(shards: list[TokenizedShard]) -> Iterator[list[TokenizedShard]]:
    """The shards of each row group; a table for each shard would take ten times the memory of a tiny one."""
    group: list[TokenizedShard] = []
    documents = 0
    for shard in shards:
        group.append(shard)
        documents += shard.tokens.counts["documents_out"]
        if documents >= ROWS_IN_GROUP:
            yield group
            group, documents = [], 0
    if group:
        yield group


class _Reader:
    """Reads token shards one after the other, and tells how many it has read."""

    def __init__(self, store: Store, on_progress: OnProgress) -> None:
        self._store, self._on_progress = store, on_progress
        self._shards = self._documents = 0

    def lengths_of(self, shard: TokenizedShard) -> NDArray[np.int32]:
        """int32[documents], in tokens."""
        if missing := missing_files(self._store, shard.tokens):
            raise StoreError(f"{shard.tokens.uri}: {', '.join(missing)} is gone or has another size; run again")
        with self._store.open_parquet(shard.tokens.path("tokens")) as parquet:
            require_columns(parquet.schema_arrow, TOKEN_SHARD, shard.tokens.uri)
            # A copy, for a view of a few numbers keeps kilobytes of Arrow's.
            lengths: NDArray[np.int32] = parquet.read(["num_tokens"], use_threads=False).column(0).to_numpy().copy()
        self._shards += 1
        self._documents += len(lengths)
        self._on_progress(self._shards, self._documents)
        return lengths


def _rows_of(
    shards: list[TokenizedShard], lengths: list[NDArray[np.int32]], held_out: list[NDArray[np.bool_]]
) -> pa.Table:
    """One row a document, of all these shards."""
    documents = [len(some) for some in lengths]
    sources = pa.array([shard.source for shard in shards], pa.string())
    splits = pa.DictionaryArray.from_arrays(np.concatenate(held_out).astype(np.int8), [TRAIN, HELD_OUT])
    return pa.Table.from_arrays(
        [
            sources.take(pa.array(np.repeat(np.arange(len(shards)), documents))),
            pa.array(np.repeat(np.array([shard.ordinal for shard in shards], dtype=np.int32), documents)),
            pa.array(np.concatenate([np.arange(some, dtype=np.int64) for some in documents])),
            pa.array(np.concatenate(lengths)),
            splits.dictionary_decode(),
        ],
        schema=DOCUMENT_INDEX,
    )


class _Count:
    """Documents and tokens of each source and split, as they are listed."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, str], dict[str, int]] = {}

    def add(self, shard: TokenizedShard, lengths: NDArray[np.int32], held_out: NDArray[np.bool_]) -> dict[str, Any]:
        """One more shard; its totals."""
        totals: dict[str, Any] = {"source": shard.source, "shard": shard.ordinal, "tokens_key": shard.tokens.key}
        for split, chosen in ((TRAIN, lengths[~held_out]), (HELD_OUT, lengths[held_out])):
            documents, tokens = len(chosen), int(chosen.sum(dtype=np.int64))
            totals |= {f"{split}_documents": documents, f"{split}_tokens": tokens}
            if documents:
                counted = self._sources.setdefault(
                    (shard.source, split), {"documents": 0, "tokens": 0, "max_tokens": 0}
                )
                counted["documents"] += documents
                counted["tokens"] += tokens
                counted["max_tokens"] = max(counted["max_tokens"], int(chosen.max()))
        return totals

    def result(self) -> dict[str, Any]:
        """Totals, and each source and split."""
        return {
            **{unit: sum(counted[unit] for counted in self._sources.values()) for unit in ("documents", "tokens")},
            "sources": [
                {"source": source, "split": split, **counted}
                for (source, split), counted in sorted(self._sources.items())
            ],
        }


def _require_conserved(counts: dict[str, Any], shards: list[TokenizedShard]) -> None:
    recorded = {
        "documents": sum(shard.tokens.counts["documents_out"] for shard in shards),
        "tokens": sum(shard.tokens.counts["tokens"] for shard in shards),
    }
    if any(counts[unit] != recorded[unit] for unit in recorded):
        raise ConservationError(f"indexing: the token shards record {recorded}, but their files hold {counts}")
