"""Tasks: tokenize shards, alone or in batches."""

import logging
from dataclasses import replace
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.errors import ShardsFailedError
from cpt_core.manifest import Manifest, Shard
from cpt_core.storage import Store
from cpt_core.tokenization import (
    TextTokenizer,
    load_tokenizer,
    recall_tokenizer,
    remember_tokenizer,
    require_few_bad_lines,
    tokenizer_here,
)
from tasks.batches import Outcome, compute_units, run_in_batches
from tasks.computing import ShardComputer, computing_shards, num_workers
from tasks.progress import StageProgress
from tasks.remedies import how_to_retry
from tasks.repeating import REPEATED
from tasks.reports import Report, following
from tasks.run_log import library_log_in_run
from tasks.run_page import show_table
from tasks.runners import RunCluster, thread_runner
from tasks.shards import find_shard, first_of_each_key, token_keys
from tasks.stage_lines import counted, describe_tokens
from tasks.tables import failed_shards, rejected_lines, tokenized_sources

STAGE = "tokenization"

logger = logging.getLogger(__name__)


OPTIONS: dict[str, Any] = {
    "name": "tokenize",
    "task_run_name": "tokenize {label}",
    "cache_policy": NO_CACHE,
    "persist_result": False,
    **REPEATED,
}


@task(**OPTIONS)
def tokenize_batch(units: list[Shard], label: str, compute: ShardComputer) -> State[Any] | Outcome[Shard]:
    """Shards -> token shards. The state is named Cached when the store had them all."""
    return compute_units(units, _name, compute)


@task(**OPTIONS)
def tokenize_on_worker(
    units: list[Shard], label: str, tokenizer: TextTokenizer, config: PipelineConfig
) -> State[Any] | Outcome[Shard]:
    """The same on a machine that has nothing of this run but the store."""
    store = Store(config.store_uri, config.verify)
    tokenizer = tokenizer_here(tokenizer, store)
    with (
        library_log_in_run(),
        computing_shards(units, tokenizer, store, config, logger.debug, report=Report()) as compute,
    ):
        return compute_units(units, _name, compute)


def _name(shard: Shard) -> str:
    return shard.name


def tokenize_corpus(
    manifest: Manifest, config: PipelineConfig, cluster: RunCluster
) -> tuple[TextTokenizer, list[Artifact]]:
    """All shards of the manifest, in its order.

    Raises:
        ShardsFailedError: when some shards failed; the others are committed.
        InputError: when more lines were quarantined than the configuration allows.
    """
    store = Store(config.store_uri, config.verify)
    tokenizer = recall_tokenizer(config.tokenization, store)
    remember_tokenizer(tokenizer, store)
    firsts = first_of_each_key(token_keys(manifest, config, tokenizer))
    units = [shard for position, shard in enumerate(manifest.shards) if firsts[position] == position]
    progress = StageProgress(STAGE, len(units), "shards")
    outcome = _tokenize(units, tokenizer, store, config, cluster, progress)
    tokens = {
        shard.name: _served(outcome.results[name], is_copy=name != shard.name)
        for shard, first in zip(manifest.shards, firsts, strict=True)
        if (name := manifest.shards[first].name) in outcome.results
    }
    _show(manifest, tokens, outcome.failures, config)
    _require_all(outcome)
    ordered = [tokens[shard.name] for shard in manifest.shards]
    progress.finish(describe_tokens(ordered))
    require_few_bad_lines(manifest.shards, ordered, config.tokenization.max_bad_fraction)
    return tokenizer, ordered


def tokenize_alone(config: PipelineConfig, shard_name: str, cluster: RunCluster) -> Artifact:
    """One shard and no other.

    Raises:
        ConfigError: when no shard has this name.
        ShardsFailedError: when it failed.
    """
    store = Store(config.store_uri, config.verify)
    shard = find_shard(config, store, shard_name)
    progress = StageProgress(STAGE, 1, "shards")
    outcome = _tokenize([shard], load_tokenizer(config.tokenization), store, config, cluster, progress)
    _require_all(outcome)
    tokens = outcome.results[shard_name]
    progress.finish(describe_tokens([tokens]))
    return tokens


def _tokenize(
    shards: list[Shard],
    tokenizer: TextTokenizer,
    store: Store,
    config: PipelineConfig,
    cluster: RunCluster,
    progress: StageProgress,
) -> Outcome[Shard]:
    with computing_shards(shards, tokenizer, store, config, progress.remark, progress.advance) as compute:
        if config.orchestration.runner == "threads" or all(map(compute.has, shards)):
            with thread_runner(num_workers(config)) as runner:
                return run_in_batches(tokenize_batch, shards, _name, {"compute": compute}, runner, compute.has)
        remember_tokenizer(tokenizer, store)
        sent = {"tokenizer": compute.tokenizer, "config": config}
        missing = {compute.key(shard): shard for shard in shards if not compute.has(shard)}
        runner = cluster.runner()
        with following(store, missing, compute.heard):
            return run_in_batches(tokenize_on_worker, shards, _name, sent, runner, compute.has, compute.arrived)


def _require_all(outcome: Outcome[Shard]) -> None:
    if outcome.failures:
        raise ShardsFailedError(STAGE, outcome.failures, how_to_retry(min(outcome.failures)))


def _show(manifest: Manifest, tokens: dict[str, Artifact], failures: dict[str, str], config: PipelineConfig) -> None:
    described = f"Tokenization of {config.name}: {describe_tokens(list(tokens.values()))}"
    show_table("tokenization-table", tokenized_sources(manifest, tokens, failures), described)
    rejected = "Rejected lines, by file; `cpt quarantine list CONFIG` and `cpt quarantine show CONFIG` have each line"
    show_table("rejected-lines", rejected_lines(manifest, tokens), rejected)
    show_table(
        "failed-shards", failed_shards(failures), f"{counted(len(failures), 'shard')} failed. {how_to_retry('SHARD')}"
    )


def _served(artifact: Artifact, *, is_copy: bool) -> Artifact:
    return replace(artifact, is_cached=True) if is_copy else artifact
