"""A user repairs rejected lines in a file of their own, and only the shards concerned are computed again."""

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpt_core.artifacts import Artifact
from cpt_core.discovery import discover_sources
from cpt_core.errors import ConfigError
from cpt_core.manifest import Manifest, Repair
from cpt_core.storage import Store
from cpt_core.tokenization import load_tokenizer, read_rejected_lines, tokenize_shard, with_repairs
from tests.conftest import byte_ids

BROKEN = b'{"text": broken}'
NO_TEXT = b'{"txt": "b"}'


def shards_of(config) -> Manifest:
    """The manifest of a configuration with its repairs."""
    store = Store(config.store_uri)
    found = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=store)
    return with_repairs(found, config.tokenization)


def tokenize(config) -> list[Artifact]:
    """All shards of a configuration."""
    store = Store(config.store_uri)
    tokenizer = load_tokenizer(config.tokenization)
    return [
        tokenize_shard(shard, config.tokenization, tokenizer=tokenizer, store=store)
        for shard in shards_of(config).shards
    ]


def documents(artifact: Artifact) -> list[tuple[int, int, list[int]]]:
    """(line, byte offset, ids without BOS and EOS) of a token shard."""
    rows = pq.read_table(f"{artifact.uri}/{artifact.files['tokens'].name}").to_pylist()
    return [(row["line"], row["byte_offset"], row["input_ids"][1:-1]) for row in rows]


def entry(file: Path, line: int, byte_offset: int, raw: bytes, replacement: str | None) -> dict:
    """One entry of a repairs file."""
    located = {"file": str(file), "line": line, "byte_offset": byte_offset, "sha256": hashlib.sha256(raw).hexdigest()}
    return {**located, "replacement": replacement}


