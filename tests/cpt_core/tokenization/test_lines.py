"""Lines of plain and compressed shards."""

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery import discover_sources
from cpt_core.errors import InputChangedError, InputError
from cpt_core.storage import Store
from cpt_core.tokenization.lines import read_line_batches

LINES = b'{"a": 1}\r\n\n{"b": "\xe2\x80\xa8"}\nlast'
EXPECTED = [(1, 0, b'{"a": 1}'), (2, 10, b""), (3, 11, b'{"b": "\xe2\x80\xa8"}'), (4, 24, b"last")]


def shard_of(path: Path, store: Store):
    """The only shard of a file."""
    config = DiscoveryConfig.model_validate({"sources": [{"name": "a", "uris": [str(path)]}]})
    (shard,) = discover_sources(config, 10**9, store=store).shards
    return shard


def lines_of(path: Path, store: Store) -> list[tuple[int, int, bytes]]:
    """All lines of a file."""
    return [line for batch in read_line_batches(shard_of(path, store)) for line in batch]


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        gzip.compress(LINES),
        gzip.compress(LINES[:20]) + gzip.compress(LINES[20:]),
        zstandard.compress(LINES),
        zstandard.compress(LINES[:20]) + zstandard.compress(LINES[20:]),
    ],
    ids=["plain", "gzip", "gzip of two members", "zstd", "zstd of two frames"],
)
def test_lines_have_number_and_offset_in_the_uncompressed_file(tmp_path, store, content):
    """One carriage return is stripped; U+2028 ends no line; the last line needs no end."""
    (tmp_path / "f").write_bytes(content)
    assert lines_of(tmp_path / "f", store) == EXPECTED


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_truncated_compressed_file_is_an_error(tmp_path, store, compress):
    """It fails by name instead of giving its first half."""
    (tmp_path / "f").write_bytes(compress(LINES * 1000)[:-3])
    with pytest.raises(InputError, match=r"f: (gzip|zstd) data is truncated or corrupt"):
        lines_of(tmp_path / "f", store)


def test_a_corrupt_gzip_file_is_an_error(tmp_path, store):
    """A flipped byte in the data breaks the checksum."""
    content = bytearray(gzip.compress(LINES * 1000))
    content[len(content) // 2] ^= 1
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError, match="gzip data is truncated or corrupt"):
        lines_of(tmp_path / "f", store)


def test_a_file_that_changed_after_discovery_is_an_error(tmp_path, store):
    """Bytes of another digest than the planned one are not committed under the planned key."""
    path = tmp_path / "f"
    path.write_bytes(LINES)
    shard = shard_of(path, store)
    path.write_bytes(LINES.replace(b"last", b"lost"))
    with pytest.raises(InputChangedError, match="changed since it was discovered"):
        list(read_line_batches(shard))


def test_a_byte_order_mark_is_stripped_at_the_start_only(tmp_path, store):
    """Elsewhere it is data."""
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfx\n\xef\xbb\xbfy\n")
    assert lines_of(tmp_path / "f", store) == [(1, 0, b"x"), (2, 5, b"\xef\xbb\xbfy")]


@given(content=st.binary(max_size=200))
def test_lines_joined_again_are_the_file(tmp_path_factory, content):
    """Nothing is lost between lines, for any bytes that are not a compressed file."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "f").write_bytes(b"{}" + content)
    found = lines_of(folder / "f", Store(str(folder / "store")))
    assert [line for _, _, line in found] == [
        line.removesuffix(b"\r") for line in (b"{}" + content).removesuffix(b"\n").split(b"\n")
    ]
