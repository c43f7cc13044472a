"""The packing stage: one group of token shards -> one committed packed shard.

In: a group, the document index.
Out: an artifact with the role ``rows``.
Promise: tokens in = tokens in rows + tokens dropped by policy; equal groups give equal bytes.
Never: holds more than the group in memory.
"""

import time
from typing import Any

import numpy as np
import polars as pl

from cpt_core.artifacts import Artifact, Draft, commit, find
from cpt_core.config import PackingConfig
from cpt_core.errors import ConservationError
from cpt_core.fingerprint import fingerprint
from cpt_core.packing.groups import PackGroup
from cpt_core.packing.plan import (
    Pieces,
    Plan,
    cut_documents,
    plan_best_fit,
    plan_concat,
    plan_greedy,
    reorder_rows,
)
from cpt_core.packing.rows import GroupTokens, write_rows
from cpt_core.permutation import permute, seed_from
from cpt_core.storage import Store

STAGE = "packed"
STAGE_VERSION = 1
KEY_DIGITS = 12

_STRATEGIES = {"best_fit": plan_best_fit, "greedy": plan_greedy, "concat": plan_concat}


def pack_key_parts(group: PackGroup, config: PackingConfig, pad_id: int) -> dict[str, Any]:
    """What a packed shard depends on."""
    return {
        "stage": STAGE,
        "stage_version": STAGE_VERSION,
        "source": group.source,
        "split": group.split,
        "held_out_fraction": group.held_out_fraction,
        "token_shards": [artifact.key for _, artifact in group.shards],
        "row_len_tokens": config.row_len_tokens,
        "strategy": config.strategy,
        "long_documents": config.long_documents,
        "seed": config.seed,
        "pad_id": pad_id,
    }


def pack_group(group: PackGroup, config: PackingConfig, *, index: Artifact, pad_id: int, store: Store) -> Artifact:
    """Pack one group, or find it in the store.

    Args:
        group: which shards and which split.
        config: row length, strategy, policy for long documents, seed.
        index: the document index, which knows lengths and splits.
        pad_id: id that fills the ends of rows.
        store: where to commit.

    Raises:
        ConservationError: when tokens were lost or gained.
    """
    key_parts = pack_key_parts(group, config, pad_id)
    if (artifact := find(store, STAGE, group.name, key_parts)) is not None:
        return artifact
    started = time.perf_counter()
    tokens = _load(group, index, store)
    plan = plan_rows(tokens.lengths, config, seed_from("packing", config.seed, fingerprint(key_parts)))
    counts = _counts(plan, tokens.lengths, group, config)
    with store.staging() as folder:
        staged = folder / "rows.parquet"
        write_rows(staged, plan, tokens, config.row_len_tokens, pad_id)
        draft = Draft(STAGE, group.name, key_parts, {"rows": staged}, counts, time.perf_counter() - started)
        return commit(store, draft)


def plan_rows(lengths: np.ndarray[Any, np.dtype[np.int64]], config: PackingConfig, order_seed: int) -> Plan:
    """The plan for documents of these lengths; best_fit rows are put in a seeded order.

    Best-fit-decreasing gives rows in order of their longest document, which a reader that does not shuffle would
    otherwise see as a length curriculum.
    """
    # A stream is cut at row ends alone: cutting long documents before would put borders inside them.
    piece_len_tokens = max(1, int(lengths.sum())) if _is_stream(config) else config.row_len_tokens
    pieces: Pieces = cut_documents(lengths, piece_len_tokens, config.long_documents)
    plan = _STRATEGIES[config.strategy](pieces, config.row_len_tokens)
    if config.strategy == "best_fit" and plan.num_rows:
        return reorder_rows(plan, permute(np.arange(plan.num_rows), plan.num_rows, order_seed))
    return plan


def _is_stream(config: PackingConfig) -> bool:
    return config.strategy == "concat" and config.long_documents == "split"


def _load(group: PackGroup, index: Artifact, store: Store) -> GroupTokens:
    with store.open(index.path("documents")) as stream:
        ordinals = [ordinal for ordinal, _ in group.shards]
        wanted = (
            pl.scan_parquet(stream)
            .filter(
                (pl.col("source") == group.source)
                & pl.col("shard").is_between(ordinals[0], ordinals[-1])
                & pl.col("shard").is_in(ordinals)
                & (pl.col("split") == group.split)
            )
            .select("shard", "row", "num_tokens")
            .collect()
        )
    ids, shard_positions = [], []
    for position, (ordinal, artifact) in enumerate(group.shards):
        rows = wanted.filter(pl.col("shard") == ordinal)["row"]
        # Only the documents of this split: a small held-out part must not load the whole corpus.
        documents = store.read_table(artifact.path("tokens"), ["input_ids"]).column(0).take(rows.to_arrow())
        ids += [chunk.flatten().to_numpy() for chunk in documents.chunks]
        shard_positions.append(np.full(len(rows), position, dtype=np.int64))
    lengths = wanted["num_tokens"].to_numpy().astype(np.int64)
    return GroupTokens(
        source=group.source,
        ids=np.concatenate(ids),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        rows=wanted["row"].to_numpy(),
        shard=np.concatenate(shard_positions),
        tokens_keys=[artifact.key[:KEY_DIGITS] for _, artifact in group.shards],
    )


def _counts(
    plan: Plan, lengths: np.ndarray[Any, np.dtype[np.int64]], group: PackGroup, config: PackingConfig
) -> dict[str, Any]:
    tokens_in, num_tokens = int(lengths.sum()), int(plan.pieces.num_tokens.sum())
    kept = cut_documents(lengths, config.row_len_tokens, config.long_documents)
    tokens_dropped = tokens_in - int(kept.num_tokens.sum())
    if tokens_in != num_tokens + tokens_dropped:
        raise ConservationError(
            f"packing {group.name}: {tokens_in} tokens in, {num_tokens} in rows, {tokens_dropped} dropped by policy"
        )
    pieces_of = np.bincount(plan.pieces.document, minlength=len(lengths))
    return {
        "source": group.source,
        "split": group.split,
        "row_len_tokens": config.row_len_tokens,
        "rows": plan.num_rows,
        "documents": len(lengths),
        "documents_split": int((pieces_of > 1).sum()),
        "documents_dropped": int(((pieces_of == 0) & (lengths > 0)).sum()),
        "pieces": len(plan.pieces),
        "tokens_in": tokens_in,
        "tokens_dropped": tokens_dropped,
        "num_tokens": num_tokens,
        "padding_tokens": plan.num_rows * config.row_len_tokens - num_tokens,
    }
