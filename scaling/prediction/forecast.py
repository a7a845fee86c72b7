"""What a run not yet made will reach: laws stacked by what they predicted before, with noise and form uncertainty.

The distribution of ln loss at the target is a mixture over laws, each Student's t with its jackknife error and the
noise of one run, weighted by `compare` and widened by what forecasts have missed so far per unit of extrapolation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit, FitError, Huber
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws import with_role
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.averaging import Forecast, Mixture, mixture
from isoflop.scaling.selection.holdout import HoldOutError
from isoflop.scaling.selection.rolling_origins import fit_at, forecast
from isoflop.scaling.selection.scoreboard import CompareError, Scoreboard, compare
from isoflop.scaling.selection.scoreboard_text import plain
from isoflop.scaling.table.conventions import Points, points

LEVELS = (0.5, 0.8, 0.95)
STACK_FROM = with_role("average")
NO_SURFACE = "it does not weigh n_params against tokens"
FAR = 10.0  # times the largest compute: beyond, the point rests on the form alone


class PredictError(ValueError):
    """The target cannot be predicted from this table."""

    exit_code = 1


@dataclass(frozen=True)
class Target:
    """A run to predict. Without n_params it is the compute-optimal run at `flops`."""

    flops: float
    n_params: float | None = None
    tokens: float | None = None

    @property
    def optimal(self) -> bool:
        return self.n_params is None

    @classmethod
    def of(cls, data: Points, flops: float | None, n_params: float | None, tokens: float | None) -> "Target":
        """From what a user gives: FLOPs, or parameters and tokens, whose FLOPs follow from the cost of the data."""
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
class Outlook:
    """Loss at the target: the stacked distribution, each law's own, and the optimal size when it was asked for.

    `members` are the laws' own forecasts, without discrepancy. `laws` is indexed by law: weight, loss, sd (of ln
    loss), lo, hi at the widest level, n_opt. `reach` is target compute over the largest in the table; `n_interval` of
    n_opt is at the widest level, over all laws.
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
    stacked: Mixture
    members: dict[str, Mixture]
    points: Points
    notes: tuple[str, ...]
    refused: dict[str, str]  # laws that were asked for and have no part in this, with the reason
    surface: Chinchilla | None = None  # the best weighed law of Chinchilla's form: what serving is planned with

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "target": {"flops": self.target.flops, "n_params": self.target.n_params, "tokens": self.target.tokens},
            "loss": self.loss,
            "sd_log_loss": float(self.stacked.sd[0]),
            "intervals": {f"{level:g}": list(pair) for level, pair in self.intervals.items()},
            "n_opt": self.n_opt,
            "n_opt_interval": list(self.n_interval) if self.n_interval else None,
            "preferred": self.preferred,
            "laws": {law: {k: plain(v) for k, v in row.items()} for law, row in self.laws.to_dict("index").items()},
            "reach": self.reach,
            "discrepancy": self.discrepancy,
            "conventions": {"params": self.points.params, "compute": self.points.compute},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"loss of {self.target}, {self.reach:.3g} times the largest compute of the table", ""]
        lines.append(f"  {self.loss:.4f} nats/token")
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
            "* preferred by its forecasts below the largest compute; intervals stack all laws and add run noise"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def outlook(
    table: "pd.DataFrame | Points",
    target: Target,
    laws: Sequence[str] = STACK_FROM,
    *,
    params: str = "matrices",
    compute: str = "exact",
    objective: Objective = Huber("auto"),  # noqa: B008
) -> Outlook:
    """Predict the loss at a target from a table. Raises PredictError when no law that weighs N against D fits."""
    data = points(table, params=params, compute=compute)
    if target.flops <= data.frame["flops"].min():
        raise PredictError(
            f"the target, {target.flops:.3g} FLOPs, lies below all the data (from {data.frame['flops'].min():.3g}): "
            "a law fitted above says nothing there"
        )
    weighed = weigh_laws(data, laws, objective)
    fits, weights, preferred, notes = weighed.fits, weighed.weights, weighed.preferred, weighed.notes
    reach = float(target.flops / data.frame["flops"].max())
    rows, said = [], {}
    for law, fitted in fits.items():
        at = _place(fitted, target)
        told = forecast(fitted, at)
        lo, hi = mixture([told], [1.0]).interval(max(LEVELS))
        rows.append({
            "law": law, "weight": weights[law], "loss": float(np.exp(told.mean[0])), "sd": float(told.sd[0]),
            "lo": float(np.exp(lo[0])), "hi": float(np.exp(hi[0])), "n_opt": float(at["n_params"].iloc[0]),
        })  # fmt: skip
        said[law] = told
    own = {law: mixture([told], [1.0]) for law, told in said.items()}
    width = weighed.discrepancy * max(np.log(reach), 0.0)
    stacked = mixture([told.widened(width) for told in said.values()], [weights[law] for law in fits])
    intervals = {level: _pair(stacked, level) for level in LEVELS}
    n_opt, n_interval = _best_size(fits, weights, preferred, target) if target.optimal else (None, None)
    if reach > FAR:
        notes = (
            *notes,
            f"the target lies {reach:.3g} times beyond the largest compute: trust the interval, not the point",
        )
    return Outlook(
        target, float(np.exp(stacked.quantile(0.5)[0])), intervals, pd.DataFrame(rows).set_index("law"), preferred,
        reach, weighed.discrepancy, n_opt, n_interval, stacked, own, data, (*data.notes, *notes), weighed.refused,
        _surface(fits, weights, preferred),
    )  # fmt: skip


