"""Moves tokens: a plan and the ids of a group -> the packed parquet.

In: flat ids, where each document starts in them, the plan.
Out: a parquet file of packed_rows, see ``schemas.PACKED_SHARD``.
Promise: rows of exactly row_len_tokens; padding only at row ends, as a segment of its own; memory beyond the ids
is bounded by one chunk of rows.
Never: loops over tokens or documents in Python.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cpt_core.packing.plan import Ints, Plan
from cpt_core.schemas import PACKED_SHARD, PIECE

CHUNK_TOKENS = 1 << 22
ROW_GROUP_TOKENS = 1 << 18
"""Small row groups, because training reads rows in random order."""


@dataclass(frozen=True)
class GroupTokens:
    """The documents of a group in memory.

    Attributes:
        source: name of the source.
        ids: int32[tokens], token shards one after the other.
        starts: int64[documents], position of each document's first token in ``ids``.
        lengths: int64[documents].
        rows: int64[documents], row in the token shard.
        shard: int64[documents], position in ``tokens_keys``.
        tokens_keys: first digits of the key of each token shard.
    """

    source: str
    ids: NDArray[np.int32]
    starts: Ints
    lengths: Ints
    rows: Ints
    shard: Ints
    tokens_keys: list[str]


def write_rows(path: Path, plan: Plan, group: GroupTokens, row_len_tokens: int, pad_id: int) -> None:
    """Write all rows of the plan."""
    rows_at_once = max(1, CHUNK_TOKENS // row_len_tokens)
    row_group_rows = max(1, ROW_GROUP_TOKENS // row_len_tokens)
    with pq.ParquetWriter(
        path,
        PACKED_SHARD,
        compression="zstd",
        compression_level=1,
        use_dictionary=["pieces.list.element.source", "pieces.list.element.tokens_key"],
    ) as writer:
        for first_row in range(0, plan.num_rows, rows_at_once):
            end_row = min(first_row + rows_at_once, plan.num_rows)
            chunk = _chunk(plan, first_row, end_row, group, row_len_tokens, pad_id)
            writer.write_table(chunk, row_group_size=row_group_rows)


def _chunk(plan: Plan, first_row: int, end_row: int, group: GroupTokens, row_len_tokens: int, pad_id: int) -> pa.Table:
    first, end = plan.row_starts[first_row], plan.row_starts[end_row]
    pieces = plan.pieces.take(np.arange(first, end))
    piece_counts = np.diff(plan.row_starts[first_row : end_row + 1])
    num_rows = end_row - first_row
    row_of_piece = np.repeat(np.arange(num_rows), piece_counts)
    num_tokens = np.bincount(row_of_piece, weights=pieces.num_tokens, minlength=num_rows).astype(np.int64)

    ids = np.full(num_rows * row_len_tokens, pad_id, dtype=np.int32)
    row_token_starts = np.cumsum(num_tokens) - num_tokens
    in_row = np.cumsum(pieces.num_tokens) - pieces.num_tokens - row_token_starts[row_of_piece]
    source = _spans(group.starts[pieces.document] + pieces.first_token, pieces.num_tokens)
    ids[_spans(row_of_piece * row_len_tokens + in_row, pieces.num_tokens)] = group.ids[source]

    row_ends = np.arange(num_rows + 1, dtype=np.int32) * row_len_tokens
    return pa.Table.from_arrays(
        [
            pa.ListArray.from_arrays(pa.array(row_ends), pa.array(ids)),
            _seq_lengths(pieces.num_tokens, piece_counts, row_len_tokens - num_tokens),
            pa.array(num_tokens, pa.int32()),
            pa.ListArray.from_arrays(
                _offsets(piece_counts),
                _piece_structs(pieces.document, pieces.first_token, pieces.num_tokens, group),
            ),
        ],
        schema=PACKED_SHARD,
    )


def _spans(starts: Ints, lengths: Ints) -> Ints:
    """Positions of several spans, one after the other: starts [5, 0], lengths [2, 3] gives [5, 6, 0, 1, 2]."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(starts - before, lengths)


def _offsets(counts: Ints) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


def _seq_lengths(piece_lengths: Ints, piece_counts: Ints, padding: Ints) -> pa.ListArray:
    padded = padding > 0
    lengths = np.insert(piece_lengths, np.cumsum(piece_counts)[padded], padding[padded])
    return pa.ListArray.from_arrays(_offsets(piece_counts + padded), pa.array(lengths, pa.int32()))


def _piece_structs(document: Ints, first_token: Ints, num_tokens: Ints, group: GroupTokens) -> pa.StructArray:
    keys = pa.DictionaryArray.from_arrays(pa.array(group.shard[document], pa.int32()), pa.array(group.tokens_keys))
    return pa.StructArray.from_arrays(
        [
            pa.repeat(pa.scalar(group.source), len(document)),
            keys.cast(pa.string()),
            pa.array(group.rows[document], pa.int64()),
            pa.array(first_token, pa.int64()),
            pa.array(num_tokens, pa.int32()),
        ],
        fields=list(PIECE),
    )
