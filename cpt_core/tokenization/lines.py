r"""The bytes of a shard -> batches of lines.

In: a shard and its input file.
Out: lines as bytes, each with its number in the file and its offset in the uncompressed file.
Promise: lines end at ``\\n`` only; compressed files are read to their last member and frame, and a truncated or
corrupt one is an error; the bytes read are hashed on the way, so that a file that changed is noticed.
Never: decodes text, or holds more than one batch and one line.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from typing_extensions import Buffer

from cpt_core.errors import InputChangedError, InputError
from cpt_core.manifest import Shard
from cpt_core.storage import CHUNK_BYTES, open_input, sha256_of, stat_input

Line = tuple[int, int, bytes]
"""Line number from 1, byte offset in the uncompressed file, bytes without the line end."""
BATCH_BYTES = 8 << 20
_UTF8_BOM = b"\xef\xbb\xbf"


class _HashedRange(io.RawIOBase):
    """The first ``size_bytes`` of a stream, hashed while they are read."""

    def __init__(self, stream: IO[bytes], size_bytes: int) -> None:
        self._stream = stream
        self._remaining = size_bytes
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        chunk = self._stream.read(min(len(view), self._remaining))
        view[: len(chunk)] = chunk
        self.digest.update(chunk)
        self._remaining -= len(chunk)
        return len(chunk)


def read_line_batches(shard: Shard) -> Iterator[list[Line]]:
    """All lines of a line-based shard, in batches of about BATCH_BYTES.

    Raises:
        InputError: when the file cannot be read or decompressed to its end.
        InputChangedError: when the bytes are not the ones that discovery identified.
    """
    with open_input(shard.uri, shard.first_byte) as stream:
        hashed = _HashedRange(stream, shard.size_bytes)
        buffered = io.BufferedReader(hashed, CHUNK_BYTES)
        yield from _batches(_decompressed(buffered, shard), shard)
        while buffered.read(CHUNK_BYTES):
            pass  # whatever a decompressor left unread belongs to the identity too
        _require_unchanged(shard, hashed.digest.hexdigest())


def read_text_column(shard: Shard) -> Iterator[pa.Array]:
    """The text column of a parquet shard, in batches of rows.

    Raises:
        InputError: when the file is not parquet or has no such column of strings.
    """
    with open_input(shard.uri) as stream:
        try:
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            if names.count(shard.text_field) != 1:
                found = "no column" if shard.text_field not in names else "several columns"
                raise InputError(f"{shard.uri}: has {found} {shard.text_field!r}; its columns are {', '.join(names)}")
            column_type = parquet.schema_arrow.field(shard.text_field).type
            if not (pa.types.is_string(column_type) or pa.types.is_large_string(column_type)):
                raise InputError(f"{shard.uri}: column {shard.text_field!r} is {column_type}, expected string")
            for batch in parquet.iter_batches(4096, columns=[shard.text_field], use_threads=False):
                yield batch.column(0).cast(pa.large_binary())  # whether it is UTF-8 is for the parser to say
            stream.seek(0)
            _require_unchanged(shard, sha256_of(stream))
        except pa.ArrowException as error:
            raise InputError(f"{shard.uri}: cannot be read as parquet: {' '.join(str(error).split())}") from error


def _require_unchanged(shard: Shard, sha256: str) -> None:
    if "version" in shard.identity:
        unchanged = stat_input(shard.uri).version == shard.identity["version"]
    else:
        unchanged = shard.identity["sha256"] == sha256
    if not unchanged:
        raise InputChangedError(f"{shard.uri}: changed since it was discovered; run again when it is complete")


def _decompressed(buffered: IO[bytes], shard: Shard) -> Iterator[bytes]:
    try:
        if shard.format == "gzip":
            with gzip.open(buffered) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        elif shard.format == "zstd":
            yield from _zstd_frames(buffered)
        else:
            while chunk := buffered.read(CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise InputError(
            f"{shard.uri}: {shard.format} data is truncated or corrupt ({error}); nothing of it is used. "
            "Replace the file and run again"
        ) from error


def _zstd_frames(stream: IO[bytes]) -> Iterator[bytes]:
    """Every frame in turn; the library's own stream reader accepts a truncated last frame silently."""
    chunk = stream.read(CHUNK_BYTES)
    while chunk:
        frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        while not frame.eof:
            if not chunk:
                raise EOFError("the last frame has no end")
            yield frame.decompress(chunk)
            chunk = frame.unused_data if frame.eof else stream.read(CHUNK_BYTES)
        chunk = chunk or stream.read(CHUNK_BYTES)


def _batches(chunks: Iterator[bytes], shard: Shard) -> Iterator[list[Line]]:
    number, offset = shard.first_line, shard.first_byte
    rest: list[bytes] = []
    batch: list[Line] = []
    batch_bytes = 0
    for chunk in chunks:
        *complete, tail = chunk.split(b"\n")
        for end in complete:
            line = b"".join([*rest, end]) if rest else end
            rest = []
            batch.append(_line(number, offset, line))
            number, offset, batch_bytes = number + 1, offset + len(line) + 1, batch_bytes + len(line)
        if tail:
            rest.append(tail)
        if batch_bytes >= BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if rest:
        batch.append(_line(number, offset, b"".join(rest)))
    if batch:
        yield batch


def _line(number: int, offset: int, line: bytes) -> Line:
    if offset == 0:
        line = line.removeprefix(_UTF8_BOM)
    return number, offset, line.removesuffix(b"\r")
