r"""The bytes of a shard -> batches of lines.

In: a shard and its input file.
Out: lines as bytes, each with its number in the file and its offset in the uncompressed file; of parquet the values of
the text column.
Promise: lines end at ``\n`` only, and one ``\r`` before it is not part of them; a line longer than the limit is
passed over without being held; the bytes read are hashed on the way, so that a file that changed is noticed, also
one to which something was added.
Never: decodes text, or holds more than one batch and one line, or one page of parquet.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from typing_extensions import Buffer

from cpt_core.errors import InputChangedError, InputError
from cpt_core.manifest import Shard
from cpt_core.storage import CHUNK_BYTES, open_input, sha256_of, stat_input
from cpt_core.tokenization.decompression import DecompressionLimits, decompressed, require_within

BATCH_BYTES = 4 << 20
MAX_RAW_BYTES = 4096
"""How much of a rejected line is kept."""
ROWS_AT_ONCE = 16
"""Rows of parquet that are decoded together, whatever their size; one at a time takes several times as long."""
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class LongLine:
    """What is left of a line that is longer than the limit.

    Attributes:
        head: its first MAX_RAW_BYTES.
        size_bytes: its length, without the line end.
        sha256: of all of it, without the line end.
    """

    head: bytes
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class LineBatch:
    """Consecutive lines of a file.

    Attributes:
        first_line: number of the first one in the file, from 1.
        byte_offsets: int64[lines], where each begins in the uncompressed file.
        lines: without their line ends.
        byte_order_marks: 1 when one was stripped from the first line of the file.
        ends_unfinished: the last line has no line end, and so may be truncated.
    """

    first_line: int
    byte_offsets: NDArray[np.int64]
    lines: list[bytes | LongLine]
    byte_order_marks: int = 0
    ends_unfinished: bool = False


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


def read_line_batches(shard: Shard, max_line_bytes: int, limits: DecompressionLimits) -> Iterator[LineBatch]:
    """All lines of a line-based shard, in batches of about BATCH_BYTES.

    Args:
        shard: what to read.
        max_line_bytes: longer lines become a ``LongLine``.
        limits: of decompression.

    Raises:
        InputError: when the file cannot be read or decompressed to its end.
        InputChangedError: when the bytes are not the ones that discovery identified.
    """
    with open_input(shard.uri, shard.first_byte) as stream:
        hashed = _HashedRange(stream, shard.size_bytes)
        buffered = io.BufferedReader(hashed, CHUNK_BYTES)
        chunks = decompressed(buffered, shard.format, limits, shard.uri)
        yield from _Splitter(shard.first_line, shard.first_byte, max_line_bytes).batches(chunks)
        while buffered.read(CHUNK_BYTES):
            pass  # whatever a decompressor left unread belongs to the identity too
        _require_unchanged(shard, hashed.digest.hexdigest())


def read_text_column(shard: Shard, limits: DecompressionLimits) -> Iterator[list[bytes | None]]:
    """The values of the text column of a parquet shard, in batches of about BATCH_BYTES.

    Parquet is read by pages, which are as large as their writer made them: one of the text column is in memory beside
    the batch.

    Args:
        shard: what to read.
        limits: of decompression, which here is the work of parquet's own encodings.

    Raises:
        InputError: when the file is not parquet to its end, has no such column of strings, or exceeds the limits.
        InputChangedError: when the bytes are not the ones that discovery identified.
    """
    with open_input(shard.uri) as stream:
        try:
            yield from _values(stream, shard, limits)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's, from reading the file
                raise
            raise InputError(
                f"{shard.uri}: parquet data is truncated or corrupt ({' '.join(str(error).split())}); nothing of it is "
                "used. Replace the file and run again"
            ) from error
        stream.seek(0)
        _require_unchanged(shard, sha256_of(stream))


def _values(stream: IO[bytes], shard: Shard, limits: DecompressionLimits) -> Iterator[list[bytes | None]]:
    parquet = pq.ParquetFile(stream, buffer_size=CHUNK_BYTES, page_checksum_verification=True)
    _require_strings(parquet.schema_arrow, shard)
    batch: list[bytes | None] = []
    batch_bytes = total_bytes = total_rows = 0
    for rows in parquet.iter_batches(ROWS_AT_ONCE, columns=[shard.text_field], use_threads=False):
        batch += rows.column(0).cast(pa.large_binary()).to_pylist()  # whether it is UTF-8 is for the parser to say
        total_rows += rows.num_rows
        total_bytes += rows.nbytes
        batch_bytes += rows.nbytes
        if batch_bytes >= BATCH_BYTES:
            require_within(limits, total_bytes, shard.size_bytes, shard.uri)
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
    if total_rows != parquet.metadata.num_rows:  # Arrow believes a damaged page that says it has fewer
        raise pa.ArrowInvalid(f"{total_rows:,} rows of {parquet.metadata.num_rows:,}")


def _require_strings(schema: pa.Schema, shard: Shard) -> None:
    names = schema.names
    if names.count(shard.text_field) != 1:
        found = "no column" if shard.text_field not in names else "several columns"
        raise InputError(f"{shard.uri}: has {found} {shard.text_field!r}; its columns are {', '.join(names)}")
    column_type = schema.field(shard.text_field).type
    if not (pa.types.is_string(column_type) or pa.types.is_large_string(column_type)):
        raise InputError(f"{shard.uri}: column {shard.text_field!r} is {column_type}, expected string")


def _require_unchanged(shard: Shard, sha256: str) -> None:
    """The bytes that were read are those of the plan, and none were added behind them: whoever adds is not finished."""
    if "version" in shard.identity:
        unchanged = stat_input(shard.uri).version == shard.identity["version"]
    else:
        unchanged = shard.identity["sha256"] == sha256
    if not unchanged:
        raise InputChangedError(f"{shard.uri}: changed since it was discovered; run again when it is complete")
    if (size_bytes := stat_input(shard.uri).size_bytes) != shard.file_size_bytes:
        raise InputChangedError(
            f"{shard.uri}: changed from {shard.file_size_bytes:,} to {size_bytes:,} bytes since it was discovered; run "
            "again when it is complete"
        )


class _Splitter:
    """Cuts chunks of bytes into batches of lines."""

    def __init__(self, first_line: int, first_byte: int, max_line_bytes: int) -> None:
        self._line, self._offset = first_line, first_byte
        self._max_line_bytes = max_line_bytes
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def batches(self, chunks: Iterator[bytes]) -> Iterator[LineBatch]:
        """Batches that hold whole lines; the last one also a line without an end."""
        for chunk in chunks:
            self._take_up(chunk)
            if self._whole_bytes >= BATCH_BYTES:
                yield self._batch([])
            if self._rest_bytes > self._max_line_bytes:
                if self._whole:
                    yield self._batch([])
                yield self._long_batch(chunks)
        if self._whole or self._rest:
            yield self._batch(self._rest)

    def _batch(self, unfinished: list[bytes]) -> LineBatch:
        raw = b"".join(self._whole + unfinished).split(b"\n")
        self._whole, self._whole_bytes = [], 0
        ends_unfinished = bool(raw[-1])
        if not ends_unfinished:
            raw.pop()
        sizes = np.fromiter(map(len, raw), np.int64, len(raw))
        ends = np.cumsum(sizes + 1) + self._offset
        marks = int(self._offset == 0 and raw[0].startswith(_UTF8_BOM))
        if marks:
            raw[0] = raw[0].removeprefix(_UTF8_BOM)
        lines: list[bytes | LongLine] = [line.removesuffix(b"\r") for line in raw]
        for position in np.flatnonzero(sizes > self._max_line_bytes).tolist():
            whole = raw[position]
            lines[position] = LongLine(whole[:MAX_RAW_BYTES], len(whole), hashlib.sha256(whole).hexdigest())
        batch = LineBatch(self._line, ends - sizes - 1, lines, marks, ends_unfinished)
        self._line += len(raw)
        self._offset = int(ends[-1])
        return batch

    def _long_batch(self, chunks: Iterator[bytes]) -> LineBatch:
        """Read on to the end of a line that is too long, keeping its head, its length and its digest."""
        seen = b"".join(self._rest)
        self._rest, self._rest_bytes = [], 0
        size, digest, is_finished = len(seen), hashlib.sha256(seen), False
        for chunk in chunks:
            end = chunk.find(b"\n")
            part = chunk if end < 0 else chunk[:end]
            size += len(part)
            digest.update(part)
            if end >= 0:
                is_finished = True
                self._take_up(chunk[end + 1 :])
                break
        line = LongLine(seen[:MAX_RAW_BYTES], size, digest.hexdigest())
        batch = LineBatch(self._line, np.array([self._offset]), [line], 0, not is_finished)
        self._line, self._offset = self._line + 1, self._offset + size + 1
        return batch

    def _take_up(self, chunk: bytes) -> None:
        """Sort the bytes of a chunk into whole lines and the beginning of the next."""
        cut = chunk.rfind(b"\n") + 1
        if cut:
            self._whole += [*self._rest, chunk[:cut]]
            self._whole_bytes += self._rest_bytes + cut
            self._rest, self._rest_bytes = [], 0
        if cut < len(chunk):
            self._rest.append(chunk[cut:])
            self._rest_bytes += len(chunk) - cut
