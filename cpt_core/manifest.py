"""What discovery tells tokenization: the shards of a corpus, and where each lies.

A shard is one input file, or one range of whole lines of a large uncompressed one: the unit of tokenization, of
caching and of retry.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

InputFormat = Literal["jsonl", "gzip", "zstd", "parquet"]


@dataclass(frozen=True)
class Repair:
    """What a user wants read in place of one rejected line.

    Attributes:
        place: byte offset of the line in the uncompressed file; for parquet input its row number, negative.
        sha256: of the rejected line, in hexadecimal: a line that has changed is not replaced.
        replacement: the repaired line, one JSON object as text.
    """

    place: int
    sha256: str
    replacement: str


@dataclass(frozen=True, slots=True)
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
        file_size_bytes: length of the whole file when it was identified.
        first_line: number of its first line in the file, from 1.
        identity: what names the content: ``{"sha256": …}``, or path, size and time in mode ``stat``.
        problem: why the input cannot be used, in one line; None when it can.
        repairs: of lines in it, in order of place.
    """

    source: str
    ordinal: int
    uri: str
    format: InputFormat
    text_field: str
    first_byte: int
    size_bytes: int
    file_size_bytes: int
    first_line: int
    identity: dict[str, Any]
    problem: str | None = None
    repairs: tuple[Repair, ...] = ()

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

    def repeated_files(self) -> list[dict[str, str]]:
        """Input files whose content another one before them has, or that stand in two sources, with that other one.

        Empty files and those that cannot be read repeat nothing.
        """
        first_by_content: dict[Any, tuple[str, str]] = {}
        repeated = []
        for (source, file), shards in groupby(self.shards, key=lambda shard: (shard.source, shard.uri)):
            ranges = list(shards)
            if ranges[0].problem or not any(shard.size_bytes for shard in ranges):
                continue
            content = tuple(value for shard in ranges for value in shard.identity.values())
            first_source, first_file = first_by_content.setdefault(content, (source, file))
            if (first_source, first_file) != (source, file):
                repeated.append(
                    {"source": source, "file": file, "first_source": first_source, "first_file": first_file}
                )
        return repeated
