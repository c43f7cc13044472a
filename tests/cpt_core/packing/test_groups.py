"""Which shards are packed together."""

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from cpt_core.packing.groups import group_ends


def key(name: int) -> str:
    """A shard key."""
    return sha256(str(name).encode()).hexdigest()


def groups(names: list[int], sizes: list[int], wanted: int) -> list[tuple[int, ...]]:
    """The shards of each group."""
    ends = group_ends([key(name) for name in names], sizes, wanted)
    return [tuple(names[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def test_small_shards_are_packed_together():
    """Four shards of 10 tokens are one group of 100."""
    assert groups([1, 2, 3, 4], [10, 10, 10, 10], 100) == [(1, 2, 3, 4)]


def test_a_shard_larger_than_two_groups_stands_alone():
    """Nothing can make it smaller; its neighbours are not drawn in."""
    assert groups([1, 2, 3], [30, 500, 30], 100) == [(1,), (2,), (3,)]


SHARDS = st.lists(st.integers(1, 100), min_size=1, max_size=60)


@given(sizes=SHARDS)
def test_every_shard_is_in_one_group_and_groups_stay_below_twice_the_size(sizes):
    """Groups partition the shards in order."""
    found = groups(list(range(len(sizes))), sizes, 100)
    assert [name for group in found for name in group] == list(range(len(sizes)))
    assert all(sum(sizes[name] for name in group) <= 200 for group in found)


@given(sizes=SHARDS, added=st.integers(1, 100))
def test_a_shard_added_at_the_end_leaves_all_groups_but_the_last(sizes, added):
    """Finished groups stay cached when a corpus grows."""
    before = groups(list(range(len(sizes))), sizes, 100)
    after = groups(list(range(len(sizes) + 1)), [*sizes, added], 100)
    assert after[: len(before) - 1] == before[:-1]


def test_a_shard_added_in_front_changes_only_the_groups_around_it():
    """Of 1,000 shards, a new first one changes a handful of groups: later borders fall where they fell."""
    names, sizes = list(range(1000)), [7] * 1000
    before = set(groups(names, sizes, 100))
    after = set(groups([10_000, *names], [7, *sizes], 100))
    assert len(before - after) <= 5
    assert len(before) > 50
