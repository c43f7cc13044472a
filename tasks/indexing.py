"""Task: list all documents."""

from typing import Any, cast

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from cpt_core.artifacts import Artifact, find, key_of
from cpt_core.claims import Claims
from cpt_core.config import PipelineConfig
from cpt_core.indexing import STAGE as INDEX_STAGE
from cpt_core.indexing import OnProgress, TokenizedShard, build_index, index_key_parts
from cpt_core.manifest import Manifest
from cpt_core.storage import Store
from tasks.pictures import document_lengths
from tasks.progress import StageProgress
from tasks.repeating import REPEATED
from tasks.run_page import show_drawn, show_table
from tasks.shards import tokenized_shards
from tasks.stage_lines import counted, describe_index
from tasks.tables import indexed_splits

STAGE = "indexing"


@task(
    name="index",
    task_run_name="index {config.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **REPEATED,
)
def index_documents(manifest: Manifest, tokens: list[Artifact], config: PipelineConfig) -> State[Any] | Artifact:
    """Token shards -> document index. The state is named Cached when the store had it."""
    progress = StageProgress(STAGE, len(tokens), "shards")
    store = Store(config.store_uri, config.verify)

    def follow(shards: int, documents: int) -> None:
        progress.reach(shards, counted(documents, "document"))

    index = _build_once(tokenized_shards(manifest, tokens), config, store, follow)
    progress.finish(describe_index(index))
    described = f"Index of {config.name}: {describe_index(index)}"
    picture = show_drawn(
        "document-lengths",
        lambda: document_lengths(index, config.packing.row_len_tokens, store),
        f"Documents of {config.name} by length",
    )
    show_table("indexing-table", indexed_splits(index), described, picture)
    return Completed(name="Cached", message="served from the store", data=index) if index.is_cached else index


def _build_once(
    shards: list[TokenizedShard], config: PipelineConfig, store: Store, on_progress: OnProgress
) -> Artifact:
    key_parts = index_key_parts(shards, config)
    with Claims(store) as claims:
        return claims.compute_once(
            key_of(key_parts),
            f"the index of {config.name}",
            lambda: find(store, INDEX_STAGE, config.name, key_parts),
            lambda: build_index(shards, config, store=store, on_progress=on_progress),
        )


def index_corpus(manifest: Manifest, tokens: list[Artifact], config: PipelineConfig) -> Artifact:
    """The document index of all token shards."""
    return cast(Artifact, index_documents(manifest, tokens, config, return_state=True).result())
