"""From packed rows to documents and back, by the pieces that every packed shard carries.

In: committed packed artifacts, in the order of training.
Out: row numbers over all of them, as training counts; the pieces of rows.
Promise: only the pieces are read, never ids; memory is bounded by one packed shard.
Never: knows files or lines: a piece names a token shard, and the manifest tells the rest.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cpt_core.artifacts import Artifact
from cpt_core.storage import Store

Piece = dict[str, Any]
"""``source, tokens_key, document, first_token, num_tokens``, see ``schemas.PACKED_SHARD``."""


@dataclass(frozen=True)
class PlacedRow:
    """One packed row.

    Attributes:
        row: its number over all packed shards.
        packed: the shard that it lies in.
        row_in_shard: its number there.
        pieces: all of them, or those that were asked for.
    """

    row: int
    packed: Artifact
    row_in_shard: int
    pieces: list[Piece]


def pieces_of_rows(rows: list[int], packed: list[Artifact], store: Store) -> list[PlacedRow]:
    """The rows with these numbers, in the order given."""
    ends = np.cumsum([artifact.counts["rows"] for artifact in packed])
    by_shard: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        by_shard[int(np.searchsorted(ends, row, side="right"))].append(row)
    placed = {}
    for shard, members in by_shard.items():
        first = int(ends[shard]) - packed[shard].counts["rows"]
        pieces = _read_pieces(sorted(row - first for row in members), packed[shard], store)
        for row in members:
            placed[row] = PlacedRow(row, packed[shard], row - first, pieces[row - first])
    return [placed[row] for row in rows]


def rows_of_document(
    source: str, tokens_key: str, document: int, packed: list[Artifact], store: Store
) -> list[PlacedRow]:
    """The rows that hold a part of a document, each with that part alone.

    Args:
        source: name of its source.
        tokens_key: key of its token shard.
        document: its row there.
        packed: where to look.
        store: where they lie.
    """
    placed, first = [], 0
    for artifact in packed:
        if tokens_key in artifact.key_parts["token_shards"]:
            pieces = store.read_table(artifact.path("rows"), ["pieces"]).column(0).combine_chunks()
            flat = pieces.flatten()
            for position in _positions(flat, source, tokens_key, document):
                row = int(np.searchsorted(pieces.offsets.to_numpy(), position, side="right")) - 1
                placed.append(PlacedRow(first + row, artifact, row, [flat[position].as_py()]))
        first += artifact.counts["rows"]
    return placed


def _positions(flat: pa.StructArray, source: str, tokens_key: str, document: int) -> list[int]:
    is_wanted = pc.and_(pc.equal(flat.field("source"), source), pc.equal(flat.field("document"), document))
    candidates = np.flatnonzero(is_wanted.to_numpy(zero_copy_only=False)).tolist()
    return [position for position in candidates if tokens_key.startswith(flat[position].as_py()["tokens_key"])]


def _read_pieces(rows: list[int], artifact: Artifact, store: Store) -> dict[int, list[Piece]]:
    found: dict[int, list[Piece]] = {}
    with store.open(artifact.path("rows")) as stream:
        parquet = pq.ParquetFile(stream)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        ends = np.cumsum(sizes)
        for group, members in itertools.groupby(rows, lambda row: int(np.searchsorted(ends, row, side="right"))):
            pieces = parquet.read_row_group(group, columns=["pieces"], use_threads=False).column(0)
            first = int(ends[group]) - sizes[group]
            found |= {row: pieces[row - first].as_py() for row in members}
    return found
