"""A look into the quarantine of a token shard.

In: a shard of the manifest and its committed token shard.
Out: its rejected lines, one by one, each with the file that it lies in.
Promise: only reads; memory is bounded by one batch of rejected lines.
Never: opens an input file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from cpt_core.artifacts import Artifact
from cpt_core.manifest import Shard
from cpt_core.schemas import QUARANTINE, require_columns
from cpt_core.storage import Store
from cpt_core.tokenization.repairs import place_of

ROLE = "quarantine"
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class RejectedLine:
    """One line that is no document.

    Attributes:
        source: name of its source.
        shard: name of its shard.
        file: URI of its input file.
        line: number, from 1 (row number for parquet input).
        byte_offset: of the line in the uncompressed file; -1 for parquet input.
        size_bytes: length of the line without its line end.
        sha256: of the line without its line end; of the row's text for parquet input.
        reason: code.
        detail: what was wrong.
        raw: the first bytes of the line.
    """

    source: str
    shard: str
    file: str
    line: int
    byte_offset: int
    size_bytes: int
    sha256: str
    reason: str
    detail: str
    raw: bytes

    @property
    def place(self) -> int:
        """Where it is, in one number."""
        return place_of(self.line, self.byte_offset)

    def shown(self) -> dict[str, Any]:
        """Plain values; bytes of ``raw`` that are no text are escaped."""
        return {**vars(self), "raw": self.raw.decode(errors="backslashreplace")}

    def entry(self) -> dict[str, Any]:
        """The line as an entry of a repairs file, to be completed by its reader."""
        values = self.shown()
        located = {name: values[name] for name in ("file", "line", "byte_offset", "sha256")}
        return {**located, "replacement": None, **{name: values[name] for name in ("reason", "detail", "raw")}}


def read_rejected_lines(shard: Shard, tokens: Artifact, store: Store) -> Iterator[RejectedLine]:
    """The rejected lines of a shard, in order of their lines."""
    if ROLE not in tokens.files:
        return
    with store.open(tokens.path(ROLE)) as stream:
        parquet = pq.ParquetFile(stream)
        require_columns(parquet.schema_arrow, QUARANTINE, tokens.uri)
        for batch in parquet.iter_batches(ROWS_AT_ONCE, use_threads=False):
            for row in batch.to_pylist():
                yield RejectedLine(source=shard.source, shard=shard.name, file=shard.uri, **row)
