"""What discovery tells tokenization: the shards of a corpus, and where each lies.

A shard is one input file, or one range of whole lines of a large uncompressed one: the unit of tokenization, of
caching and of retry.
"""

from dataclasses import dataclass
from typing import Any, Literal

InputFormat = Literal["jsonl", "gzip", "zstd", "parquet"]


@dataclass(frozen=True)
class Shard:
    """One unit of tokenization.

    Attributes:
        source: name of its source.
        ordinal: position within the source, from 0, in bytewise order of URI and then of first_byte.
        uri: the input file.
        format: recognised by its first bytes, never by its name.
        text_field: field or column that holds the text.
        first_byte: where the shard begins in the file, in bytes.
        size_bytes: length of the shard in the file, in bytes (compressed bytes for compressed files).
        first_line: number of its first line in the file, from 1.
        identity: what names the content: ``{"sha256": …}``, or path, size and time in mode ``stat``.
        problem: why the input cannot be used, in one line; None when it can.
    """

    source: str
    ordinal: int
    uri: str
    format: InputFormat
    text_field: str
    first_byte: int
    size_bytes: int
    first_line: int
    identity: dict[str, Any]
    problem: str | None = None

    @property
    def name(self) -> str:
        """Readable name, such as ``gsm8k-train-00003``."""
        return f"{self.source}-{self.ordinal:05d}"


@dataclass(frozen=True)
class Manifest:
    """All shards of a run, in order of source (as configured) and ordinal."""

    shards: tuple[Shard, ...]
    files: int
    """Number of input files."""
    bytes_read: int
    """Input bytes read to identify them; 0 when all were remembered."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size_bytes for shard in self.shards)
