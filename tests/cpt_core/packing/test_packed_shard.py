"""Rows as they lie on disk."""

import json

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpt_core.artifacts import Artifact
from tests.conftest import SHARED, byte_ids, write_jsonl
from tests.pipeline import packed


def rows(artifact: Artifact) -> list[dict]:
    """All rows of a packed shard."""
    return pq.read_table(f"{artifact.uri}/{artifact.files['rows'].name}").to_pylist()


def test_greedy_rows_token_by_token(tmp_path, make_config):
    """Rows of 8: BOS + text + EOS, padding (EOS, for want of a pad token) at the end and as the last segment."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["ab", "c", "defghi", "jkl"])
    (artifact,) = packed(make_config(packing={"row_len_tokens": 8, "strategy": "greedy"}))
    assert [(row["input_ids"], row["seq_lengths"], row["num_tokens"]) for row in rows(artifact)] == [
        ([0, *byte_ids("ab"), 1, 0, *byte_ids("c"), 1, 1], [4, 3, 1], 7),
        ([0, *byte_ids("defghi"), 1], [8], 8),
        ([0, *byte_ids("jkl"), 1, 1, 1, 1], [5, 3], 5),
    ]


def test_every_piece_says_where_its_tokens_come_from(tmp_path, make_config):
    """Source, token shard, document, first token, length: also for the parts of a long document."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["abcdefgh", "xy"])
    (artifact,) = packed(make_config(packing={"row_len_tokens": 6, "strategy": "greedy"}))
    key = rows(artifact)[0]["pieces"][0]["tokens_key"]
    assert artifact.key_parts["token_shards"][0].startswith(key)
    pieces = [[tuple(piece.values()) for piece in row["pieces"]] for row in rows(artifact)]
    assert pieces == [
        [("a", key, 0, 0, 6)],
        [("a", key, 0, 6, 4)],
        [("a", key, 1, 0, 4)],
    ]


def test_concat_puts_no_border_inside_a_document(tmp_path, make_config):
    """A long document is cut at row ends alone: documents of 5 and 25 tokens are four segments in three rows."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["abc", "x" * 23])
    (artifact,) = packed(make_config(packing={"row_len_tokens": 10, "strategy": "concat"}))
    assert [row["seq_lengths"] for row in rows(artifact)] == [[5, 5], [10], [10]]
    assert artifact.counts["documents_split"] == 1


def test_counts_add_up(tmp_path, make_config):
    """Documents of 10, 3 and 4 tokens in rows of 4, the long one truncated: 6 tokens are dropped and counted."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["abcdefgh", "x", "yz"])
    (artifact,) = packed(make_config(packing={"row_len_tokens": 4, "long_documents": "truncate"}))
    assert artifact.counts == {
        "source": "a",
        "split": "train",
        "row_len_tokens": 4,
        "rows": 3,
        "documents": 3,
        "documents_split": 0,
        "documents_dropped": 0,
        "pieces": 3,
        "tokens_in": 17,
        "tokens_dropped": 6,
        "num_tokens": 11,
        "padding_tokens": 1,
    }


