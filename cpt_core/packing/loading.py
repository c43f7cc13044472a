"""Reads the documents of a group into one array.

In: a group, the document index.
Out: the ids of its documents one after the other, and where each came from.
Promise: little more than the ids themselves is in memory, whatever the row groups of the token shards; of a small
held-out part no more than its own documents is kept.
Never: makes an object for a token or a document.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cpt_core.artifacts import Artifact
from cpt_core.packing.groups import PackGroup
from cpt_core.packing.plan import Ints, starts_of
from cpt_core.schemas import DOCUMENT_INDEX, TOKEN_SHARD
from cpt_core.storage import Store

KEY_DIGITS = 12
TOKENS_AT_ONCE = 1 << 18
"""What a reader decodes at a time: small enough that it stays in the processor's cache."""
READERS = 2
"""Threads that decode row groups; more of them wait for each other, as groups are packed side by side."""


@dataclass(frozen=True)
class GroupTokens:
    """The documents of a group in memory.

    Attributes:
        source: name of the source.
        ids: int32[tokens + row_len_tokens], token shards one after the other, then a row of padding.
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


def load_group(group: PackGroup, index: Artifact, row_len_tokens: int, pad_id: int, *, store: Store) -> GroupTokens:
    """The documents of a group, in order of shard and row, and a row of padding behind them."""
    documents = _documents_of(group, index, store)
    lengths = documents["num_tokens"].to_numpy().astype(np.int64)
    rows, ordinals = documents["row"].to_numpy(), [ordinal for ordinal, _ in group.shards]
    first_documents = np.append(np.searchsorted(documents["shard"].to_numpy(), ordinals), len(lengths))
    ends = starts_of(lengths)
    ids = np.empty(int(ends[-1]) + row_len_tokens, dtype=np.int32)
    ids[ends[-1] :] = pad_id

    def load(reader: int) -> None:
        for (_, tokens), first, end in zip(group.shards, first_documents[:-1], first_documents[1:], strict=True):
            for first_row, documents in _batches(tokens, reader, store):
                wanted = first + np.searchsorted(rows[first:end], [first_row, first_row + len(documents)])
                values = _values(documents, rows[slice(*wanted)] - first_row)
                ids[slice(*ends[wanted])] = values

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(load, range(READERS)))
    return GroupTokens(
        source=group.source,
        ids=ids,
        starts=ends[:-1],
        lengths=lengths,
        rows=rows,
        shard=np.repeat(np.arange(len(group.shards)), np.diff(first_documents)),
        tokens_keys=[artifact.key[:KEY_DIGITS] for _, artifact in group.shards],
    )


def _documents_of(group: PackGroup, index: Artifact, store: Store) -> pa.Table:
    """Shard, row and length of the documents of a group, in order of shard and row."""
    ordinals = [ordinal for ordinal, _ in group.shards]
    with store.open_parquet(index.path("documents")) as parquet:
        parts = [
            _of_group(parquet.read_row_group(number, use_threads=False), group, pa.array(ordinals, pa.int32()))
            for number in range(parquet.num_row_groups)
            if _may_hold(parquet.metadata.row_group(number), group.source, ordinals[0], ordinals[-1])
        ]
    return pa.concat_tables(parts)


def _of_group(documents: pa.Table, group: PackGroup, ordinals: pa.Array) -> pa.Table:
    is_of_source = pc.equal(documents["source"], group.source)
    is_of_split = pc.equal(documents["split"], group.split)
    is_of_shard = pc.is_in(documents["shard"], ordinals)
    wanted = pc.and_(pc.and_(is_of_source, is_of_split), is_of_shard)
    return documents.select(["shard", "row", "num_tokens"]).filter(wanted)


def _may_hold(row_group: pq.RowGroupMetaData, source: str, first_shard: int, last_shard: int) -> bool:
    """Whether the statistics of a row group of the index leave room for documents of these shards."""
    statistics = [row_group.column(DOCUMENT_INDEX.get_field_index(name)).statistics for name in ("source", "shard")]
    if not all(found is not None and found.has_min_max for found in statistics):
        return True
    sources, shards = statistics
    return bool(sources.min <= source <= sources.max and shards.min <= last_shard and first_shard <= shards.max)


def _batches(tokens: Artifact, reader: int, store: Store) -> Iterator[tuple[int, pa.LargeListArray]]:
    """A reader's share of a token shard, some documents at a time: (row of the first, documents)."""
    with store.open_parquet(tokens.path("tokens")) as parquet:
        row_groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        first_rows = starts_of(np.array([row_group.num_rows for row_group in row_groups], dtype=np.int64))
        for number in range(reader, len(row_groups), READERS):
            first_row = int(first_rows[number])
            for batch in parquet.iter_batches(
                _rows_at_once(row_groups[number]), row_groups=[number], columns=["input_ids"], use_threads=False
            ):
                yield first_row, batch.column(0)
                first_row += batch.num_rows


def _rows_at_once(row_group: pq.RowGroupMetaData) -> int:
    num_tokens = row_group.column(TOKEN_SHARD.get_field_index("input_ids")).num_values
    return max(1, TOKENS_AT_ONCE * row_group.num_rows // max(1, num_tokens))


def _values(documents: pa.LargeListArray, wanted: Ints) -> NDArray[np.int32]:
    """The ids of some documents, one after the other."""
    if len(wanted) == len(documents):
        return documents.flatten().to_numpy()
    ends = documents.offsets.to_numpy()
    chosen = pa.LargeListViewArray.from_arrays(ends[wanted], ends[wanted + 1] - ends[wanted], documents.values)
    return chosen.flatten().to_numpy()
