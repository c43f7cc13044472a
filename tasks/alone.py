"""Stages that run outside a graph: one shard for ``cpt retry-shard``, one more node for ``cpt train``."""

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.errors import ConfigError
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, tokenize_shard
from cpt_core.training import train_model
from tasks.planning import plan_run


def tokenize_one(config: PipelineConfig, shard_name: str) -> Artifact:
    """Tokenize one shard and no other.

    Raises:
        ConfigError: when no shard has this name.
    """
    store = Store(config.store_uri)
    shards = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=store).shards
    wanted = next((shard for shard in shards if shard.name == shard_name), None)
    if wanted is None:
        raise ConfigError(
            f"{shard_name} is no shard of {config.name}; its {len(shards)} shards are {shards[0].name} to "
            f"{shards[-1].name}"
        )
    tokenizer = load_tokenizer(config.tokenization)
    return tokenize_shard(wanted, config.tokenization, tokenizer=tokenizer, store=store)


def join_training(config: PipelineConfig) -> Artifact:
    """This node's part of a job whose first node runs the flow: training, and nothing else.

    Raises:
        ConfigError: when the packed rows are not in the store yet.
    """
    prepared = plan_run(config, with_training=False).prepared
    if prepared is None:
        raise ConfigError(
            f"{config.store_uri}: the packed rows of {config.name} are not in the store; run `cpt prepare CONFIG` once "
            "before the cluster starts `cpt train CONFIG` on every node"
        )
    return train_model(
        prepared.train_rows,
        config.require_training(),
        store=Store(config.store_uri),
        name=config.name,
        tokenizer_uri=str(prepared.tokenizer.folder),
    )
