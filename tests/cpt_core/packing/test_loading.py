"""The documents of a group in memory."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpt_core.artifacts import Draft, commit
from cpt_core.indexing import TokenizedShard, build_index
from cpt_core.packing import plan_pack_groups
from cpt_core.packing.loading import load_group
from cpt_core.schemas import TOKEN_SHARD


def token_shard(store, ordinal: int, documents: list[list[int]]) -> TokenizedShard:
    """A token shard in row groups of three documents."""
    table = pa.Table.from_pydict(
        {
            "input_ids": documents,
            "num_tokens": [len(ids) for ids in documents],
            "line": list(range(len(documents))),
            "byte_offset": [0] * len(documents),
        },
        schema=TOKEN_SHARD,
    )
    counts = {"documents_out": len(documents), "tokens": sum(len(ids) for ids in documents)}
    with store.staging() as folder:
        pq.write_table(table, folder / "tokens.parquet", row_group_size=3)
        staged = {"tokens": folder / "tokens.parquet"}
        artifact = commit(store, Draft("tokens", f"a-{ordinal:05d}", {"ordinal": ordinal}, staged, counts, 0.0))
    return TokenizedShard("a", ordinal, artifact)


@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_documents_come_in_order_of_shard_and_row_and_padding_behind_them(store, make_config, fraction):
    """Of two token shards in several row groups, each split gets its own documents whole and no others."""
    documents = [[[100 * shard + row] * (row % 4 + 1) for row in range(10)] for shard in (1, 2)]
    shards = [token_shard(store, ordinal, documents[ordinal]) for ordinal in (0, 1)]
    config = make_config(discovery={"sources": [{"name": "a", "uris": ["x"], "held_out_fraction": fraction}]})
    index = build_index(shards, config, store=store)
    tokens = {("a", shard.ordinal): shard.tokens for shard in shards}
    found = []
    for group in plan_pack_groups(index, tokens, {"a": fraction}, 10**6, store=store):
        loaded = load_group(group, index, 8, 9, store=store)
        assert loaded.ids[-8:].tolist() == [9] * 8
        places = list(zip(loaded.shard.tolist(), loaded.rows.tolist(), strict=True))
        assert places == sorted(places)
        for (shard, row), start, length in zip(places, loaded.starts, loaded.lengths, strict=True):
            assert loaded.ids[start : start + length].tolist() == documents[shard][row]
        assert loaded.lengths.sum() + 8 == len(loaded.ids)
        assert loaded.tokens_keys == [shard.tokens.key[:12] for shard in shards]
        found += places
    assert sorted(found) == [(shard, row) for shard in (0, 1) for row in range(10)]


def test_row_groups_of_other_shards_are_not_read(store, make_config, monkeypatch):
    """The index of a large corpus is not read whole for each of its groups."""
    shards = [token_shard(store, ordinal, [[1, 2, 3]] * 5) for ordinal in range(6)]
    config = make_config(discovery={"sources": [{"name": "a", "uris": ["x"]}]})
    index = build_index(shards, config, store=store)
    tokens = {("a", shard.ordinal): shard.tokens for shard in shards}
    group = plan_pack_groups(index, tokens, {"a": 0.0}, 1, store=store)[2]
    read: list[int] = []
    genuine = pq.ParquetFile.read_row_group

    def counting(self, number, columns=None, **options):
        if columns is None:
            read.append(number)
        return genuine(self, number, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    assert np.array_equal(load_group(group, index, 8, 9, store=store).lengths, [3] * 5)
    assert len(read) == 1
