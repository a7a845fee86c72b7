"""Curves of a few runs with the band that their siblings and their own past predict for the rest: `curve_bands`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from isoflop.scaling.prediction.curves.curve_model import FEW, CurveModel, curve_model
from isoflop.scaling.prediction.curves.run_forecast import BAND, begun, find_run
from isoflop.scaling.prediction.forecast import PredictError
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import CurveTable, read_curves

SHOWN = 6  # runs
MOST_RUNS = 120  # that the law of a picture is fitted to; more are passed over evenly
FROM = 0.5  # of its steps: where the forecast of a finished run begins
LEAST_ROWS = 6  # of the usual run: with fewer a curve has no shape to forecast from
LEAST_SEEN = 2  # rows of a run that a forecast begins from
POINTS = 20  # of a band
COLUMNS = ("run_id", "n_params", "step", "loss", "seen", "forecast", "lo", "hi", "end")


def curve_bands(
    table: pd.DataFrame | CurveTable, *, runs: Sequence[str] = (), params: str = "matrices", most: int = SHOWN
) -> pd.DataFrame:
    """Curves of a few runs with their bands: run_id, n_params, step, loss, seen, forecast, lo, hi (90%), end.

    An unfinished run is forecast from its last row to its planned end; where all are finished, each from half of its
    steps, without any run of its trunk. `seen` says which measured rows the forecast knew; `loss` is NaN at steps
    without a row, `forecast` before the last row that was seen; `end` is the planned end of a run, where it may be
    measured on more windows than its other rows. `runs` names them; by default the unfinished ones, else the longest of
    up to `most` sizes. `attrs` holds `runs` (of the table), `fitted` (those that the law was fitted to, MOST_RUNS at
    most), `unfinished`, `law`, and whether ends are measured `apart`.
    Curves that were read already take the place of their table. Raises PredictError where there are too few runs or
    rows, TableError for a table without curves, ValueError for an unknown run.
    """
    found = (table if isinstance(table, CurveTable) else read_curves(table, params=params)).runs
    rows = float(np.median([len(run.loss) for run in found]))
    trunks = {run.trunk_id or run.run_id for run in found}
    if len(trunks) < FEW or rows < LEAST_ROWS:
        raise PredictError(
            f"{len(trunks)} runs of {rows:g} rows each: a band needs {FEW} runs and {LEAST_ROWS} rows of each"
        )
    chosen = [find_run(found, name) for name in runs] or _chosen(found, most)
    fitted = _evenly(found, chosen)
    model = curve_model(fitted)
    parts = [_band(model, run) for run in chosen]
    if not parts:
        raise PredictError(f"no run has {LEAST_SEEN} rows before its forecast begins")
    frame = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    frame.attrs = {
        "runs": len(found), "fitted": len(fitted), "unfinished": not chosen[0].done, "law": model.fit.form.name,
        "apart": _ends_apart(model),
    }  # fmt: skip
    return frame


def _chosen(found: Sequence[CurveRun], most: int) -> list[CurveRun]:
    """The unfinished runs, else the longest of each size: up to `most`, spread over the sizes."""
    usable = [run for run in found if len(_seen(run).loss) >= LEAST_SEEN]
    young = [run for run in usable if not run.done]
    longest: dict[float, CurveRun] = {}
    for run in usable:
        if run.n_params not in longest or run.horizon > longest[run.n_params].horizon:
            longest[run.n_params] = run
    every = sorted(young or longest.values(), key=lambda run: run.n_params)
    if not every:
        return []
    at = np.unique(np.round(np.linspace(0, len(every) - 1, min(most, len(every)))).astype(int))
    return [every[i] for i in at]


def _evenly(found: Sequence[CurveRun], chosen: Sequence[CurveRun]) -> Sequence[CurveRun]:
    """The runs chosen and as many others, evenly over sizes and horizons, as make up to MOST_RUNS."""
    if len(found) <= MOST_RUNS:
        return found
    names = {run.run_id for run in chosen}
    others = sorted(
        (run for run in found if run.run_id not in names), key=lambda run: (run.n_params, run.horizon, run.run_id)
    )
    at = np.unique(np.round(np.linspace(0, len(others) - 1, max(MOST_RUNS - len(chosen), FEW))).astype(int))
    kept = names | {others[i].run_id for i in at}
    return [run for run in found if run.run_id in kept]


def _seen(run: CurveRun) -> CurveRun:
    """A run with the rows that its forecast begins from."""
    return begun(run, int(FROM * run.horizon)) if run.done else run


def _band(model: CurveModel, run: CurveRun) -> pd.DataFrame:
    """The rows of one run, and its forecast at these and between."""
    seen = _seen(run)
    if run.done:
        trunk = run.trunk_id or run.run_id
        model = replace(model, runs=tuple(r for r in model.runs if (r.trunk_id or r.run_id) != trunk))
    last = int(seen.steps[-1]) if len(seen.steps) else 0
    grid = np.round(np.geomspace(last + 1, run.horizon, POINTS)).astype(int) - 1
    steps = np.union1d(run.steps, grid)
    loss = pd.Series(run.loss, index=run.steps).groupby(level=0).last().reindex(steps)
    ahead = steps >= last
    ends = (steps[ahead] == run.horizon - 1) & (run.ends is not None) & _ends_apart(model)
    path = model.with_run(seen).forecast(seen, steps[ahead], ends=ends)
    frame = pd.DataFrame(
        {"step": steps + 1, "loss": loss.to_numpy(), "seen": loss.notna().to_numpy() & (steps <= last)}
    )
    frame["end"] = steps == run.horizon - 1
    for name, values in zip(("forecast", "lo", "hi"), (path.loss, *path.interval(BAND)), strict=True):
        frame[name] = np.nan
        frame.loc[ahead, name] = values
    return frame.assign(run_id=run.run_id, n_params=run.n_params)


def _ends_apart(model: CurveModel) -> bool:
    """Whether the runs of a model are evaluated in another way at their ends."""
    return any(run.ends is not None and run.ends.any() for run in model.runs)
