"""Do the curves of several sizes collapse? Where hyper-parameters scale rightly, runs of different sizes at the same
tokens per parameter and schedule have one curve, in share of their steps, once each is divided by its end (Qiu et al.
2025, 2507.02119; Bergsma et al. 2025, 2509.25087). It is of the reducible loss: a floor E common to all sizes is
subtracted, the one that makes them most alike.

What is compared of a run is the mean of ln[(L(x) - E) / (L(1) - E)] over its course. Seeds say how far runs of one size
differ in it; whether sizes differ by more is an analysis of variance, whose F is the least over E. So a study without
two seeds of any size is not judged.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.laws.special_functions import fdtrc
from isoflop.scaling.table.schedules.curve_run import CurveRun

LEVEL = 0.02  # share of studies whose curves collapse in which this is denied, at most
SIZES = 3  # with fewer, some floor makes any two curves alike
SAME_RATIO = 1.15  # of tokens per parameter, largest over smallest
SAME_SHAPE = 0.02  # of the summed rate: two runs of one schedule at the same share of their steps
BEGIN, LEAST_END = 0.25, 0.6  # of the steps: where the comparison begins, and where it must not end before
PLACES = 9  # on the way, evenly along ln step
FLOORS = np.concatenate([np.linspace(0.0, 0.9, 37), np.linspace(0.91, 0.99, 9)])  # E over the lowest loss


@dataclass(frozen=True)
class Collapse:
    """Whether runs of several sizes at `ratio` tokens per parameter have one curve.

    `between` and `within` are the standard deviations, of the mean ln of a divided curve, of sizes and of seeds; `p` is
    the probability of sizes so unlike where all have one curve, `floor` the E at which they are most alike, `worst` the
    size that differs most from the others.
    """

    ratio: float
    sizes: tuple[float, ...]
    runs: int
    arm: str
    between: float
    within: float
    p: float
    floor: float
    worst: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"sizes": list(self.sizes), "level": LEVEL}

    def __str__(self) -> str:
        arm = f" of arm {self.arm}" if self.arm else ""
        verdict = "do not collapse" if self.p < LEVEL else "collapse"
        return (
            f"curves of {len(self.sizes)} sizes{arm} at {self.ratio:.3g} tokens a parameter, divided by their ends, "
            f"{verdict}: sizes differ by {self.between:.2%} where seeds differ by {self.within:.2%} (p = {self.p:.2g})"
        )


def collapses(runs: Sequence[CurveRun]) -> list[Collapse]:
    """Every ladder among finished runs that can be judged: SIZES or more sizes of one arm, schedule and tokens per
    parameter, with seeds. Of a size at several peak rates, those of its best one. `p` counts how many ladders there are
    (Bonferroni)."""
    judged = [one for ladder in _ladders(runs) if (one := _judge(ladder)) is not None]
    return [replace(one, p=min(1.0, one.p * len(judged))) for one in judged]


def collapse_findings(judged: Iterable[Collapse]) -> list[Finding]:
    """A Finding for every ladder whose curves do not collapse."""
    return [
        Finding(
            "no_collapse", "warn", f"{one}; N = {one.worst:.4g} differs most",
            "learning rate, batch or weight decay may not scale rightly with size: tune them at that size",
        )
        for one in judged if one.p < LEVEL
    ]  # fmt: skip


def _ladders(runs: Sequence[CurveRun]) -> Iterator[list[CurveRun]]:
    """Runs that can be compared, by arm, shape of schedule and tokens per parameter."""
    left = [run for run in runs if run.done and np.isfinite(run.tokens) and run.tokens > 0 and _reaches(run)]
    left.sort(key=lambda run: (run.arm, run.tokens / run.n_params))
    while left:
        first = left[0]
        ratio = first.tokens / first.n_params
        taken = [
            run for run in left
            if run.arm == first.arm and run.tokens / run.n_params <= SAME_RATIO * ratio and _same_shape(run, first)
        ]  # fmt: skip
        left = [run for run in left if all(run is not other for other in taken)]
        yield _best_rates(taken)


def _reaches(run: CurveRun) -> bool:
    at = _course(run)[0]
    return len(at) >= 3 and bool(at[0] <= BEGIN and at[-1] >= LEAST_END)


def _course(run: CurveRun) -> tuple[np.ndarray, np.ndarray]:
    """Shares of its steps and losses at the rows of a run, without evaluations on other windows at its end."""
    kept = np.ones(len(run.loss), dtype=bool) if run.ends is None else ~run.ends
    return (run.steps[kept] + 1) / run.horizon, run.loss[kept]


def _same_shape(run: CurveRun, other: CurveRun) -> bool:
    """Whether the summed rates of two runs, divided by their ends, agree at each share of their steps."""
    shares = np.linspace(0.0, 1.0, 33)
    summed = [np.append(0.0, np.cumsum(one.rates)) / one.rates.sum() for one in (run, other)]
    at = [np.interp(shares * (len(one) - 1), np.arange(len(one)), one) for one in summed]
    return bool(np.abs(at[0] - at[1]).max() <= SAME_SHAPE)


def _best_rates(runs: list[CurveRun]) -> list[CurveRun]:
    """Of each size the runs at the peak rate with the lowest mean end."""
    kept = []
    for size in sorted({run.n_params for run in runs}):
        by: dict[str, list[CurveRun]] = {}
        for run in runs:
            if run.n_params == size:
                by.setdefault(f"{run.rates.max():.6g}", []).append(run)
        kept += min(by.values(), key=lambda group: float(np.mean([run.loss[-1] for run in group])))
    return kept


def _judge(runs: list[CurveRun]) -> Collapse | None:
    """None where there are too few sizes or no seeds."""
    sizes = np.array([run.n_params for run in runs])
    names, of = np.unique(sizes, return_inverse=True)
    spare = len(runs) - len(names)
    if len(names) < SIZES or spare < 1:
        return None
    end = min(_course(run)[0][-1] for run in runs)
    places = np.geomspace(BEGIN, end, PLACES)
    curves = np.array([np.exp(np.interp(np.log(places), *_logs(run))) for run in runs])
    floors = FLOORS * curves.min()
    tried = [_variance(curves, of, floor, spare) for floor in floors]
    best = int(np.argmin([f for f, _ in tried]))
    f, (mean, between, within) = tried[best]
    p = float(fdtrc(max(len(names) - 2, 1), spare, f))
    others = np.array([abs(mean[k] - np.delete(mean, k).mean()) for k in range(len(names))])
    ratio = float(np.median([run.tokens / run.n_params for run in runs]))
    return Collapse(
        ratio, tuple(map(float, names)), len(runs), runs[0].arm, between, within, p, float(floors[best]),
        float(names[int(np.argmax(others))]),
    )  # fmt: skip


def _logs(run: CurveRun) -> tuple[np.ndarray, np.ndarray]:
    at, loss = _course(run)
    return np.log(at), np.log(loss)


def _variance(
    curves: np.ndarray, of: np.ndarray, floor: float, spare: int
) -> tuple[float, tuple[np.ndarray, float, float]]:
    """F of sizes against seeds of the divided curves (runs, places) at one floor; means by size, and the standard
    deviations between and within.

    The noise of ln(L - E) is that of ln L times L / (L - E), which grows with the size: runs are weighted by it.
    """
    left = np.log(curves - floor)
    value = (left[:, :-1] - left[:, -1:]).mean(axis=1)
    count = np.bincount(of)
    grows = np.bincount(of, (curves[:, -1] / (curves[:, -1] - floor))) / count
    mean = np.bincount(of, value) / count
    weight = count / grows**2
    centre = np.average(mean, weights=weight)
    within = float((((value - mean[of]) / grows[of]) ** 2).sum() / spare)
    between = float((weight * (mean - centre) ** 2).sum() / max(len(count) - 2, 1))
    scale = float(np.sqrt(np.mean(grows**2)))
    spread = float(np.std(mean, ddof=1))
    return (between / within if within > 0 else np.inf), (mean, spread, scale * np.sqrt(within))
