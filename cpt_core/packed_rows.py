"""Packed rows as arrays: what training and evaluation read.

In: committed packed artifacts.
Out: rows as numpy arrays: ids, positions that restart at every document, labels that never cross a border.
Promise: memory is bounded by a few row groups; a row is found by its number over all packed shards, in order.
Never: decides the order of rows, or imports torch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cpt_core.artifacts import Artifact
from cpt_core.schemas import PACKED_SHARD, require_columns
from cpt_core.storage import Store

IGNORED_LABEL = -100
"""The label that transformers' losses skip."""
ROW_GROUPS_IN_MEMORY = 64


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
        num_trained_tokens: labels that are not ignored.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    num_trained_tokens: int


def batch_of(rows: list[Row], *, document_borders: bool) -> Batch:
    """Stack rows of one length; without document borders positions run through the whole row."""
    wanted = np.stack([labels(row) for row in rows])
    through = np.arange(len(rows[0].input_ids), dtype=np.int64)
    return Batch(
        input_ids=np.stack([row.input_ids for row in rows]),
        position_ids=np.stack([position_ids(row.seq_lengths) if document_borders else through for row in rows]),
        labels=wanted,
        num_trained_tokens=int((wanted != IGNORED_LABEL).sum()),
    )


class PackedRows:
    """Random access to the rows of several packed shards, numbered in the order of the shards."""

    def __init__(self, store: Store, packed: list[Artifact]) -> None:
        self._store = store
        self._packed = packed
        rows = [artifact.counts["rows"] for artifact in packed]
        self._first_rows = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._row_group = lru_cache(maxsize=ROW_GROUPS_IN_MEMORY)(self._read_row_group)
        self._shard = lru_cache(maxsize=len(packed) or 1)(self._open_shard)

    def __len__(self) -> int:
        """Number of rows over all shards."""
        return int(self._first_rows[-1])

    def __getitem__(self, row: int) -> Row:
        """The row with this number."""
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        in_shard = row - int(self._first_rows[shard])
        _, group_starts = self._shard(shard)
        group = int(np.searchsorted(group_starts, in_shard, side="right")) - 1
        return self._row_group(shard, group)[in_shard - int(group_starts[group])]

    def _open_shard(self, shard: int) -> tuple[pq.ParquetFile, NDArray[np.int64]]:
        path = self._packed[shard].path("rows")
        local = self._store.local_path(path)
        parquet = pq.ParquetFile(local if local else self._store.open_seekable(path))
        require_columns(parquet.schema_arrow, PACKED_SHARD, self._store.uri(path))
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        return parquet, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def _read_row_group(self, shard: int, group: int) -> list[Row]:
        parquet, _ = self._shard(shard)
        table = parquet.read_row_group(group, columns=["input_ids", "seq_lengths", "num_tokens"], use_threads=False)
        ids, lengths = (table.column(name).combine_chunks() for name in ("input_ids", "seq_lengths"))
        id_values, id_ends = ids.values.to_numpy(), ids.offsets.to_numpy()
        length_values, length_ends = lengths.values.to_numpy(), lengths.offsets.to_numpy()
        return [
            Row(
                input_ids=id_values[id_ends[row] : id_ends[row + 1]].astype(np.int64),
                seq_lengths=length_values[length_ends[row] : length_ends[row + 1]],
                num_tokens=num_tokens,
            )
            for row, num_tokens in enumerate(table.column("num_tokens").to_pylist())
        ]
