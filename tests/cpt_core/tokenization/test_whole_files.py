"""Files as they come, from their bytes to their token shard: what is kept, what is counted, what fails."""

import errno
import gzip
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from tokenizers import Tokenizer, models, pre_tokenizers

from cpt_core.config import TokenizationConfig
from cpt_core.discovery import discover_sources
from cpt_core.errors import InputChangedError, InputError
from cpt_core.schemas import PACKED_SHARD, TOKEN_SHARD
from cpt_core.tokenization import load_tokenizer, read_rejected_lines, tokenize_shard
from cpt_core.tokenization.documents import read_documents
from tests.conftest import byte_ids, write_jsonl
from tests.cpt_core.discovery.test_discovery import ODD_NAMES
from tests.cpt_core.tokenization.test_lines import shard_of
from tests.cpt_core.tokenization.test_shard import read
from tests.pipeline import packed, tokenized


@pytest.fixture
def tokens_of(tmp_path, store, tokenizer_folder):
    """The token shard of a file of these bytes."""

    def tokenize(content: bytes):
        (tmp_path / "f.jsonl").write_bytes(content)
        config = TokenizationConfig(tokenizer=str(tokenizer_folder))
        return tokenize_shard(
            shard_of(tmp_path / "f.jsonl", store), config, tokenizer=load_tokenizer(config), store=store
        )

    return tokenize


def texts(tokens) -> list[str]:
    """Documents, decoded: byte b is the id b + 2, between BOS and EOS."""
    return [bytes(id_ - 2 for id_ in row["input_ids"][1:-1]).decode() for row in read(tokens, "tokens")]


@pytest.mark.parametrize(
    ("content", "kept", "counted"),
    [
        (b'{"text": "a\\u0000b"}\n', ["a\0b"], {"documents_with_nul": 1}),
        (b'\xef\xbb\xbf{"text": "a"}\n', ["a"], {"byte_order_marks": 1}),
        (b'{"text": "a</s>"}\n{"text": "b"}\n', ["a</s>", "b"], {"documents_with_special_tokens": 1}),
        (b'{"text": "a"}\n{"text": "b"}', ["a", "b"], {"maybe_truncated": 0}),
        (b'{"text": "a"}\n{"text": "b', ["a"], {"maybe_truncated": 1, "documents_quarantined": 1}),
        (b'{"text": "a"}\n{"text": "b\n', ["a"], {"maybe_truncated": 0, "documents_quarantined": 1}),
        (b' \t\r\n\n{"text": "a"}\n', ["a"], {"blank_lines": 2, "documents_quarantined": 0}),
    ],
    ids=[
        "NUL is text",
        "byte order mark at the start",
        "special token in a text",
        "last line without an end",
        "last line cut off",
        "last line broken but ended",
        "blank lines",
    ],
)
def test_what_is_no_fault_is_kept_and_counted(tokens_of, content, kept, counted):
    """The record says how often it was seen."""
    tokens = tokens_of(content)
    assert texts(tokens) == kept
    assert {name: tokens.counts[name] for name in counted} == counted


def test_only_a_line_feed_ends_a_line(tokens_of):
    """A carriage return before it is not part of the line; alone it is white space, and other separators are text."""
    separators = "a\u2028b\u2029c\u0085d\x0b"
    content = json.dumps({"text": separators}, ensure_ascii=False).encode()
    tokens = tokens_of(content + b'\r\n{"text":\r"e"}\n{"text": "f"}\r{"text": "g"}\n{"text": "h"}\r\n')
    assert texts(tokens) == [separators, "e", "h"]
    assert [(row["line"], row["reason"]) for row in read(tokens, "quarantine")] == [(3, "json_syntax")]


def test_a_byte_order_mark_elsewhere_is_no_mark(tokens_of):
    """At the start of a second line it is a fault; in a text it is text."""
    tokens = tokens_of(b'{"text": "\xef\xbb\xbfa"}\n\xef\xbb\xbf{"text": "b"}\n')
    assert (texts(tokens), tokens.counts["byte_order_marks"]) == (["\ufeffa"], 0)
    assert tokens.counts["quarantined_by_reason"] == {"json_syntax": 1}


