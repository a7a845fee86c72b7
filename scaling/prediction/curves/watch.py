"""Which runs left the band that their siblings' curves and their own past predict: `watch_curves`.

A row is compared with its forecast from the rows before it. These innovations are independent and of unit variance in a
sound run; a run has left its band where one of them is too large for the number of rows, or where their cumulative sum
drifts (Page 1954, CUSUM): sudden faults and slow ones. The bounds are set for one false alarm in fifty sound runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.laws.special_functions import ndtri, stdtr
from isoflop.scaling.prediction.curves.causes import likely_cause
from isoflop.scaling.prediction.curves.collapse import Collapse, collapse_findings, collapses
from isoflop.scaling.prediction.curves.curve_model import FEW, CurveModel, curve_model
from isoflop.scaling.prediction.curves.run_forecast import BAND, conventions_of
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import read_curves

FALSE = 0.02  # share of sound runs in which something is noticed, at most, by each of the two ways
SLACK = 0.5  # of the cumulative sum: half the shift, in standard deviations, that is to be noticed
LEAST_ROWS = 3
ODD = 3.0  # times the largest residual of the usual run: a run that no other is measured by
WIDTH, HEIGHT = 64, 9  # of a chart, in characters
MOST_CHARTS = 4


@dataclass(frozen=True)
class WatchedRun:
    """One run: whether and at which step it left its band, and why that may be.

    `rows` has a row per evaluation: step, loss, lo and hi of its forecast from the rows before (90%), innovation.
    `end` is the forecast of the loss at its planned end with its 90% interval, None where it is there.
    """

    run_id: str
    n_params: float
    step: int
    horizon: int
    left_at: int | None
    cause: str
    rows: pd.DataFrame
    end: tuple[float, float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "run_id": self.run_id, "n_params": self.n_params, "step": self.step, "steps": self.horizon,
            "left_band": self.left_at is not None, "left_at": self.left_at, "cause": self.cause or None,
            "forecast": None if self.end is None else {"loss": self.end[0], "lo": self.end[1], "hi": self.end[2]},
            "rows": plain(self.rows),
        }  # fmt: skip

    def line(self) -> str:
        """The run on one line."""
        loss = f"loss {loss_text(self.rows['loss'].iloc[-1])}" if len(self.rows) else "no row yet"
        end = "" if self.end is None else ", end {} ({} to {})".format(*map(loss_text, self.end))
        said = "in its band" if self.left_at is None else f"LEFT ITS BAND at step {self.left_at:,}: {self.cause}"
        return f"{self.run_id:<14} step {self.step:,}/{self.horizon:,}  {loss}{end}  {said}"

    def chart(self) -> str:
        """Loss against ln step in characters: the measured losses `*`, the band of each as dots."""
        if len(self.rows) < 2:
            return ""
        rows = self.rows
        column = np.log(rows["step"].to_numpy(float))
        column = np.round((column - column[0]) / max(column[-1] - column[0], 1e-9) * (WIDTH - 1)).astype(int)
        shown = np.log(rows[["loss", "lo", "hi"]].to_numpy(float))
        low, high = shown.min(), np.quantile(shown, 0.98)
        level = np.clip(np.round((high - shown) / max(high - low, 1e-9) * (HEIGHT - 1)), 0, HEIGHT - 1).astype(int)
        grid = [[" "] * WIDTH for _ in range(HEIGHT)]
        for x, (_, lo, hi) in zip(column, level, strict=True):
            for y in range(hi, lo + 1):
                grid[y][x] = "."
        for x, (at, _, _) in zip(column, level, strict=True):
            grid[at][x] = "*"
        labels = {0: f"{np.exp(high):.3f}", HEIGHT - 1: f"{np.exp(low):.3f}"}
        return "\n".join(f"{labels.get(y, ''):>8} |{''.join(line).rstrip()}" for y, line in enumerate(grid))


@dataclass(frozen=True)
class Watch:
    """The watched runs of a table, those that left their band first."""

    runs: tuple[WatchedRun, ...]
    siblings: int
    law: str
    notes: tuple[str, ...]
    conventions: Mapping[str, str] = field(default_factory=dict)
    ladders: tuple[Collapse, ...] = ()

    @property
    def left(self) -> tuple[WatchedRun, ...]:
        """Those that left their band."""
        return tuple(run for run in self.runs if run.left_at is not None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One for each run that left its band, and for sizes whose curves do not collapse."""
        return (*self._left_band(), *collapse_findings(self.ladders))

    def _left_band(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(
                "left_band", "warn", f"run {run.run_id} left its band at step {run.left_at:,}: {run.cause}",
                "look at its data and rate from there on, or end it",
            )
            for run in self.left
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "curves": [run.to_dict() for run in self.runs], "left_band": [run.run_id for run in self.left],
            "siblings": self.siblings, "law": self.law, "notes": list(self.notes),
            "collapse": [one.to_dict() for one in self.ladders],
            "conventions": dict(self.conventions), "findings": [finding.to_dict() for finding in self.findings],
        }  # fmt: skip

    def __str__(self) -> str:
        by = f"by the law {self.law} over {self.siblings} runs"
        head = f"{len(self.runs)} runs watched {by}; {len(self.left)} left their band"
        lines = [head, *(run.line() for run in self.runs)]
        lines += [str(one) for one in self.ladders]
        for run in self.runs[:MOST_CHARTS]:
            lines += [f"{run.run_id}: loss against ln step, * measured, . its 90% band", run.chart()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def watch_curves(table: pd.DataFrame, *, law: str = "multi_power", params: str = "matrices") -> Watch:
    """Compare the curve of every unfinished run of a table with its band; of every run where all are finished.

    Raises TableError where the table has no curves, or no learning rates.
    """
    found = read_curves(table, params=params)
    young = [run for run in found.runs if not run.done]
    watched = young or list(found.runs)
    known = [run for run in found.runs if run.done] if young else list(found.runs)
    notes = list(found.notes)
    if len({run.trunk_id or run.run_id for run in known}) < FEW:
        known = list(found.runs)
        notes.append("few runs have ended: the bands are mostly those of published curves")
    seen = watch_runs(watched, known, law, notes)
    return replace(seen, conventions=conventions_of(table, params), ladders=tuple(collapses(found.runs)))


def watch_runs(
    watched: Sequence[CurveRun], known: Sequence[CurveRun], law: str = "multi_power", notes: Sequence[str] = ()
) -> Watch:
    """Compare runs with what the `known` ones predict; one that is known itself is judged by the others."""
    model = curve_model(known, law)
    odd, said = outliers(model), list(notes)
    sound = [run for run in known if (run.trunk_id or run.run_id) not in odd]
    if odd and sound:
        model = curve_model(sound, law)
        said.append(f"the bands are those of the others, not of runs far off the law: {', '.join(sorted(odd))}")
    judged = [watch_run(model, run) for run in watched]
    order = sorted(judged, key=lambda run: (run.left_at is None, run.n_params, run.run_id))
    return Watch(tuple(order), len(model.runs), model.fit.form.name, tuple(said))


def outliers(model: CurveModel) -> set[str]:
    """The trunks with a residual of the robust fit far beyond those of others: what they do is no measure for them."""
    n = len(model.fit.problem.log_loss)
    off = np.split(
        model.fit.problem.residuals(model.fit.theta[None])[0][0, :n],
        np.cumsum([len(run.loss) for run in model.fit.runs])[:-1],
    )
    worst: dict[str, float] = {}
    for run, part in zip(model.fit.runs, off, strict=True):
        trunk = run.trunk_id or run.run_id
        worst[trunk] = max(worst.get(trunk, 0.0), float(np.abs(part).max()))
    usual = float(np.median(list(worst.values())))
    return {trunk for trunk, value in worst.items() if value > ODD * usual}


def watch_run(model: CurveModel, run: CurveRun) -> WatchedRun:
    """One run against the runs of a model, of which it and its trunk are left out."""
    trunk = run.trunk_id or run.run_id
    others = tuple(r for r in model.runs if (r.trunk_id or r.run_id) != trunk)
    apart = replace(model, runs=others) if others else model
    last = int(run.steps[-1]) + 1 if len(run.steps) else 0
    e, lo, hi = innovations(apart, run)
    rows = pd.DataFrame({"step": run.steps + 1, "loss": run.loss, "lo": lo, "hi": hi, "innovation": e})
    at = left_at(e, apart.freedom)
    end = None
    if last < run.horizon:
        path = apart.with_run(run).forecast(run, np.array([run.horizon - 1]), ends=np.array([run.ends is not None]))
        low, high = path.interval(BAND)
        end = (float(path.loss[0]), float(low[0]), float(high[0]))
    cause = "" if at is None else likely_cause(apart, run, at)
    step = None if at is None else int(run.steps[at]) + 1
    return WatchedRun(run.run_id, run.n_params, last, run.horizon, step, cause, rows, end)


def innovations(model: CurveModel, run: CurveRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row (n,) its distance from the forecast by the rows before it, in standard deviations, and the ends of
    the 90% interval of that forecast."""
    if not len(run.loss):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    mean, covariance = model.joint(run)
    factor = np.linalg.cholesky(covariance)
    e = np.linalg.solve(factor, np.log(run.loss) - mean)
    sd = np.diag(factor)
    centre = np.log(run.loss) - sd * e
    half = ndtri(0.5 + BAND / 2) * sd
    return e, np.exp(centre - half), np.exp(centre + half)


def left_at(e: np.ndarray, freedom: float) -> int | None:
    """The first row at which the innovations (n,) of a run say that it left its band."""
    if len(e) < 1:
        return None
    # Student's t of few siblings, carried to the normal distribution by its probabilities.
    z = np.sign(e) * -ndtri(np.maximum(stdtr(freedom, -np.abs(e)), 1e-300))
    alone = np.abs(z) > -ndtri(FALSE / (2 * max(len(z), 20)))
    up = down = 0.0
    bound = cusum_bound(max(len(z), 20))
    for i, value in enumerate(np.clip(z, -4.0, 4.0)):
        up, down = max(0.0, up + value - SLACK), max(0.0, down - value - SLACK)
        if alone[i] or (i + 1 >= LEAST_ROWS and max(up, down) > bound):
            return i
    return None


def cusum_bound(rows: int) -> float:
    """The height that the cumulative sum of a sound run of so many rows passes in a share FALSE of runs, on either
    side (Siegmund 1985: the run length to it is (exp(2 k b) - 2 k b - 1) / (2 k^2), b the height + 1.166)."""
    heights = np.linspace(1.0, 20.0, 400)
    b = heights + 1.166
    length = (np.exp(2 * SLACK * b) - 2 * SLACK * b - 1) / (2 * SLACK**2) / 2
    return float(heights[np.argmax(rows / length < FALSE)])
