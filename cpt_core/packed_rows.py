"""Packed rows as arrays: what training and evaluation read.

In: committed packed artifacts.
Out: rows as numpy arrays: ids, positions that restart at every document, labels that never cross a border.
Promise: memory and open files are bounded, however many packed shards there are; a row is found by its number over
all packed shards, in order.
Never: decides the order of rows, or imports torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cpt_core.artifacts import Artifact
from cpt_core.errors import StoreError
from cpt_core.schemas import PACKED_SHARD, require_columns
from cpt_core.storage import Store

IGNORED_LABEL = -100
"""The label that transformers' losses skip."""
OPEN_SHARDS = 32
"""Of each, the footer is in memory: about 1 MB for 2^26 tokens."""
ROW_GROUPS_IN_MEMORY = 8
"""For readers that go from row to row; a random order hardly ever meets the same row group again."""


@dataclass(frozen=True)
class Row:
    """One packed row.

    Attributes:
        input_ids: int64[row_len_tokens].
        seq_lengths: int32[number of segments]; sums to row_len_tokens, the padding being the last segment.
        num_tokens: ids that are not padding.
    """

    input_ids: NDArray[np.int64]
    seq_lengths: NDArray[np.int32]
    num_tokens: int

    @property
    def document_lengths(self) -> NDArray[np.int32]:
        """Lengths of the segments that are not padding."""
        return self.seq_lengths[np.cumsum(self.seq_lengths) <= self.num_tokens]


def position_ids(seq_lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """Position of every token within its segment: seq_lengths [3, 2] gives [0, 1, 2, 0, 1]."""
    starts = np.cumsum(seq_lengths) - seq_lengths
    return np.arange(int(seq_lengths.sum()), dtype=np.int64) - np.repeat(starts, seq_lengths)


def labels(row: Row) -> NDArray[np.int64]:
    """Ids to predict, unshifted: IGNORED_LABEL at the first token of each segment and in the padding.

    A causal model predicts label t from the tokens before t, so the first token of a document would be
    predicted from another document; the last real token, often an EOS, is always a label.
    """
    wanted = row.input_ids.copy()
    wanted[np.cumsum(row.seq_lengths) - row.seq_lengths] = IGNORED_LABEL
    wanted[row.num_tokens :] = IGNORED_LABEL
    return wanted


def empty_row(row_len_tokens: int, pad_id: int) -> Row:
    """A row without any token to train on: fills the last step of a run."""
    return Row(
        input_ids=np.full(row_len_tokens, pad_id, dtype=np.int64),
        seq_lengths=np.array([row_len_tokens], dtype=np.int32),
        num_tokens=0,
    )


@dataclass(frozen=True)
class Batch:
    """Rows as one model input.

    Attributes:
        input_ids: int64[rows, row_len_tokens].
        position_ids: int64[rows, row_len_tokens].
        labels: int64[rows, row_len_tokens], unshifted.
        seq_lengths: int32[number of segments]; what attention stays within, row after row. No segment is empty.
        num_trained_tokens: labels that are not ignored.
        num_tokens: ids that are not padding.
        sum_squared_lengths: over the segments that are not padding: what attention costs.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    seq_lengths: NDArray[np.int32]
    num_trained_tokens: int
    num_tokens: int
    sum_squared_lengths: int


def batch_of(rows: list[Row], *, document_borders: bool) -> Batch:
    """Stack rows of one length; without document borders positions run through the whole row."""
    wanted = np.stack([labels(row) for row in rows])
    whole = np.array([len(rows[0].input_ids)], dtype=np.int32)
    segments = [row.seq_lengths if document_borders else whole for row in rows]
    lengths = np.concatenate(segments)
    documents = [row.document_lengths if document_borders else np.array([row.num_tokens]) for row in rows]
    return Batch(
        input_ids=np.stack([row.input_ids for row in rows]),
        position_ids=np.stack([position_ids(own) for own in segments]),
        labels=wanted,
        seq_lengths=lengths[lengths > 0],
        num_trained_tokens=int((wanted != IGNORED_LABEL).sum()),
        num_tokens=sum(row.num_tokens for row in rows),
        sum_squared_lengths=int((np.concatenate(documents).astype(np.int64) ** 2).sum()),
    )


@dataclass(frozen=True)
class _RowGroup:
    """Neighbouring rows as they lie in a packed shard."""

    input_ids: NDArray[np.int32]
    seq_lengths: NDArray[np.int32]
    first_ids: NDArray[np.int32]
    first_segments: NDArray[np.int32]
    num_tokens: NDArray[np.int32]

    def row(self, number: int) -> Row:
        ids = slice(self.first_ids[number], self.first_ids[number + 1])
        segments = slice(self.first_segments[number], self.first_segments[number + 1])
        return Row(self.input_ids[ids].astype(np.int64), self.seq_lengths[segments], int(self.num_tokens[number]))


class PackedRows:
    """Random access to the rows of several packed shards, numbered in the order of the shards.

    Asking for a row raises ``StoreError`` when its packed shard is gone or damaged.
    """

    def __init__(self, store: Store, packed: list[Artifact]) -> None:
        self._store = store
        self._packed = packed
        rows = [artifact.counts["rows"] for artifact in packed]
        self._first_rows = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._row_group = lru_cache(maxsize=ROW_GROUPS_IN_MEMORY)(self._read_row_group)
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open_shard)

    def __len__(self) -> int:
        """Number of rows over all shards."""
        return int(self._first_rows[-1])

    @property
    def row_len_tokens(self) -> int:
        """Length of every row."""
        return int(self._packed[0].counts["row_len_tokens"])

    def __getitem__(self, row: int) -> Row:
        """The row with this number."""
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        in_shard = row - int(self._first_rows[shard])
        _, group_starts = self._shard(shard)
        group = int(np.searchsorted(group_starts, in_shard, side="right")) - 1
        return self._row_group(shard, group).row(in_shard - int(group_starts[group]))

    @contextmanager
    def _reading(self, shard: int) -> Iterator[str]:
        path = self._packed[shard].path("rows")
        try:
            with self._store.reading(path):
                yield path
        except FileNotFoundError:
            raise StoreError(f"{self._store.uri(path)}: is gone; run the packing again") from None

    def _open_shard(self, shard: int) -> tuple[pq.ParquetFile, NDArray[np.int64]]:
        with self._reading(shard) as path:
            local = self._store.local_path(path)
            parquet = pq.ParquetFile(local or self._store.open_seekable(path), page_checksum_verification=True)
        require_columns(parquet.schema_arrow, PACKED_SHARD, self._store.uri(path))
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        return parquet, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def _read_row_group(self, shard: int, group: int) -> _RowGroup:
        parquet, _ = self._shard(shard)
        columns = ["input_ids", "seq_lengths", "num_tokens"]
        with self._reading(shard):
            table = parquet.read_row_group(group, columns=columns, use_threads=False)
        ids, lengths, num_tokens = (_whole(column) for column in table.columns)
        return _RowGroup(
            input_ids=ids.values.to_numpy(),
            seq_lengths=lengths.values.to_numpy(),
            first_ids=ids.offsets.to_numpy(),
            first_segments=lengths.offsets.to_numpy(),
            num_tokens=num_tokens.to_numpy(),
        )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, without a copy where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
