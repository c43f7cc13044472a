"""Task: list all documents."""

from typing import Any, cast

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.indexing import TokenizedShard, build_index
from cpt_core.manifest import Manifest
from cpt_core.storage import Store
from tasks.progress import StageProgress

STAGE = "indexing"


@task(name="index", task_run_name="index {config.name}", cache_policy=NO_CACHE, persist_result=False)
def index_documents(manifest: Manifest, tokens: list[Artifact], config: PipelineConfig) -> State[Any] | Artifact:
    """Token shards -> document index. The state is named Cached when the store had it."""
    progress = StageProgress(STAGE, len(tokens), "shards")
    index = build_index(tokenized_shards(manifest, tokens), config, store=Store(config.store_uri))
    progress.finish(describe_index(index))
    return Completed(name="Cached", message="served from the store", data=index) if index.is_cached else index


def index_corpus(manifest: Manifest, tokens: list[Artifact], config: PipelineConfig) -> Artifact:
    """The document index of all token shards."""
    return cast(Artifact, index_documents(manifest, tokens, config, return_state=True).result())


def tokenized_shards(manifest: Manifest, tokens: list[Artifact]) -> list[TokenizedShard]:
    """Token artifacts with the places of their shards."""
    return [
        TokenizedShard(shard.source, shard.ordinal, artifact)
        for shard, artifact in zip(manifest.shards, tokens, strict=True)
    ]


def describe_index(index: Artifact) -> str:
    """The stage in one line."""
    how = "cached" if index.is_cached else "computed"
    return f"{how}; {index.counts['documents']:,} documents of {len(index.counts['sources'])} source splits"
