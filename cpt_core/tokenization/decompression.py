"""Compressed input -> its bytes, whole or not at all.

In: a stream of compressed bytes, its format, limits.
Out: chunks of uncompressed bytes.
Promise: every gzip member and zstd frame is read; a truncated or corrupt one is an error, and so is a bomb, after at
most one chunk of CHUNK_BYTES beyond the limit; memory is bounded by such a chunk and the window of the format.
Never: takes the end of the data for the end of a frame.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from cpt_core.errors import InputError
from cpt_core.manifest import InputFormat
from cpt_core.storage import CHUNK_BYTES, require_utf8

RATIO_COUNTS_FROM_BYTES = 1 << 26
"""A small file of one repeated line compresses well and harms nobody."""


@dataclass(frozen=True)
class DecompressionLimits:
    """When a compressed file is a bomb.

    Attributes:
        max_ratio: uncompressed over compressed bytes, from RATIO_COUNTS_FROM_BYTES on.
        max_bytes: uncompressed bytes of one file.
    """

    max_ratio: float
    max_bytes: int


class _ZstdError(Exception):
    """What is wrong with the data, in the words of the library."""


class _Counted(io.RawIOBase):
    """A stream that counts what was read from it, and that its readers may close without closing what it reads."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self.bytes_read += len(chunk)
        return chunk


def decompressed(
    stream: IO[bytes], input_format: InputFormat, limits: DecompressionLimits, uri: str
) -> Iterator[bytes]:
    """Uncompressed chunks of a gzip or zstd stream; those of another stream as they are.

    Args:
        stream: of the input file.
        input_format: of its bytes.
        limits: beyond which it is a bomb.
        uri: of the input file, for messages.

    Raises:
        InputError: when the data end inside a member or frame, are corrupt, exceed the limits, or are UTF-16.
    """
    if input_format not in ("gzip", "zstd"):
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
        return
    compressed = _Counted(stream)
    total = 0
    try:
        for chunk in _gzip_members(compressed) if input_format == "gzip" else _zstd_frames(compressed):
            if not total:
                require_utf8(chunk, uri)
            total += len(chunk)
            require_within(limits, total, compressed.bytes_read, uri)
            yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error, _ZstdError) as error:
        raise InputError(
            f"{uri}: {input_format} data is truncated or corrupt ({error}); nothing of it is used. "
            "Replace the file and run again"
        ) from error


def require_within(limits: DecompressionLimits, total: int, compressed: int, uri: str) -> None:
    """Stop at a bomb.

    Args:
        limits: beyond which it is one.
        total: uncompressed bytes so far.
        compressed: bytes that were read for them.
        uri: of the input file, for messages.

    Raises:
        InputError: when a limit is exceeded.
    """
    if total > limits.max_bytes:
        raise InputError(
            f"{uri}: decompresses to more than tokenization.max_decompressed_bytes = {limits.max_bytes:,} bytes; "
            "nothing of it is used. Split the file, or raise the limit"
        )
    if total > RATIO_COUNTS_FROM_BYTES and total > limits.max_ratio * compressed:
        raise InputError(
            f"{uri}: decompresses to {total:,} bytes from {compressed:,}, more than "
            f"tokenization.max_decompression_ratio = {limits.max_ratio:g} allows; nothing of it is used. "
            "Raise the limit if the file is what you expect"
        )


def _gzip_members(stream: _Counted) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=stream) as members:
        while chunk := members.read(CHUNK_BYTES):
            yield chunk


def _zstd_frames(stream: _Counted) -> Iterator[bytes]:
    """Every frame in turn, by Arrow: zstandard's own reader takes a truncated last frame for a whole one, and its
    decompressobj returns all that its input holds, which four bytes a block may make 32,768 times as much. A window
    beyond 128 MB is refused, as by the zstd command: it is a request for memory by the file.
    """
    frames = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    while chunk := _read_zstd(frames):
        yield chunk


def _read_zstd(frames: pa.CompressedInputStream) -> bytes:
    try:
        return frames.read(CHUNK_BYTES)
    except OSError as error:
        if error.errno is not None:  # the system's, from reading the file
            raise
        raise _ZstdError(error) from error
