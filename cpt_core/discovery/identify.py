"""One input file -> its shards, each identified by its content.

In: a file's stat; how to cut and how to identify.
Out: the file's format and its ranges with digest and first line.
Promise: the bytes described are the bytes that were there before and after reading; a file that cannot be read
gives a shard with a problem, so that the others go on.
Never: parses a line.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from cpt_core.config import DiscoveryConfig
from cpt_core.discovery.ranges import cut_targets, line_ranges
from cpt_core.errors import InputChangedError, InputError
from cpt_core.manifest import InputFormat
from cpt_core.storage import CHUNK_BYTES, FileStat, open_input, require_utf8, stat_input

THREADS_OF_ONE_FILE = 4
"""That read a file which is cut: a corpus may be a single one."""

_MAGIC: list[tuple[bytes, InputFormat, str]] = [
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    (b"PAR1", "parquet", ".parquet"),
]
"""First bytes, format, and the ending of the name that promises it."""

_OTHER_MAGIC = [
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"ARROW1", "an Arrow file"),
]
"""What would otherwise be read as thousands of broken lines."""

_SKIPPABLE_FRAME_END = b"\x2a\x4d\x18"
"""What follows the first byte, 0x50 to 0x5f, of a zstd file that begins with a skippable frame."""


OnRead = Callable[[int], None]
"""Called with the number of bytes that are identified more, after each chunk and from several threads."""


@dataclass(frozen=True, slots=True)
class Range:
    """One range of a file: position in bytes, number of its first line, and content identity."""

    first_byte: int
    size_bytes: int
    first_line: int
    identity: dict[str, Any]


@dataclass(frozen=True, slots=True)
class IdentifiedFile:
    """A file as the memory keeps it."""

    stat: FileStat
    format: InputFormat
    ranges: tuple[Range, ...]
    problem: str | None = None
    is_transient: bool = False
    """Whether the problem may be gone a little later."""

    def as_json(self) -> dict[str, Any]:
        """Plain values for the memory."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "IdentifiedFile":
        """The inverse of ``as_json``."""
        return cls(
            stat=FileStat(**values["stat"]),
            format=values["format"],
            ranges=tuple(Range(**described) for described in values["ranges"]),
        )


def identify_file(
    stat: FileStat, mode: str, shard_size_bytes: int, on_read: OnRead = lambda size_bytes: None
) -> IdentifiedFile:
    """Cut and identify one file; what is wrong with it becomes its ``problem``.

    Args:
        stat: the file as it was listed.
        mode: ``content`` or ``stat``, see ``DiscoveryConfig.fingerprint_inputs``.
        shard_size_bytes: larger uncompressed line files are cut.
        on_read: told while the file is read, in mode ``content``.
    """
    try:
        file_format = _recognise(stat.uri)
        spans = _spans(stat, file_format, shard_size_bytes)
        ranges = _by_content(stat, file_format, spans, on_read) if mode == "content" else _by_stat(stat, spans)
        if stat_input(stat.uri) != stat:
            raise InputChangedError(f"{stat.uri}: changed while it was read; run again when it is complete")
    except InputError as error:
        whole = Range(first_byte=0, size_bytes=stat.size_bytes, first_line=1, identity={})
        return IdentifiedFile(stat, "jsonl", (whole,), problem=str(error), is_transient=error.is_transient)
    return IdentifiedFile(stat=stat, format=file_format, ranges=ranges)


def memory_key(config: DiscoveryConfig, shard_size_bytes: int) -> dict[str, Any]:
    """What a remembered file's description depends on besides the file itself."""
    return {"mode": config.fingerprint_inputs, "shard_size_bytes": shard_size_bytes}


def _recognise(uri: str) -> InputFormat:
    with open_input(uri) as stream:
        head = stream.read(8)
    require_utf8(head, uri)
    for magic, name in _OTHER_MAGIC:
        if head.startswith(magic):
            raise InputError(f"{uri}: is {name}, expected JSON lines, gzip, zstd or parquet; decompress or convert it")
    if head[1:4] == _SKIPPABLE_FRAME_END and head[0] >> 4 == 5:
        return "zstd"
    for magic, file_format, ending in _MAGIC:
        if head.startswith(magic):
            return file_format
        if uri.endswith(ending) and magic.startswith(head):
            raise InputError(
                f"{uri}: is truncated: {len(head)} bytes, fewer than any {file_format} file has; nothing of it "
                "is used. Replace the file and run again"
            )
    return "jsonl"


def _spans(stat: FileStat, file_format: InputFormat, shard_size_bytes: int) -> list[tuple[int, int]]:
    if file_format != "jsonl" or stat.size_bytes <= shard_size_bytes:
        return [(0, stat.size_bytes)]
    with open_input(stat.uri) as stream:

        def read_at(offset: int, length: int) -> bytes:
            stream.seek(offset)
            return stream.read(length)

        return line_ranges(stat.size_bytes, cut_targets(stat.size_bytes, shard_size_bytes), read_at)


def _by_content(
    stat: FileStat, file_format: InputFormat, spans: list[tuple[int, int]], on_read: OnRead
) -> tuple[Range, ...]:
    def read(span: tuple[int, int]) -> tuple[str, int]:
        return _digest_and_newlines(stat.uri, file_format, *span, on_read)

    if len(spans) == 1:
        found = [read(spans[0])]
    else:
        with ThreadPoolExecutor(THREADS_OF_ONE_FILE) as pool:
            found = list(pool.map(read, spans))
    ranges = []
    first_line = 1
    for (first_byte, size_bytes), (sha256, newlines) in zip(spans, found, strict=True):
        ranges.append(Range(first_byte, size_bytes, first_line, {"sha256": sha256}))
        first_line += newlines
    return tuple(ranges)


def _digest_and_newlines(
    uri: str, file_format: InputFormat, first_byte: int, size_bytes: int, on_read: OnRead
) -> tuple[str, int]:
    digest = hashlib.sha256()
    newlines = 0
    remaining = size_bytes
    with open_input(uri, first_byte) as stream:
        while remaining and (chunk := stream.read(min(CHUNK_BYTES, remaining))):
            digest.update(chunk)
            newlines += chunk.count(b"\n") if file_format == "jsonl" else 0
            remaining -= len(chunk)
            on_read(len(chunk))
    return digest.hexdigest(), newlines


def _by_stat(stat: FileStat, spans: list[tuple[int, int]]) -> tuple[Range, ...]:
    if not stat.version:
        raise InputError(f"{stat.uri}: its file system tells no modification time; use fingerprint_inputs: content")
    uri = stat.uri.encode(errors="backslashreplace").decode()  # a key is UTF-8, which not every file name is
    identity = {"uri": uri, "file_size_bytes": stat.size_bytes, "version": stat.version}
    return tuple(Range(first_byte, size_bytes, 1, identity) for first_byte, size_bytes in spans)