def test_a_file_of_bad_lines_alone_is_committed(tokens_of):
    """How much is too much is decided at the end of the run."""
    tokens = tokens_of(b'{"text": true}\n{}\n[]\n')
    assert (tokens.counts["documents_in"], texts(tokens)) == (3, [])
    assert tokens.counts["quarantined_by_reason"] == {"missing_field": 1, "non_string_text": 1, "not_object": 1}


def test_other_fields_change_nothing_however_large_or_ordered(tokens_of):
    """They are passed over."""
    large = json.dumps({"a": "x" * 3_000_000, "text": "kept", "b": [[1] * 1000] * 100, "c": {"text": "no"}})
    assert texts(tokens_of(large.encode() + b'\n{"text": "kept", "a": 10e999}\n')) == ["kept", "kept"]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b'{"content": "x", "id": 1}', "did you mean 'content'?"),
        (b'{"id": 1, "Text": "x"}', "did you mean 'Text'?"),
        (b'{"id": 1, "a sentence that is no name": "x"}', "line keys are id."),
        (b'{"content": "x", "id": 1e999}', "did you mean 'content'?"),
    ],
)
def test_a_file_without_the_field_fails_early_with_a_hint(tokens_of, tmp_path, line, hint):
    """A mistake in the configuration is not a hundred million rejected lines."""
    content = (line + b"\n") * 501 + b'{"text": "a"}\n' * 600
    with pytest.raises(InputError) as caught:
        tokens_of(content)
    assert str(caught.value) == (
        f"{tmp_path}/f.jsonl: 501 of the first 1,000 lines have no field 'text'; {hint} Set text_field of the source a"
    )
    assert tokens_of(content[content.index(b"\n") + 1 :]).counts["documents_quarantined"] == 500


def test_the_lines_without_the_field_may_lie_in_an_earlier_batch_than_the_thousandth(tmp_path, store):
    """Lines of 10 KB: the batch that ends with line 1,000 may have the field everywhere."""
    lines = [b'{"body": "%s"}\n' % (b"x" * 10_000)] * 600 + [b'{"text": "%s"}\n' % (b"x" * 10_000)] * 500
    (tmp_path / "f.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"600 of the first 1,000 lines have no field 'text'; did you mean 'body'\?"):
        list(read_documents(shard_of(tmp_path / "f.jsonl", store), TokenizationConfig(tokenizer="none")))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_file_of_another_encoding_commits_nothing(tokens_of, store, encoding, compress):
    """Nor are its lines quarantined, one by one, whatever it was compressed with."""
    with pytest.raises(InputError, match="is UTF-16 or UTF-32, expected UTF-8; convert it"):
        tokens_of(compress('{"text": "a"}\n'.encode(encoding)))
    assert list(store.files("tokens")) == []


def test_files_of_odd_names_are_tokenized_and_their_bad_lines_named(tmp_path, make_config):
    """Spaces, dashes, line ends, 255 bytes: each file has its documents, and its rejected line has its name."""
    (tmp_path / "corpus").mkdir()
    for number, name in enumerate(ODD_NAMES.values()):
        (tmp_path / "corpus" / name).write_bytes(b'{"text": "%d"}\n{\n' % number)
    config = make_config(tokenization={"max_bad_fraction": 0.5})
    places, _, store = tokenized(config)
    shards = discover_sources(config.discovery, 10**9, store=store).shards
    for shard, place in zip(shards, places, strict=True):
        (rejected,) = read_rejected_lines(shard, place.tokens, store)
        number = list(ODD_NAMES.values()).index(Path(shard.uri).name)
        assert (texts(place.tokens), rejected.file, rejected.line) == ([str(number)], shard.uri, 2)
    assert len(packed(config)) == 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path, _: path.unlink(), r"f\.jsonl: cannot be read: no such file"),
        (lambda path, _: (path.unlink(), path.mkdir()), r"f\.jsonl: cannot be read: Is a directory"),
        (lambda path, _: (path.unlink(), os.mkfifo(path)), r"f\.jsonl: is no regular file"),
        (lambda _, monkeypatch: fail_in_the_middle(monkeypatch), r"f\.jsonl: cannot be read: Input/output error"),
    ],
    ids=["gone", "a folder now", "a FIFO now", "bad sector"],
)
def test_a_file_that_cannot_be_read_to_its_end_commits_nothing(
    tmp_path, store, tokenizer_folder, monkeypatch, break_it, message
):
    """Its shard fails by name."""
    config = TokenizationConfig(tokenizer=str(tokenizer_folder))
    path = write_jsonl(tmp_path / "f.jsonl", ["text"] * 200_000)
    shard = shard_of(path, store)
    break_it(path, monkeypatch)
    with pytest.raises(InputError, match=message):
        tokenize_shard(shard, config, tokenizer=load_tokenizer(config), store=store)
    monkeypatch.undo()
    assert not store.local_path("tokens").exists()
    assert list(store.local_path(".tmp").iterdir()) == []


