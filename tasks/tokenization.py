"""Tasks: tokenize shards, alone or in batches."""

import os
from dataclasses import replace
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from cpt_core.artifacts import Artifact, key_of
from cpt_core.config import PipelineConfig
from cpt_core.errors import ShardsFailedError
from cpt_core.manifest import Manifest, Shard
from cpt_core.storage import Store
from cpt_core.tokenization import (
    TextTokenizer,
    load_tokenizer,
    quarantined_by_reason,
    remember_tokenizer,
    require_few_bad_lines,
    token_key_parts,
    tokenize_shard,
)
from tasks.batches import Outcome, compute_units, run_in_batches
from tasks.progress import StageProgress

STAGE = "tokenization"


@task(name="tokenize", task_run_name="tokenize {label}", cache_policy=NO_CACHE, persist_result=False)
def tokenize_batch(
    units: list[Shard],
    label: str,
    config: PipelineConfig,
    tokenizer: TextTokenizer,
    store: Store,
    progress: StageProgress,
) -> State[Any] | Outcome[Shard]:
    """Shards -> token shards. The state is named Cached when the store had them all."""
    return compute_units(
        units,
        _name,
        lambda shard: tokenize_shard(shard, config.tokenization, tokenizer=tokenizer, store=store),
        progress,
    )


def _name(shard: Shard) -> str:
    return shard.name


def tokenize_corpus(manifest: Manifest, config: PipelineConfig) -> tuple[TextTokenizer, list[Artifact]]:
    """All shards of the manifest, in its order.

    Raises:
        ShardsFailedError: when some shards failed; the others are committed.
        InputError: when more lines were quarantined than the configuration allows.
    """
    tokenizer = load_tokenizer(config.tokenization)
    store = Store(config.store_uri)
    remember_tokenizer(tokenizer, store)
    first_of_key = first_of_each_key(manifest, config, tokenizer)
    units = [shard for shard in manifest.shards if first_of_key[shard.name] is shard]
    progress = StageProgress(STAGE, len(units), "shards")
    outcome = run_in_batches(
        tokenize_batch,
        units,
        _name,
        {"config": config, "tokenizer": tokenizer, "store": store, "progress": progress},
        config.orchestration.workers or os.cpu_count() or 1,
    )
    if outcome.failures:
        raise ShardsFailedError(
            STAGE,
            outcome.failures,
            "Mend the cause, then retry this run, or one shard alone with `cpt retry-shard CONFIG SHARD`",
        )
    tokens = [
        _served(outcome.results[first.name], is_copy=first is not shard)
        for shard in manifest.shards
        for first in [first_of_key[shard.name]]
    ]
    progress.finish(describe_tokens(tokens))
    require_few_bad_lines(manifest.shards, tokens, config.tokenization.max_bad_fraction)
    return tokenizer, tokens


def first_of_each_key(manifest: Manifest, config: PipelineConfig, tokenizer: TextTokenizer) -> dict[str, Shard]:
    """For each shard by name, the first shard of equal content: equal files are tokenized once."""
    first_by_key: dict[str, Shard] = {}
    firsts = {}
    for shard in manifest.shards:
        key = shard.problem or key_of(token_key_parts(shard, config.tokenization, tokenizer))
        firsts[shard.name] = first_by_key.setdefault(key, shard)
    return firsts


def _served(artifact: Artifact, *, is_copy: bool) -> Artifact:
    return replace(artifact, is_cached=True) if is_copy else artifact


def describe_tokens(tokens: list[Artifact]) -> str:
    """The stage in one line."""
    cached = sum(artifact.is_cached for artifact in tokens)
    documents, num_tokens = (sum(artifact.counts[name] for artifact in tokens) for name in ("documents_out", "tokens"))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in quarantined_by_reason(tokens).items())
    return (
        f"{len(tokens) - cached} shards computed, {cached} cached; {documents:,} documents, {num_tokens:,} tokens, "
        f"quarantined: {reasons or 'none'}"
    )
