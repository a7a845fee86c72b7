"""In which order the windows of several domains are read: a pure function of (seed, size, position).

A share of w windows in 0 .. n - 1 is w n, to within one, for every n that is a multiple of BLOCK: blocks of so many
windows are filled by cumulative rounding, and each is shuffled by (seed, size, block) alone. Neither the batch size nor
the length of a run enters, so that a longer run begins as a shorter one of the same mixture does.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

BLOCK = 64  # windows
UNIT = 1 << 40  # shares are counted in parts of this, as whole numbers: sums are exact
_OF_BLOCKS = 1 << 40  # in the counter of a block's order, where an order of windows has a domain's number

Size = tuple[int, int]
Order = Callable[[int, int], np.ndarray]  # of a domain and an epoch: its windows, each once


def parts_of(shares: Sequence[float]) -> tuple[int, ...]:
    """Cumulative shares in UNITs: (0, .., UNIT)."""
    ends = np.cumsum(np.asarray(shares, dtype=float))
    return (0, *(round(end / ends[-1] * UNIT) for end in ends.tolist()))


def counts(shares: Sequence[float], windows: int) -> list[int]:
    """How many of the first `windows` are of each domain; exact for multiples of BLOCK, which are what blocks hold.

    >>> counts([0.25, 0.75], 64), counts([0.3, 0.3, 0.4], 6400)
    ([16, 48], [1920, 1920, 2560])
    """
    ends = [_rounded(part * windows) for part in parts_of(shares)]
    return [high - low for low, high in pairwise(ends)]


def interleaved(
    shares: tuple[float, ...], windows: Sequence[int], order: Order, *, seed: int, size: Size, begin: int, end: int
) -> np.ndarray:
    """The window at each position from `begin` to `end` (end - begin,).

    `windows` are how many each domain has; those of a later domain are numbered after those of an earlier one.
    """
    first = np.concatenate([[0], np.cumsum(windows)])[:-1]
    low, high = begin // BLOCK, -(-end // BLOCK)
    domain = np.concatenate([_block(shares, seed, size, block) for block in range(low, high)])
    found = np.empty(len(domain), dtype=np.int64)
    for number, before in enumerate(counts(shares, low * BLOCK)):
        at = np.flatnonzero(domain == number)
        epoch, within = np.divmod(before + np.arange(len(at)), windows[number])
        for one in np.unique(epoch):
            of_epoch = epoch == one
            found[at[of_epoch]] = first[number] + order(number, int(one))[within[of_epoch]]
    return found[begin - low * BLOCK : end - low * BLOCK]


@lru_cache(maxsize=256)
def _block(shares: tuple[float, ...], seed: int, size: Size, block: int) -> np.ndarray:
    """The domain at each position of a block (BLOCK,)."""
    before, after = counts(shares, block * BLOCK), counts(shares, (block + 1) * BLOCK)
    domain = np.repeat(np.arange(len(shares)), np.subtract(after, before))
    lots = np.random.Generator(np.random.Philox(key=[seed, block], counter=[0, _OF_BLOCKS, *size]))
    return lots.permutation(domain)


def _rounded(parts: int) -> int:
    return (2 * parts + UNIT) // (2 * UNIT)
