"""The tokenization stage: one shard -> one committed token shard.

In: a shard, a tokenizer.
Out: an artifact with the roles ``tokens`` and, where lines were rejected, ``quarantine``.
Promise: documents in = documents out + quarantined; a rejected line is kept with file position and reason; memory
is bounded by one batch of lines.
Never: skips a line uncounted, or commits anything of a shard that failed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cpt_core.artifacts import Artifact, Draft, commit, find, key_of
from cpt_core.config import TokenizationConfig
from cpt_core.errors import EngineMismatchError, InputError
from cpt_core.manifest import Shard
from cpt_core.permutation import seed_from
from cpt_core.storage import Store
from cpt_core.tokenization.documents import read_documents
from cpt_core.tokenization.encoding import DocumentEncoder
from cpt_core.tokenization.parity import Verdict, remember_verdict
from cpt_core.tokenization.repairs import repairs_key_part
from cpt_core.tokenization.token_shard import TokenShardWriter
from cpt_core.tokenization.tokenizer import TextTokenizer

STAGE = "tokens"
STAGE_VERSION = 2
PARQUET_STAGE_VERSION = 3
"""Of parquet input, whose rejected rows lie in quarantine with their text since then."""
INPUT_BYTES_PER_STORED_BYTE = 3
"""Guess for text; only the message of a full disk relies on it."""


@dataclass(frozen=True)
class ShardProgress:
    """How far a shard is: documents, tokens, and bytes of lines read."""

    documents: int
    tokens: int
    size_bytes: int


def token_key_parts(shard: Shard, config: TokenizationConfig, tokenizer: TextTokenizer) -> dict[str, Any]:
    """What a token shard depends on. The position in the file is part of it, because line numbers are content."""
    return {
        "stage": STAGE,
        "stage_version": PARQUET_STAGE_VERSION if shard.format == "parquet" else STAGE_VERSION,
        "input": {
            **shard.identity,
            "format": shard.format,
            "first_byte": shard.first_byte,
            "first_line": shard.first_line,
            "size_bytes": shard.size_bytes,
        },
        "text_field": shard.text_field,
        "max_line_bytes": int(config.max_line_bytes),
        "max_unbroken_characters": config.max_unbroken_characters,
        "tokenizer": tokenizer.identity,
        **repairs_key_part(shard),
    }


def find_tokens(shard: Shard, config: TokenizationConfig, *, tokenizer: TextTokenizer, store: Store) -> Artifact | None:
    """The token shard that the store has, or None; also None for a shard with a problem."""
    return None if shard.problem else find(store, STAGE, shard.name, token_key_parts(shard, config, tokenizer))


def tokenize_shard(
    shard: Shard,
    config: TokenizationConfig,
    *,
    tokenizer: TextTokenizer,
    store: Store,
    on_progress: Callable[[ShardProgress], None] | None = None,
) -> Artifact:
    """Tokenize one shard, or find it in the store.

    Args:
        shard: what to read.
        config: options of the stage.
        tokenizer: the loaded tokenizer.
        store: where to commit.
        on_progress: called after each batch of lines.

    Raises:
        InputError: when the file cannot be read to its end; nothing is committed.
        EngineMismatchError: when the fast engine is caught giving other ids; nothing is committed.
        StoreError: when the store cannot be written; nothing is committed.
    """
    if shard.problem is not None:
        raise InputError(shard.problem)
    if (artifact := find_tokens(shard, config, tokenizer=tokenizer, store=store)) is not None:
        return artifact
    try:
        return _compute(shard, config, tokenizer, store, on_progress)
    except EngineMismatchError as error:
        remember_verdict(store, tokenizer.identity["tokenizer_json_sha256"], Verdict(False, "it was caught differing"))
        raise EngineMismatchError(f"{shard.uri}: {error}") from error


def _compute(
    shard: Shard,
    config: TokenizationConfig,
    tokenizer: TextTokenizer,
    store: Store,
    on_progress: Callable[[ShardProgress], None] | None,
) -> Artifact:
    started = time.perf_counter()
    with store.staging(shard.size_bytes // INPUT_BYTES_PER_STORED_BYTE) as folder:
        writer = TokenShardWriter(folder, tokenizer.special_tokens)
        key_parts = token_key_parts(shard, config, tokenizer)
        seed = seed_from("encoded by both engines", key_of(key_parts))
        encoder = DocumentEncoder(tokenizer, config.max_unbroken_characters, seed)
        size_bytes = 0
        for batch in read_documents(shard, config):
            encoded, kept = encoder.encode(batch)
            writer.add(kept, encoded)
            size_bytes += batch.size_bytes
            if on_progress:
                on_progress(ShardProgress(*writer.progress, size_bytes))
        staged, logical, counts = writer.close()
        counts["tokenizer_backend"] = tokenizer.backend
        seconds = time.perf_counter() - started
        return commit(store, Draft(STAGE, shard.name, key_parts, staged, counts, seconds, logical))
