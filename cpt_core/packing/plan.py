"""Which piece of which document stands in which row: pure functions on numbers.

In: document lengths in tokens, the row length, a policy.
Out: pieces in the order of their rows.
Promise: every token is in exactly one piece or counted as dropped; no document that fits a row is cut by best_fit
or greedy; equal input gives an equal plan on every machine (all sorts are stable).
Never: sees a token.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cpt_core.packing.best_fit import Filling, fill_best_fit
from cpt_core.packing.exact_fill import fill_exactly
from cpt_core.permutation import permute

Ints = NDArray[np.int64]
Counts = NDArray[np.int32]
"""Half the memory of ``Ints``, which is what planning spends its time on; a document has less than 2^31 tokens, and a
group less than 2^31 pieces."""
ROWS_NOT_WORTH_SAVING = 0.0005
"""Best-fit-decreasing is not improved upon when it takes no more rows than this above the fewest thinkable."""


@dataclass(frozen=True)
class Pieces:
    """Contiguous parts of documents.

    Attributes:
        document: int32[P], ordinal of the document.
        first_token: int32[P], position of the piece's first token within the document.
        num_tokens: int32[P].
    """

    document: Counts
    first_token: Counts
    num_tokens: Counts

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.document)

    def between(self, first: int, end: int) -> "Pieces":
        """The pieces at positions ``first`` to ``end`` - 1, as views."""
        return Pieces(self.document[first:end], self.first_token[first:end], self.num_tokens[first:end])

    def take(self, order: Ints) -> "Pieces":
        """The pieces at these positions, in this order."""
        return Pieces(self.document.take(order), self.first_token.take(order), self.num_tokens.take(order))


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


def cut_documents(
    lengths: NDArray[Any], row_len_tokens: int, long_documents: Literal["split", "truncate", "drop"]
) -> Pieces:
    """One piece for each document that fits a row; for longer ones what the policy says.

    split: pieces of row_len_tokens and a tail. truncate: the first row_len_tokens. drop: nothing.
    """
    num_pieces = np.minimum(lengths, 1).astype(np.int32)
    long = np.flatnonzero(lengths > row_len_tokens)
    if long_documents == "split":
        num_pieces[long] = -(-lengths[long] // row_len_tokens)
    elif long_documents == "drop":
        num_pieces[long] = 0
    document = np.repeat(np.arange(len(lengths), dtype=np.int32), num_pieces)
    num_tokens = np.minimum(lengths, row_len_tokens).astype(np.int32)[document]
    first_token = np.zeros_like(document)
    is_part = np.flatnonzero(num_pieces[document] > 1)
    first_token[is_part] = row_len_tokens * _counted_up(num_pieces[num_pieces > 1])
    num_tokens[is_part] = np.minimum(lengths[document[is_part]] - first_token[is_part], row_len_tokens)
    return Pieces(document, first_token, num_tokens)


def plan_best_fit(pieces: Pieces, row_len_tokens: int, order_seed: int) -> Plan:
    """As few rows as can be found without cutting a piece, and never more than best-fit-decreasing takes.

    The rows come in an order drawn from the seed: as they are filled, the longest documents come first, which a
    reader that does not shuffle would see as a length curriculum.

    Works on the histogram of lengths: pieces of equal length are placed many rows at a time, so that the cost of
    the decisions does not depend on the number of pieces.
    """
    histogram = np.bincount(pieces.num_tokens, minlength=1)
    lengths = np.flatnonzero(histogram)[::-1]
    filling = _fewest_rows(lengths.tolist(), histogram[lengths].tolist(), row_len_tokens)
    new_position = permute(np.arange(filling.num_rows), filling.num_rows, order_seed)
    return _assign(pieces, filling, new_position, row_len_tokens)


def _fewest_rows(lengths: list[int], counts: list[int], row_len_tokens: int) -> Filling:
    filling = fill_best_fit(lengths, counts, row_len_tokens)
    total = sum(length * count for length, count in zip(lengths, counts, strict=True))
    fewest = -(-total // row_len_tokens)
    if filling.num_rows - fewest <= filling.num_rows * ROWS_NOT_WORTH_SAVING:
        return filling
    return fill_exactly(lengths, counts, row_len_tokens, filling.num_rows - 1) or filling


def _assign(pieces: Pieces, filling: Filling, new_position: Ints, row_len_tokens: int) -> Plan:
    """Give each placement its pieces: of one length in the order of their documents."""
    row_sizes = np.zeros(filling.num_rows, dtype=np.int64)
    for placed in filling.placements:
        row_sizes[new_position[placed.rows]] += placed.copies
    row_starts = starts_of(row_sizes)
    first_pieces = row_starts[new_position]
    # Stable, and a radix sort for the usual rows of less than 65,536 tokens.
    sortable = np.uint16 if row_len_tokens < 1 << 16 else np.uint32
    longest_first = np.argsort((row_len_tokens - pieces.num_tokens).astype(sortable), kind="stable")
    order = np.empty(len(pieces), dtype=np.int64)
    start = 0
    for placed in filling.placements:
        end = start + placed.num_rows * placed.copies
        firsts = first_pieces[placed.rows] + placed.position
        order[firsts[:, None] + np.arange(placed.copies)] = longest_first[start:end].reshape(-1, placed.copies)
        start = end
    return Plan(pieces.take(order), row_starts)


def plan_greedy(pieces: Pieces, row_len_tokens: int) -> Plan:
    """Next-fit in document order: a piece that does not fit closes the row."""
    ends = np.cumsum(pieces.num_tokens, dtype=np.int64)
    starts = [0]
    while starts[-1] < len(pieces):
        before = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(int(np.searchsorted(ends, before + row_len_tokens, side="right")))
    return Plan(pieces, np.array(starts, dtype=np.int64))


def plan_concat(pieces: Pieces, row_len_tokens: int) -> Plan:
    """One stream of all pieces, cut at every row_len_tokens."""
    piece_starts = starts_of(pieces.num_tokens)[:-1]
    total = int(pieces.num_tokens.sum(dtype=np.int64))
    cuts = np.arange(0, total, row_len_tokens, dtype=np.int64)
    starts = np.union1d(piece_starts, cuts)
    origin = np.searchsorted(piece_starts, starts, side="right") - 1
    cut = Pieces(
        document=pieces.document[origin],
        first_token=(pieces.first_token[origin] + starts - piece_starts[origin]).astype(np.int32),
        num_tokens=np.diff(np.append(starts, total)).astype(np.int32),
    )
    return Plan(cut, np.append(np.searchsorted(starts, cuts), len(starts)).astype(np.int64))


def starts_of(sizes: NDArray[Any]) -> Ints:
    """Where each part starts, and where the last one ends."""
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _counted_up(counts: Counts) -> Ints:
    """0, 1, ... for each count, one after the other: [2, 3] gives [0, 1, 0, 1, 2]."""
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