def test_held_out_documents_and_sources_are_packed_apart(tmp_path, make_config):
    """No row mixes splits or sources."""
    write_jsonl(tmp_path / "corpus/a.jsonl", [f"a{n}" for n in range(200)])
    write_jsonl(tmp_path / "corpus/b.jsonl", ["b"])
    sources = [
        {"name": "a", "uris": [str(tmp_path / "corpus/a.jsonl")], "held_out_fraction": 0.2},
        {"name": "b", "uris": [str(tmp_path / "corpus/b.jsonl")], "held_out_fraction": 1.0},
    ]
    found = packed(make_config(discovery={"sources": sources}))
    assert [artifact.name for artifact in found] == ["a-00000", "a+held-out-00000", "b-00000"]
    documents = [{piece["document"] for row in rows(artifact) for piece in row["pieces"]} for artifact in found]
    assert documents[0].isdisjoint(documents[1])
    assert documents[0] | documents[1] == set(range(200))
    assert 20 <= len(documents[1]) <= 60


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=25),
    strategy=st.sampled_from(["best_fit", "greedy", "concat"]),
    row_len=st.integers(2, 40),
)
def test_the_documents_can_be_read_back_from_the_rows(tmp_path_factory, make_config, texts, strategy, row_len):
    """Following the lineage of every piece rebuilds every document, for any texts, strategy and row length."""
    folder = tmp_path_factory.mktemp("packing")
    texts = [text.encode("utf-8", "ignore").decode() or "x" for text in texts]
    write_jsonl(folder / "a.jsonl", texts)
    config = make_config(
        store_uri=str(folder / "store"),
        discovery={"sources": [{"name": "a", "uris": [str(folder / "a.jsonl")]}]},
        packing={"strategy": strategy, "row_len_tokens": row_len},
    )
    found: dict[tuple[int, int], list[int]] = {}
    for row in rows(packed(config)[0]):
        start = 0
        assert len(row["input_ids"]) == row_len == sum(row["seq_lengths"])
        for piece, length in zip(row["pieces"], row["seq_lengths"], strict=False):
            assert piece["num_tokens"] == length
            found[piece["document"], piece["first_token"]] = row["input_ids"][start : start + length]
            start += length
        assert start == row["num_tokens"]
    documents = [[token for (d, _), ids in sorted(found.items()) if d == n for token in ids] for n in range(len(texts))]
    assert documents == [[0, *byte_ids(text), 1] for text in texts]


def test_the_same_corpus_gives_the_same_bytes(tmp_path, make_config):
    """Two stores, two computations, one digest; another seed gives another order."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["x" * (n % 14 + 1) for n in range(300)])
    first, second, reseeded = (
        packed(make_config(store_uri=str(tmp_path / name), packing={"seed": seed}))[0]
        for name, seed in (("s1", 1), ("s2", 1), ("s3", 2))
    )
    assert first.files == second.files
    assert first.files != reseeded.files


def test_growing_a_corpus_leaves_finished_groups_as_they_are(tmp_path, make_config):
    """With groups of a few shards, a file added at the end makes all groups but the last cache hits."""
    for number in range(12):
        write_jsonl(tmp_path / f"corpus/{number:02}.jsonl", [f"{number} {'x' * 40}"] * 3)
    config = make_config(packing={"group_size_tokens": 300})
    before = packed(config)
    write_jsonl(tmp_path / "corpus/99.jsonl", ["new"])
    after = packed(config)
    assert len(before) > 2
    assert [artifact.is_cached for artifact in after][: len(before) - 1] == [True] * (len(before) - 1)
    assert after[-1].is_cached is False


def test_other_readers_see_plain_columns(tmp_path, make_config):
    """Polars needs no schema of ours."""
    write_jsonl(tmp_path / "corpus/a.jsonl", ["ab"])
    (artifact,) = packed(make_config())
    table = pl.read_parquet(f"{artifact.uri}/*.parquet")
    assert json.loads(table.select("seq_lengths", "num_tokens").write_json()) == [
        {"seq_lengths": [4, 12], "num_tokens": 4}
    ]


@pytest.mark.parametrize("row_len_tokens", [4096, 8192])
def test_gsm8k_is_packed_into_the_fewest_rows(tmp_path, make_config, row_len_tokens):
    """Real text, where it is at hand: short documents only, none of them cut, and one row fewer would not hold them."""
    corpus = SHARED / "corpora" / "gsm8k-train.jsonl"
    if not corpus.exists():
        return
    sources = [{"name": "gsm8k", "uris": [str(corpus)]}]
    tokenizer = {"tokenizer": str(SHARED / "tokenizers/gpt2"), "eos_token": "<|endoftext|>"}
    (artifact,) = packed(
        make_config(discovery={"sources": sources}, tokenization=tokenizer, packing={"row_len_tokens": row_len_tokens})
    )
    assert artifact.counts["documents"] == 7473
    assert artifact.counts["documents_split"] == 0
    assert artifact.counts["padding_tokens"] < row_len_tokens
