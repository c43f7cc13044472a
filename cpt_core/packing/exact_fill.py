"""Rows filled to the last token, where best-fit-decreasing leaves a gap in each.

In: the same histogram.
Out: the same placements, or None when they would need as many rows.
Promise: a bounded number of steps, whatever the number of documents; equal input gives equal rows.
Never: cuts a piece.

Best-fit-decreasing needs tiny documents for the last gaps. Where a corpus has none, the gaps are closed by choosing
the pieces of a row together: one row after the other takes long pieces until little room is left, and that room is
filled exactly by a subset sum over the lengths that remain (a bit set of reachable sums, as in Gupta and Ho 1999,
*minimum bin slack*); the same choice is then used for as many rows as the histogram allows.
"""

from bisect import bisect_right

from cpt_core.packing.best_fit import Filling, Placement, fill_best_fit

ROOM_LEFT_IN_SHORTEST = 16
"""The room that is filled exactly, in pieces of the shortest length: enough for many different sums."""
MAX_LENGTHS_LOOKED_AT = 1 << 20
"""Over all rows; half a second of work. What is left then is packed by best-fit-decreasing."""

Histogram = list[tuple[int, int]]
"""(length, count), ascending; no count is zero."""


def fill_exactly(lengths: list[int], counts: list[int], row_len_tokens: int, max_rows: int) -> Filling | None:
    """Rows without gaps; None when that takes more than ``max_rows``.

    Args:
        lengths: distinct, descending, at most ``row_len_tokens``.
        counts: of each length.
        row_len_tokens: capacity of a row.
        max_rows: that the result is worth having at.
    """
    left = list(zip(reversed(lengths), reversed(counts), strict=True))
    waste_left = max_rows * row_len_tokens - sum(length * count for length, count in left)
    looked_at, num_rows = 0, 0
    placements: list[Placement] = []
    while left and looked_at < MAX_LENGTHS_LOOKED_AT and waste_left >= 0:
        looked_at += len(left)
        row = _choose_row(left, row_len_tokens)
        times = min(count // row[length] for length, count in left if length in row)
        placements += _placements(row, num_rows, times)
        num_rows += times
        waste_left -= times * (row_len_tokens - sum(length * copies for length, copies in row.items()))
        left = [(length, rest) for length, count in left if (rest := count - times * row.get(length, 0))]
    return _with_rest(placements, num_rows, left, row_len_tokens, max_rows)


def _with_rest(
    placements: list[Placement], num_rows: int, left: Histogram, row_len_tokens: int, max_rows: int
) -> Filling | None:
    descending = left[::-1]
    rest = fill_best_fit([length for length, _ in descending], [count for _, count in descending], row_len_tokens)
    if num_rows + rest.num_rows > max_rows:
        return None
    placements += [
        Placement(placed.length, num_rows + placed.first_row, placed.num_rows, placed.copies, placed.position)
        for placed in rest.placements
    ]
    placements.sort(key=lambda placed: -placed.length)
    return Filling(placements, num_rows + rest.num_rows)


def _placements(row: dict[int, int], first_row: int, num_rows: int) -> list[Placement]:
    placements, position = [], 0
    for length, copies in sorted(row.items(), reverse=True):
        placements.append(Placement(length, first_row, num_rows, copies, position))
        position += copies
    return placements


def _choose_row(left: Histogram, row_len_tokens: int) -> dict[int, int]:
    """Length to copies of the next row: long pieces first, the last room filled as exactly as can be."""
    row: dict[int, int] = {}
    room, kept_free = row_len_tokens, ROOM_LEFT_IN_SHORTEST * left[0][0]
    for length, count in reversed(left):
        if room <= kept_free:
            break
        copies = min(count, room // length, max(1, (room - kept_free) // length))
        if copies:
            row[length] = copies
            room -= copies * length
    fitting = left[: bisect_right(left, room, key=lambda entry: entry[0])]
    for length, copies in _closest_sum([(length, count - row.get(length, 0)) for length, count in fitting], room):
        row[length] = row.get(length, 0) + copies
    return row


def _closest_sum(left: Histogram, room: int) -> list[tuple[int, int]]:
    """(length, copies) with the largest sum that fits ``room``; of several, the one with the longest pieces."""
    reachable = [1]  # bit s of reachable[i]: the sum s can be made from the i shortest lengths
    for length, count in left:
        reachable.append(_with_copies(reachable[-1], length, min(count, room // length)) & ((2 << room) - 1))
    target = reachable[-1].bit_length() - 1
    chosen = []
    for (length, count), without in zip(reversed(left), reversed(reachable[:-1]), strict=True):
        copies = min(count, target // length)
        while not without >> (target - copies * length) & 1:
            copies -= 1
        if copies:
            chosen.append((length, copies))
            target -= copies * length
    return chosen


def _with_copies(sums: int, length: int, copies: int) -> int:
    """The sums that up to so many copies of a length can add, by doubling."""
    added = 1
    while copies > 0:
        taken = min(added, copies)
        sums |= sums << (taken * length)
        copies -= taken
        added *= 2
    return sums
