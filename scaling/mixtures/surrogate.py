"""The loss as a function of the mixture: an average of laws of one term and more, each with what it leaves.

How many skills a held-out text asks for, and so how many terms a law needs, differs from loss to loss, and the
likelihood of the runs says it badly: laws of more terms are weighed by how well they tell the mixtures that they were
not fitted to (stacking: Wolpert 1992, Breiman 1996).
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from isoflop.scaling.laws.law import Array
from isoflop.scaling.mixtures.member import Member, held_out, members

SCALE = ("n_params", "tokens")
PARTS = 20  # weights are multiples of one over it


@dataclass(frozen=True)
class Surrogate:
    """The loss at any mixture, size and tokens: the geometric mean of those of `members`, by their `weights`.

    `left_out` (n,) is the loss of every run, predicted without the runs of its mixture; `noise` is the robust standard
    deviation of ln loss about the surrogate.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    left_out: Array
    noise: float

    def loss(self, h: Array, N: float = np.nan, D: float = np.nan) -> Array:
        """The loss (n,) in nats/token at mixtures h (k, n), N parameters and D tokens (where the law reads them)."""
        if len(self.members) == 1:
            return self.members[0].loss(h, N, D)
        return np.exp(sum(w * np.log(one.loss(h, N, D)) for w, one in zip(self.weights, self.members, strict=True)))

    def drawn(self, count: int, lots: np.random.Generator) -> list[Member]:
        """So many draws of what the loss may be, each of one member: members have as many as their weights say."""
        ends = np.rint(np.cumsum([0.0, *self.weights]) * count).astype(int)
        found = [draw for one, k in zip(self.members, np.diff(ends), strict=True) for draw in one.drawn(int(k), lots)]
        return found if len(self.members) == 1 else [found[i] for i in lots.permutation(count)]

    def written(self) -> str:
        """The laws with their numbers and weights on one line, in ASCII."""
        laws = [one.law.written() for one in self.members]
        if len(laws) == 1:
            return laws[0]
        return "; ".join(f"{w:.2f} of {law}" for w, law in zip(self.weights, laws, strict=True))


def surrogate(frame: pd.DataFrame, domains: tuple[str, ...]) -> Surrogate:
    """The surrogate of a frame with weight_NAME of every domain (sum 1), loss, and n_params, tokens if they vary.

    Raises NoMixtureError where the rows are fewer than the parameters of a law.
    """
    frame = frame[[*(f"weight_{name}" for name in domains), "loss", *(n for n in SCALE if n in frame)]]
    frame = frame.reset_index(drop=True)
    made = members(frame, domains)
    predicted = np.array([held_out(one, frame) for one in made])
    weights = weighed(np.log(predicted), np.log(frame["loss"].to_numpy(float)))
    kept = np.flatnonzero(weights)
    left = weights[kept] @ [made[i].left_over for i in kept]
    noise = 1.4826 * float(np.median(np.abs(left)))
    left_out = predicted[kept[0]] if len(kept) == 1 else np.exp(weights @ np.log(predicted))
    return Surrogate(tuple(made[i] for i in kept), tuple(weights[kept].tolist()), left_out, noise)


def weighed(predicted: Array, true: Array) -> Array:
    """The weights (m,), none negative and of sum 1, whose mean of predictions (m, n) errs least, in absolute terms.

    In steps of one over PARTS, so that rounding moves none; of equal ones the weights of the fewest terms.
    """
    count = len(predicted)
    bars = np.array(list(combinations(range(PARTS + count - 1), count - 1)), dtype=int)
    ends = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), PARTS + count - 1)])
    tried = (np.diff(ends, axis=1)[::-1] - 1) / PARTS
    return tried[int(np.argmin([np.abs(row @ predicted - true).mean() for row in tried]))]
