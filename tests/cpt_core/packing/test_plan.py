"""Which piece goes to which row: ten numbers at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.packing.plan import (
    cut_documents,
    plan_best_fit,
    plan_concat,
    plan_greedy,
    reorder_rows,
)


def lengths(*values: int) -> np.ndarray:
    """Document lengths."""
    return np.array(values, dtype=np.int64)


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
    pieces = cut_documents(lengths(5, 2, 4, 1), 4, "split")
    assert rows_of(plan_best_fit(pieces, 4)) == [[(0, 0, 4)], [(2, 0, 4)], [(1, 0, 2), (0, 4, 1), (3, 0, 1)]]


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


def test_reordered_rows_keep_their_pieces():
    """Row r moves as a whole."""
    plan = plan_greedy(cut_documents(lengths(3, 1, 4, 2), 4, "split"), 4)
    assert rows_of(reorder_rows(plan, np.array([2, 0, 1]))) == [[(2, 0, 4)], [(3, 0, 2)], [(0, 0, 3), (1, 0, 1)]]


def test_no_documents_give_no_rows():
    """An empty corpus is planned, not an error."""
    for plan in (plan_best_fit, plan_greedy, plan_concat):
        assert rows_of(plan(cut_documents(lengths(), 4, "split"), 4)) == []


CORPORA = st.tuples(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 17))


@pytest.mark.parametrize("plan_rows", [plan_best_fit, plan_greedy, plan_concat])
@given(corpus=CORPORA)
def test_every_token_is_in_exactly_one_row_and_no_row_is_too_long(plan_rows, corpus):
    """Tokens in = tokens in rows, for any lengths and any row length."""
    document_lengths, row_len = corpus
    rows = rows_of(plan_rows(cut_documents(lengths(*document_lengths), row_len, "split"), row_len))
    tokens = [(document, first + i) for row in rows for document, first, size in row for i in range(size)]
    assert sorted(tokens) == [(document, i) for document, size in enumerate(document_lengths) for i in range(size)]
    assert all(sum(size for _, _, size in row) <= row_len for row in rows)
    assert all(row for row in rows)


@pytest.mark.parametrize("plan_rows", [plan_best_fit, plan_greedy])
@given(corpus=CORPORA)
def test_no_document_that_fits_a_row_is_cut(plan_rows, corpus):
    """A cut document is always longer than a row."""
    document_lengths, row_len = corpus
    rows = rows_of(plan_rows(cut_documents(lengths(*document_lengths), row_len, "split"), row_len))
    placed = [document for row in rows for document, _, _ in row]
    assert all(placed.count(document) == 1 for document in set(placed) if document_lengths[document] <= row_len)


@given(corpus=CORPORA)
def test_the_histogram_gives_the_rows_of_the_textbook_algorithm(corpus):
    """The fill of all rows equals that of best-fit-decreasing done one piece at a time."""
    document_lengths, row_len = corpus
    pieces = cut_documents(lengths(*document_lengths), row_len, "split")
    room: list[int] = []
    for size in sorted(pieces.num_tokens.tolist(), reverse=True):
        fitting = [left for left in room if left >= size]
        if fitting:
            room.remove(min(fitting))
        room.append((min(fitting) if fitting else row_len) - size)
    filled = [row_len - sum(size for _, _, size in row) for row in rows_of(plan_best_fit(pieces, row_len))]
    assert sorted(filled) == sorted(room)
