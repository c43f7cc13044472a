"""Which piece goes to which row: ten numbers at a time."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.packing import exact_fill
from cpt_core.packing.best_fit import fill_best_fit
from cpt_core.packing.plan import cut_documents, plan_best_fit, plan_concat, plan_greedy


def lengths(*values: int) -> np.ndarray:
    """Document lengths."""
    return np.array(values, dtype=np.int64)


def best_fit(pieces, row_len):
    """The plan in the order of one seed."""
    return plan_best_fit(pieces, row_len, order_seed=7)


def histogram(pieces: list[int]) -> tuple[list[int], list[int]]:
    """Distinct lengths, longest first, and their counts."""
    counted = sorted(Counter(pieces).items(), reverse=True)
    return [length for length, _ in counted], [count for _, count in counted]


def room_of_the_textbook(pieces: list[int], row_len: int) -> list[int]:
    """Room left in each row by best-fit-decreasing, one piece at a time."""
    room: list[int] = []
    for size in sorted(pieces, reverse=True):
        fitting = [left for left in room if left >= size]
        if fitting:
            room.remove(min(fitting))
        room.append((min(fitting) if fitting else row_len) - size)
    return room


def rows_of(plan) -> list[list[tuple[int, int, int]]]:
    """Each row as (document, first token, tokens) of its pieces."""
    pieces = list(
        zip(
            plan.pieces.document.tolist(),
            plan.pieces.first_token.tolist(),
            plan.pieces.num_tokens.tolist(),
            strict=True,
        )
    )
    return [pieces[a:b] for a, b in zip(plan.row_starts[:-1], plan.row_starts[1:], strict=True)]


def test_best_fit_puts_the_longest_first_and_each_into_the_fullest_row_that_fits():
    """Rows of 4: the tail of the long document and the single token fill up after the pair."""
    rows = rows_of(best_fit(cut_documents(lengths(5, 2, 4, 1), 4, "split"), 4))
    assert sorted(rows) == [[(0, 0, 4)], [(1, 0, 2), (0, 4, 1), (3, 0, 1)], [(2, 0, 4)]]


def test_rows_come_in_an_order_drawn_from_the_seed():
    """Another seed moves whole rows and nothing within them; the longest documents do not come first."""
    pieces = cut_documents(lengths(*range(1, 101)), 101, "split")
    first, again, other = (rows_of(plan_best_fit(pieces, 101, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other)
    assert [row[0][2] for row in first] != sorted((row[0][2] for row in first), reverse=True)


def test_gaps_that_best_fit_leaves_are_closed():
    """Best-fit-decreasing makes 4+4, 3+3+3 and 3 of these in rows of 10; they fit two rows without a gap."""
    rows = rows_of(best_fit(cut_documents(lengths(4, 3, 3, 4, 3, 3), 10, "split"), 10))
    assert sorted(rows) == [[(0, 0, 4), (1, 0, 3), (2, 0, 3)], [(3, 0, 4), (4, 0, 3), (5, 0, 3)]]


def test_greedy_closes_a_row_when_the_next_document_does_not_fit():
    """Next-fit in document order, as the scripts that this replaces do it."""
    pieces = cut_documents(lengths(3, 3, 1, 5, 2), 5, "split")
    assert rows_of(plan_greedy(pieces, 5)) == [
        [(0, 0, 3)],
        [(1, 0, 3), (2, 0, 1)],
        [(3, 0, 5)],
        [(4, 0, 2)],
    ]


def test_concat_cuts_the_stream_at_every_row():
    """Documents that would fit are cut; only the last row is short."""
    pieces = cut_documents(lengths(3, 4, 2), 4, "split")
    assert rows_of(plan_concat(pieces, 4)) == [
        [(0, 0, 3), (1, 0, 1)],
        [(1, 1, 3), (2, 0, 1)],
        [(2, 1, 1)],
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("split", [(0, 0, 4), (0, 4, 4), (0, 8, 1), (1, 0, 4), (3, 0, 2)]),
        ("truncate", [(0, 0, 4), (1, 0, 4), (3, 0, 2)]),
        ("drop", [(1, 0, 4), (3, 0, 2)]),
    ],
)
def test_long_documents_follow_the_policy_and_empty_ones_have_no_piece(policy, expected):
    """Documents of 9, 4, 0 and 2 tokens in rows of 4."""
    pieces = cut_documents(lengths(9, 4, 0, 2), 4, policy)
    found = zip(pieces.document.tolist(), pieces.first_token.tolist(), pieces.num_tokens.tolist(), strict=True)
    assert list(found) == expected


def test_no_documents_give_no_rows():
    """An empty corpus is planned, not an error."""
    for plan in (best_fit, plan_greedy, plan_concat):
        assert rows_of(plan(cut_documents(lengths(), 4, "split"), 4)) == []


CORPORA = st.tuples(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 17))


@pytest.mark.parametrize("plan_rows", [best_fit, plan_greedy, plan_concat])
@given(corpus=CORPORA)
def test_every_token_is_in_exactly_one_row_and_no_row_is_too_long(plan_rows, corpus):
    """Tokens in = tokens in rows, for any lengths and any row length."""
    document_lengths, row_len = corpus
    rows = rows_of(plan_rows(cut_documents(lengths(*document_lengths), row_len, "split"), row_len))
    tokens = [(document, first + i) for row in rows for document, first, size in row for i in range(size)]
    assert sorted(tokens) == [(document, i) for document, size in enumerate(document_lengths) for i in range(size)]
    assert all(sum(size for _, _, size in row) <= row_len for row in rows)
    assert all(row for row in rows)


@pytest.mark.parametrize("plan_rows", [best_fit, plan_greedy])
@given(corpus=CORPORA)
def test_no_document_that_fits_a_row_is_cut(plan_rows, corpus):
    """A cut document is always longer than a row."""
    document_lengths, row_len = corpus
    rows = rows_of(plan_rows(cut_documents(lengths(*document_lengths), row_len, "split"), row_len))
    placed = [document for row in rows for document, _, _ in row]
    assert all(placed.count(document) == 1 for document in set(placed) if document_lengths[document] <= row_len)


@given(corpus=CORPORA)
def test_the_histogram_gives_the_rows_of_the_textbook_algorithm(corpus):
    """The room left in all rows equals that of best-fit-decreasing done one piece at a time."""
    document_lengths, row_len = corpus
    pieces = cut_documents(lengths(*document_lengths), row_len, "split").num_tokens.tolist()
    filling = fill_best_fit(*histogram(pieces), row_len)
    room = [row_len] * filling.num_rows
    for placed in filling.placements:
        for row in range(placed.first_row, placed.first_row + placed.num_rows):
            room[row] -= placed.copies * placed.length
    assert sorted(room) == sorted(room_of_the_textbook(pieces, row_len))


@given(corpus=CORPORA)
def test_best_fit_never_takes_more_rows_than_the_textbook_algorithm_nor_fewer_than_can_be(corpus):
    """Closing gaps is only kept where it saves a row."""
    document_lengths, row_len = corpus
    pieces = cut_documents(lengths(*document_lengths), row_len, "split")
    num_rows = best_fit(pieces, row_len).num_rows
    assert -(-sum(document_lengths) // row_len) <= num_rows
    assert num_rows <= len(room_of_the_textbook(pieces.num_tokens.tolist(), row_len))


@given(corpus=st.tuples(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(12, 30)))
def test_whatever_the_limit_of_work_every_piece_is_placed_once(corpus):
    """What is left when the limit is reached goes the way of best-fit-decreasing."""
    pieces, row_len = corpus
    enough_rows = len(pieces)
    for limit in (0, 1, 10, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact_fill, "MAX_LENGTHS_LOOKED_AT", limit)
            filling = exact_fill.fill_exactly(*histogram(pieces), row_len, enough_rows)
        rows = [[] for _ in range(filling.num_rows)]
        for placed in filling.placements:
            for row in rows[placed.first_row : placed.first_row + placed.num_rows]:
                assert len(row) == placed.position
                row += [placed.length] * placed.copies
        assert sorted(length for row in rows for length in row) == sorted(pieces)
        assert all(0 < sum(row) <= row_len for row in rows)


def test_the_number_of_decisions_does_not_grow_with_the_corpus():
    """A thousand times the documents of the same lengths are placed in no more than twice as many steps."""
    distinct = list(range(200, 0, -1))
    few, many = (fill_best_fit(distinct, [count] * 200, 1024) for count in (50, 50_000))
    assert many.num_rows > 900 * few.num_rows
    assert len(many.placements) <= 2 * len(few.placements)
