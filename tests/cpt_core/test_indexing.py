"""The document index."""

import polars as pl
import pytest

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.errors import StoreError
from cpt_core.indexing import TokenizedShard, build_index, is_held_out
from cpt_core.storage import Store
from tests.conftest import write_jsonl
from tests.pipeline import tokenized


def index_of(config: PipelineConfig) -> tuple[Artifact, list[TokenizedShard], Store]:
    """The index of a configuration's corpus."""
    shards, _, store = tokenized(config)
    return build_index(shards, config, store=store), shards, store


def two_sources(tmp_path, fraction: float = 0.0) -> dict:
    """Source a with two files, source b with one."""
    write_jsonl(tmp_path / "corpus/a/1.jsonl", ["x", "yy"])
    write_jsonl(tmp_path / "corpus/a/2.jsonl", ["zzz"])
    write_jsonl(tmp_path / "corpus/b/1.jsonl", ["wwww"])
    return {
        "discovery": {
            "sources": [
                {"name": "b", "uris": [str(tmp_path / "corpus/b")]},
                {"name": "a", "uris": [str(tmp_path / "corpus/a")], "held_out_fraction": fraction},
            ]
        }
    }


def test_every_document_is_one_row_in_order_of_source_shard_and_row(tmp_path, make_config):
    """Lengths count BOS and EOS; sources keep the configured order."""
    index, _, _ = index_of(make_config(**two_sources(tmp_path)))
    table = pl.read_parquet(f"{index.uri}/{index.files['documents'].name}")
    assert table.rows() == [
        ("b", 0, 0, 6, "train"),
        ("a", 0, 0, 3, "train"),
        ("a", 0, 1, 4, "train"),
        ("a", 1, 0, 5, "train"),
    ]
    assert index.counts == {
        "documents": 4,
        "tokens": 18,
        "sources": [
            {"source": "a", "split": "train", "documents": 3, "tokens": 12, "max_tokens": 5},
            {"source": "b", "split": "train", "documents": 1, "tokens": 6, "max_tokens": 6},
        ],
    }


def test_progress_moves_by_shard(tmp_path, make_config):
    """Also within a row group, which holds all three of them; a list from the store is told nothing of."""
    config = make_config(**two_sources(tmp_path))
    shards, _, store = tokenized(config)
    heard: list[tuple[int, int]] = []
    for _ in range(2):
        build_index(shards, config, store=store, on_progress=lambda *seen: heard.append(seen))
    assert heard == [(1, 1), (2, 3), (3, 4)]


def test_totals_of_every_shard_stand_beside_the_documents(tmp_path, make_config):
    """Packing plans its groups from them."""
    index, shards, _ = index_of(make_config(**two_sources(tmp_path, fraction=1.0)))
    table = pl.read_parquet(f"{index.uri}/{index.files['shards'].name}")
    keys = [shard.tokens.key for shard in shards]
    assert table.rows() == [
        ("b", 0, keys[0], 1, 6, 0, 0),
        ("a", 0, keys[1], 0, 0, 2, 7),
        ("a", 1, keys[2], 0, 0, 1, 5),
    ]


def test_an_unchanged_corpus_is_indexed_once(tmp_path, make_config):
    """The second time it comes from the store."""
    config = make_config(**two_sources(tmp_path))
    first, _, _ = index_of(config)
    again, _, _ = index_of(config)
    assert (first.is_cached, again.is_cached) == (False, True)


def test_another_order_of_sources_is_another_index(tmp_path, make_config):
    """The order of its rows is content, so it is in the key."""
    sections = two_sources(tmp_path)
    first, _, _ = index_of(make_config(**sections))
    sections["discovery"]["sources"].reverse()
    swapped, _, _ = index_of(make_config(**sections))
    assert first.key != swapped.key


def test_a_token_shard_whose_file_is_gone_is_refused(tmp_path, make_config):
    """What has no complete artifact is not indexed."""
    config = make_config(**two_sources(tmp_path))
    shards, _, store = tokenized(config)
    store.local_path(shards[1].tokens.path("tokens")).unlink()
    with pytest.raises(StoreError, match=r"a-00000-.*tokens-.*is gone or has another size"):
        build_index(shards, config, store=store)


def test_the_split_of_a_document_depends_on_its_shard_row_and_seed_alone():
    """About the wanted fraction is held out, a smaller fraction is part of a larger one, and seeds differ."""
    key = "ab" * 32
    tenth, half = is_held_out(key, 10_000, 0.1, 1), is_held_out(key, 10_000, 0.5, 1)
    assert 900 < tenth.sum() < 1100
    assert (half | ~tenth).all()
    assert (is_held_out(key, 5_000, 0.1, 1) == tenth[:5_000]).all()
    assert (is_held_out(key, 10_000, 0.1, 2) != tenth).any()
    assert not is_held_out(key, 10, 0.0, 1).any()
    assert is_held_out(key, 10, 1.0, 1).all()
