"""Predictions of the loss of a run that is not trained yet.

The prediction is a forecast average: each law contributes a Student's t of ln loss with its jackknife error and the
noise of one run, spread over the breaks that its exponents may have and weighted by what the runs say of it with them
(`breaks`), and widened by the discrepancy that forecasts at rolling origins showed per unit of extrapolation
(`selection.law_weights`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.fitting.fit import Fit, Huber
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.laws.axes.data_constrained import EXCESS_WORTH, REPEAT_WORTH, DataConstrained
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Law
from isoflop.scaling.prediction.breaks import probabilities
from isoflop.scaling.prediction.target import BORROWED, Target, log_size, place, reader, with_breaks
from isoflop.scaling.selection.averaging import Forecast, ForecastAverage, average
from isoflop.scaling.selection.law_weights import NoLawError, WeightedLaws, weigh_laws
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.selection.rolling_origins import forecast
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.json_plain import plain

L = TypeVar("L", bound=Law)
LEVELS = (0.5, 0.8, 0.95)
SAME_EPOCHS = 1.01  # times those of the table: what rounding leaves is the same
VAGUE = 10.0  # sd of ln loss: a forecast that scatters by more says nothing
STEP = 0.05  # in ln of a target: half the way over which a slope is taken
FAR = 10.0  # times the largest compute: beyond, the point prediction rests on the form alone


class PredictError(ValueError):
    """The loss at a target cannot be predicted from a table."""

    exit_code = 1


@dataclass(frozen=True)
class LossForecast:
    """The predicted loss at a target, in `points.loss_unit`, with the optimal size where the target is compute-optimal.

    `loss` is the median of the forecast average, `intervals` its central intervals by level. `members` are the laws'
    own forecasts, without discrepancy or breaks. `laws` is indexed by law: weight (its probability), loss, sd (of ln
    loss), lo and hi at the widest level, n_opt (of a compute-optimal target), all without breaks; breaks (their
    probability) and broken (the median loss with and without them). `reach` is the target's compute over the table's
    largest.
    `n_opt` is the median of the best size averaged over laws and breaks (`n_average`, of ln n_opt) and `n_interval` its
    interval at the widest level; both are None where no size is identified. `refused` names the laws without a
    part in the average, with the reason. `fitted` are the laws as fitted, that of the most weight first, and `worths`
    the R_D and R_N by which those that do not read unique tokens count repeats. `epochs` are those of the run answered,
    where unique tokens were given and a size is identified. `settings` are those pooled in the table. `slopes` are
    d ln loss by d ln of what the target is given by (flops, or n_params and tokens) under the law preferred, with that
    of ln n_opt by ln flops; none where it has none.
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
    n_average: ForecastAverage | None
    average: ForecastAverage
    members: dict[str, ForecastAverage]
    points: Points
    notes: tuple[str, ...]
    refused: dict[str, str]
    fitted: dict[str, Law] = field(default_factory=dict)
    worths: tuple[float, float] = BORROWED
    epochs: float | None = None
    settings: tuple[Finding, ...] = ()
    slopes: Mapping[str, float] = field(default_factory=dict)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the table may have wrong, and epochs that no run of it reached."""
        return (*unit_findings(self.points), *self.settings, *beyond_epochs(self.points, self.epochs))

    def heaviest(self, form: type[L]) -> tuple[str, L] | None:
        """The fitted law of a form with the most weight, after its name; None where none has that form."""
        return next(((name, law) for name, law in self.fitted.items() if isinstance(law, form)), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        return {
            "target": dict(vars(self.target)),
            "loss": self.loss,
            "sd_log_loss": float(self.average.spread[0]),
            "intervals": {f"{level:g}": list(pair) for level, pair in self.intervals.items()},
            "n_opt": self.n_opt,
            "n_opt_interval": list(self.n_interval) if self.n_interval else None,
            "preferred": self.preferred,
            "laws": plain(self.laws.to_dict("index")),
            "reach": self.reach,
            "discrepancy": self.discrepancy,
            "conventions": self.points.conventions,
            "findings": [f.to_dict() for f in self.findings],
            "epochs": self.epochs,
            "slopes": dict(self.slopes),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"loss of {self.target}, {self.reach:.3g} times the largest compute of the table", ""]
        lines.append(f"  {loss_text(self.loss)} {self.points.loss_unit}")
        lines += [f"  {level:>4.0%}  {loss_text(lo)} to {loss_text(hi)}" for level, (lo, hi) in self.intervals.items()]
        if self.n_opt and self.n_interval:
            lo, hi = self.n_interval
            lines.append(f"  best size {self.n_opt:.4g} parameters, {max(LEVELS):.0%} {lo:.4g} to {hi:.4g}")
        sizes = f" {'n_opt':>10}" if self.target.optimal else ""
        lines += ["", f"  {'law':<22} {'weight':>6} {'loss':>8} {'sd ln':>7}{sizes} {'breaks':>6} {'with them':>9}"]
        for law, row in self.laws.iterrows():
            size = f" {row['n_opt']:>10.4g}" if self.target.optimal else ""
            mark = "*" if law == self.preferred else " "
            broken = f"{row['breaks']:>6.2f} {loss_text(row['broken']):>9}"
            own = f"{row['weight']:>6.2f} {loss_text(row['loss']):>8} {row['sd']:>7.2%}"
            lines.append(f" {mark}{law:<22} {own}{size} {broken}")
        lines.append(
            "* preferred by its forecasts below the largest compute; the answer averages all laws by their probability "
            "(weight), each with the breaks that its exponents may have (their probability; the loss with them), and "
            "adds run noise"
        )
        lines += map(str, self.findings)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def forecast_loss(
    table: "pd.DataFrame | Points",
    target: Target,
    laws: Sequence[str] | None = None,
    *,
    params: str | None = None,
    compute: str | None = None,
    objective: Objective = Huber("auto"),  # noqa: B008
) -> LossForecast:
    """Predict the loss at a target from a table of runs with a forecast average of `laws` (None: the candidates).

    Raises PredictError for a target below all the data, or when no law of N and D can be fitted.
    """
    return forecast_losses(table, [target], laws, params=params, compute=compute, objective=objective)[0]


def forecast_losses(
    table: "pd.DataFrame | Points",
    targets: Sequence[Target],
    laws: Sequence[str] | None = None,
    *,
    params: str | None = None,
    compute: str | None = None,
    objective: Objective = Huber("auto"),  # noqa: B008
) -> list[LossForecast]:
    """The forecasts of `forecast_loss` at several targets, from one weighing of the laws."""
    data = points(table, params=params, compute=compute).in_order()
    smallest = data.frame["flops"].min()
    for target in targets:
        if target.flops <= smallest:
            raise PredictError(
                f"the target, {target.flops:.3g} FLOPs, lies below all the data (from {smallest:.3g}): "
                "a law fitted above says nothing there"
            )
    try:
        weighted = weigh_laws(data, candidates(data) if laws is None else laws, objective)
    except NoLawError as error:
        raise PredictError(str(error)) from error
    return [_forecast_at(data, weighted, target) for target in targets]


def _forecast_at(data: Points, weighted: WeightedLaws, target: Target) -> LossForecast:
    reach = float(target.flops / data.frame["flops"].max())
    worths, notes = _repeats(weighted.fits, target)
    forecasts, sizes, places, refused = _forecasts(weighted.fits, target, worths)
    fits = {law: weighted.fits[law] for law in forecasts}
    if not fits:
        raise PredictError("no law gives a loss there: " + "; ".join(f"{law}: {why}" for law, why in refused.items()))
    weights = probabilities(fits)
    preferred = weighted.preferred if weighted.preferred in fits else max(fits, key=lambda law: weights[law])
    rows, broken = [], {}
    for law, predicted in forecasts.items():
        broken[law] = with_breaks(fits[law], predicted, sizes.get(law), target, worths)
        lo, hi = average([predicted], [1.0]).exp_interval(max(LEVELS))
        rows.append({
            "law": law, "weight": weights[law], "loss": float(np.exp(predicted.mean[0])),
            "sd": float(predicted.sd[0]), "lo": lo, "hi": hi,
            "n_opt": float(places[law]["n_params"].iloc[0]) if target.optimal else np.nan,
            "breaks": 1 - broken[law].odds[0],
            "broken": _median(average(broken[law].losses, broken[law].odds)),
        })  # fmt: skip
    share = [weights[law] * p for law, own in broken.items() for p in own.odds]
    members = [one for own in broken.values() for one in own.losses]
    pooled = average(beyond_the_data(members, places[preferred], data, weighted.discrepancy), share)
    n_average = average([one for own in broken.values() for one in own.sizes], share) if target.optimal else None
    n_opt = _median(n_average) if n_average else None
    if n_opt is not None and not 1 <= n_opt < np.inf:
        notes.append(f"the laws do not tell the best size: the median of their forecasts is {n_opt:.3g} parameters")
        n_opt = None
    ranked = sorted(fits, key=lambda law: -weights[law])
    notes += data.cost_notes(n_opt or float(places[ranked[0]]["n_params"].iloc[0]))
    notes = [*data.notes, *weighted.notes, *notes, *(f"{law} is left out: {why}" for law, why in refused.items())]
    if reach > FAR:
        notes.append(f"the target lies {reach:.3g} times beyond the largest compute: trust the interval, not the point")
    return LossForecast(
        target=target,
        loss=median_loss(pooled),
        intervals={level: pooled.exp_interval(level) for level in LEVELS},
        laws=pd.DataFrame(rows).set_index("law"),
        preferred=preferred,
        reach=reach,
        discrepancy=weighted.discrepancy,
        n_opt=n_opt,
        n_interval=n_average.exp_interval(max(LEVELS)) if n_average else None,
        n_average=n_average,
        average=pooled,
        members={law: average([f], [1.0]) for law, f in forecasts.items()},
        points=data,
        notes=tuple(notes),
        refused=weighted.refused | refused,
        fitted={law: fits[law].law for law in ranked},
        worths=worths,
        epochs=_epochs(target, data.cost, n_opt),
        slopes=_slopes(fits[preferred], target, worths),
    )


def _slopes(fitted: Fit, target: Target, worths: tuple[float, float]) -> dict[str, float]:
    """d ln loss by d ln of the target's compute (and d ln n_opt), or of its size and of its tokens, under a law."""
    names = ("flops",) if target.optimal else ("n_params", "tokens")
    read = partial(reader, target=target, worths=worths)
    found = {}
    for name in names:
        ends, sizes = [], []
        for factor in (np.exp(-STEP), np.exp(STEP)):
            moved = replace(target, **{key: getattr(target, key) * factor for key in {name, "flops"}})
            try:
                at = place(fitted, moved, worths)
                sizes.append(float(np.log(at["n_params"].iloc[0])))
                ends.append(float(forecast(fitted, at, uncertain=False, read=read).mean[0]))
            except ValueError:  # no best run there
                return {}
        found[name] = (ends[1] - ends[0]) / (2 * STEP)
        if target.optimal:
            found["n_opt"] = (sizes[1] - sizes[0]) / (2 * STEP)
    return found


