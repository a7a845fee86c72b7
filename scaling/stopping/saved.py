"""What stopping runs saved, and what it cost: of a table in which some runs have stopped."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from isoflop.scaling.design.information import goal_gradient
from isoflop.scaling.fitting.fit import EXACT_NOISE, Fit
from isoflop.scaling.fitting.row_weights import spread_of
from isoflop.scaling.laws.law import Array
from isoflop.scaling.stopping.decide import exponent_between
from isoflop.scaling.stopping.planned_run import Plan, PlannedRun
from isoflop.scaling.table.conventions import FORECAST_ERROR
from isoflop.scaling.table.runs import final_rows, forecast_rows, is_forecast
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import read_curves


@dataclass(frozen=True)
class Saved:
    """How many of the runs have stopped, the FLOPs that were spent and those of the whole study, shared trunks counted
    once, and the interval of the exponent over the one that the law expects had every run ended."""

    stopped: int
    runs: int
    flops: float
    whole: float
    wider: float

    def __str__(self) -> str:
        wider = f", for an interval of a {self.wider:.2f} times as wide" if np.isfinite(self.wider) else ""
        return (
            f"{self.stopped} of {self.runs} runs were stopped before their ends: {self.flops:.3g} FLOPs in place of "
            f"{self.whole:.3g}, {1 - self.flops / self.whole:.0%} saved{wider}."
        )


def saved(table: pd.DataFrame, fitted: Fit) -> Saved:
    """What the stopped runs of a run table saved, and cost the law fitted to it."""
    stopped, plan = forecast_rows(table), plan_of_table(table)
    measured = table[~is_forecast(table)]
    extents = {str(run_id): int(step) for run_id, step in measured.groupby("run_id")["step"].max().items()}
    return Saved(len(stopped), len(plan.runs), plan.flops(extents), plan.flops(plan.whole), _wider(fitted))


def plan_of_table(table: pd.DataFrame) -> Plan:
    """The plan that the runs of a table had, of those that ended or have stopped after a row behind their warm-up."""
    ends = pd.concat([final_rows(table), forecast_rows(table)]).set_index("run_id")
    return Plan(
        tuple(_planned(run, ends.loc[run.run_id]) for run in read_curves(table).runs if run.run_id in ends.index)
    )


def _planned(run: CurveRun, end: pd.Series) -> PlannedRun:
    branch = run.horizon
    if end["schedule"] == "wsd":
        branch = int(np.flatnonzero(run.rates >= run.rates.max() * (1 - 1e-12))[-1])
    bare = replace(run, steps=run.steps[:0], loss=run.loss[:0], ends=None, done=False)
    measured = tuple(int(step) + 1 for step in run.steps if step < branch and step + 1 < run.horizon)
    return PlannedRun(bare, float(end["tokens"]), float(end["flops"] / end["step"]), branch, measured)


def _wider(fitted: Fit) -> float:
    """The standard deviation of the exponent with what forecasts err by, over that with every loss measured."""
    frame = fitted.points.frame
    goal = exponent_between(float(frame["flops"].min()), float(frame["flops"].max()), fitted.cost)
    try:
        with np.errstate(all="ignore"):
            slope = goal_gradient(fitted.problem, fitted.theta[None], goal)[0]
    except ValueError:  # a law without a best size
        return float("nan")
    rows = fitted.problem.residuals(fitted.theta[None])[1][0]

    def pull(spread: Array | float) -> Array:
        scaled = rows / spread
        return (slope @ np.linalg.pinv(scaled @ scaled.T, hermitian=True) @ scaled) / spread

    measured = spread_of(frame.drop(columns="excess", errors="ignore"), fitted.falls)
    whole = float(((pull(measured) * measured) ** 2).sum())
    missed = float(((pull(fitted.spread) * frame.get(FORECAST_ERROR, 0.0) / max(fitted.noise, EXACT_NOISE)) ** 2).sum())
    return float(np.sqrt(1 + missed / whole)) if whole > 0 and np.isfinite(missed) else float("nan")
