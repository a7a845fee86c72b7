"""Predictions of a run that is given by the columns that laws read: `isoflop predict TABLE --at NAME=VALUE`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.settings import table_findings
from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.fitting.fit import Fit, Huber
from isoflop.scaling.laws import PRESETS, columns_read, law_names, of_size_and_data
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.prediction.forecast import (
    LEVELS,
    PredictError,
    beyond_epochs,
    beyond_the_data,
    median_loss,
    telling,
)
from isoflop.scaling.selection.averaging import Forecast, ForecastAverage, average
from isoflop.scaling.selection.law_weights import NoLawError, weigh_laws
from isoflop.scaling.selection.rolling_origins import forecast
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.law_inputs import SUM_TO, components

BEYOND = 1.001  # times the range of a column: what rounding leaves is inside


@dataclass(frozen=True)
class RunForecast:
    """The predicted loss of one run, in `points.loss_unit`, at the values `target` of its columns.

    `loss` is the median of the forecast average and `intervals` its central intervals by level. `laws` is indexed by
    law: weight, loss, sd (of ln loss). `findings` name the columns in which the run lies outside the table.
    """

    target: dict[str, float]
    loss: float
    intervals: dict[float, tuple[float, float]]
    laws: pd.DataFrame
    preferred: str
    discrepancy: float
    average: ForecastAverage
    points: Points
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    refused: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        return {
            "target": self.target,
            "loss": self.loss,
            "sd_log_loss": float(self.average.spread[0]),
            "intervals": {f"{level:g}": list(pair) for level, pair in self.intervals.items()},
            "preferred": self.preferred,
            "laws": plain(self.laws.to_dict("index")),
            "discrepancy": self.discrepancy,
            "conventions": self.points.conventions,
            "findings": [f.to_dict() for f in self.findings],
            "notes": list(self.notes),
            "failed": self.refused,
        }

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value:.4g}" for name, value in self.target.items())
        lines = [f"loss of a run with {given}", "", f"  {loss_text(self.loss)} {self.points.loss_unit}"]
        lines += [f"  {level:>4.0%}  {loss_text(lo)} to {loss_text(hi)}" for level, (lo, hi) in self.intervals.items()]
        lines += ["", f"  {'law':<22} {'weight':>6} {'loss':>8} {'sd ln':>7}"]
        for law, row in self.laws.iterrows():
            mark = "*" if law == self.preferred else " "
            lines.append(f" {mark}{law:<22} {row['weight']:>6.2f} {loss_text(row['loss']):>8} {row['sd']:>7.2%}")
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])


def predict_at(
    table: "pd.DataFrame | Points",
    at: Mapping[str, float],
    laws: Sequence[str] | str | None = None,
    *,
    params: str | None = None,
    compute: str | None = None,
) -> RunForecast:
    """Predict the loss of the run at the values `at` of its columns, by an average of laws that read them.

    `laws` None are those of the catalogue that read a column of `at` beyond size, tokens and compute. Raises ValueError
    for a value that no run can have, or a column that a law reads and `at` lacks, PredictError where no law can be
    fitted.
    """
    names = law_names(laws) if laws else _readers(at)
    read = columns_read(names)
    data = points(table, params=params, compute=compute, inputs=read)
    settings = table_findings(table, data, read)
    target = _target(data, at, read)
    try:
        weighed = weigh_laws(data, names, Huber("auto"), joint=False)
    except NoLawError as error:
        raise PredictError(str(error)) from error
    made, refused = _forecasts(weighed.fits, target, weighed.refused)
    share = np.array([weighed.weights[law] for law in made])
    share = share / share.sum() if share.sum() else np.full(len(made), 1.0 / len(made))
    width = weighed.discrepancy
    pooled = average(beyond_the_data(list(made.values()), target, data, width), share)
    rows = [
        {"law": law, "weight": w, "loss": float(np.exp(f.mean[0])), "sd": float(f.sd[0])}
        for (law, f), w in zip(made.items(), share.tolist(), strict=True)
    ]
    return RunForecast(
        target={name: float(value) for name, value in target.iloc[0].items()},
        loss=median_loss(pooled),
        intervals={level: pooled.exp_interval(level) for level in LEVELS},
        laws=pd.DataFrame(rows).set_index("law"),
        preferred=weighed.preferred if weighed.preferred in made else max(made, key=lambda law: weighed.weights[law]),
        discrepancy=weighed.discrepancy,
        average=pooled,
        points=data,
        findings=(*unit_findings(data), *settings, *outside(data, target), *beyond_epochs(data, _epochs(target))),
        notes=(*data.notes, *weighed.notes, *_alike(share)),
        refused=refused if laws else {},
    )


def _alike(share: np.ndarray) -> list[str]:
    """What to say of several laws that no held-out run weighs."""
    if len(share) < 2 or np.ptp(share) > 0:
        return []
    return ["the laws weigh the same: no runs could be held out to weigh them by"]


def _readers(at: Mapping[str, float]) -> tuple[str, ...]:
    """The laws of the catalogue that read one of these columns beyond size, tokens and compute, and no other."""
    found = []
    for name in PRESETS:
        if not of_size_and_data(name):
            read = columns_read([name])
            if all(components(at, column) or column.name in ("tokens", "flops") for column in read):
                found.append(name)
    if not found and {*at} <= {"n_params", "tokens", "flops"}:
        requested = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in at.items())
        raise ValueError(f"--at is for columns beside size, tokens and compute: say {requested}, without --at")
    if not found:
        raise ValueError(f"--at: no law of the catalogue reads {', '.join(at)}: name one with --laws, or module:Class")
    return tuple(found)


def _target(data: Points, at: Mapping[str, float], read: Sequence[Column]) -> pd.DataFrame:
    """The run as one row of the columns that the laws read, checked against what each can be."""
    known = [*(str(c) for c in data.frame.columns), *(column.name for column in read if not column.vector)]
    usable = {name for column in read for name in components(known, column)}
    for name, value in at.items():
        if name not in usable and name not in ("n_params", "tokens", "flops"):
            raise ValueError(f"--at {name}={value:g}: none of the laws reads it{hint(name, sorted(usable))}")
    row = dict(at)
    if {"n_params", "tokens"} <= set(row) and "flops" not in row and data.frame["flops"].notna().all():
        row["flops"] = float(data.cost.flops(row["n_params"], row["tokens"]))
    for column in read:
        names = components(known, column)
        absent = [name for name in names or [column.name] if name not in row]
        if absent:
            raise ValueError(f"--at lacks {', '.join(absent)}, which the laws read: add --at {absent[0]}=VALUE")
        for name in names:
            low = 0 if column.vector else -np.inf
            if not np.isfinite(row[name]) or row[name] < low or (column.transform == "log" and row[name] <= 0):
                raise ValueError(f"--at {name}={row[name]:g}: a run cannot have that")
        if column.vector and abs(total := sum(row[name] for name in names) - 1) > SUM_TO:
            raise ValueError(f"--at {column.name}: the shares add up to {total + 1:.4g} and not to 1")
    return pd.DataFrame([row], dtype=float)


def _forecasts(
    fits: Mapping[str, Fit], target: pd.DataFrame, refused: Mapping[str, str]
) -> tuple[dict[str, Forecast], dict[str, str]]:
    made, failed = {}, dict(refused)
    for law, fitted in fits.items():
        try:
            made[law] = telling(forecast(fitted, target))
        except ValueError as error:
            failed[law] = str(error)
    if not made:
        raise PredictError("no law gives a loss there: " + "; ".join(f"{law}: {why}" for law, why in failed.items()))
    return made, failed


def outside(data: Points, target: pd.DataFrame) -> list[Finding]:
    """The columns in which a run lies outside the table, beyond those by which runs are meant to be extrapolated."""
    found = []
    extrapolated = ("n_params", "tokens", "flops", "unique_tokens")
    for name in [c for c in target if c not in extrapolated and c in data.frame]:
        lo, hi, value = float(data.frame[name].min()), float(data.frame[name].max()), float(target[name].iloc[0])
        slack = (BEYOND - 1) * max(abs(lo), abs(hi))
        if not lo - slack <= value <= hi + slack:
            found.append(
                Finding(
                    "outside_data", "warn",
                    f"{name} {value:.4g} lies outside the table, which has {lo:.4g} to {hi:.4g}",
                    f"the interval does not cover another regime: add runs near {name} {value:.4g}",
                )
            )  # fmt: skip
    return found


def _epochs(target: pd.DataFrame) -> float | None:
    if not {"tokens", "unique_tokens"} <= set(target):
        return None
    return float((target["tokens"] / target["unique_tokens"]).max())
