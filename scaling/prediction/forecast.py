"""Predictions of the loss of a run that is not trained yet.

The prediction is a forecast average: each law contributes a Student's t of ln loss with its jackknife error and the
noise of one run, weighted by its forecasts at rolling origins (`selection.law_weights`) and widened by the discrepancy
that those forecasts showed per unit of extrapolation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.fitting.fit import Fit, Huber
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.averaging import Forecast, ForecastAverage, average
from isoflop.scaling.selection.law_weights import NoLawError, weigh_laws
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.selection.rolling_origins import forecast
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.json_plain import plain

LEVELS = (0.5, 0.8, 0.95)
FAR = 10.0  # times the largest compute: beyond, the point prediction rests on the form alone


class PredictError(ValueError):
    """The loss at a target cannot be predicted from a table."""

    exit_code = 1


@dataclass(frozen=True)
class Target:
    """A run to predict: `flops`, and n_params and tokens unless it is the compute-optimal run of that compute."""

    flops: float
    n_params: float | None = None
    tokens: float | None = None

    @property
    def optimal(self) -> bool:
        """Whether the target is the compute-optimal run at `flops`."""
        return self.n_params is None

    @classmethod
    def of(cls, data: Points, flops: float | None, n_params: float | None, tokens: float | None) -> "Target":
        """A target from FLOPs, or from parameters and tokens, whose FLOPs follow the cost of training in `data`.

        Raises ValueError unless exactly one of the two is given, with positive finite numbers.
        """
        if (flops is None) == (n_params is None) or (n_params is None) != (tokens is None):
            raise ValueError("a target is either --flops, or --n-params and --tokens together")
        given = [v for v in (flops, n_params, tokens) if v is not None]
        if not all(np.isfinite(v) and v > 0 for v in given):
            raise ValueError(f"a target must be positive and finite, not {', '.join(f'{v:g}' for v in given)}")
        if flops is not None:
            return cls(flops)
        return cls(float(data.cost.flops(n_params, tokens)), n_params, tokens)

    def __str__(self) -> str:
        if self.optimal:
            return f"the best run of {self.flops:.4g} FLOPs"
        return f"{self.n_params:.4g} parameters on {self.tokens:.4g} tokens ({self.flops:.4g} FLOPs)"


@dataclass(frozen=True)
class LossForecast:
    """The predicted loss at a target, in `points.loss_unit`, with the optimal size where the target is compute-optimal.

    `loss` is the median of the forecast average, `intervals` its central intervals by level. `members` are the laws'
    own forecasts, without discrepancy. `laws` is indexed by law: weight, loss, sd (of ln loss), lo and hi at the widest
    level, n_opt. `reach` is the target's compute over the largest in the table. `n_interval`, of n_opt, is at the
    widest level, averaged over laws. `refused` names the laws without a part in the average, with the reason.
    `surface` is the law of Chinchilla's form with the most weight, for `serving`.
    """

    target: Target
    loss: float
    intervals: dict[float, tuple[float, float]]
    laws: pd.DataFrame
    preferred: str
    reach: float
    discrepancy: float
    n_opt: float | None
    n_interval: tuple[float, float] | None
    average: ForecastAverage
    members: dict[str, ForecastAverage]
    points: Points
    notes: tuple[str, ...]
    refused: dict[str, str]
    surface: Chinchilla | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        return {
            "target": {"flops": self.target.flops, "n_params": self.target.n_params, "tokens": self.target.tokens},
            "loss": self.loss,
            "sd_log_loss": float(self.average.sd[0]),
            "intervals": {f"{level:g}": list(pair) for level, pair in self.intervals.items()},
            "n_opt": self.n_opt,
            "n_opt_interval": list(self.n_interval) if self.n_interval else None,
            "preferred": self.preferred,
            "laws": plain(self.laws.to_dict("index")),
            "reach": self.reach,
            "discrepancy": self.discrepancy,
            "conventions": self.points.conventions,
            "findings": [f.to_dict() for f in unit_findings(self.points)],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"loss of {self.target}, {self.reach:.3g} times the largest compute of the table", ""]
        lines.append(f"  {self.loss:.4f} {self.points.loss_unit}")
        lines += [f"  {level:>4.0%}  {lo:.4f} to {hi:.4f}" for level, (lo, hi) in self.intervals.items()]
        if self.n_opt and self.n_interval:
            lo, hi = self.n_interval
            lines.append(f"  best size {self.n_opt:.4g} parameters, {max(LEVELS):.0%} {lo:.4g} to {hi:.4g}")
        lines += ["", f"  {'law':<22} {'weight':>6} {'loss':>8} {'sd ln':>7} {'n_opt':>10}"]
        for law, row in self.laws.iterrows():
            size = f"{row['n_opt']:>10.4g}" if np.isfinite(row["n_opt"]) else f"{'-':>10}"
            mark = "*" if law == self.preferred else " "
            lines.append(f" {mark}{law:<22} {row['weight']:>6.2f} {row['loss']:>8.4f} {row['sd']:>7.2%} {size}")
        lines.append(
            "* preferred by its forecasts below the largest compute; intervals average all laws and add run noise"
        )
        lines += map(str, unit_findings(self.points))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def forecast_loss(
    table: "pd.DataFrame | Points",
    target: Target,
    laws: Sequence[str] | None = None,
    *,
    params: str = "matrices",
    compute: str = "exact",
    objective: Objective = Huber("auto"),  # noqa: B008
) -> LossForecast:
    """Predict the loss at a target from a table of runs with a forecast average of `laws` (None: the candidates).

    Raises PredictError for a target below all the data, or when no law of N and D can be fitted.
    """
    data = points(table, params=params, compute=compute)
    smallest = data.frame["flops"].min()
    if target.flops <= smallest:
        raise PredictError(
            f"the target, {target.flops:.3g} FLOPs, lies below all the data (from {smallest:.3g}): "
            "a law fitted above says nothing there"
        )
    try:
        weighted = weigh_laws(data, candidates(data) if laws is None else laws, objective)
    except NoLawError as error:
        raise PredictError(str(error)) from error
    fits, weights, preferred = weighted.fits, weighted.weights, weighted.preferred
    reach = float(target.flops / data.frame["flops"].max())
    rows, forecasts = [], {}
    for law, fitted in fits.items():
        at = _place(fitted, target)
        forecasts[law] = predicted = forecast(fitted, at)
        lo, hi = average([predicted], [1.0]).interval(max(LEVELS))
        rows.append({
            "law": law, "weight": weights[law], "loss": float(np.exp(predicted.mean[0])),
            "sd": float(predicted.sd[0]), "lo": float(np.exp(lo[0])), "hi": float(np.exp(hi[0])),
            "n_opt": float(at["n_params"].iloc[0]),
        })  # fmt: skip
    width = weighted.discrepancy * max(np.log(reach), 0.0)
    pooled = average([f.widened(width) for f in forecasts.values()], [weights[law] for law in fits])
    n_opt, n_interval = _best_size(fits, weights, preferred, target) if target.optimal else (None, None)
    notes = [*data.notes, *weighted.notes]
    if reach > FAR:
        notes.append(f"the target lies {reach:.3g} times beyond the largest compute: trust the interval, not the point")
    return LossForecast(
        target=target,
        loss=float(np.exp(pooled.quantile(0.5)[0])),
        intervals={level: _loss_interval(pooled, level) for level in LEVELS},
        laws=pd.DataFrame(rows).set_index("law"),
        preferred=preferred,
        reach=reach,
        discrepancy=weighted.discrepancy,
        n_opt=n_opt,
        n_interval=n_interval,
        average=pooled,
        members={law: average([f], [1.0]) for law, f in forecasts.items()},
        points=data,
        notes=tuple(notes),
        refused=weighted.refused,
        surface=_surface(fits, weights, preferred),
    )


def _place(fitted: Fit, target: Target) -> pd.DataFrame:
    """The target as one row of n_params, tokens, flops: a fit's own optimum unless it is given."""
    if not target.optimal:
        return pd.DataFrame({"n_params": [target.n_params], "tokens": [target.tokens], "flops": [target.flops]})
    best = fitted.optimal(target.flops)
    return pd.DataFrame({"n_params": [float(best.N)], "tokens": [float(best.D)], "flops": [target.flops]})