def fail_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second megabyte of the input file cannot be read."""
    real_open = io.open

    class BadSector(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() >= 1 << 20:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    def failing_open(file, *args, **kwargs):
        stream = real_open(file, *args, **kwargs)
        return BadSector(stream.read()) if str(file).endswith("f.jsonl") else stream

    monkeypatch.setattr("builtins.open", failing_open)


def test_a_file_that_changes_is_noticed_in_mode_stat(tmp_path, store, tokenizer_folder):
    """There its bytes have no digest, but its times and its inode have changed."""
    config = TokenizationConfig(tokenizer=str(tokenizer_folder))
    path = write_jsonl(tmp_path / "f.jsonl", ["a"])
    size = path.stat().st_size
    shard = replace(shard_of(path, store), identity={"uri": str(path), "file_size_bytes": size, "version": "1-2-3"})
    with pytest.raises(InputChangedError, match=r"f\.jsonl: changed since it was discovered"):
        tokenize_shard(shard, config, tokenizer=load_tokenizer(config), store=store)


def test_ids_beyond_16_bits_and_lists_beyond_32_are_kept_whole(tmp_path, make_config, tokenizer_folder):
    """A vocabulary of 70,000 words; the offsets of a token shard have 64 bits, since it may hold any number of tokens."""
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(70_000)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tokenizer_folder / "tokenizer.json"))
    write_jsonl(tmp_path / "corpus/a.jsonl", ["w69999 w65536 w65535"])
    config = make_config(tokenization={"bos_token": "w1", "eos_token": "w2"})
    shards, _, _ = tokenized(config)
    ids = [1, 69_999, 65_536, 65_535, 2]
    assert read(shards[0].tokens, "tokens")[0]["input_ids"] == ids
    assert read(packed(config)[0], "rows")[0]["input_ids"] == ids + [2] * 11
    assert pa.types.is_large_list(TOKEN_SHARD.field("input_ids").type)
    assert TOKEN_SHARD.field("input_ids").type.value_type == pa.int32()
    assert PACKED_SHARD.field("input_ids").type.value_type == pa.int32()


def test_the_pieces_of_a_long_document_are_its_tokens(tmp_path, make_config):
    """Cut at rows, nothing of it is lost or repeated."""
    text = "".join(chr(ord("a") + number % 26) for number in range(100))
    write_jsonl(tmp_path / "corpus/a.jsonl", [text])
    (artifact,) = packed(make_config())
    rows = sorted(read(artifact, "rows"), key=lambda row: row["pieces"][0]["first_token"])
    ids = [token for row in rows for token in row["input_ids"][: row["num_tokens"]]]
    assert ids == [0, *byte_ids(text), 1]
    assert [row["num_tokens"] for row in rows] == [16] * 6 + [6]