def telling(made: Forecast) -> Forecast:
    """A law's forecast of one loss. Raises ValueError where it scatters by more than any loss can."""
    if not made.sd[0] < VAGUE:
        raise ValueError(f"it says nothing of the loss there: the standard deviation of ln loss is {made.sd[0]:.3g}")
    return made


def _median(pooled: ForecastAverage) -> float:
    """The median of what a forecast average is the logarithm of; infinite beyond floating point."""
    with np.errstate(over="ignore"):
        return float(np.exp(pooled.quantile(0.5)[0]))


def median_loss(pooled: ForecastAverage) -> float:
    """The median of a forecast average of one loss. Raises PredictError where it is none."""
    loss = _median(pooled)
    if not 0 < loss < np.inf:
        raise PredictError(f"the laws do not tell the loss there: the median of their forecasts is {loss:.3g}")
    return loss


def _epochs(target: Target, cost: Cost, n_opt: float | None) -> float | None:
    """How often the run that is answered reads its unique tokens; None without these, or where no size is known."""
    tokens = target.tokens if n_opt is None else float(cost.tokens(target.flops, n_opt))
    if target.unique_tokens is None or tokens is None:
        return None
    return max(tokens / target.unique_tokens, 1.0)


def beyond_epochs(data: Points, epochs: float | None) -> list[Finding]:
    """A Finding where a run reads its text more often than any run of the table did."""
    frame, seen = data.frame, 1.0
    if "unique_tokens" in frame and frame[["tokens", "unique_tokens"]].notna().all(axis=None):
        seen = max(float((frame["tokens"] / frame["unique_tokens"]).max()), 1.0)
    if epochs is None or epochs <= seen * SAME_EPOCHS:
        return []
    return [
        Finding(
            "beyond_epochs", "warn",
            f"the run reads its text {epochs:.3g} times, and no run of the table more than "
            f"{'once' if seen == 1 else f'{seen:.3g} times'}: published laws of repeats miss by 8 to 10% there",
            f"add runs of {epochs:.3g} epochs at a small size, or more text",
        )
    ]  # fmt: skip


