"""Tasks: pack groups of shards into rows."""

from dataclasses import dataclass
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from cpt_core.artifacts import Artifact, find, key_of
from cpt_core.claims import Claims
from cpt_core.config import PipelineConfig
from cpt_core.errors import ShardsFailedError
from cpt_core.manifest import Manifest
from cpt_core.packing import PackGroup, pack_group, pack_key_parts
from cpt_core.packing.stage import STAGE as PACKED_STAGE
from cpt_core.storage import Store
from tasks.batches import Outcome, compute_units, run_in_batches
from tasks.computing import num_workers
from tasks.pictures import row_fill
from tasks.progress import StageProgress
from tasks.remedies import how_to_retry
from tasks.repeating import REPEATED
from tasks.run_log import library_log_in_run
from tasks.run_page import show_drawn, show_table
from tasks.runners import RunCluster, thread_runner
from tasks.shards import pack_groups
from tasks.stage_lines import describe_packed
from tasks.tables import packed_splits

STAGE = "packing"


@dataclass(frozen=True)
class GroupPacker:
    """How a group becomes a packed shard: from the store or in this process."""

    config: PipelineConfig
    index: Artifact
    pad_id: int
    store: Store
    claims: Claims

    def has(self, group: PackGroup) -> bool:
        """Whether the store has it."""
        return self._find(group) is not None

    def compute(self, group: PackGroup) -> Artifact:
        """Its packed shard."""
        key = key_of(pack_key_parts(group, self.config.packing, self.pad_id))
        return self.claims.compute_once(key, group.name, lambda: self._find(group), lambda: self._pack(group))

    def _find(self, group: PackGroup) -> Artifact | None:
        return find(self.store, PACKED_STAGE, group.name, pack_key_parts(group, self.config.packing, self.pad_id))

    def _pack(self, group: PackGroup) -> Artifact:
        return pack_group(group, self.config.packing, index=self.index, pad_id=self.pad_id, store=self.store)


OPTIONS: dict[str, Any] = {
    "name": "pack",
    "task_run_name": "pack {label}",
    "cache_policy": NO_CACHE,
    "persist_result": False,
    **REPEATED,
}


@task(**OPTIONS)
def pack_batch(units: list[PackGroup], label: str, packer: GroupPacker) -> State[Any] | Outcome[PackGroup]:
    """Groups of shards -> packed shards. The state is named Cached when the store had them all."""
    return compute_units(units, _name, packer.compute)


@task(**OPTIONS)
def pack_on_worker(
    units: list[PackGroup], label: str, index: Artifact, pad_id: int, config: PipelineConfig
) -> State[Any] | Outcome[PackGroup]:
    """The same on a machine that has nothing of this run but the store."""
    store = Store(config.store_uri, config.verify)
    with library_log_in_run(), Claims(store) as claims:
        return compute_units(units, _name, GroupPacker(config, index, pad_id, store, claims).compute)


def _name(group: PackGroup) -> str:
    return group.name


def pack_corpus(
    manifest: Manifest,
    tokens: list[Artifact],
    index: Artifact,
    pad_id: int,
    config: PipelineConfig,
    cluster: RunCluster,
) -> list[Artifact]:
    """All packed shards, in order of split, source and group.

    Raises:
        ShardsFailedError: when some groups failed; the others are committed.
    """
    store = Store(config.store_uri, config.verify)
    groups = pack_groups(manifest, tokens, index, config, store)
    progress = StageProgress(STAGE, len(groups), "groups")
    outcome = _pack(groups, index, pad_id, store, config, cluster, progress)
    if outcome.failures:
        raise ShardsFailedError(STAGE, outcome.failures, how_to_retry("SHARD"))
    packed = [outcome.results[group.name] for group in groups]
    progress.finish(describe_packed(packed))
    _show(packed, config, store)
    return packed


def _pack(
    groups: list[PackGroup],
    index: Artifact,
    pad_id: int,
    store: Store,
    config: PipelineConfig,
    cluster: RunCluster,
    progress: StageProgress,
) -> Outcome[PackGroup]:
    def note(group: PackGroup, packed: Artifact) -> None:
        how = "cached" if packed.is_cached else "computed"
        progress.advance(1, f"{group.name} {how}, {packed.counts['rows']:,} rows")

    with Claims(store) as claims:
        packer = GroupPacker(config, index, pad_id, store, claims)
        if config.orchestration.runner == "threads" or all(map(packer.has, groups)):
            with thread_runner(num_workers(config)) as runner:
                return run_in_batches(pack_batch, groups, _name, {"packer": packer}, runner, packer.has, note)
        sent = {"index": index, "pad_id": pad_id, "config": config}
        return run_in_batches(pack_on_worker, groups, _name, sent, cluster.runner(), packer.has, note)


def _show(packed: list[Artifact], config: PipelineConfig, store: Store) -> None:
    described = f"Packing of {config.name}: {describe_packed(packed)}"
    picture = show_drawn("packing-fill", lambda: row_fill(packed, store), described)
    show_table("packing-table", packed_splits(packed), described, picture)
