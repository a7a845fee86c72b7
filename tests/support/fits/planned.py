"""Plans of studies that may stop, and simulated rows of their runs."""

from dataclasses import replace

import numpy as np
import pandas as pd

from isoflop.scaling.stopping.planned_run import Plan, PlannedRun
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.schedule import Schedule
from tests.support.fits.simulated_curves import PEAK, loss_of

GRID = tuple(round(64 * 2 ** (k / 2)) for k in range(16))
EMPTY = np.zeros(0)


def planned(name: str, size: float, steps: int, trunk: str, *, step_flops: float, warmup: int = 20) -> PlannedRun:
    """A run with a wsd whose last fifth is its own."""
    rates = Schedule("wsd", warmup).rates(steps, PEAK)
    bare = CurveRun(name, size, EMPTY.astype(int), EMPTY, rates, False, "wsd", trunk, tokens=512.0 * steps)
    branch = steps - steps // 5
    return PlannedRun(bare, 512.0 * steps, step_flops, branch, tuple(step for step in GRID if warmup < step <= branch))


def plan_of_trunk() -> Plan:
    """Two runs of one trunk, of 500 and 1,000 steps at 10 FLOPs."""
    return Plan(
        tuple(planned(name, 1e4, steps, "trunk", step_flops=10.0) for name, steps in (("short", 500), ("long", 1000)))
    )


def plan_of_grid(
    sizes: tuple[float, ...] = (3e3, 6e3, 1.2e4, 2.4e4, 5e4), budgets: tuple[float, ...] = (2e10, 4e10, 1e11, 4e11)
) -> Plan:
    """Every size at every budget, a trunk a size."""
    return Plan(tuple(
        planned(f"{size:g}-{budget:g}", size, round(budget / (6 * size * 512)), f"{size:g}", step_flops=6 * size * 512)
        for size in sizes for budget in budgets
    ))  # fmt: skip


def rows_of(plan: Plan, draw: np.random.Generator, level: float = 0.004, noise: float = 0.002) -> pd.DataFrame:
    """The rows of every run, trained to its end: a level of each trunk, noise of each row."""
    parts = []
    for group in plan.trunks.values():
        own, rough = draw.normal(0, level), {step: draw.normal(0, noise) for one in group for step in one.measured}
        for one in group:
            steps = np.array([*one.measured, one.steps])
            error = own + np.array([*(rough[step] for step in one.measured), draw.normal(0, noise)])
            loss = loss_of(one.run.rates, steps - 1, one.run.n_params) * np.exp(error)
            parts.append(pd.DataFrame(
                {"run_id": one.run_id, "step": steps, "loss": loss, "final": steps == one.steps}
            ))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def without_trunks(plan: Plan) -> Plan:
    """The same runs, each with all of its steps to itself."""
    return Plan(tuple(
        replace(one, branch=one.steps, run=replace(one.run, trunk_id=one.run_id)) for one in plan.runs
    ))  # fmt: skip
