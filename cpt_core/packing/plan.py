"""Which piece of which document stands in which row: pure functions on numbers.

In: document lengths in tokens, the row length, a policy.
Out: pieces in the order of their rows.
Promise: every token is in exactly one piece or counted as dropped; no document that fits a row is cut by best_fit
or greedy; equal input gives an equal plan on every machine (all sorts are stable).
Never: sees a token.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Contiguous parts of documents.

    Attributes:
        document: int64[P], ordinal of the document.
        first_token: int64[P], position of the piece's first token within the document.
        num_tokens: int64[P].
    """

    document: Ints
    first_token: Ints
    num_tokens: Ints

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.document)

    def take(self, order: Ints) -> "Pieces":
        """The pieces at these positions, in this order."""
        return Pieces(self.document[order], self.first_token[order], self.num_tokens[order])


@dataclass(frozen=True)
class Plan:
    """Pieces in row order.

    Attributes:
        pieces: row after row, and within a row in the order in which they stand.
        row_starts: int64[R + 1]; row r holds the pieces row_starts[r] to row_starts[r + 1].
    """

    pieces: Pieces
    row_starts: Ints

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_starts) - 1


def cut_documents(lengths: Ints, row_len_tokens: int, long_documents: Literal["split", "truncate", "drop"]) -> Pieces:
    """One piece for each document that fits a row; for longer ones what the policy says.

    split: pieces of row_len_tokens and a tail. truncate: the first row_len_tokens. drop: nothing.
    """
    if long_documents != "split":
        longest = row_len_tokens if long_documents == "drop" else np.iinfo(np.int64).max
        kept = np.flatnonzero((lengths > 0) & (lengths <= longest))
        return Pieces(kept, np.zeros_like(kept), np.minimum(lengths[kept], row_len_tokens))
    num_pieces = -(-lengths // row_len_tokens)
    document = np.repeat(np.arange(len(lengths), dtype=np.int64), num_pieces)
    piece_in_document = np.arange(len(document)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    first_token = piece_in_document * row_len_tokens
    return Pieces(document, first_token, np.minimum(lengths[document] - first_token, row_len_tokens))


def plan_best_fit(pieces: Pieces, row_len_tokens: int) -> Plan:
    """Best-fit-decreasing: the longest piece first, each into the fullest row that still holds it.

    Works on the histogram of lengths: pieces of equal length are placed many rows at a time, so that the cost of
    the decisions does not depend on the number of pieces. The same rows as the textbook algorithm, which packs
    within 11/9 of the optimum (Johnson 1973); applied to training rows by Ding et al. 2024 (arXiv 2404.10830), by
    histogram as in Krell et al. 2021 (arXiv 2107.02027).
    """
    longest_first = np.argsort(-pieces.num_tokens, kind="stable")
    row_of_sorted = _best_fit_rows(pieces.num_tokens[longest_first], row_len_tokens)
    return _plan_of(pieces.take(longest_first), row_of_sorted)


def plan_greedy(pieces: Pieces, row_len_tokens: int) -> Plan:
    """Next-fit in document order: a piece that does not fit closes the row."""
    ends = np.cumsum(pieces.num_tokens)
    starts = [0]
    while starts[-1] < len(pieces):
        before = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(int(np.searchsorted(ends, before + row_len_tokens, side="right")))
    return Plan(pieces, np.array(starts, dtype=np.int64))


def plan_concat(pieces: Pieces, row_len_tokens: int) -> Plan:
    """One stream of all pieces, cut at every row_len_tokens."""
    piece_starts = np.cumsum(pieces.num_tokens) - pieces.num_tokens
    total = int(pieces.num_tokens.sum())
    cuts = np.arange(0, total, row_len_tokens, dtype=np.int64)
    starts = np.union1d(piece_starts, cuts)
    origin = np.searchsorted(piece_starts, starts, side="right") - 1
    cut = Pieces(
        document=pieces.document[origin],
        first_token=pieces.first_token[origin] + starts - piece_starts[origin],
        num_tokens=np.diff(np.append(starts, total)),
    )
    return Plan(cut, np.append(np.searchsorted(starts, cuts), len(starts)).astype(np.int64))


def reorder_rows(plan: Plan, new_position: Ints) -> Plan:
    """The same rows, row r moved to ``new_position[r]``."""
    sizes = np.diff(plan.row_starts)
    row_of_piece = np.repeat(new_position, sizes)
    return _plan_of(plan.pieces, row_of_piece)


def _plan_of(pieces: Pieces, row_of_piece: Ints) -> Plan:
    """Sort pieces by row, keeping their order within a row."""
    num_rows = int(row_of_piece.max()) + 1 if len(row_of_piece) else 0
    order = np.argsort(row_of_piece, kind="stable")
    row_starts = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row_of_piece, minlength=num_rows), out=row_starts[1:])
    return Plan(pieces.take(order), row_starts)


def _best_fit_rows(descending: Ints, row_len_tokens: int) -> Ints:
    """Row of each piece, pieces given by descending length."""
    lengths, counts = np.unique(-descending, return_counts=True)
    open_rows = _OpenRows(row_len_tokens)
    placed = [
        placement
        for length, count in zip((-lengths).tolist(), counts.tolist(), strict=True)
        for placement in open_rows.place(length, count)
    ]
    if not placed:
        return np.empty(0, dtype=np.int64)
    return np.concatenate(
        [np.repeat(np.arange(first, first + rows, dtype=np.int64), copies) for first, rows, copies in placed]
    )


class _OpenRows:
    """Rows with room left, as ranges of row numbers by remaining capacity."""

    def __init__(self, row_len_tokens: int) -> None:
        self._row_len_tokens = row_len_tokens
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        self._capacities: list[int] = []
        self._num_rows = 0

    def place(self, length: int, count: int) -> list[tuple[int, int, int]]:
        """Place ``count`` pieces of one length: (first row, number of rows, copies in each)."""
        placements = []
        while count:
            first, rows, capacity = self._take_fullest(length, count)
            copies = min(capacity // length, count)
            used = min(rows, count // copies)
            self._give_back(first + used, rows - used, capacity)
            self._give_back(first, used, capacity - copies * length)
            placements.append((first, used, copies))
            count -= used * copies
        return placements

    def _take_fullest(self, length: int, count: int) -> tuple[int, int, int]:
        """Remove one range of the rows with the least room that is enough; new rows when there are none.

        Several copies go into one row because after the first, that row is the fullest that still fits.
        """
        position = bisect_left(self._capacities, length)
        if position == len(self._capacities):
            opened = max(1, count // (self._row_len_tokens // length))
            first, self._num_rows = self._num_rows, self._num_rows + opened
            return first, opened, self._row_len_tokens
        capacity = self._capacities[position]
        ranges = self._ranges[capacity]
        first, rows = ranges.pop()
        if not ranges:
            del self._ranges[capacity], self._capacities[position]
        return first, rows, capacity

    def _give_back(self, first: int, rows: int, capacity: int) -> None:
        if not rows or not capacity:
            return
        if capacity not in self._ranges:
            self._ranges[capacity] = []
            insort(self._capacities, capacity)
        self._ranges[capacity].append((first, rows))
