"""Stages that run outside a graph: one shard for ``cpt retry-shard``, one more node for ``cpt train``."""

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.errors import ConfigError
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer
from cpt_core.training import train_model
from tasks.computing import Tell, computing_shards
from tasks.planning import plan_run
from tasks.shards import find_shard


def tokenize_one(config: PipelineConfig, shard_name: str, tell: Tell) -> Artifact:
    """Tokenize one shard and no other.

    Args:
        config: of the run.
        shard_name: the shard.
        tell: told which engine of the tokenizer was chosen, and why; not when the store has the shard.

    Raises:
        ConfigError: when no shard has this name.
    """
    store = Store(config.store_uri, config.verify)
    wanted = find_shard(config, store, shard_name)
    with computing_shards([wanted], load_tokenizer(config.tokenization), store, config, tell) as compute:
        return compute(wanted)


def join_training(config: PipelineConfig) -> Artifact:
    """This node's part of a job whose first node runs the flow: training, and nothing else.

    Raises:
        ConfigError: when the packed rows are not in the store yet.
        InputError: when more lines are quarantined than the configuration allows.
    """
    plan = plan_run(config, with_training=False)
    plan.require_few_bad_lines()
    prepared = plan.prepared
    if prepared is None:
        raise ConfigError(
            f"{config.store_uri}: the packed rows of {config.name} are not in the store; run `cpt prepare CONFIG` once "
            "before the cluster starts `cpt train CONFIG` on every node"
        )
    return train_model(
        prepared.train_rows,
        config.require_training(),
        store=Store(config.store_uri, config.verify),
        name=config.name,
        tokenizer_uri=str(prepared.tokenizer.folder),
    )
