"""Malformed lines at known places of a corpus of a hundred times as many: what is planted, and what is found."""

import gzip
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zstandard

from cpt_core.config import PipelineConfig
from cpt_core.discovery import discover_sources
from cpt_core.storage import Store
from cpt_core.tokenization import read_rejected_lines
from tests.conftest import save_byte_tokenizer
from tests.pipeline import tokenized

SEED = 3407
LINES_FOR_EACH = 100
FILES = {"1.jsonl": 0.3, "2.jsonl": 0.00001, "3.jsonl.gz": 0.29999, "4.jsonl.zst": 0.39, "5.jsonl.gz": 0.01}
"""Name to share of the lines."""
MALFORMED: dict[bytes, str] = {
    b'{"text": "cut off': "json_syntax",
    b'{"text": "no end"': "json_syntax",
    b'{"text": "a"}{"text": "b"}': "json_syntax",
    b'{"text": "comma",}': "json_syntax",
    b"{'text': 'quotes'}": "json_syntax",
    b'{text: "bare key"}': "json_syntax",
    b'{"text": "a", "n": NaN}': "json_syntax",
    b'{"text": "a", "n": 01}': "json_syntax",
    b'{"text": "control \x01"}': "json_syntax",
    b'{"text": "escape \\q"}': "json_syntax",
    b'{"text": "short \\u12"}': "json_syntax",
    b'{"text": "a"} // comment': "json_syntax",
    b'\xef\xbb\xbf{"text": "mark in the middle of a file"}': "json_syntax",
    b'{"text": "latin \xe9"}': "invalid_utf8",
    b'{"text": "overlong \xc0\xaf"}': "invalid_utf8",
    b'{"text": "surrogate \xed\xa0\x80"}': "invalid_utf8",
    b'{"text": "surrogate \\ud800"}': "lone_surrogate",
    b'{"text": "deep", "n": ' + b"[" * 1500 + b"]" * 1500 + b"}": "too_deep",
    b'["text"]': "not_object",
    b'"text"': "not_object",
    b"null": "not_object",
    b'{"text": "a", "text": "b"}': "duplicate_key",
    b'{"txt": "another field"}': "missing_field",
    b'{"text": 17}': "non_string_text",
    b'{"text": ""}': "empty_text",
}


@dataclass(frozen=True)
class Line:
    """A line that is no document: where it is, why, and its bytes."""

    file: str
    line: int
    byte_offset: int
    reason: str
    raw: bytes


@dataclass(frozen=True)
class SortedLines:
    """All lines of a corpus, sorted into what is quarantined and the texts that are kept, in order."""

    rejected: list[Line]
    kept: list[bytes]
    documents_in: int


def plant(folder: Path, num_bad: int) -> tuple[PipelineConfig, SortedLines]:
    """Write a corpus with so many malformed lines: its configuration, and what ought to be found in it."""
    num_lines = num_bad * LINES_FOR_EACH
    chosen = random.Random(SEED).sample(range(num_lines), num_bad)
    bad = {number: list(MALFORMED)[count % len(MALFORMED)] for count, number in enumerate(chosen)}
    planted = SortedLines([], [], num_lines)
    numbers = iter(range(num_lines))
    (folder / "corpus").mkdir(parents=True)
    for name, share in FILES.items():
        content = _write_lines(
            f"{folder}/corpus/{name}", itertools.islice(numbers, round(share * num_lines)), bad, planted
        )
        _write(folder / "corpus" / name, content)
    return _config_of(folder), planted


def found(config: PipelineConfig) -> SortedLines:
    """What tokenization makes of the corpus."""
    shards, _, store = tokenized(config)
    manifest = discover_sources(config.discovery, config.tokenization.shard_size_bytes, store=Store(config.store_uri))
    rejected = [
        Line(line.file, line.line, line.byte_offset, line.reason, line.raw)
        for shard, place in zip(manifest.shards, shards, strict=True)
        for line in read_rejected_lines(shard, place.tokens, store)
    ]
    kept = [text for shard in shards for text in _texts_of(store.uri(shard.tokens.path("tokens")))]
    return SortedLines(rejected, kept, sum(shard.tokens.counts["documents_in"] for shard in shards))


def _write_lines(uri: str, numbers: Iterator[int], bad: dict[int, bytes], planted: SortedLines) -> bytes:
    lines, offset = [], 0
    for line, number in enumerate(numbers, start=1):
        if (raw := bad.get(number)) is not None:
            planted.rejected.append(Line(uri, line, offset, MALFORMED[raw], raw))
        else:
            planted.kept.append(f"document {number} naïve \U0001f9d1 ".encode() + b"x" * (number % 7))
            raw = b'{"text": "%s"}' % planted.kept[-1]
        lines.append(raw)
        offset += len(raw) + 1
    return b"".join(raw + b"\n" for raw in lines)


def _write(path: Path, content: bytes) -> None:
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(compress.get(path.suffix, bytes)(content))


def _config_of(folder: Path) -> PipelineConfig:
    tokenizer = save_byte_tokenizer(folder / "tokenizer")
    return PipelineConfig.model_validate(
        {
            "name": "planted",
            "store_uri": str(folder / "store"),
            "discovery": {"sources": [{"name": "a", "uris": [str(folder / "corpus")]}]},
            "tokenization": {"tokenizer": str(tokenizer), "shard_size_bytes": 500_000, "max_bad_fraction": 0.01},
        }
    )


def _texts_of(path: str) -> list[bytes]:
    """The documents of a token shard, decoded: byte b is the id b + 2, between BOS and EOS."""
    documents = pq.read_table(path, columns=["input_ids"]).column(0).combine_chunks()
    content = (documents.values.to_numpy() - 2).astype(np.uint8).tobytes()
    ends = documents.offsets.to_pylist()
    return [content[start + 1 : end - 1] for start, end in itertools.pairwise(ends)]