@pytest.fixture
def corpus(tmp_path):
    """Two files: lines 2 and 4 of the first and line 1 of the second are bad."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b'{"text": "a"}\n' + BROKEN + b"\n\n" + NO_TEXT + b'\n{"text": "c"}\n')
    (folder / "b.jsonl").write_bytes(b'[]\n{"text": "d"}\n')
    return folder


@pytest.fixture
def repaired(tmp_path, make_config):
    """A configuration with these entries as its repairs file."""

    def make(*entries: dict, **sections):
        path = tmp_path / "repairs.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in entries), encoding="utf-8")
        return make_config(tokenization={"repairs": str(path)}, **sections)

    return make


def test_a_repaired_line_becomes_a_document_at_its_place(corpus, repaired):
    """The others stay in quarantine, and the counts add up."""
    tokens, _ = tokenize(repaired(entry(corpus / "a.jsonl", 2, 14, BROKEN, '{"text": "b"}')))
    assert documents(tokens) == [(1, 0, byte_ids("a")), (2, 14, byte_ids("b")), (5, 45, byte_ids("c"))]
    counted = ("documents_in", "documents_out", "documents_repaired", "documents_quarantined", "quarantined_by_reason")
    assert [tokens.counts[name] for name in counted] == [4, 3, 1, 1, {"missing_field": 1}]


def test_only_the_shard_that_holds_the_line_is_computed_again(corpus, make_config, repaired):
    """No other key changes, and no path is in the one that does."""
    before = tokenize(make_config())
    after = tokenize(repaired(entry(corpus / "a.jsonl", 2, 14, BROKEN, '{"text": "b"}')))
    assert [artifact.is_cached for artifact in after] == [False, True]
    assert after[0].key_parts.keys() - before[0].key_parts.keys() == {"repairs"}
    (corpus / "a.jsonl").rename(corpus / "c.jsonl")
    moved = tokenize(repaired(entry(corpus / "c.jsonl", 2, 14, BROKEN, '{"text": "b"}')))
    assert {artifact.key for artifact in moved} == {artifact.key for artifact in after}


def test_an_entry_that_is_not_completed_changes_nothing(corpus, make_config, repaired):
    """A file as `cpt quarantine show --write` makes it can be named at once."""
    before = tokenize(make_config())
    entries = [entry(corpus / "a.jsonl", 2, 14, BROKEN, None) | {"reason": "json_syntax", "detail": "", "raw": ""}]
    assert [artifact.is_cached for artifact in tokenize(repaired(*entries))] == [True, True]
    assert tokenize(repaired(*entries)) == before


@pytest.mark.parametrize(
    ("raw", "replacement", "ending"),
    [
        (b"another line", '{"text": "b"}', "; not repaired: the repair is of other bytes, its sha256 differs"),
        (
            BROKEN,
            '{"txt": "b"}',
            "; not repaired: the replacement is missing_field, no field 'text'; the keys are: txt",
        ),
        (BROKEN, "", "; not repaired: the replacement is json_syntax, "),
        (BROKEN, '{"text": "\ud800"}', "; not repaired: the replacement is invalid_utf8, "),
    ],
)
def test_a_repair_that_does_not_help_leaves_the_line_in_quarantine(corpus, repaired, raw, replacement, ending):
    """Its first reason stays, and its detail says what is wrong with the repair."""
    config = repaired(entry(corpus / "a.jsonl", 2, 14, raw, replacement))
    tokens, _ = tokenize(config)
    assert tokens.counts["documents_repaired"] == 0
    first, _ = read_rejected_lines(shards_of(config).shards[0], tokens, Store(config.store_uri))
    assert (first.line, first.reason, first.raw) == (2, "json_syntax", BROKEN)
    assert ending in first.detail


def test_a_line_that_is_accepted_is_never_replaced(corpus, repaired):
    """A repair of a good line is no edit of the corpus."""
    good = b'{"text": "a"}'
    tokens, _ = tokenize(repaired(entry(corpus / "a.jsonl", 1, 0, good, '{"text": "z"}')))
    assert documents(tokens)[0] == (1, 0, byte_ids("a"))
    assert tokens.counts["documents_repaired"] == 0


@pytest.mark.parametrize("mode", ["content", "stat"])
def test_a_repair_finds_its_range_of_a_cut_file(tmp_path, make_config, repaired, mode):
    """Also in mode stat, where line numbers count from the start of the range: the byte offset decides."""
    lines = [b'{"text": "%d"}' % number for number in range(300)]
    lines[250] = BROKEN
    (tmp_path / "corpus").mkdir()
    file = tmp_path / "corpus/a.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    offset = len(b"\n".join(lines[:250])) + 1
    discovery = {"sources": [{"name": "a", "uris": [str(file)]}], "fingerprint_inputs": mode}
    cut = {"shard_size_bytes": 1024}

    config = make_config(discovery=discovery, tokenization=cut)
    before, store = tokenize(config), Store(config.store_uri)
    (rejected,) = [
        line
        for shard, tokens in zip(shards_of(config).shards, before, strict=True)
        for line in read_rejected_lines(shard, tokens, store)
    ]
    assert rejected.byte_offset == offset
    assert (rejected.line == 251) == (mode == "content")

    path = tmp_path / "repairs.jsonl"
    path.write_text(json.dumps(rejected.entry() | {"replacement": '{"text": "mended"}'}), encoding="utf-8")
    after = tokenize(make_config(discovery=discovery, tokenization=cut | {"repairs": str(path)}))
    computed = [artifact for artifact in after if not artifact.is_cached]
    assert [artifact.counts["documents_repaired"] for artifact in computed] == [1]
    assert (rejected.line, offset, byte_ids("mended")) in documents(computed[0])


def test_lines_of_compressed_files_and_rows_of_parquet_are_repaired(tmp_path, repaired):
    """Offsets count uncompressed bytes; a row of parquet is found by its number and its text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    content = b'{"text": "' + b"a" * 9000 + b'"}\n' + BROKEN + b"\n"
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
    texts = pa.array([b"x", None, b"z\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), folder / "b.parquet")
    config = repaired(
        entry(folder / "a.jsonl.gz", 2, 9013, BROKEN, '{"text": "b"}'),
        entry(folder / "b.parquet", 2, -1, b"", '{"text": "y"}'),
        entry(folder / "b.parquet", 3, -1, b"z\xff", '{"text": "z"}'),
    )
    from_gzip, from_parquet = tokenize(config)
    assert documents(from_gzip)[1:] == [(2, 9013, byte_ids("b"))]
    assert documents(from_parquet) == [(1, -1, byte_ids("x")), (2, -1, byte_ids("y")), (3, -1, byte_ids("z"))]


def test_sources_that_share_a_file_share_its_repairs(corpus, repaired):
    """One entry written for each source, with one replacement: the two agree."""
    same = entry(corpus / "a.jsonl", 2, 14, BROKEN, '{"text": "b"}')
    sources = [{"name": name, "uris": [str(corpus / "a.jsonl")]} for name in ("x", "y")]
    shards = shards_of(repaired(same, same, discovery={"sources": sources})).shards
    expected = (Repair(14, hashlib.sha256(BROKEN).hexdigest(), '{"text": "b"}'),)
    assert [shard.repairs for shard in shards] == [expected, expected]


VALID = {"file": "F", "line": 2, "byte_offset": 14, "sha256": "0", "replacement": "{}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n{", r"repairs.jsonl:2: is no JSON: Expecting property name .*`cpt quarantine show CONFIG --write FILE`"),
        ("[]", "repairs.jsonl:1: is no JSON object. "),
        (json.dumps({"file": "F"}), "repairs.jsonl:1: line is missing. "),
        (json.dumps(VALID | {"line": "2"}), 'repairs.jsonl:1: line is "2", expected an integer. '),
        (json.dumps(VALID | {"line": True}), "repairs.jsonl:1: line is true, expected an integer. "),
        (json.dumps(VALID | {"replacement": {}}), "repairs.jsonl:1: replacement is {}, expected a string or null. "),
        (json.dumps(VALID | {"text": "a"}), "repairs.jsonl:1: 'text' is not a key; valid keys are file, line, "),
        (json.dumps(VALID | {"file": "gone"}), "repairs.jsonl:1: file 'gone' is no input file of this configuration; "),
        (json.dumps(VALID | {"byte_offset": 999}), "repairs.jsonl:1: line and byte_offset lie outside .*/a.jsonl. "),
        (
            json.dumps(VALID) + "\n" + json.dumps(VALID | {"replacement": "[]"}),
            "repairs.jsonl:2: this line of .*/a.jsonl has another replacement already; keep one of them",
        ),
    ],
)
def test_a_malformed_entry_is_one_line_with_its_place(tmp_path, corpus, make_config, text, message):
    """What was seen, what was expected, where."""
    path = tmp_path / "repairs.jsonl"
    path.write_text(text.replace('"F"', json.dumps(str(corpus / "a.jsonl"))), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        shards_of(make_config(tokenization={"repairs": str(path)}))
    assert "\n" not in str(caught.value)


def test_a_repairs_file_that_does_not_exist_is_an_error(tmp_path, corpus, make_config):
    """It is not an empty one."""
    with pytest.raises(ConfigError, match=r"tokenization.repairs: .*/gone.jsonl: cannot be read: no such file"):
        shards_of(make_config(tokenization={"repairs": str(tmp_path / "gone.jsonl")}))
