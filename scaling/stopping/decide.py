"""Which runs of a study go on, and how far: what their remaining FLOPs tell about the exponent of the frontier.

The exponent a, of the best size against compute, is nearly linear in the ln losses of the runs; what each weighs
follows from a Chinchilla law at plausible parameters. How far the ends of runs may yet lie from their forecasts follows
from the law of whole curves and the deviations of runs from it, before a step more is trained. They err together: what
the law misses at long runs or at large sizes it misses in all of them, and one of these that ends tells it of the
others. Weights and covariance say how far a would move were every run finished. Runs are taken further, those first
whose FLOPs lower this most, until it is below WITHIN, or the last share of STAGES is spent.

It is done in STAGES, each decided by the rows of those before it and nothing else: the same rows give the same
decision. The first stage knows nothing, and takes the cheapest runs to their ends.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.design.information import goal_gradient, scenario_of_fit
from isoflop.scaling.fitting.fit import Fit, FitError, fit
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Array, Law
from isoflop.scaling.prediction.curves.curve_model import curve_model
from isoflop.scaling.stopping.ahead import Ahead
from isoflop.scaling.stopping.planned_run import (
    Extents,
    Plan,
    PlannedRun,
    curves_so_far,
    ended,
    with_rows,
)

STAGES = (0.125, 0.3125, 0.5)  # of the study's FLOPs, spent at the end of each
WITHIN = 0.01  # a standard deviation of what finishing all runs would move a by
FEWEST = 6  # runs at their ends that a law is fitted to

Value = Callable[[Extents], float]


@dataclass(frozen=True)
class Decision:
    """How far each run is taken, what that costs and what the whole study would, in FLOPs, and by how much finishing
    all would still move a, as a standard deviation that is predicted; NaN where no law could say."""

    extents: dict[str, int]
    flops: float
    whole: float
    moves: float


def decide(plan: Plan, rows: pd.DataFrame, lost: Collection[str], before: Extents, stage: int) -> Decision:
    """How far the runs of a study are taken in a stage (0, 1, ...), given the rows at the extents `before` it.

    `rows` (run_id, step, loss, final) may hold more than those. Runs that are `lost`, as those that diverged, tell
    nothing.
    """
    whole = plan.flops(plan.whole)
    most = STAGES[stage] * whole
    value = _moved(plan, rows, before, lost) if stage else None
    if value is None:
        extents = _cheapest(plan, before, most, lost)
        return Decision(extents, plan.flops(extents), whole, float("nan"))
    extents, now = dict(before), value(before)
    while now > WITHIN**2:
        spent = plan.flops(extents)
        moves = [plan.further(extents, one.run_id, step) for one, step in _moves(plan, extents, lost)]
        costs = [plan.flops(moved) - spent for moved in moves]
        tried = [(moved, value(moved), cost) for moved, cost in zip(moves, costs, strict=True) if spent + cost <= most]
        gains = [(now - after) / max(cost, 1.0) for _, after, cost in tried]
        if not gains or not max(gains) > 0:
            break
        extents, now, _ = tried[int(np.argmax(gains))]
    return Decision(extents, plan.flops(extents), whole, float(np.sqrt(now)))


def _cheapest(plan: Plan, before: Extents, most: float, lost: Collection[str]) -> dict[str, int]:
    """The extents with the cheapest runs taken to their ends, as many as `most` FLOPs pay for."""
    extents = dict(before)
    for one in sorted(plan.runs, key=lambda one: (one.flops, one.run_id)):
        moved = plan.further(extents, one.run_id, one.steps)
        if one.run_id not in lost and plan.flops(moved) <= most:
            extents = moved
    return extents


def _moves(plan: Plan, extents: Extents, lost: Collection[str]) -> list[tuple[PlannedRun, int]]:
    """Every run that may go on, and to where."""
    return [
        (one, step) for one in plan.runs if one.run_id not in lost and not ended(one, extents)
        for step in (*one.marks, one.steps) if step > extents.get(one.run_id, 0)
    ]  # fmt: skip


def _moved(plan: Plan, rows: pd.DataFrame, before: Extents, lost: Collection[str]) -> Value | None:
    """The variance of what finishing all runs would move a by, as a function of extents; None where too few runs have
    ended for a law."""
    curves = with_rows(curve for curve in curves_so_far(plan, rows, before) if curve.run_id not in lost)
    ends = {curve.run_id: float(curve.loss[-1]) for curve in curves if curve.done}
    sound = [one for one in plan.runs if one.run_id not in lost]
    frame = pd.DataFrame([
        {"n_params": one.run.n_params, "tokens": one.tokens, "flops": one.flops, "loss": ends.get(one.run_id, np.nan)}
        for one in sound
    ])  # fmt: skip
    if len(ends) < FEWEST:
        return None
    try:
        fitted = fit(Chinchilla, frame.dropna(ignore_index=True))
    except FitError:
        return None
    model = curve_model(curves)
    pulls = _pulls(fitted, frame, model.deviation.run**2 + model.deviation.end**2)
    place = {one.run_id: i for i, one in enumerate(sound)}
    groups = [[one for one in group if one.run_id in place] for group in plan.trunks.values()]
    ahead = Ahead(model, [group for group in groups if group])

    def value(extents: Extents) -> float:
        run_ids, covariance = ahead.covariance(extents)
        at = [place[run_id] for run_id in run_ids]
        return float((pulls[np.ix_(at, at)] * covariance).sum())

    return value


def exponent_between(low: float, high: float, cost: Cost) -> Callable[[Law], float]:
    """The exponent a of a law as a function of it: the slope of ln N* against ln C between two computes."""

    def exponent(law: Law) -> float:
        sizes = np.log([float(law.optimal(flops, cost).N) for flops in (low, high)])
        return float((sizes[1] - sizes[0]) / np.log(high / low))

    return exponent


def _pulls(fitted: Fit, frame: pd.DataFrame, noise: float) -> Array:
    """Products (n, n) of what a moves by for each unit of ln loss of two rows, were all rows fitted with this variance.

    Averaged over plausible laws, each counting by the shares of its rows.
    """
    low, high = float(frame["flops"].min()), float(frame["flops"].max())
    exponent = exponent_between(low, high, fitted.cost)
    scenario = scenario_of_fit(fitted, 1.0, frame, "n_opt", high)
    with np.errstate(all="ignore"):
        goal = goal_gradient(scenario.problem, scenario.theta, exponent)
    rows = scenario.offered
    inverse = np.linalg.inv(rows.swapaxes(1, 2) @ rows / noise + np.diag(scenario.prior))
    pull = (rows @ inverse @ goal[..., None])[..., 0] / noise
    pull = pull[np.isfinite(pull).all(axis=1)]
    total = (pull**2).sum(axis=1)
    shares = pull / np.sqrt(total)[:, None]
    return np.median(total) * shares.T @ shares / len(shares)
