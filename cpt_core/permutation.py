"""A seeded permutation of 0..n-1 that is a function, not a list.

In: n, a seed, positions.
Out: for each position, the index that stands there.
Promise: a bijection on 0..n-1; equal on every machine and numpy version; any position costs the same, so
order needs no shuffle file and a resumed run computes where it is.
Never: depends on anything but (n, seed, position).

Method: a balanced Feistel network over the smallest even number of bits that holds n, with the finaliser of
SplitMix64 (Steele, Lea, Flood 2014) as its round function, and cycle walking (Black, Rogaway 2002) to stay
below n.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
VALUES_AT_ONCE = 1 << 18
"""Few enough that the arrays of a round stay near the processor, enough to outweigh the calls of the walk."""
Network = Callable[[NDArray[np.uint64], int, NDArray[np.uint64]], NDArray[np.uint64]]


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection on 64-bit integers that scatters them."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def seed_from(*parts: int | str) -> int:
    """A 64-bit seed from named parts, so that ("rows", seed, epoch) never meets ("packing", seed, epoch)."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def permute(positions: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Where each of ``positions`` (all in 0..n-1) goes under the permutation of 0..n-1 named by ``seed``.

    Args:
        positions: int64 array of any length, values in 0..n-1.
        n: size of the permuted set, at least 1.
        seed: any integer of at most 64 bits.

    Returns:
        int64 array of the same length, values in 0..n-1.
    """
    return _walk(_feistel, positions, n, seed)


def positions_of(indices: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Where each of ``indices`` stands: the inverse of ``permute``, with the same arguments and cost."""
    return _walk(_feistel_inverse, indices, n, seed)


def _walk(network: Network, values: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    round_keys = mix64(np.uint64(seed) ^ mix64(np.arange(ROUNDS, dtype=np.uint64)))
    walked = np.empty(len(values), dtype=np.int64)
    for first in range(0, len(values), VALUES_AT_ONCE):
        part = slice(first, first + VALUES_AT_ONCE)
        walked[part] = _walk_part(network, values[part].astype(np.uint64), n, half_bits, round_keys)
    return walked


def _walk_part(
    network: Network, values: NDArray[np.uint64], n: int, half_bits: int, round_keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    result = network(values, half_bits, round_keys)
    outside = result >= np.uint64(n)
    while outside.any():
        result[outside] = network(result[outside], half_bits, round_keys)
        outside = result >= np.uint64(n)
    return result


def _feistel(values: NDArray[np.uint64], half_bits: int, round_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for key in round_keys:
        left, right = right, left ^ (mix64(right ^ key) & mask)
    return (left << shift) | right


def _feistel_inverse(values: NDArray[np.uint64], half_bits: int, round_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for key in round_keys[::-1]:
        left, right = right ^ (mix64(left ^ key) & mask), left
    return (left << shift) | right
