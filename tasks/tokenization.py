"""Tasks: tokenize shards, alone or in batches."""

import os
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from cpt_core.artifacts import Artifact
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
    progress = StageProgress(STAGE, len(manifest.shards), "shards")
    outcome = run_in_batches(
        tokenize_batch,
        list(manifest.shards),
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
    tokens = [outcome.results[shard.name] for shard in manifest.shards]
    progress.finish(describe_tokens(tokens))
    require_few_bad_lines(tokens, config.tokenization.max_bad_fraction)
    return tokenizer, tokens


def describe_tokens(tokens: list[Artifact]) -> str:
    """The stage in one line."""
    cached = sum(artifact.is_cached for artifact in tokens)
    documents, num_tokens = (sum(artifact.counts[name] for artifact in tokens) for name in ("documents_out", "tokens"))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in quarantined_by_reason(tokens).items())
    return (
        f"{len(tokens) - cached} shards computed, {cached} cached; {documents:,} documents, {num_tokens:,} tokens, "
        f"quarantined: {reasons or 'none'}"
    )
