"""One shard becomes one token shard, and nothing is lost."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpt_core.artifacts import Artifact
from cpt_core.discovery import discover_sources
from cpt_core.errors import InputError
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, quarantined_by_reason, require_few_bad_lines, tokenize_shard
from tests.conftest import byte_ids, write_jsonl


def tokenize(config) -> list[Artifact]:
    """All shards of a configuration."""
    store = Store(config.store_uri)
    tokenizer = load_tokenizer(config.tokenization)
    manifest = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=store)
    return [tokenize_shard(shard, config.tokenization, tokenizer=tokenizer, store=store) for shard in manifest.shards]


def read(artifact: Artifact, role: str) -> list[dict]:
    """A file of an artifact as rows."""
    return pq.read_table(f"{artifact.uri}/{artifact.files[role].name}").to_pylist()


MIXED = b'{"text": "a"}\n{"text": broken}\n\n{"txt": "b"}\n{"text": "c"}\n'


def test_good_lines_become_rows_and_bad_ones_are_kept_aside(tmp_path, make_config):
    """Every line is a row, quarantined with its place and reason, or blank; the counts add up."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_bytes(MIXED)
    (tokens,) = tokenize(make_config())
    assert read(tokens, "tokens") == [
        {"input_ids": [0, 99, 1], "num_tokens": 3, "line": 1, "byte_offset": 0},
        {"input_ids": [0, 101, 1], "num_tokens": 3, "line": 5, "byte_offset": 45},
    ]
    assert read(tokens, "quarantine") == [
        {
            "line": 2,
            "byte_offset": 14,
            "reason": "json_syntax",
            "detail": "unexpected character, expected a JSON value at character 9",
            "raw": b'{"text": broken}',
        },
        {
            "line": 4,
            "byte_offset": 32,
            "reason": "missing_field",
            "detail": "no field 'text'; the keys are: txt",
            "raw": b'{"txt": "b"}',
        },
    ]
    assert tokens.counts == {
        "documents_in": 4,
        "documents_out": 2,
        "tokens": 6,
        "blank_lines": 1,
        "documents_quarantined": 2,
        "quarantined_by_reason": {"json_syntax": 1, "missing_field": 1},
    }


def test_a_cut_file_gives_the_documents_of_the_whole_one(tmp_path, make_config):
    """Ranges together hold every document once, with the line numbers of the file."""
    texts = [f"document {number} " + "x" * (number % 90) for number in range(200)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", texts)
    whole = [row for artifact in tokenize(make_config()) for row in read(artifact, "tokens")]
    cut = tokenize(make_config(tokenization={"shard_size_bytes": 1024}))
    assert len(cut) > 5
    assert [row for artifact in cut for row in read(artifact, "tokens")] == whole
    assert [row["input_ids"] for row in whole] == [[0, *byte_ids(text), 1] for text in texts]
    assert [row["line"] for row in whole] == list(range(1, 201))


def test_a_parquet_column_of_text_is_tokenized(tmp_path, make_config):
    """Rows take the place of lines; null and empty texts are quarantined."""
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": ["a", None, "", "b"], "n": [1, 2, 3, 4]}), tmp_path / "corpus" / "a.parquet")
    (tokens,) = tokenize(make_config())
    assert [(row["line"], row["byte_offset"], row["input_ids"]) for row in read(tokens, "tokens")] == [
        (1, -1, [0, 99, 1]),
        (4, -1, [0, 100, 1]),
    ]
    assert tokens.counts["quarantined_by_reason"] == {"empty_text": 1, "non_string_text": 1}


def test_parquet_text_that_is_no_utf8_is_quarantined(tmp_path, make_config):
    """Arrow does not check strings when it writes or reads them."""
    (tmp_path / "corpus").mkdir()
    broken = pa.array([b"a", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "corpus" / "a.parquet")
    (tokens,) = tokenize(make_config())
    assert tokens.counts["quarantined_by_reason"] == {"invalid_utf8": 1}
    assert tokens.counts["documents_out"] == 1


def test_a_parquet_file_without_the_column_is_an_error(tmp_path, make_config):
    """The columns that exist are named."""
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"body": ["a"], "n": [1]}), tmp_path / "corpus" / "a.parquet")
    with pytest.raises(InputError, match="has no column 'text'; its columns are body, n"):
        tokenize(make_config())


def test_an_empty_file_is_an_empty_token_shard(tmp_path, make_config):
    """Zero documents are a result, not a failure."""
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [])
    (tokens,) = tokenize(make_config())
    assert (tokens.counts["documents_in"], read(tokens, "tokens")) == (0, [])


def test_a_shard_that_fails_commits_nothing(tmp_path, make_config):
    """The first half of a truncated archive is not an artifact."""
    import gzip

    (tmp_path / "corpus").mkdir()
    content = gzip.compress(b'{"text": "a"}\n' * 100_000, compresslevel=1)
    (tmp_path / "corpus" / "a.jsonl.gz").write_bytes(content[:-20])
    with pytest.raises(InputError, match="truncated or corrupt"):
        tokenize(make_config())
    assert not (tmp_path / "store" / "tokens").exists()
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


def test_the_same_bytes_under_another_path_are_a_hit(tmp_path, make_config):
    """A renamed file is not tokenized again, and its first result is used."""
    path = write_jsonl(tmp_path / "corpus" / "a.jsonl", ["a", "b"])
    (first,) = tokenize(make_config())
    path.rename(path.parent / "renamed.jsonl")
    (second,) = tokenize(make_config())
    assert second.is_cached
    assert second.uri == first.uri


@pytest.mark.parametrize(
    "change",
    [
        {"add_bos": False},
        {"eos_token": "<s>"},
    ],
)
def test_an_option_that_changes_ids_changes_the_key(tmp_path, make_config, change):
    """Nothing stale is served."""
    write_jsonl(tmp_path / "corpus" / "a.jsonl", ["a"])
    tokenize(make_config())
    (again,) = tokenize(make_config(tokenization=change))
    assert not again.is_cached


def test_bad_lines_are_judged_at_the_end_over_all_shards(tmp_path, make_config):
    """The message lists every shard and reason; the fraction is of all documents."""
    write_jsonl(tmp_path / "corpus" / "a.jsonl", ["a"] * 8)
    (tmp_path / "corpus" / "b.jsonl").write_bytes(b"{\n[]\n")
    tokens = tokenize(make_config())
    assert quarantined_by_reason(tokens) == {"json_syntax": 1, "not_object": 1}
    store = Store(make_config().store_uri)
    shards = discover_sources(make_config().discovery, 10**9, store=store).shards
    require_few_bad_lines(shards, tokens, 0.2)
    with pytest.raises(InputError) as caught:
        require_few_bad_lines(shards, tokens, 0.19)
    assert str(caught.value).startswith(
        "tokenization: 2 of 10 documents are quarantined, more than tokenization.max_bad_fraction = 0.19 allows. "
        f"{tmp_path}/corpus/b.jsonl: 1 json_syntax, 1 not_object in {tokens[1].uri}. "
    )
