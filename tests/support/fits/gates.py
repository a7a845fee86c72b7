"""Many gates at once: the looks of `scaling/gate` at pairs of one design, for noise that is drawn or measured."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import nct
from scipy.stats import t as student

from isoflop.scaling.gate.discrepancy import Discrepancy, learn
from isoflop.scaling.gate.estimate import NOTHING, Observations, estimate
from isoflop.scaling.gate.next_pair import Planner
from isoflop.scaling.gate.sequence import critical
from isoflop.scaling.table.conventions import Points, points

SLOPE = 0.1  # -d ln loss / d ln compute
COMPUTES = np.array([1.18e10, 3.45e10, 1.15e11, 4.1e11])  # of the sizes of lr_transfer
RATES = ((0.02, 0.0283), (0.0283, 0.04), (0.04, 0.0566))  # neighbours about the optimum: the arms of a pair


@dataclass(frozen=True)
class Looks:
    """Bounds (gates, pairs) of ln m at the target after each pair, and what it is expected to lose beyond them."""

    mean: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    fall: np.ndarray

    def decided(self, least: float = 1.03) -> tuple[np.ndarray, np.ndarray]:
        """For each gate the pairs at which it is promoted, and at which it is rejected; infinite for never."""
        promoted = (self.lo > self.fall) & (self.mean >= np.log(least))
        return _first(promoted), _first(self.hi < np.log(least))


def _first(hit: np.ndarray) -> np.ndarray:
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, np.inf)


def looks(gain: np.ndarray, x: np.ndarray, error: float = 0.05) -> Looks:
    """As `estimate` and its bounds, pair after pair, of gains (gates, pairs) at x = ln(compute / target)."""
    columns = [np.ones(len(x)), x] if np.abs(x).max() > 0 else [np.ones(len(x))]
    design = SLOPE * np.column_stack(columns)
    q, n = design.shape[1], np.arange(1, len(x) + 1)
    square = np.cumsum(design[:, :, None] * design[:, None, :], axis=0)
    able = (n > q) & (np.linalg.matrix_rank(square, hermitian=True) == q)
    inverse = np.linalg.inv(np.where(able[:, None, None], square, np.eye(q)))
    moment = np.cumsum(gain[:, :, None] * design, axis=1)
    value = np.einsum("nij,snj->sni", inverse, moment)
    left = np.maximum(np.cumsum(gain**2, axis=1) - np.einsum("snj,snj->sn", value, moment), 0)
    freedom = np.maximum(n - q, 0)
    error_of = np.sqrt(left / np.maximum(freedom, 1) * inverse[:, 0, 0])
    bound = np.where(able, critical(1 / inverse[:, 0, 0] / SLOPE**2, freedom, error), np.inf)
    with np.errstate(invalid="ignore"):
        half = np.where(np.isfinite(bound), bound * error_of, np.inf)
    fall = np.maximum(value[:, :, -1] * np.maximum.accumulate(x), 0) if q > 1 else np.zeros(gain.shape)
    return Looks(value[:, :, 0], value[:, :, 0] - half, value[:, :, 0] + half, fall)


def planned(target: float, pairs: int) -> np.ndarray:
    """Which of COMPUTES each pair is made at: two at the smaller ones, then what `Planner` chooses."""
    planner = Planner(COMPUTES, np.full(len(COMPUTES), SLOPE), target, None)
    chosen = [0, 1]
    while len(chosen) < pairs:
        x = np.log(COMPUTES[chosen] / target)
        seen = Observations(np.zeros(len(x)), np.full(len(x), SLOPE), x, np.arange(len(x)))
        chosen.append(planner.first(seen, NOTHING))
    return np.array(chosen)


def measured_noise(table: pd.DataFrame) -> list[np.ndarray]:
    """Differences in ln loss between neighbouring rates of lr_transfer less their mean, (seeds, sizes), by RATES."""
    final = table[table["final"] & (table["arm"] == "mup")]
    losses = np.log(final.pivot_table(index="seed", columns=["d_model", "peak_learning_rate"], values="loss"))
    found = []
    for low, high in RATES:
        d = pd.DataFrame({w: losses[(w, low)] - losses[(w, high)] for w in (16, 32, 64, 128)}).dropna().to_numpy()
        found.append((d - d.mean(axis=0)) * np.sqrt(len(d) / (len(d) - 1)))
    return found


def draw(noise: list[np.ndarray], sizes: np.ndarray, gates: int, seed: int, scale: float | None = None) -> np.ndarray:
    """Noise (gates, pairs) of pairs at these sizes: the k-th pair of a size has the k-th of seeds drawn for a gate.

    A seed's noise at all sizes comes together, with one sign for a gate. `scale` gives every size that deviation.
    """
    rng = np.random.default_rng(seed)
    if scale is not None:
        noise = [scale * d / d.std(axis=0) for d in noise]
    turn = np.array([np.sum(sizes[:i] == s) for i, s in enumerate(sizes)])
    kind = rng.integers(len(noise), size=gates)
    rows = rng.integers(len(noise[0]), size=(gates, turn.max() + 1))
    sign = rng.choice([-1.0, 1.0], size=gates)
    return sign[:, None] * np.stack(noise)[kind[:, None], rows[:, turn], sizes]


def fixed_design(effect: float, power: float = 0.9, error: float = 0.05) -> int:
    """Pairs of a one-sided t test of this error and power against an effect in standard deviations of a pair."""
    n = 2
    while nct.sf(student.isf(error, n - 1), n - 1, effect * np.sqrt(n)) < power:
        n += 1
    return n


def regmix_arms(small: pd.DataFrame, large: pd.DataFrame, loss: str = "loss_pile_cc") -> dict[str, Points]:
    """Points of the mixtures of RegMix as arms, at 1M and 60M parameters and 1B tokens."""
    rows = [t[[loss, "index"]].rename(columns={loss: "loss", "index": "arm"}).assign(n_params=n, tokens=1e9)
            for t, n in ((small, 1e6), (large, 6e7))]  # fmt: skip
    whole = points(pd.concat(rows, ignore_index=True).astype({"arm": str}))
    return {arm: Points(f.reset_index(drop=True), whole.params, whole.compute, whole.cluster)
            for arm, f in whole.frame.groupby("arm", sort=False)}  # fmt: skip


BINS = (0.0, 0.01, 0.03, np.inf)  # of the gap in ln loss at the small size


def scored(data: dict[str, Points], learnt_from: np.ndarray) -> np.ndarray:
    """Of pairs of arms that are not learnt from: by bin of the gap, pairs, stated P and the share that held, (3, 3)."""
    names = list(data)
    learnt = learn({names[i]: data[names[i]] for i in learnt_from})
    other = np.setdiff1d(np.arange(len(names)), learnt_from)
    losses = np.log([data[names[i]].frame["loss"].to_numpy() for i in other])
    i, j = np.triu_indices(len(other), 1)
    gap, then = losses[i] - losses[j], np.sign(losses[i, 1] - losses[j, 1])
    grid = np.linspace(0, np.abs(gap[:, 0]).max(), 400)
    slope = learnt.slope(np.array([6e15]))
    stated = [_stated(g, slope, learnt) for g in grid]
    p = np.interp(np.abs(gap[:, 0]), grid, stated)
    held = then == np.sign(gap[:, 0])
    inside = [(np.abs(gap[:, 0]) >= lo) & (np.abs(gap[:, 0]) < hi) for lo, hi in itertools.pairwise(BINS)]
    return np.array([[m.sum(), p[m].mean(), held[m].mean()] for m in inside])


def _stated(gain: float, slope: np.ndarray, learnt: Discrepancy) -> float:
    pair = Observations(np.array([gain]), slope, np.array([-learnt.span]), np.array([0]))
    return estimate(pair, learnt).above()