def _surface(fits: dict[str, Fit], weights: dict[str, float], preferred: str) -> Chinchilla | None:
    able = {law: f.law for law, f in fits.items() if isinstance(f.law, Chinchilla)}
    return able.get(preferred) or able.get(max(able, key=lambda law: weights[law], default=""))


def _loss_interval(pooled: ForecastAverage, level: float) -> tuple[float, float]:
    lo, hi = pooled.interval(level)
    return float(np.exp(lo[0])), float(np.exp(hi[0]))


def _best_size(
    fits: dict[str, Fit], weights: dict[str, float], preferred: str, target: Target
) -> tuple[float, tuple[float, float]]:
    """The preferred law's optimal size, and its interval averaged over laws."""
    sizes = []
    for fitted in fits.values():
        cost = fitted.cost
        draws = jackknife(fitted)
        refits = [np.log(law.optimal(target.flops, cost).N) for law in draws.laws]
        error = np.sqrt(len(draws) - 1) * np.std(refits)
        centre = np.log(np.atleast_1d(fitted.optimal(target.flops).N))
        sizes.append(Forecast(centre, np.atleast_1d(error) + 1e-9, max(fitted.n_clusters - 1, 1)))
    lo, hi = average(sizes, [weights[law] for law in fits]).interval(max(LEVELS))
    return float(fits[preferred].optimal(target.flops).N), (float(np.exp(lo[0])), float(np.exp(hi[0])))