def _forecasts(
    fits: dict[str, Fit], target: Target, worths: tuple[float, float]
) -> tuple[dict[str, Forecast], dict[str, Forecast], dict[str, pd.DataFrame], dict[str, str]]:
    """Each law's forecast at the target, that of ln of the best size, the run that they are of, and why a law has none.

    There are no sizes unless the target is compute-optimal.
    """
    forecasts, sizes, places, refused = {}, {}, {}, {}
    for law, fitted in fits.items():
        try:
            places[law] = at = place(fitted, target, worths)
            if target.optimal:
                sizes[law] = log_size(fitted, target, worths)
            forecasts[law] = telling(forecast(fitted, at, read=partial(reader, target=target, worths=worths)))
        except ValueError as error:  # no interior minimum, also of a refit, or no finite loss there
            refused[law] = str(error)
    return forecasts, sizes, places, refused


def _repeats(fits: dict[str, Fit], target: Target) -> tuple[tuple[float, float], list[str]]:
    """R_D and R_N, the worth of repeats to laws that do not read unique tokens; and what to say of it."""
    if target.unique_tokens is None:
        return BORROWED, []
    own = next((f.law for f in fits.values() if isinstance(f.law, DataConstrained)), None)
    if own is not None:
        note = f"repeats lose their worth with R_D = {own.R_D:.3g} and R_N = {own.R_N:.3g}, fitted to this table"
        return (own.R_D, own.R_N), [note]
    if all("U" in fitted.law.inputs for fitted in fits.values()):
        return BORROWED, []
    note = f"no run of the table repeats its tokens: the worth of repeats is borrowed (R_D = {REPEAT_WORTH:.3g}, "
    note += f"R_N = {EXCESS_WORTH:.3g}, Muennighoff et al. 2023), and the interval does not cover it"
    return BORROWED, [note]


def beyond_the_data(
    forecasts: Sequence[Forecast], frame: pd.DataFrame, data: Points, discrepancy: float
) -> list[Forecast]:
    """Forecasts of the runs of a frame, widened by the discrepancy of past ones for each ln of compute beyond."""
    if "flops" not in frame or data.frame["flops"].isna().any():  # nothing says how far the runs lie beyond
        return list(forecasts)
    far = np.nan_to_num(np.log(frame["flops"].to_numpy(float) / data.frame["flops"].max()))
    return [forecast.widened(discrepancy * np.maximum(far, 0.0)) for forecast in forecasts]
