"""From compute to a score in one stage: -ln of the score above chance as a power of compute (arXiv 2512.08894).

It stands beside the two stages (`two_stage`), which go through the loss: each forecasts the score without the other.
It reads compute alone, so that it is of runs near the best size of theirs.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.fitting.fit import Fit, FitError, fit
from isoflop.scaling.fitting.objective import Huber
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.law import AMPLITUDE, Array, Box, Law
from isoflop.scaling.table.conventions import Points

RAW = Huber("auto", "raw")  # the noise of a score does not shrink with it
FEWEST = 4  # runs above chance
NO_SCORE = 1e-9  # above chance: less has no logarithm
PASSES = 2  # of the weights, which follow from the scores that the law predicts


@dataclass(frozen=True)
class AboveChance(Law):
    """-ln(score - chance) = A C^-alpha + top, with C the compute; `top` is -ln of the best score above chance."""

    A: float
    alpha: float
    top: float

    name: ClassVar[str] = "above-chance"
    formula: ClassVar[str] = "-ln(score - chance) = A C^-alpha + top"
    source: ClassVar[str] = "arXiv 2512.08894"
    inputs: ClassVar[tuple[str, ...]] = ("C",)
    scales: ClassVar[tuple[str, ...]] = ("C",)
    box: ClassVar[dict[str, Box]] = {"A": AMPLITUDE, "alpha": Box(0.001, 3.0), "top": Box(0.0, 10.0)}

    def __call__(self, C: Any) -> Any:
        return self.A * np.power(C, -self.alpha) + self.top

    def rescaled(self, units: Any) -> Self:
        """A takes the factor unit^-alpha."""
        return replace(self, A=self.A * np.power(units.get("C", 1.0), -self.alpha))

    @classmethod
    def propose(cls, x: Any, loss: Array, weights: Array) -> Array:
        """A straight line in logarithms, and others less and more steep."""
        slope, level = np.polyfit(x["C"], np.log(loss), 1, w=np.sqrt(weights))
        steep = float(np.clip(-slope, 0.01, 2.0))
        return np.array([[level + (s - steep) * x["C"].mean(), s, 0.0] for s in (steep, 0.5 * steep, 2.0 * steep)])


@dataclass(frozen=True)
class Direct:
    """The direct law of a score between `chance` and 1, fitted to the runs above chance; `left_out` counts the rest."""

    fit: Fit
    chance: float
    left_out: int

    def at(self, flops: float, level: float = 0.9) -> dict[str, float]:
        """The score at some FLOPs, with the interval of the law."""
        # Of what -ln of the score has beyond that of the best: the score falls with it, and is never above the best.
        best = self.fit.problem.pinned["top"]
        low, high = jackknife(self.fit).interval(lambda law: law(flops) - best, level)
        found = [self.chance + float(np.exp(-best - more)) for more in (self.fit.law(flops) - best, high, low)]
        return {"flops": flops} | dict(zip(("accuracy", "lo", "hi"), found, strict=True))

    @property
    def error(self) -> float:
        """Root mean square of the score less the one predicted."""
        loss = self.fit.points.frame["loss"].to_numpy(float)
        return float(np.sqrt(np.mean((np.exp(-loss) - np.exp(-self.fit.predicted)) ** 2)))

    def to_dict(self, level: float) -> dict[str, Any]:
        """JSON-ready values."""
        law, draws = self.fit.law, jackknife(self.fit)
        return {
            "formula": law.formula, "params": dict(zip(law.parameters(), law.values().tolist(), strict=True)),
            "intervals": {name: list(draws.interval(name, level)) for name in self.fit.free},
            "fixed": dict(self.fit.problem.pinned), "status": self.fit.status, "chance": self.chance,
            "n_points": len(self.fit.points), "at_or_below_chance": self.left_out, "rmse": self.error,
        }  # fmt: skip


def direct(data: Points, score: Array, chance: float, error: Array | None = None) -> Direct:
    """The direct law of the scores (n,) of the runs in `data`, whose best is 1.

    `error` (n,) are standard errors of the scores; without any, all have the same. Runs at or below chance have no
    logarithm and are left out. Raises FitError where fewer than FEWEST are above it, or a row has no compute.
    """
    if not chance < 1 - NO_SCORE:
        raise FitError(f"guessing already scores {chance:.3g}")
    above = score - chance > NO_SCORE
    if above.sum() < FEWEST:
        raise FitError(f"{int(above.sum())} runs score above chance ({chance:.3g}), and {FEWEST} are needed")
    if data.frame["flops"].isna().any():
        raise FitError("a row without FLOPs")
    kept = replace(data, frame=data.frame[above].reset_index(drop=True))
    share, noise = score[above] - chance, np.ones(int(above.sum())) if error is None else error[above]
    frame = kept.frame.assign(loss=np.maximum(-np.log(share), NO_SCORE))
    best = {"top": 0.0 - float(np.log1p(-chance))}
    for _ in range(PASSES):  # -ln(share) of a score with error e has error e / share
        weights = (share / np.maximum(noise, 0.1 * np.median(noise))) ** 2
        found = fit(
            AboveChance, replace(kept, frame=frame), objective=RAW, fixed=best, weights=weights / weights.mean()
        )
        share = np.exp(-found.predicted)
    return Direct(found, chance, int((~above).sum()))
