"""One shard becomes one token shard, and nothing is lost."""

import gzip
import hashlib
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cpt_core.artifacts import Artifact
from cpt_core.config import TokenizationConfig
from cpt_core.discovery import discover_sources
from cpt_core.errors import InputError
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, quarantined_by_reason, require_few_bad_lines, tokenize_shard
from cpt_core.tokenization.documents import read_documents
from cpt_core.tokenization.lines import MAX_RAW_BYTES
from tests.conftest import byte_ids, write_jsonl
from tests.cpt_core.tokenization.test_lines import shard_of


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
            "size_bytes": 16,
            "sha256": hashlib.sha256(b'{"text": broken}').hexdigest(),
            "reason": "json_syntax",
            "detail": "unexpected character, expected a JSON value at character 9",
            "raw": b'{"text": broken}',
        },
        {
            "line": 4,
            "byte_offset": 32,
            "size_bytes": 12,
            "sha256": hashlib.sha256(b'{"txt": "b"}').hexdigest(),
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
        "documents_repaired": 0,
        "byte_order_marks": 0,
        "maybe_truncated": 0,
        "documents_with_nul": 0,
        "documents_with_special_tokens": 0,
        "tokenizer_backend": "huggingface",
        "documents_quarantined": 2,
        "quarantined_by_reason": {"json_syntax": 1, "missing_field": 1},
    }


def test_of_a_long_rejected_line_the_first_4096_bytes_are_kept(tmp_path, make_config):
    """Of one that is too long to be read and of one that is broken; length and digest are those of the whole line."""
    too_long = b'{"text": "' + b"x" * 20_000 + b'"}'
    broken = b'{"text": "' + b"y" * 5_000
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_bytes(too_long + b"\n" + broken + b'\n{"text": "a"}\n')
    (tokens,) = tokenize(make_config(tokenization={"max_line_bytes": 10_000}))
    assert [(row["line"], row["input_ids"]) for row in read(tokens, "tokens")] == [(3, [0, 99, 1])]
    assert read(tokens, "quarantine") == [
        {
            "line": 1,
            "byte_offset": 0,
            "size_bytes": 20_012,
            "sha256": hashlib.sha256(too_long).hexdigest(),
            "reason": "line_too_long",
            "detail": "20,012 bytes, more than tokenization.max_line_bytes allows",
            "raw": too_long[:4096],
        },
        {
            "line": 2,
            "byte_offset": 20_013,
            "size_bytes": 5_010,
            "sha256": hashlib.sha256(broken).hexdigest(),
            "reason": "json_syntax",
            "detail": "unexpected end of data at character 5010",
            "raw": broken[:4096],
        },
    ]


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
    """Arrow does not check strings when it writes or reads them. A text is kept as a line is, a null as nothing."""
    (tmp_path / "corpus").mkdir()
    texts = pa.array([b"a", b"b\xff", None, b"x" * 9000 + b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "corpus" / "a.parquet")
    (tokens,) = tokenize(make_config())
    assert tokens.counts["documents_out"] == 1
    kept = [(row["line"], row["reason"], row["size_bytes"], row["raw"]) for row in read(tokens, "quarantine")]
    assert kept == [
        (2, "invalid_utf8", 2, b"b\xff"),
        (3, "non_string_text", 0, b""),
        (4, "invalid_utf8", 9001, b"x" * MAX_RAW_BYTES),
    ]
    digests = [hashlib.sha256(text).hexdigest() for text in (b"b\xff", b"", b"x" * 9000 + b"\xff")]
    assert [row["sha256"] for row in read(tokens, "quarantine")] == digests


def test_a_parquet_file_without_the_column_is_an_error(tmp_path, make_config):
    """The columns that exist are named."""
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"body": ["a"], "n": [1]}), tmp_path / "corpus" / "a.parquet")
    with pytest.raises(InputError, match="has no column 'text'; its columns are body, n"):
        tokenize(make_config())


