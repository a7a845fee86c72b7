"""What past changes did between one scale and the next: learnt from a table of arms that were trained at both.

A gain ln m at compute C becomes shrink^(distance / span) times itself at the target, give or take Student's t of scale
`sd` x distance / span, where distance = ln(target / C). With one pair a change this is what a forecast has to go by.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.arms.pairs import SAME_BUDGET
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import gammaln
from isoflop.scaling.table.conventions import Points

FEWEST_ARMS = 4
TAILS = (2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 40.0)  # degrees of freedom that are tried
LEAST, MOST = 0.05, 20.0  # of the share of a gain that is left


class LearnError(ValueError):
    """A table says nothing of how gains change with scale."""

    exit_code = 1


@dataclass(frozen=True)
class Discrepancy:
    """How gains change over a `span` of ln compute: `shrink`, and scatter of scale `sd` in ln m with `freedom`.

    `noise` is the standard deviation of a difference in ln loss of one pair, with `noise_freedom`; NaN and 0 where the
    table has no repeated seeds, so that the noise is part of `sd`. `changes` counts the arms. `compute` and `slopes`
    are -d ln loss / d ln compute of their mean.
    """

    shrink: float
    sd: float
    freedom: float
    span: float
    changes: int
    noise: float = float("nan")
    noise_freedom: float = 0.0
    compute: tuple[float, ...] = ()
    slopes: tuple[float, ...] = ()

    def slope(self, flops: Array) -> Array:
        """-d ln loss / d ln compute of the mean of the arms, at the nearest computes of the table."""
        return np.interp(np.log(flops), np.log(self.compute), self.slopes)

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-ready values."""
        return {
            "shrink": self.shrink, "sd": self.sd, "freedom": self.freedom, "span": self.span, "changes": self.changes,
            "noise": self.noise if np.isfinite(self.noise) else None,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"learnt from {self.changes} arms: over {np.exp(self.span):.3g} times the compute a gain ln m becomes "
            f"{self.shrink:.2f} of itself, give or take {self.sd:.3f}"
        )


def learn(data: Mapping[str, Points]) -> Discrepancy:
    """What the arms of a table, points of each by name, say of how gains change with compute.

    Raises LearnError below FEWEST_ARMS at two computes that they share, or where their loss does not fall.
    """
    rows = pd.concat([d.frame.assign(arm=arm) for arm, d in data.items()], ignore_index=True)
    rows = rows.assign(cell=_cells(rows["flops"].to_numpy(float)), log_loss=np.log(rows["loss"].to_numpy(float)))
    if "seed" not in rows:
        rows["seed"] = rows.groupby(["arm", "cell"]).cumcount()
    means = rows.pivot_table(index="arm", columns="cell", values="log_loss", aggfunc="mean")
    means = means.loc[:, means.notna().sum() >= FEWEST_ARMS].dropna()
    if means.shape[0] < FEWEST_ARMS or means.shape[1] < 2:
        raise LearnError(
            f"at least {FEWEST_ARMS} arms with runs at two equal computes are needed to learn how gains change with "
            f"scale; this table has {means.shape[0]} arms at {means.shape[1]} computes that they share"
        )
    at = np.log(rows.groupby("cell")["flops"].mean()[means.columns].to_numpy(float))
    slopes = -np.gradient(means.mean().to_numpy(), at)
    if not (slopes > 0).all():
        raise LearnError("the mean loss of the arms does not fall with compute: a gain is no saving of compute")
    gains = -(means - means.mean()).to_numpy() / slopes
    shrink, sd, freedom = _change(gains, at)
    noise, noise_freedom = _noise(rows)
    compute = tuple(np.exp(at).tolist())
    return Discrepancy(
        shrink, sd, freedom, float(at[-1] - at[0]), len(means), noise, noise_freedom, compute, tuple(slopes.tolist())
    )


def _cells(flops: Array) -> Array:
    """The number of the budget of every run, in order of compute: a gap of SAME_BUDGET begins another."""
    order = np.argsort(flops, kind="stable")
    steps = np.diff(np.log(flops[order]), prepend=np.log(flops[order[0]])) > SAME_BUDGET
    cells = np.empty(len(flops), int)
    cells[order] = np.cumsum(steps)
    return cells


def _change(gains: Array, at: Array) -> tuple[float, float, float]:
    """Shrink over the whole span, and scale and tail of what pairs of arms scatter, from smaller computes to the last.

    `gains` (arms, computes) are ln m less the mean of the arms.
    """
    span, last = at[-1] - at[0], gains[:, -1]
    shares = (at[-1] - at[:-1]) / span
    far = np.flatnonzero(shares >= 0.5)
    left = [float(np.clip(gains[:, k] @ last / (gains[:, k] @ gains[:, k]), LEAST, MOST)) for k in far]
    log_shrink = float(np.mean(np.log(left) / shares[far]))
    off = np.concatenate([(last - np.exp(log_shrink * shares[k]) * gains[:, k]) / shares[k] for k in far])
    i, j = np.triu_indices(len(gains), 1)
    blocks = off.reshape(len(far), len(gains))
    scale, tail = _student(np.concatenate([block[i] - block[j] for block in blocks]))
    freedom = len(gains) - 2
    return float(np.exp(log_shrink)), scale * float(np.sqrt(len(gains) / freedom)), min(tail, freedom)


def _student(values: Array) -> tuple[float, float]:
    """Scale and degrees of freedom of Student's t about 0, by maximum likelihood over TAILS."""
    found = []
    for v in TAILS:
        square = float(np.median(values**2)) + 1e-18
        for _ in range(50):
            square = float(np.mean((v + 1) * values**2 / (v + values**2 / square))) + 1e-18
        constant = gammaln((v + 1) / 2) - gammaln(v / 2) - 0.5 * np.log(v * square)
        found.append((constant - (v + 1) / 2 * np.mean(np.log1p(values**2 / (v * square))), np.sqrt(square), v))
    _, scale, tail = max(found)
    return float(scale), float(tail)


def _noise(rows: pd.DataFrame) -> tuple[float, float]:
    """Standard deviation of the difference in ln loss of two runs of one seed, from arms x seeds of every compute."""
    blocks = list(_blocks(rows))
    freedom = sum((b.shape[0] - 1) * (b.shape[1] - 1) for b in blocks)
    if not freedom:
        return float("nan"), 0.0
    squares = sum(float(np.sum((b - b.mean(0) - b.mean(1)[:, None] + b.mean()) ** 2)) for b in blocks)
    return float(np.sqrt(2 * squares / freedom)), float(freedom)


def _blocks(rows: pd.DataFrame) -> Iterator[Array]:
    """Of every compute, ln loss by arm and seed, of the seeds that every arm there has."""
    for _, cell in rows.groupby("cell"):
        block = cell.pivot_table(index="arm", columns="seed", values="log_loss", aggfunc="mean")
        yield block.dropna(axis=1).to_numpy()
