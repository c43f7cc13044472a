"""The logical digest sees rows, and nothing of how they are stored."""

import io
import time
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_core.schemas import PACKED_SHARD, TOKEN_SHARD
from cpt_core.table_digest import TableDigest, table_digest

SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("name", pa.string()),
        ("flag", pa.bool_()),
        ("pieces", pa.list_(pa.struct([("source", pa.string()), ("document", pa.int64())]))),
    ]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "ids": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
            "name": st.text(max_size=3),
            "flag": st.booleans(),
            "pieces": st.lists(
                st.fixed_dictionaries({"source": st.text(max_size=2), "document": st.integers(0, 2**40)}), max_size=2
            ),
        }
    ),
    max_size=6,
)


def table_of(rows) -> pa.Table:
    """Rows as one table."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@given(rows=ROWS, cuts=st.lists(st.integers(0, 6), max_size=4))
def test_borders_of_batches_do_not_matter(rows, cuts):
    """Sliced, in parts, in chunks: the same rows, the same digest."""
    table = table_of(rows)
    whole = table_digest(SCHEMA, [table])
    ends = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    parts = [table.slice(start, end - start) for start, end in pairwise(ends)]
    assert table_digest(SCHEMA, parts) == whole
    assert table_digest(SCHEMA, [batch for part in parts for batch in part.to_batches()]) == whole
    if parts:
        assert table_digest(SCHEMA, [pa.concat_tables(parts)]) == whole


@given(left=ROWS, right=ROWS)
@settings(max_examples=300)
def test_two_tables_have_one_digest_only_when_they_are_equal(left, right):
    """No value can move into its neighbour unseen."""
    assert (table_digest(SCHEMA, [table_of(left)]) == table_digest(SCHEMA, [table_of(right)])) == (left == right)


@given(rows=ROWS)
def test_the_file_does_not_matter(rows):
    """Read back from parquet with other row groups, compression and dictionaries: the same digest."""
    table = table_of(rows)
    for options in ({"row_group_size": 1}, {"compression": "zstd", "use_dictionary": False}):
        file = io.BytesIO()
        pq.write_table(table, file, **options)
        assert table_digest(SCHEMA, [pq.read_table(file, use_threads=False)]) == table_digest(SCHEMA, [table])


def test_the_width_of_offsets_and_dictionaries_do_not_matter():
    """large_list is list, large_string is string, a dictionary is its values."""
    small = pa.table({"a": pa.array([[1], [2, 3]], pa.list_(pa.int32())), "b": pa.array(["x", "y"])})
    large = pa.table(
        {
            "a": pa.array([[1], [2, 3]], pa.large_list(pa.int32())),
            "b": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    large_strings = large.set_column(1, "b", pa.array(["x", "y"], pa.large_string()))
    digests = {table_digest(table.schema, [table]) for table in (small, large, large_strings)}
    assert len(digests) == 1


def test_names_and_types_matter():
    """The same values as another column are another table."""
    tables = [
        pa.table({"a": pa.array([1], pa.int32())}),
        pa.table({"b": pa.array([1], pa.int32())}),
        pa.table({"a": pa.array([1], pa.int64())}),
        pa.table({"a": pa.array([], pa.int32())}),
        pa.table({"a": pa.array([], pa.int64())}),
    ]
    assert len({table_digest(table.schema, [table]) for table in tables}) == len(tables)


def test_a_null_is_refused():
    """No table of a stage holds one."""
    with pytest.raises(ValueError, match=r"column a\[\] holds 1 null\(s\), expected none"):
        table_digest(
            pa.schema([("a", pa.list_(pa.int32()))]),
            [pa.table({"a": pa.array([[1, None]])}).cast(pa.schema([("a", pa.list_(pa.int32()))]))],
        )


def test_other_columns_are_refused():
    """A digest is of one schema."""
    with pytest.raises(ValueError, match=r"columns are \['b'\] \['int64'\], expected \['a'\] \['int64'\]"):
        TableDigest(pa.schema([("a", pa.int64())])).update(pa.table({"b": pa.array([1])}))


def test_an_empty_table_has_a_digest_of_its_own():
    """Nothing written and a part without rows are the same."""
    empty = TableDigest(TOKEN_SHARD)
    before = empty.hexdigest()
    empty.update(TOKEN_SHARD.empty_table())
    assert empty.hexdigest() == before != TableDigest(PACKED_SHARD).hexdigest()


def test_it_is_fast():
    """A hundred million bytes of ids take a fraction of a second, far from a loop over rows."""
    ids = np.arange(25_000_000, dtype=np.int32)
    ends = np.arange(0, len(ids) + 1, 1000, dtype=np.int64)
    array = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(ids))
    table = pa.table({"input_ids": array})
    started = time.perf_counter()
    table_digest(table.schema, [table])
    assert time.perf_counter() - started < 2.0
