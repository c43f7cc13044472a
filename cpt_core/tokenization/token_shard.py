"""Writes the tables of one token shard and keeps count.

In: encoded documents and rejected lines, batch by batch.
Out: ``tokens.parquet``, ``quarantine.parquet`` where lines were rejected, their logical digests, counts.
Promise: documents in = documents out + quarantined; equal input gives equal bytes.
Never: holds more than one batch.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cpt_core.errors import ConservationError
from cpt_core.schemas import QUARANTINE, TOKEN_SHARD
from cpt_core.table_digest import TableDigest
from cpt_core.table_file import IDS_LAYOUT, TableFile
from cpt_core.tokenization.documents import DocumentBatch, Rejected
from cpt_core.tokenization.engine import EncodedTexts

_COUNTED = (
    "documents_in",
    "documents_out",
    "tokens",
    "blank_lines",
    "byte_order_marks",
    "maybe_truncated",
    "documents_repaired",
    "documents_with_nul",
    "documents_with_special_tokens",
)


class _Table:
    """A parquet file that exists once it has a row."""

    def __init__(self, path: Path, schema: pa.Schema, **options: Any) -> None:
        self._path, self._schema, self._options = path, schema, options
        self._digest = TableDigest(schema)
        self._writer: TableFile | None = None

    def open(self) -> TableFile:
        if self._writer is None:
            self._writer = TableFile(self._path, self._schema, **self._options)
        return self._writer

    def write(self, rows: pa.Table) -> None:
        self.open().write_table(rows)
        self._digest.update(rows)

    def close(self) -> tuple[Path, str] | None:
        """Path and logical digest, when there is a file."""
        if self._writer is None:
            return None
        self._writer.close()
        return self._path, self._digest.hexdigest()


class TokenShardWriter:
    """The files of a token shard under construction."""

    def __init__(self, folder: Path, special_tokens: tuple[str, ...]) -> None:
        self._special_token = _any_of(special_tokens)
        self._tables = {
            # A dictionary would only hold the vocabulary again.
            "tokens": _Table(
                folder / "tokens.parquet", TOKEN_SHARD, **IDS_LAYOUT, use_dictionary=False, write_statistics=False
            ),
            "quarantine": _Table(folder / "quarantine.parquet", QUARANTINE, compression="zstd"),
        }
        self._tables["tokens"].open()
        self._reasons: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def add(self, batch: DocumentBatch, encoded: EncodedTexts) -> None:
        """Write one batch."""
        self._counted.update(batch.counted)
        self._counted["documents_in"] += len(batch.texts) + len(batch.rejected)
        self._counted["documents_out"] += len(encoded.lengths)
        self._counted["tokens"] += len(encoded.ids)
        self._counted["documents_with_nul"] += sum("\0" in text for text in batch.texts)
        self._counted["documents_with_special_tokens"] += sum(
            self._special_token.search(text) is not None for text in batch.texts
        )
        self._reasons.update(reject.fault.reason for reject in batch.rejected)
        if batch.texts:
            self._tables["tokens"].write(_tokens_table(batch, encoded))
        if batch.rejected:
            self._tables["quarantine"].write(_quarantine_table(batch.rejected))

    @property
    def progress(self) -> tuple[int, int]:
        """Documents and tokens written."""
        return self._counted["documents_out"], self._counted["tokens"]

    def close(self) -> tuple[dict[str, Path], dict[str, str], dict[str, Any]]:
        """Finish the files: (role to path, role to logical digest, counts).

        Raises:
            ConservationError: when a document was lost or gained.
        """
        closed = {role: done for role, table in self._tables.items() if (done := table.close()) is not None}
        counts: dict[str, Any] = {name: self._counted[name] for name in _COUNTED}
        counts["documents_quarantined"] = self._reasons.total()
        counts["quarantined_by_reason"] = dict(sorted(self._reasons.items()))
        if counts["documents_in"] != counts["documents_out"] + counts["documents_quarantined"]:
            raise ConservationError(f"tokenization: documents in and out differ: {counts}")
        paths = {role: path for role, (path, _) in closed.items()}
        return paths, {role: digest for role, (_, digest) in closed.items()}, counts


def _any_of(special_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Finds what looks like one of them; fast when all begin alike, as in tokenizers that have hundreds."""
    return re.compile("|".join(re.escape(token) for token in special_tokens if token) or "(?!)")


def _tokens_table(batch: DocumentBatch, encoded: EncodedTexts) -> pa.Table:
    ends = np.concatenate([[0], np.cumsum(encoded.lengths)])
    return pa.Table.from_arrays(
        [
            pa.LargeListArray.from_arrays(
                pa.array(ends, pa.int64()), pa.array(encoded.ids, pa.int32()), type=TOKEN_SHARD.field("input_ids").type
            ),
            pa.array(encoded.lengths, pa.int32()),
            pa.array(batch.lines, pa.int64()),
            pa.array(batch.byte_offsets, pa.int64()),
        ],
        schema=TOKEN_SHARD,
    )


def _quarantine_table(rejected: list[Rejected]) -> pa.Table:
    rows = [
        {
            "line": reject.line,
            "byte_offset": reject.byte_offset,
            "size_bytes": reject.size_bytes,
            "sha256": reject.sha256,
            "reason": reject.fault.reason,
            "detail": reject.fault.detail,
            "raw": reject.raw,
        }
        for reject in rejected
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)
