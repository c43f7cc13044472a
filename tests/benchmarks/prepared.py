"""Token shards and their index, as this project makes them: what packing starts from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.indexing import TokenizedShard, build_index
from cpt_core.storage import Store
from cpt_core.tokenization import TextTokenizer, choose_backend, load_tokenizer, tokenize_shard
from cpt_core.tokenization import tokenizer as tokenizer_module
from cpt_core.tokenization.engine import HUGGINGFACE
from tests.benchmarks.materials import FOLDER, tokenizer_folder


@dataclass(frozen=True)
class Prepared:
    """A tokenized and indexed corpus."""

    config: PipelineConfig
    shards: list[TokenizedShard]
    index: Artifact
    store: Store
    pad_id: int

    @property
    def token_files(self) -> list[str]:
        """The parquet files of the token shards."""
        return [str(self.store.local_path(shard.tokens.path("tokens"))) for shard in self.shards]

    @property
    def num_tokens(self) -> int:
        """Of all documents, with BOS and EOS."""
        return int(self.index.counts["tokens"])


def config_of(corpus: list[str], store_uri: Path, shard_size_bytes: int) -> PipelineConfig:
    """A configuration with this project's defaults."""
    return PipelineConfig.model_validate(
        {
            "name": "bench",
            "store_uri": str(store_uri),
            "discovery": {"sources": [{"name": "bench", "uris": corpus}]},
            "tokenization": {"tokenizer": str(tokenizer_folder()), "shard_size_bytes": shard_size_bytes},
        }
    )


def prepare(corpus: list[str], shard_size_bytes: int = 64_000_000) -> Prepared:
    """Tokenize and index, or find it in the benchmarks' own store."""
    config = config_of(corpus, FOLDER / "store", shard_size_bytes)
    store, tokenizer = Store(config.store_uri), load_tokenizer(config.tokenization)
    manifest = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=store)
    tokenizer = choose_backend(tokenizer, config.tokenization, manifest.size_bytes, store=store)
    shards = [
        TokenizedShard(
            shard.source, shard.ordinal, tokenize_shard(shard, config.tokenization, tokenizer=tokenizer, store=store)
        )
        for shard in manifest.shards
    ]
    return Prepared(config, shards, build_index(shards, config, store=store), store, tokenizer.pad_id)


def load_engines(tokenizer: TextTokenizer, on_progress: Callable[[Any], None] | None = None) -> None:
    """What a process does once, however much it then tokenizes."""
    tokenizer_module._engine.cache_clear()  # the process may have met the corpus before
    for backend in (tokenizer.backend, HUGGINGFACE):
        replace(tokenizer, backend=backend).engine()
    tokenizer.may_be_cut()
