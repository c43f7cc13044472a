"""The shards of a run and their places further down, as tasks and lookups both need them. Knows no Prefect.

In: a configuration; the manifest and what stands for its shards.
Out: the manifest with repairs, shards of equal content, the rows of the index, the groups of packing.
Promise: a lookup names exactly what the tasks would compute.
Never: reads a byte of an input file that is identified already.
"""

from cpt_core.artifacts import Artifact, key_of
from cpt_core.config import PipelineConfig
from cpt_core.discovery import OnProgress, discover_sources
from cpt_core.errors import ConfigError
from cpt_core.indexing import TokenizedShard
from cpt_core.manifest import Manifest, Shard
from cpt_core.packing import PackGroup, plan_pack_groups
from cpt_core.storage import Store
from cpt_core.tokenization import TextTokenizer, token_key_parts, with_repairs


def find_shards(config: PipelineConfig, store: Store, on_progress: OnProgress = lambda progress: None) -> Manifest:
    """The shards of a configuration, with their repairs."""
    manifest = discover_sources(
        config.discovery,
        config.tokenization.shard_size_bytes,
        store=store,
        workers=config.orchestration.workers,
        on_progress=on_progress,
    )
    return with_repairs(manifest, config.tokenization)


def find_shard(config: PipelineConfig, store: Store, name: str) -> Shard:
    """The shard of this name.

    Raises:
        ConfigError: when there is none.
    """
    shards = find_shards(config, store).shards
    for shard in shards:
        if shard.name == name:
            return shard
    raise ConfigError(
        f"{name} is no shard of {config.name}; its {len(shards)} shards are {shards[0].name} to {shards[-1].name}"
    )


def token_keys(manifest: Manifest, config: PipelineConfig, tokenizer: TextTokenizer) -> list[str]:
    """The key of each shard's tokens; of one that cannot be read, its problem."""
    return [
        shard.problem or key_of(token_key_parts(shard, config.tokenization, tokenizer)) for shard in manifest.shards
    ]


def first_of_each_key(keys: list[str]) -> list[int]:
    """For each position, the first one with an equal key: equal files are tokenized once."""
    first_by_key: dict[str, int] = {}
    return [first_by_key.setdefault(key, position) for position, key in enumerate(keys)]


def tokenized_shards(manifest: Manifest, tokens: list[Artifact]) -> list[TokenizedShard]:
    """Token artifacts with the places of their shards."""
    return [
        TokenizedShard(shard.source, shard.ordinal, artifact)
        for shard, artifact in zip(manifest.shards, tokens, strict=True)
    ]


def pack_groups(
    manifest: Manifest, tokens: list[Artifact], index: Artifact, config: PipelineConfig, store: Store
) -> list[PackGroup]:
    """The groups of a run."""
    by_place = {
        (shard.source, shard.ordinal): artifact for shard, artifact in zip(manifest.shards, tokens, strict=True)
    }
    fractions = {source.name: source.held_out_fraction for source in config.discovery.sources}
    return plan_pack_groups(index, by_place, fractions, config.packing.group_size_tokens, store=store)
