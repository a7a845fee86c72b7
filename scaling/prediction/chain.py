"""A score through the loss: the law of the second stage at the loss that the first gives, and refits of both.

Both stages leave out the same runs. A score lies between that of guessing and the best, so that its interval is one of
its log odds between these two, with Student's t on as many degrees of freedom as the moves of both stages have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import EXACT_NOISE, Fit
from isoflop.scaling.fitting.search.search import robust_scale
from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import Allocation, Array, Box, Law

MOST_ODDS = 700.0  # ln of them: beyond, a score is guessing or the best to rounding


@dataclass(frozen=True)
class Sigmoid(Law):
    """accuracy(L) = floor + (top - floor) / (1 + exp(steep (L - middle))), with L the loss; top is 1 unless freed."""

    floor: float
    middle: float
    steep: float
    top: float = 1.0

    name: ClassVar[str] = "sigmoid"
    formula: ClassVar[str] = "accuracy = floor + (top - floor) / (1 + exp(steep (L - middle)))"
    source: ClassVar[str] = "Bhagia et al. 2024, arXiv 2412.04403, eq. 3"
    inputs: ClassVar[tuple[str, ...]] = ("L",)
    amplitudes: ClassVar[tuple[str, ...]] = ("floor", "top")
    box: ClassVar[dict[str, Box]] = {
        "floor": Box(0.0, 1.0),
        "middle": Box(0.0, 50.0),
        "steep": Box(0.02, 200.0, log=True, grid=tuple(np.geomspace(0.2, 40.0, 16).tolist())),
        "top": Box(0.0, 1.0),
    }

    def __call__(self, L: Any) -> Any:
        return self.floor + (self.top - self.floor) * _falling(self.steep * (L - self.middle))

    def log_odds(self, L: Any, low: float, high: float) -> Any:
        """ln of (accuracy - low) / (high - accuracy); infinite where the law leaves nothing of either."""
        z = self.steep * (L - self.middle)
        with np.errstate(divide="ignore"):
            below, between, above = np.log([self.floor - low, self.top - self.floor, high - self.top])
        return np.logaddexp(below, between - np.logaddexp(0, z)) - np.logaddexp(above, between - np.logaddexp(0, -z))

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        L = np.exp(x["L"])
        middles = np.linspace(max(0.0, L.min() - 2 * np.ptp(L)), L.max(), 16)
        return {"middle": tuple(middles.tolist()), "steep": cls.box["steep"].grid}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        share = _falling(shape["steep"] * (np.exp(x["L"]) - shape["middle"]))
        return np.stack([1.0 - share, share], axis=1), loss, np.ones_like(loss)


def _falling(z: Any) -> Any:
    """1 / (1 + e^z), without overflow and analytic."""
    small = np.exp(np.where(np.real(z) > 0, -z, z))
    return np.where(np.real(z) > 0, small, 1.0) / (1.0 + small)


@dataclass(frozen=True)
class Chain(Law):
    """The score of a model of N parameters on D tokens: the second stage at the loss that the first gives."""

    loss_law: Law
    task_law: Law

    name: ClassVar[str] = "two-stage"

    def __call__(self, N: Any, D: Any) -> Any:
        return self.task_law(self.loss_law(N, D))

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """The optimum of the loss, of which the score is a falling function; the field `loss` holds the score."""
        best = self.loss_law.optimal(C, cost)
        return replace(best, loss=self(best.N, best.D))


@dataclass(frozen=True, repr=False, eq=False)
class ChainDraws(Draws):
    """Draws of both stages of a chain, of the same clusters; `stages` are the two fits."""

    stages: tuple[Fit, Fit] = ()  # type: ignore[assignment]

    def score_interval(self, loss: Callable[[Law], Any], level: float) -> tuple[float, float]:
        """Interval (lo, hi) of the score at a loss that the first stage tells, between the scores that are known to
        bound it: those of guessing and the best where they are fixed, else 0 and 1."""
        pinned = self.stages[1].problem.pinned
        low, high = pinned.get("floor", 0.0), pinned.get("top", 1.0)

        def odds(law: Law) -> float:
            assert isinstance(law, Chain)
            assert isinstance(law.task_law, Sigmoid)
            found = law.task_law.log_odds(loss(law.loss_law), low, high)
            return float(np.clip(found, -MOST_ODDS, MOST_ODDS))

        lo, hi = (low + (high - low) * float(_falling(-end)) for end in self.interval(odds, level, positive=False))
        return lo, hi

    @property
    def _design(self) -> Array | None:
        """The columns of both stages side by side, each in units of its noise: a score moves by what moves either."""
        scales = [_scale(fit) for fit in self.stages]
        if min(scales) < EXACT_NOISE:
            return None
        first, second = (fit.weighted_design / scale for fit, scale in zip(self.stages, scales, strict=True))
        return np.block(
            [
                [first, np.zeros((len(first), second.shape[1]))],
                [np.zeros((len(second), first.shape[1])), second],
            ]
        )

    def _coordinates(self, law: Law) -> Array:
        assert isinstance(law, Chain)
        first, second = self.stages
        return np.concatenate([first.problem.coordinates(law.loss_law), second.problem.coordinates(law.task_law)])


def chained(first: Draws, second: Draws) -> ChainDraws:
    """Chains of the draws of both stages: both resample the same clusters in the same order."""
    assert first.fit.points.frame["cluster"].equals(second.fit.points.frame["cluster"])
    return ChainDraws(
        laws=tuple(Chain(a, b) for a, b in zip(first.laws, second.laws, strict=True)),
        frame=pd.DataFrame({"converged": first.frame["converged"] & second.frame["converged"]}),
        fit=replace(second.fit, law=Chain(first.fit.law, second.fit.law)),
        kind=second.kind,
        by=second.by,
        seed=second.seed,
        left_out=np.concatenate([first.left_out, second.left_out]),
        stages=(first.fit, second.fit),
    )


def _scale(fit: Fit) -> float:
    """Robust standard deviation of what a fit leaves of the quantity that it fits, of a row of weight 1."""
    residual = fit.problem.residuals(fit.theta[None])[0][0]
    return robust_scale(residual * np.sqrt(fit.weights), len(fit.free), np.ones(len(residual)))
