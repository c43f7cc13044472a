"""The packing stage: one group of token shards -> one committed packed shard.

In: a group, the document index.
Out: an artifact with the role ``rows``.
Promise: tokens in = tokens in rows + tokens dropped by policy; equal groups give equal bytes.
Never: holds more than the group in memory.
"""

import time
from typing import Any

import numpy as np

from cpt_core.artifacts import Artifact, Draft, commit, find
from cpt_core.config import PackingConfig
from cpt_core.errors import ConservationError
from cpt_core.fingerprint import fingerprint
from cpt_core.packing.groups import PackGroup
from cpt_core.packing.loading import load_group
from cpt_core.packing.plan import Ints, Plan, cut_documents, plan_best_fit, plan_concat, plan_greedy
from cpt_core.packing.rows import write_rows
from cpt_core.permutation import seed_from
from cpt_core.storage import Store

STAGE = "packed"
STAGE_VERSION = 2
STORED_BYTES_PER_TOKEN = 2
"""Guess; only the message of a full disk relies on it."""


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
    tokens = load_group(group, index, config.row_len_tokens, pad_id, store=store)
    plan = plan_rows(tokens.lengths, config, seed_from("packing", config.seed, fingerprint(key_parts)))
    counts = _counts(plan, tokens.lengths, group, config)
    with store.staging(counts["num_tokens"] * STORED_BYTES_PER_TOKEN) as folder:
        staged = folder / "rows.parquet"
        logical = {"rows": write_rows(staged, plan, tokens, config.row_len_tokens)}
        seconds = time.perf_counter() - started
        return commit(store, Draft(STAGE, group.name, key_parts, {"rows": staged}, counts, seconds, logical))


def plan_rows(lengths: Ints, config: PackingConfig, order_seed: int) -> Plan:
    """The plan for documents of these lengths."""
    # A stream is cut at row ends alone: cutting long documents before would put borders inside them.
    piece_len_tokens = max(1, int(lengths.max(initial=1))) if _is_stream(config) else config.row_len_tokens
    pieces = cut_documents(lengths, piece_len_tokens, config.long_documents)
    if config.strategy == "best_fit":
        return plan_best_fit(pieces, config.row_len_tokens, order_seed)
    return (plan_greedy if config.strategy == "greedy" else plan_concat)(pieces, config.row_len_tokens)


def _is_stream(config: PackingConfig) -> bool:
    return config.strategy == "concat" and config.long_documents == "split"


def _counts(plan: Plan, lengths: Ints, group: PackGroup, config: PackingConfig) -> dict[str, Any]:
    tokens_in, num_tokens = int(lengths.sum()), int(plan.pieces.num_tokens.sum())
    tokens_dropped = _tokens_dropped(lengths, config)
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


def _tokens_dropped(lengths: Ints, config: PackingConfig) -> int:
    """What the policy for long documents leaves out, counted without the plan."""
    longer = lengths[lengths > config.row_len_tokens]
    kept = {"split": int(longer.sum()), "truncate": len(longer) * config.row_len_tokens, "drop": 0}
    return int(longer.sum()) - kept[config.long_documents]
