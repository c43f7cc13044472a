"""Lines of plain and compressed shards."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery import discover_sources
from cpt_core.errors import InputChangedError, InputError
from cpt_core.storage import Store
from cpt_core.tokenization.decompression import DecompressionLimits
from cpt_core.tokenization.lines import LineBatch, LongLine, read_line_batches
from tests.conftest import REPOSITORY

LINES = b'{"a": 1}\r\n\n{"b": "\xe2\x80\xa8"}\nlast'
EXPECTED = [(1, 0, b'{"a": 1}'), (2, 10, b""), (3, 11, b'{"b": "\xe2\x80\xa8"}'), (4, 24, b"last")]


def shard_of(path: Path, store: Store):
    """The only shard of a file."""
    config = DiscoveryConfig.model_validate({"sources": [{"name": "a", "uris": [str(path)]}]})
    (shard,) = discover_sources(config, 10**9, store=store).shards
    return shard


LIMITS = DecompressionLimits(max_ratio=250.0, max_bytes=10**12)


def said_by(script: str, folder: Path) -> list[str]:
    """What a process of its own prints in this folder: the peak of its memory is nobody else's."""
    environment = {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def read(
    path: Path, store: Store, max_line_bytes: int = 10**8, limits: DecompressionLimits = LIMITS
) -> list[LineBatch]:
    """All batches of a file."""
    return list(read_line_batches(shard_of(path, store), max_line_bytes, limits))


def lines_of(path: Path, store: Store) -> list[tuple[int, int, bytes]]:
    """All lines of a file."""
    return [
        (batch.first_line + position, offset, line)
        for batch in read(path, store)
        for position, (offset, line) in enumerate(zip(batch.byte_offsets.tolist(), batch.lines, strict=True))
    ]


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
        list(read_line_batches(shard, 10**8, LIMITS))


def test_a_file_that_grows_while_it_is_read_is_an_error(tmp_path, store):
    """Between two reads a line is added: whoever writes it has not finished, and the end may be cut off anywhere."""
    path = tmp_path / "f"
    path.write_bytes(b"x" * 99_999 + b"\n" + (b"x" * 99_999 + b"\n") * 99)
    batches = read_line_batches(shard_of(path, store), 10**8, LIMITS)
    assert next(batches).first_line == 1
    with path.open("ab") as stream:
        stream.write(b"last\n")
    with pytest.raises(InputChangedError) as caught:
        list(batches)
    assert str(caught.value) == (
        f"{path}: changed from 10,000,000 to 10,000,005 bytes since it was discovered; run again when it is complete"
    )


def test_a_byte_order_mark_is_stripped_at_the_start_only(tmp_path, store):
    """Elsewhere it is data."""
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfx\n\xef\xbb\xbfy\n")
    assert lines_of(tmp_path / "f", store) == [(1, 0, b"x"), (2, 5, b"\xef\xbb\xbfy")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(LINES) + b"garbage", "gzip"),
        (gzip.compress(LINES) + b"\x1f\x8b", "gzip"),
        (zstandard.compress(LINES) + b"garbage", "zstd"),
        (zstandard.compress(LINES) + b"\x28\xb5\x2f\xfd", "zstd"),
        (zstandard.compress(LINES) + bytes(512), "zstd"),
    ],
    ids=[
        "garbage after gzip",
        "half a header after gzip",
        "garbage after zstd",
        "half a header after zstd",
        "zeros after zstd",
    ],
)
def test_what_follows_compressed_data_and_is_none_is_an_error(tmp_path, store, content, what):
    """It may be what is left of a member or a frame."""
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError, match=f"{what} data is truncated or corrupt"):
        lines_of(tmp_path / "f", store)


def test_zeros_after_a_gzip_member_are_padding(tmp_path, store):
    """Tapes and block devices leave them."""
    (tmp_path / "f").write_bytes(gzip.compress(LINES) + bytes(512))
    assert lines_of(tmp_path / "f", store) == EXPECTED


def test_a_corrupt_zstd_file_is_an_error(tmp_path, store):
    """Its checksum tells."""
    content = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(LINES * 1000))
    content[-1] ^= 1
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError, match="zstd data is truncated or corrupt"):
        lines_of(tmp_path / "f", store)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (DecompressionLimits(250.0, 10**12), r"decompresses to \d[\d,]+ bytes from [\d,]+, more than .* = 250 allows"),
        (DecompressionLimits(1e9, 10**8), r"decompresses to more than .*max_decompressed_bytes = 100,000,000 bytes"),
    ],
    ids=["ratio", "size"],
)
def test_a_bomb_stops_at_a_limit(tmp_path, store, compress, limits, message):
    """A gigabyte of one letter is not written out to find that it is too much."""
    letters = b"a" * (1 << 26)
    (tmp_path / "f").write_bytes(compress(letters) * 16)
    seen = []
    with pytest.raises(InputError, match=f"f: {message}"):
        seen.extend(read_line_batches(shard_of(tmp_path / "f", store), 10**6, limits))
    assert seen == []


