"""Pairs of cells of two arms: which run of one arm stands against which of the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd

from isoflop.scaling.laws.law import Array

SAME_BUDGET = 0.1  # in ln: FLOPs this close are one budget
LABEL = "gate_pair"  # a column of the caller's: which runs are meant to be compared
SAME_SIZE = 0.15  # in ln: within it a budget's loss changes by less than half a percent, an optimum being flat


@dataclass(frozen=True)
class Pairs:
    """Rows `left` of one arm and `right` of the other, pair by pair, each row at most once.

    `same_seed` says of each pair whether its runs share a seed, and so their data; True where the seeds are not known.
    """

    left: Array
    right: Array
    same_seed: Array

    def __len__(self) -> int:
        return len(self.left)


def pair_cells(ours: pd.DataFrame, theirs: pd.DataFrame) -> Pairs:
    """The nearest pairs of two arms' rows within SAME_BUDGET of compute and SAME_SIZE of size, each row at most once.

    Equal seeds go first, then the smallest distance, then the lot (`_lots`), so that the order of rows decides nothing.
    Rows without a partner are in no pair. Where a table has no sizes, compute alone decides. With a column LABEL rows
    of one label are of one size, however many parameters they have: an architecture counts its own.
    """
    lots = _lots(ours), _lots(theirs)
    found = sorted(_candidates(ours, theirs), key=lambda c: (*c[:2], lots[0][c[2]], lots[1][c[3]], *c[2:]))
    left, right, same = [], [], []
    taken: tuple[set[int], set[int]] = (set(), set())
    for other_seed, _, i, j in found:
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            left.append(i)
            right.append(j)
            same.append(not other_seed)
    order = np.argsort(left, kind="stable")
    return Pairs(np.array(left, int)[order], np.array(right, int)[order], np.array(same, bool)[order])


def _lots(frame: pd.DataFrame) -> list[int]:
    """A number for each row that its loss alone decides and does not follow: runs that nothing else tells apart are
    paired by it, at random and yet the same in every order of the rows."""
    losses = frame["loss"] if "loss" in frame else np.zeros(len(frame))
    return [crc32(np.float64(loss).tobytes()) for loss in losses]


def seeds_known(*frames: pd.DataFrame) -> bool:
    """Whether every row has a seed."""
    return all("seed" in frame and frame["seed"].notna().all() for frame in frames)


def by_lot(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """What is said of arms with several runs of one size and compute and no seeds: which two make a pair is drawn."""
    several = any(frame.duplicated(["n_params", "tokens", "flops"]).any() for frame in (ours, theirs))
    if seeds_known(ours, theirs) or not several:
        return []
    return ["without a column of seeds, which runs of one size and compute make a pair is drawn by lot"]


def _candidates(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[tuple[bool, float, int, int]]:
    """Every two rows near enough: whether their seeds differ, how far they are apart, and their positions."""
    labelled = all(LABEL in f and f[LABEL].notna().all() for f in (ours, theirs))
    sized = not labelled and all(f["n_params"].notna().all() for f in (ours, theirs))
    seeded = seeds_known(ours, theirs)
    flops = [np.log(f["flops"].to_numpy(float)) for f in (ours, theirs)]
    sizes = [np.log(f["n_params"].to_numpy(float)) if sized else np.zeros(len(f)) for f in (ours, theirs)]
    seeds = [f["seed"].to_numpy() if seeded else np.zeros(len(f)) for f in (ours, theirs)]
    labels = [f[LABEL].to_numpy() if labelled else np.zeros(len(f)) for f in (ours, theirs)]
    order = np.argsort(flops[1], kind="stable")
    low = np.searchsorted(flops[1][order], flops[0] - SAME_BUDGET)
    high = np.searchsorted(flops[1][order], flops[0] + SAME_BUDGET, side="right")
    for i, (start, stop) in enumerate(zip(low, high, strict=True)):
        near = order[start:stop]
        apart = np.abs(sizes[1][near] - sizes[0][i])
        far = np.hypot(apart / SAME_SIZE, (flops[1][near] - flops[0][i]) / SAME_BUDGET)
        for j, between, distance in zip(near, apart, far, strict=True):
            if between <= SAME_SIZE and labels[0][i] == labels[1][j]:
                yield bool(seeds[0][i] != seeds[1][j]), round(float(distance), 9), i, int(j)


def cluster_labels(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[list[Array], bool]:
    """A cluster label for every row of both arms, and whether the cells of the two match one to one.

    Paired cells of one seed share their data order: each cluster of the second arm takes the label of the cluster of
    the first with which it has the most pairs, so that the jackknife leaves both out together. Other clusters keep
    labels of their own.
    """
    pairs = pair_cells(ours, theirs)
    labels = [np.array([f"{i} {c}" for c in f["cluster"]], dtype=object) for i, f in enumerate((ours, theirs))]
    joined = pd.DataFrame({"left": labels[0][pairs.left], "right": labels[1][pairs.right]})[pairs.same_seed]
    counts = joined.value_counts().reset_index(name="pairs").sort_values(
        ["pairs", "left", "right"], ascending=[False, True, True], kind="stable"
    )  # fmt: skip
    partner: dict[str, str] = {}
    for row in counts.itertuples():
        if row.right not in partner and row.left not in partner.values():
            partner[row.right] = row.left
    labels[1] = np.array([partner.get(label, label) for label in labels[1]], dtype=object)
    matched = len(pairs) == len(ours) == len(theirs)
    return labels, bool(matched and pairs.same_seed.all())
