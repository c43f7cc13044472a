"""The data stages in a row, without Prefect: for tests that start further down."""

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.indexing import TokenizedShard, build_index
from cpt_core.packing import pack_group, plan_pack_groups
from cpt_core.storage import Store
from cpt_core.tokenization import TextTokenizer, load_tokenizer, remember_tokenizer, tokenize_shard


def tokenized(config: PipelineConfig) -> tuple[list[TokenizedShard], TextTokenizer, Store]:
    """Token shards of a corpus with their places."""
    store = Store(config.store_uri, config.verify)
    tokenizer = load_tokenizer(config.tokenization)
    remember_tokenizer(tokenizer, store)
    manifest = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=store)
    shards = [
        TokenizedShard(
            shard.source,
            shard.ordinal,
            tokenize_shard(shard, config.tokenization, tokenizer=tokenizer, store=store),
        )
        for shard in manifest.shards
    ]
    return shards, tokenizer, store


def packed(config: PipelineConfig) -> list[Artifact]:
    """Packed shards of a corpus."""
    shards, tokenizer, store = tokenized(config)
    index = build_index(shards, config, store=store)
    groups = plan_pack_groups(
        index,
        {(shard.source, shard.ordinal): shard.tokens for shard in shards},
        {source.name: source.held_out_fraction for source in config.discovery.sources},
        config.packing.group_size_tokens,
        store=store,
    )
    return [pack_group(group, config.packing, index=index, pad_id=tokenizer.pad_id, store=store) for group in groups]