def test_long_rows_of_parquet_are_read_a_few_at_a_time(tmp_path, store):
    """A batch holds about 4 MB however many rows that are; a row over the limit is quarantined with its beginning."""
    texts = [letter * 1_000_000 for letter in "abcdefghij"] + ["short"] * 100
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    shard = shard_of(tmp_path / "a.parquet", store)
    config = TokenizationConfig(tokenizer="none", max_line_bytes=999_999)
    batches = list(read_documents(shard, config))
    assert [(len(batch.texts), len(batch.rejected)) for batch in batches] == [(6, 10), (94, 0)]
    assert [batch.lines.tolist()[0] for batch in batches] == [11, 17]
    first = batches[0].rejected[0]
    assert (first.line, first.fault.reason, first.raw) == (1, "line_too_long", b"a" * MAX_RAW_BYTES)
    assert first.fault.detail == "1,000,000 bytes, more than tokenization.max_line_bytes allows"


def test_parquet_that_repeats_a_text_without_end_is_a_bomb(tmp_path, store):
    """A dictionary makes 80 MB of 50 kilobytes."""
    pq.write_table(pa.table({"text": ["x" * 1_000_000] * 80}), tmp_path / "a.parquet")
    shard = shard_of(tmp_path / "a.parquet", store)
    with pytest.raises(InputError, match=r"a\.parquet: decompresses to 80,000,320 bytes from .* = 250 allows"):
        list(read_documents(shard, TokenizationConfig(tokenizer="none")))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-9], "Parquet magic bytes not found in footer"),
        (lambda content: content[:4] + bytes(100) + content[104:], "deserialize|snappy"),
    ],
    ids=["truncated", "corrupt"],
)
def test_a_broken_parquet_file_is_an_error_and_commits_nothing(tmp_path, make_config, damage, said):
    """It fails by name, although its first rows may have been whole."""
    (tmp_path / "corpus").mkdir()
    path = tmp_path / "corpus" / "a.parquet"
    pq.write_table(pa.table({"text": [f"document {number}" for number in range(1000)]}), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        tokenize(make_config())
    assert re.fullmatch(
        rf"{path}: parquet data is truncated or corrupt \(.*({said}).*\); nothing of it is used\. "
        r"Replace the file and run again",
        str(caught.value),
    )
    assert not (tmp_path / "store" / "tokens").exists()


def test_an_empty_file_is_an_empty_token_shard(tmp_path, make_config):
    """Zero documents are a result, not a failure."""
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [])
    (tokens,) = tokenize(make_config())
    assert (tokens.counts["documents_in"], read(tokens, "tokens")) == (0, [])


def flip_the_middle(content: bytes) -> bytes:
    """Another bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


WITH_CHECKSUM = zstandard.ZstdCompressor(write_checksum=True)
"""As the zstd command does; a frame without one cannot tell that it changed."""


@pytest.mark.parametrize("compress", [gzip.compress, WITH_CHECKSUM.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-3], lambda content: content + b"garbage", flip_the_middle],
    ids=["truncated", "garbage behind it", "a flipped bit"],
)
def test_a_compressed_file_that_is_damaged_commits_nothing(tmp_path, make_config, compress, damage):
    """Its first half is not an artifact, although every line of that could be read."""
    (tmp_path / "corpus").mkdir()
    lines = b"".join(b'{"text": "document %d"}\n' % number for number in range(20_000))
    (tmp_path / "corpus" / "a.jsonl").write_bytes(damage(compress(lines)))
    with pytest.raises(InputError, match=r"a\.jsonl: (gzip|zstd) data is truncated or corrupt"):
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
    """The message lists files and reasons; the fraction is of all documents."""
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
        f"{tmp_path}/corpus/b.jsonl: 1 json_syntax, 1 not_object; "
    )


def test_ten_thousand_files_with_bad_lines_are_still_one_short_line(tmp_path, make_config):
    """The first twenty are named, and the command that shows all."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_bytes(b"{\n")
    (tokens,) = tokenize(make_config())
    store = Store(make_config().store_uri)
    (shard,) = discover_sources(make_config().discovery, 10**9, store=store).shards
    shards = tuple(replace(shard, uri=f"/corpus/{number:05d}.jsonl") for number in range(10_000))
    with pytest.raises(InputError) as caught:
        require_few_bad_lines(shards, [tokens] * 10_000, 0.5)
    named = "; ".join(f"/corpus/{number:05d}.jsonl: 1 json_syntax" for number in range(20))
    assert str(caught.value) == (
        "tokenization: 10,000 of 10,000 documents are quarantined, more than tokenization.max_bad_fraction = 0.5 allows. "
        f"{named}; and 9,980 more files; `cpt quarantine list CONFIG` shows all. Repair the lines (`cpt quarantine show "
        "CONFIG --write FILE`), or raise max_bad_fraction"
    )
