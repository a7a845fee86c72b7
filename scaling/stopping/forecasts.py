"""The ends that stopped runs did not reach: each forecast from its curve and those of the others, with its error."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

from isoflop.scaling.prediction.curves.curve_model import curve_model
from isoflop.scaling.stopping.planned_run import (
    LEAST_ROWS,
    Extents,
    Plan,
    curves_so_far,
    ended,
    reach,
    with_rows,
)


class ForecastEnd(NamedTuple):
    """The loss of a run at its planned end, and its standard error: of the curve, without the noise of seeds and of the
    evaluation, which a run at its end has too."""

    loss: float
    error: float


def forecast_ends(plan: Plan, rows: pd.DataFrame, lost: Collection[str], extents: Extents) -> dict[str, ForecastEnd]:
    """The ends of the runs that stop at these extents, by run id; none of a run whose trunk has too few rows."""
    curves = {curve.run_id: curve for curve in curves_so_far(plan, rows, extents) if curve.run_id not in lost}
    model = curve_model(with_rows(curves.values()))
    found = {}
    for group in plan.trunks.values():
        at = reach(group, extents)
        known = {step for one in group if one.run_id in curves for step in one.measured if step <= at}
        for one in group:
            if one.run_id in curves and not ended(one, extents) and len(known) >= LEAST_ROWS:
                end = model.forecast(curves[one.run_id], np.array([one.steps - 1]), ends=np.array([True]))
                loss = float(end.loss[0])
                found[one.run_id] = ForecastEnd(loss, loss * float(end.sd_curve[0]))
    return found