def test_a_bomb_in_one_frame_stops_in_little_memory(tmp_path):
    """32 KB hold a gigabyte: 8,192 blocks of 128 KiB that say one byte each. The process stays far below that."""
    block = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"a"
    (tmp_path / "f").write_bytes(b"\x28\xb5\x2f\xfd\x00\x38" + block * 8192 + b"\x01\x00\x00")
    message, megabytes = said_by(
        "from cpt_core.errors import InputError\n"
        "from cpt_core.tokenization.decompression import DecompressionLimits, decompressed\n"
        "from tests.memory import peak_rss_bytes\n"
        "before = peak_rss_bytes()\n"
        "try:\n"
        "    for chunk in decompressed(open('f', 'rb'), 'zstd', DecompressionLimits(250.0, 10**12), 'f'):\n"
        "        assert chunk == b'a' * (1 << 20)\n"
        "except InputError as error:\n"
        "    print(error)\n"
        "print((peak_rss_bytes() - before) >> 20)\n",
        tmp_path,
    )
    assert message == (
        "f: decompresses to 68,157,440 bytes from 32,777, more than tokenization.max_decompression_ratio = 250 allows; "
        "nothing of it is used. Raise the limit if the file is what you expect"
    )
    assert int(megabytes) < 16


def test_a_zstd_frame_that_asks_for_much_memory_is_refused(tmp_path, store):
    """The window is the file's own word; the zstd command refuses it by default, too."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "f").write_bytes(compressor.compress(LINES * 9) + compressor.flush())
    with pytest.raises(InputError, match=r"zstd data is truncated or corrupt .*memory"):
        lines_of(tmp_path / "f", store)


LONG = b"x" * 3_000_000
LONG_SHA256 = hashlib.sha256(LONG).hexdigest()


@pytest.mark.parametrize("length", [99, 100, 101, 5000, 3_000_000])
@pytest.mark.parametrize("before", [b"", b"first\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\nlast", b"\n\nlast\n"])
def test_a_line_that_is_too_long_is_passed_over_with_its_place_and_digest(tmp_path, store, length, before, after):
    """The lines around it have the places that they would have anyway; its bytes are not held."""
    line = LONG[:length]
    (tmp_path / "f").write_bytes(before + line + after)
    expected = [
        (number, offset, LongLine(content[:4096], len(content), hashlib.sha256(content).hexdigest()))
        if len(content) > 100
        else (number, offset, content)
        for number, offset, content in lines_of(tmp_path / "f", store)
    ]
    found = [
        (batch.first_line + position, offset, content)
        for batch in read(tmp_path / "f", store, max_line_bytes=100)
        for position, (offset, content) in enumerate(zip(batch.byte_offsets.tolist(), batch.lines, strict=True))
    ]
    assert found == expected
    assert sum(isinstance(content, LongLine) for _, _, content in found) == (length > 100)


def test_many_lines_that_are_too_long_are_each_one_line(tmp_path, store):
    """However they lie in the blocks that are read."""
    (tmp_path / "f").write_bytes((LONG + b"\nshort\n") * 20)
    batches = read(tmp_path / "f", store, max_line_bytes=2_000_000)
    found = [line for batch in batches for line in batch.lines]
    assert found == [LongLine(LONG[:4096], 3_000_000, LONG_SHA256), b"short"] * 20
    assert [batch.first_line for batch in batches] == sorted({batch.first_line for batch in batches})


def test_a_line_of_300_megabytes_is_passed_over_in_little_memory(tmp_path):
    """The process that reads over it never holds more than half of it."""
    with (tmp_path / "f").open("wb") as stream:
        for _ in range(300):
            stream.write(b"x" * 1_000_000)
        stream.write(b"\nlast\n")
    sizes, megabytes = said_by(
        "from pathlib import Path\n"
        "from cpt_core.storage import Store\n"
        "from cpt_core.tokenization.lines import read_line_batches\n"
        "from tests.cpt_core.tokenization.test_lines import LIMITS, shard_of\n"
        "from tests.memory import peak_rss_bytes\n"
        "shard = shard_of(Path('f').resolve(), Store('store'))\n"
        "before = peak_rss_bytes()\n"
        "lines = [line for batch in read_line_batches(shard, 50_000_000, LIMITS) for line in batch.lines]\n"
        "print([line if isinstance(line, bytes) else line.size_bytes for line in lines])\n"
        "print((peak_rss_bytes() - before) >> 20)\n",
        tmp_path,
    )
    assert sizes == "[300000000, b'last']"
    assert int(megabytes) < 150


@pytest.mark.parametrize(("content", "ends_unfinished"), [(b"a\nb", True), (b"a\nb\n", False), (b"a\n\n", False)])
def test_a_last_line_without_an_end_is_told(tmp_path, store, content, ends_unfinished):
    """It is a line like any other, and a sign that the file may be cut off."""
    (tmp_path / "f").write_bytes(content)
    assert [batch.ends_unfinished for batch in read(tmp_path / "f", store)] == [ends_unfinished]


@given(content=st.binary(max_size=200))
def test_lines_joined_again_are_the_file(tmp_path_factory, content):
    """Nothing is lost between lines, for any bytes that are not a compressed file."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "f").write_bytes(b"{}" + content)
    found = lines_of(folder / "f", Store(str(folder / "store")))
    assert [line for _, _, line in found] == [
        line.removesuffix(b"\r") for line in (b"{}" + content).removesuffix(b"\n").split(b"\n")
    ]