@dataclass(frozen=True)
class Weighed:
    """Fits of laws that weigh N against D, with weights, the preferred law, the discrepancy of forecasts; why other
    laws are left out, and notes."""

    fits: dict[str, Fit]
    weights: dict[str, float]
    preferred: str
    discrepancy: float
    refused: dict[str, str]
    notes: tuple[str, ...]


def weigh_laws(data: Points, laws: Sequence[str], objective: Objective) -> Weighed:
    """Weigh laws by their rolling hold-outs, or equally where the table is too small to hold anything out."""
    try:
        board: Scoreboard = compare(data, laws, objective=objective, findings=False)
        every = {law: e.fit for law, e in board.entrants.items()}
        fits, refused = _surfaces(every, board.refused)
        if fits:
            preferred = board.preferred if board.preferred in fits else min(fits, key=lambda f: board.frame["error"][f])
            weights = {law: board.weights[law] for law in fits}
            return Weighed(fits, weights, preferred, board.discrepancy, refused, _left_out(refused))
    except (HoldOutError, CompareError):
        pass
    every, failed = {}, {}
    for law in laws:
        try:
            every[law] = fit_at(law, data, objective)
        except FitError as error:
            failed[law] = str(error)
    fits, refused = _surfaces(every, failed)
    if not fits:
        reasons = "; ".join(f"{law}: {why}" for law, why in refused.items())
        raise PredictError(f"no law of n_params and tokens can be fitted: {reasons or 'none was asked for'}")
    note = "too few scales to test the laws on: equal weights, and the interval does not know how far forecasts miss"
    weights = dict.fromkeys(fits, 1.0 / len(fits))
    return Weighed(fits, weights, next(iter(fits)), 0.0, refused, (*_left_out(refused), note))


def _surfaces(fits: dict[str, Fit], refused: dict[str, str]) -> tuple[dict[str, Fit], dict[str, str]]:
    """The fits that weigh N against D; the others join those refused."""
    flat = {law: NO_SURFACE for law, f in fits.items() if not {"N", "D"} <= set(f.law.inputs)}
    return {law: f for law, f in fits.items() if law not in flat}, refused | flat


def _left_out(refused: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{law} is left out: {why}" for law, why in refused.items())


def _place(fitted: Fit, target: Target) -> pd.DataFrame:
    if not target.optimal:
        return pd.DataFrame({"n_params": [target.n_params], "tokens": [target.tokens], "flops": [target.flops]})
    best = fitted.optimal(target.flops)
    return pd.DataFrame({"n_params": [float(best.N)], "tokens": [float(best.D)], "flops": [target.flops]})


def _surface(fits: dict[str, Fit], weights: dict[str, float], preferred: str) -> Chinchilla | None:
    able = {law: f.law for law, f in fits.items() if isinstance(f.law, Chinchilla)}
    return able.get(preferred) or able.get(max(able, key=lambda law: weights[law], default=""))


def _pair(stacked: Mixture, level: float) -> tuple[float, float]:
    lo, hi = stacked.interval(level)
    return float(np.exp(lo[0])), float(np.exp(hi[0]))


def _best_size(
    fits: dict[str, Fit], weights: dict[str, float], preferred: str, target: Target
) -> tuple[float, tuple[float, float]]:
    """The preferred law's optimal size, and the interval stacked over laws."""
    said = []
    for fitted in fits.values():
        cost = fitted.cost
        draws = jackknife(fitted)
        sizes = [np.log(law.optimal(target.flops, cost).N) for law in draws.laws]
        error = np.sqrt(len(draws) - 1) * np.std(sizes)
        centre = np.log(np.atleast_1d(fitted.optimal(target.flops).N))
        said.append(Forecast(centre, np.atleast_1d(error) + 1e-9, max(fitted.n_clusters - 1, 1)))
    lo, hi = mixture(said, [weights[law] for law in fits]).interval(max(LEVELS))
    return float(fits[preferred].optimal(target.flops).N), (float(np.exp(lo[0])), float(np.exp(hi[0])))
