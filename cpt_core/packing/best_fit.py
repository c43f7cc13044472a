"""Best-fit-decreasing on a histogram: how often a length occurs -> which rows take how many of it.

In: distinct lengths, longest first, and their counts; the row length.
Out: placements, each for many equal rows at once.
Promise: the rows of the textbook algorithm; a cost that depends on the number of distinct lengths alone.
Never: sees a document.

Packs within 11/9 of the optimum (Johnson 1973); applied to training rows by Ding et al. 2024 (arXiv 2404.10830), by
histogram as in Krell et al. 2021 (arXiv 2107.02027).
"""

from bisect import bisect_left, insort
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Pieces of one length in neighbouring rows of equal content.

    Attributes:
        length: of each piece, in tokens.
        first_row: of the rows.
        num_rows: that take these pieces.
        copies: pieces in each row.
        position: of the first of them within its row: how many pieces stand before it.
    """

    length: int
    first_row: int
    num_rows: int
    copies: int
    position: int

    @property
    def rows(self) -> slice:
        """The rows."""
        return slice(self.first_row, self.first_row + self.num_rows)


@dataclass(frozen=True)
class Filling:
    """Placements of a whole histogram.

    Attributes:
        placements: longest length first, so that a row is filled from its longest piece to its shortest.
        num_rows: rows used.
    """

    placements: list[Placement]
    num_rows: int


def fill_best_fit(lengths: list[int], counts: list[int], row_len_tokens: int) -> Filling:
    """The longest piece first, each into the fullest row that still holds it.

    Args:
        lengths: distinct, descending, at most ``row_len_tokens``.
        counts: of each length.
        row_len_tokens: capacity of a row.
    """
    open_rows = _OpenRows(row_len_tokens)
    placements = [
        placement for length, count in zip(lengths, counts, strict=True) for placement in open_rows.place(length, count)
    ]
    return Filling(placements, open_rows.num_rows)


@dataclass(frozen=True)
class _Range:
    """Neighbouring rows with the same pieces in them."""

    first_row: int
    num_rows: int
    num_pieces: int


class _OpenRows:
    """Rows with room left, as ranges by remaining capacity."""

    def __init__(self, row_len_tokens: int) -> None:
        self.num_rows = 0
        self._row_len_tokens = row_len_tokens
        self._ranges: dict[int, list[_Range]] = {}
        self._capacities: list[int] = []

    def place(self, length: int, count: int) -> list[Placement]:
        """Place ``count`` pieces of one length."""
        placements = []
        while count:
            rows, capacity = self._take_fullest(length, count)
            copies = min(capacity // length, count)
            used = min(rows.num_rows, count // copies)
            self._give_back(_Range(rows.first_row + used, rows.num_rows - used, rows.num_pieces), capacity)
            self._give_back(_Range(rows.first_row, used, rows.num_pieces + copies), capacity - copies * length)
            placements.append(Placement(length, rows.first_row, used, copies, rows.num_pieces))
            count -= used * copies
        return placements

    def _take_fullest(self, length: int, count: int) -> tuple[_Range, int]:
        """Remove one range of the rows with the least room that is enough; new rows when there are none.

        Several copies go into one row because after the first, that row is the fullest that still fits.
        """
        position = bisect_left(self._capacities, length)
        if position == len(self._capacities):
            opened = max(1, count // (self._row_len_tokens // length))
            self.num_rows += opened
            return _Range(self.num_rows - opened, opened, 0), self._row_len_tokens
        capacity = self._capacities[position]
        ranges = self._ranges[capacity]
        rows = ranges.pop()
        if not ranges:
            del self._ranges[capacity], self._capacities[position]
        return rows, capacity

    def _give_back(self, rows: _Range, capacity: int) -> None:
        if not rows.num_rows or not capacity:
            return
        if capacity not in self._ranges:
            self._ranges[capacity] = []
            insort(self._capacities, capacity)
        self._ranges[capacity].append(rows)
