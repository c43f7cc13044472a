"""Tasks: pack groups of shards into rows."""

import os
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.errors import ShardsFailedError
from cpt_core.manifest import Manifest
from cpt_core.packing import PackGroup, pack_group, plan_pack_groups
from cpt_core.storage import Store
from tasks.batches import Outcome, compute_units, run_in_batches
from tasks.progress import StageProgress

STAGE = "packing"


@task(name="pack", task_run_name="pack {label}", cache_policy=NO_CACHE, persist_result=False)
def pack_batch(
    units: list[PackGroup],
    label: str,
    config: PipelineConfig,
    index: Artifact,
    pad_id: int,
    store: Store,
    progress: StageProgress,
) -> State[Any] | Outcome[PackGroup]:
    """Groups of shards -> packed shards. The state is named Cached when the store had them all."""
    return compute_units(
        units, _name, lambda group: pack_group(group, config.packing, index=index, pad_id=pad_id, store=store), progress
    )


def _name(group: PackGroup) -> str:
    return group.name


def pack_corpus(
    manifest: Manifest, tokens: list[Artifact], index: Artifact, pad_id: int, config: PipelineConfig
) -> list[Artifact]:
    """All packed shards, in order of split, source and group.

    Raises:
        ShardsFailedError: when some groups failed; the others are committed.
    """
    store = Store(config.store_uri)
    groups = pack_groups(manifest, tokens, index, config, store)
    progress = StageProgress(STAGE, len(groups), "groups")
    outcome = run_in_batches(
        pack_batch,
        groups,
        _name,
        {"config": config, "index": index, "pad_id": pad_id, "store": store, "progress": progress},
        config.orchestration.workers or os.cpu_count() or 1,
    )
    if outcome.failures:
        raise ShardsFailedError(STAGE, outcome.failures, "Mend the cause, then retry this run")
    packed = [outcome.results[group.name] for group in groups]
    progress.finish(describe_packed(packed))
    return packed


def pack_groups(
    manifest: Manifest, tokens: list[Artifact], index: Artifact, config: PipelineConfig, store: Store
) -> list[PackGroup]:
    """The groups of a run."""
    by_place = {
        (shard.source, shard.ordinal): artifact for shard, artifact in zip(manifest.shards, tokens, strict=True)
    }
    fractions = {source.name: source.held_out_fraction for source in config.discovery.sources}
    return plan_pack_groups(index, by_place, fractions, config.packing.group_size_tokens, store=store)


def describe_packed(packed: list[Artifact]) -> str:
    """The stage in one line."""
    cached = sum(artifact.is_cached for artifact in packed)
    rows, padding = (sum(artifact.counts[name] for artifact in packed) for name in ("rows", "padding_tokens"))
    row_len_tokens = packed[0].counts["row_len_tokens"] if packed else 0
    fraction = padding / (rows * row_len_tokens) if rows else 0.0
    return (
        f"{len(packed) - cached} groups computed, {cached} cached; {rows:,} rows of {row_len_tokens:,} tokens, "
        f"padding {fraction:.2%}"
    )
