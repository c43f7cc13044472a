"""Moves tokens: a plan and the ids of a group -> the packed parquet.

In: ids of a group, the plan.
Out: a parquet file of packed rows, see ``schemas.PACKED_SHARD``, and its logical digest.
Promise: rows of exactly row_len_tokens; padding only at row ends, as a segment of its own; memory beyond the ids
is bounded by a few chunks of rows.
Never: loops over tokens or documents in Python.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from cpt_core.packing.loading import GroupTokens
from cpt_core.packing.plan import Ints, Pieces, Plan, starts_of
from cpt_core.schemas import PACKED_SHARD, PIECE
from cpt_core.table_digest import TableDigest
from cpt_core.table_file import IDS_LAYOUT, TableFile

CHUNK_TOKENS = 1 << 22
ROW_GROUP_TOKENS = 1 << 18
"""Small row groups, because training reads rows in random order."""


def write_rows(path: Path, plan: Plan, group: GroupTokens, row_len_tokens: int) -> str:
    """Write all rows of the plan; returns their logical digest."""
    digest = TableDigest(PACKED_SHARD)
    row_group_rows = max(1, ROW_GROUP_TOKENS // row_len_tokens)
    with TableFile(
        path,
        PACKED_SHARD,
        **IDS_LAYOUT,
        use_dictionary=["pieces.list.element.source", "pieces.list.element.tokens_key"],
        write_statistics=["num_tokens"],
    ) as writer:
        for chunk in _ahead(_chunks(plan, group, row_len_tokens), digest.update):
            writer.write_table(chunk, row_group_size=row_group_rows)
    return digest.hexdigest()


def _ahead(chunks: Iterator[pa.Table], look_at: Callable[[pa.Table], None]) -> Iterator[pa.Table]:
    """The same chunks, each made and looked at in a second thread while the one before it is written."""

    def make() -> pa.Table | None:
        chunk = next(chunks, None)
        if chunk is not None:
            look_at(chunk)
        return chunk

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make)
        while (chunk := coming.result()) is not None:
            coming = pool.submit(make)
            yield chunk


def _chunks(plan: Plan, group: GroupTokens, row_len_tokens: int) -> Iterator[pa.Table]:
    rows_at_once = max(1, CHUNK_TOKENS // row_len_tokens)
    for first_row in range(0, plan.num_rows, rows_at_once):
        yield _chunk(plan, first_row, min(first_row + rows_at_once, plan.num_rows), group, row_len_tokens)


def _chunk(plan: Plan, first_row: int, end_row: int, group: GroupTokens, row_len_tokens: int) -> pa.Table:
    row_starts = plan.row_starts[first_row : end_row + 1]
    pieces = plan.pieces.between(row_starts[0], row_starts[-1])
    row_starts = row_starts - row_starts[0]
    num_tokens = np.add.reduceat(pieces.num_tokens, row_starts[:-1])

    # Padding is one more segment of its row, whose ids lie behind those of the documents.
    padding = row_len_tokens - num_tokens
    padded = np.flatnonzero(padding)
    row_ends = row_starts[1:][padded]
    segment_starts = np.insert(
        group.starts[pieces.document] + pieces.first_token, row_ends, len(group.ids) - row_len_tokens
    )
    segment_lengths = np.insert(pieces.num_tokens, row_ends, padding[padded])
    segments = pa.LargeListViewArray.from_arrays(segment_starts, segment_lengths, group.ids)

    list_of_ids, lists_of_lengths, _, lists_of_pieces = (field.type for field in PACKED_SHARD)
    rows = np.arange(len(num_tokens) + 1)
    return pa.Table.from_arrays(
        [
            _lists(rows * row_len_tokens, segments.flatten(), list_of_ids),
            _lists(row_starts + starts_of(padding > 0), pa.array(segment_lengths, pa.int32()), lists_of_lengths),
            pa.array(num_tokens, pa.int32()),
            _lists(row_starts, _piece_structs(pieces, group), lists_of_pieces),
        ],
        schema=PACKED_SHARD,
    )


def _lists(starts: Ints, values: pa.Array, list_type: pa.DataType) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values, type=list_type)


def _piece_structs(pieces: Pieces, group: GroupTokens) -> pa.StructArray:
    keys = pa.DictionaryArray.from_arrays(
        pa.array(group.shard[pieces.document], pa.int32()), pa.array(group.tokens_keys)
    )
    return pa.StructArray.from_arrays(
        [
            pa.repeat(pa.scalar(group.source), len(pieces)),
            keys.cast(pa.string()),
            pa.array(group.rows[pieces.document], pa.int64()),
            pa.array(pieces.first_token, pa.int64()),
            pa.array(pieces.num_tokens, pa.int32()),
        ],
        fields=list(PIECE),
    )
