"""The permutation that is a function."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.permutation import permute, positions_of, seed_from


def test_a_permutation_is_the_same_for_ever():
    """Ten positions under seed 7 stand where they stood when this test was written: the order is a contract."""
    assert permute(np.arange(10), 10, 7).tolist() == PERMUTATION_OF_TEN


PERMUTATION_OF_TEN = [6, 0, 4, 8, 2, 3, 5, 9, 7, 1]


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1))
def test_every_index_stands_at_exactly_one_position(n, seed):
    """For any size and seed the function is a bijection."""
    assert sorted(permute(np.arange(n), n, seed).tolist()) == list(range(n))


@given(n=st.integers(1, 2**40), seed=st.integers(0, 2**64 - 1), data=st.data())
def test_the_position_of_an_index_is_found_without_a_search(n, seed, data):
    """The inverse leads back, also for 10^12 rows."""
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    assert positions_of(permute(positions, n, seed), n, seed).tolist() == positions.tolist()


@given(n=st.integers(1, 2**40), seed=st.integers(0, 2**64 - 1), data=st.data())
def test_a_position_alone_gives_what_it_gives_among_others(n, seed, data):
    """No position depends on which others are asked for, also for 10^12 rows."""
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    together = permute(positions, n, seed)
    assert together.tolist() == [int(permute(positions[i : i + 1], n, seed)[0]) for i in range(len(positions))]


def test_seeds_of_different_purposes_differ():
    """The parts of a seed are kept apart: ("a", 1, 11) is not ("a", 11, 1)."""
    assert len({seed_from("a", 1, 11), seed_from("a", 11, 1), seed_from("b", 1, 11)}) == 3
