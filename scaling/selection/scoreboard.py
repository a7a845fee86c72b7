"""Laws compared by their forecasts of runs that they were not fitted to.

Every law is fitted to the runs below a scale and forecasts the next block of runs above it, at several scales (see
`rolling_origins`). The score is the mean |ln loss error|; `preference` says which law is preferred. A naive baseline
and the forecast average are scored too. R2 is not shown: wrong laws reach 0.99.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Case
from isoflop.scaling.findings.fit_checks import at_bound, conditioning, converged, enough, plausible
from isoflop.scaling.findings.input_checks import NARROW
from isoflop.scaling.findings.residual_checks import residuals
from isoflop.scaling.fitting.fit import Fit, FitError, Huber
from isoflop.scaling.fitting.objective import Objective, huber
from isoflop.scaling.fitting.search.kept_searches import keep_searches
from isoflop.scaling.fitting.uncertainty import jackknife_together
from isoflop.scaling.laws import PRESETS, columns_read, get_law, law_names, of_size_and_data
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.selection.averaging import Forecast, average, softmax
from isoflop.scaling.selection.preference import CANDIDATES, rank, refused_at, weighted_mean
from isoflop.scaling.selection.rolling_origins import (
    BASELINE,
    Origin,
    fit_at,
    forecast,
    local_slope,
    rolling_origins,
    search_for_fits_at,
)
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.law_inputs import input_values, is_whole, unlike
from isoflop.scaling.table.meaning import QUANTITIES

AVERAGE = "stacked"  # the name of the forecast average among the laws of a scoreboard
CHECKS = (converged, at_bound, conditioning, enough, residuals, plausible)


class CompareError(ValueError):
    """No law can be compared on this table."""

    exit_code = 1


@dataclass(frozen=True)
class Entrant:
    """One law: its fit to the whole table, and its fit and forecast at every origin; None where it has no fit."""

    law: str
    fit: Fit
    known: tuple[Fit | None, ...]
    forecasts: tuple[Forecast | None, ...]
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scoreboard:
    """Scores of the laws, the baseline and the forecast average, best first.

    `frame` is indexed by law: error (mean |ln loss error|) with error_se, bias, coverage of the intervals at `level`,
    aicc, free, behind (error less that of the best law) with behind_se, weight in the forecast average, origins, runs,
    findings; error, bias and behind weigh origins by the square of the runs known. `cells` has a row per law and run
    predicted: origin, n_known there, error = ln(predicted / loss), covered, and the run.
    `refused` names the laws without a score, with the reason. `discrepancy` is the standard deviation of ln loss by
    which the forecast average missed beyond its own width, per unit of ln(scale) extrapolated.
    """

    frame: pd.DataFrame
    cells: pd.DataFrame
    preferred: str
    refused: dict[str, str]
    entrants: dict[str, Entrant]
    origins: tuple[Origin, ...]
    discrepancy: float
    level: float

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each law in a forecast average, from all origins."""
        return {law: float(w) for law, w in self.frame["weight"].items() if law in self.entrants}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        return {
            "preferred": self.preferred,
            "scale": self.origins[0].scale,
            "origins": [
                {"threshold": o.threshold, "n_known": len(o.known), "n_predicted": len(o.target)} for o in self.origins
            ],
            "level": self.level,
            "discrepancy": self.discrepancy,
            "scores": plain(self.frame.reset_index()),
            "refused": self.refused,
        }

    def __str__(self) -> str:
        splits = ", ".join(f"{o.threshold:.3g} ({len(o.known)} runs, predicts {len(o.target)})" for o in self.origins)
        lines = [
            f"fitted below a number of {self.origins[0].scale}, predicting the next runs above it: {splits}",
            f" {'law':<22} {'error':>7} {'+/-':>6} {'too high':>8} {f'in {self.level:.0%}':>7} {'AICc':>7} {'free':>4} "
            f"{'behind':>7} {'+/-':>6} {'weight':>6}  findings",
        ]
        for row in self.frame.reset_index().to_dict("records"):
            mark = "*" if row["law"] == self.preferred else " "
            name = "forecast average" if row["law"] == AVERAGE else row["law"]
            missed = len(self.origins) - row["origins"]
            lines.append(
                f"{mark}{name:<22} {row['error']:>7.2%} {row['error_se']:>6.2%} {row['bias']:>+z8.2%} "
                f"{_number(row['coverage'], '.0%'):>7} {_number(row['aicc'], '.1f'):>7} "
                f"{_number(row['free'], '.0f'):>4} {row['behind']:>z7.2%} {row['behind_se']:>6.2%} "
                f"{_number(row['weight'], '.2f'):>6}  {row['findings']}"
                + (f"  (no fit at {missed} of {len(self.origins)} origins)" if missed else "")
            )
        lines += [f" {law}: refused, {why}" for law, why in self.refused.items()]
        joint = any(_of_both(e.fit.law.inputs) for e in self.entrants.values())
        among = "of the laws of N and D, " if joint else ""
        if self.frame["coverage"].isna().any():
            lines.append(f"in {self.level:.0%}: not counted of laws that are neither chosen among nor averaged")
        lines.append(f"* preferred: {among}the fewest free parameters within one standard error of the best")
        lines += [
            "error: mean |ln(predicted / loss)| on runs not seen; too high: mean ln(predicted / loss), of too low ones",
            "below 0; an origin counts by the square of the runs known there; AICc: by clusters, best = 0",
        ]
        return "\n".join(line.rstrip() for line in lines)


def _number(value: float, how: str) -> str:
    return format(value, how) if np.isfinite(value) else "-"


@keep_searches()
def compare(
    table: "pd.DataFrame | Points",
    laws: Sequence[str] | str | None = None,
    *,
    by: str = "flops",
    above: float | None = None,
    params: str | None = None,
    compute: str | None = None,
    objective: Objective = Huber("auto"),  # noqa: B008
    level: float = 0.9,
    findings: bool = True,
    on_law: Callable[[str], None] | None = None,
) -> Scoreboard:
    """Score `laws` (None: all) by rolling hold-outs along the column `by`, or by the one hold-out `above` that scale.

    The forecast average is of the laws of both N and D; a law of one of them has a score and weight 0. Where no laws
    are named, the law preferred and those averaged are of the CANDIDATES, as in a forecast, and a law that can neither
    be preferred nor averaged has no intervals, since refits are the dearest part. `findings` checks the fits to the
    whole table. `on_law` is called with each law's name before its fits, which can take seconds. Raises HoldOutError
    when the table allows no origin, CompareError when no law can be scored on it.
    """
    data = points(table, params=params, compute=compute, inputs=inputs_of(laws, by, table)).in_order()
    origins = rolling_origins(data, by=by, above=above)
    among = law_names(laws) if laws else CANDIDATES
    requested = law_names(laws) if laws else applicable(data)
    may_win = [law for law in requested if laws or law in CANDIDATES or _of_both(get_law(law)[0].inputs)]
    entrants, refused = _enter(may_win, data, origins, objective, on_law, uncertain=True)
    chosen = any(law in CANDIDATES and None not in e.forecasts for law, e in entrants.items())
    rest = [law for law in requested if law not in may_win]
    if not any(e.fit.falls for e in entrants.values()):  # else their noise is likely to fall too
        search_for_fits_at(rest, [data, *(origin.known for origin in origins)], objective)
    more, no_score = _enter(rest, data, origins, objective, on_law, uncertain=not chosen)
    entrants = {law: e for law in requested if (e := (entrants | more).get(law))}
    refused = {law: reason for law in requested if (reason := (refused | no_score).get(law))}
    if not entrants:
        raise CompareError("no law can be compared: " + "; ".join(f"{law}: {why}" for law, why in refused.items()))
    both = {law: e for law, e in entrants.items() if _of_both(e.fit.law.inputs)}
    averaged = {law: e for law, e in both.items() if law in among} or both or entrants
    weights = [forecast_weights(averaged, origins, upto=k) for k in range(len(origins) + 1)]
    averages, discrepancy = _averages(averaged, origins, weights)
    scored: dict[str, Sequence[Forecast | None]] = {law: e.forecasts for law, e in entrants.items()}
    scored |= {BASELINE: [local_slope(origin) for origin in origins], AVERAGE: averages}
    cells = _cells(scored, origins, level)
    frame, preferred = _score(cells, entrants, dict(zip(averaged, weights[-1].tolist(), strict=True)), among)
    if findings:
        for law in entrants:
            entrants[law] = replace(entrants[law], findings=_codes(entrants[law].fit, level))
            frame.loc[law, "findings"] = ", ".join(entrants[law].findings)
    return Scoreboard(frame, cells, preferred, refused, entrants, tuple(origins), discrepancy, level)


def inputs_of(laws: Sequence[str] | str | None, by: str, table: "pd.DataFrame | Points") -> tuple[Column, ...]:
    """The columns that a comparison along `by` reads: those of the laws named, or that the table has in every row."""
    scale = () if by in QUANTITIES else (Column(by, transform="linear"),)
    if laws:
        return (*columns_read(law_names(laws)), *scale)
    found = [] if isinstance(table, Points) else [c for c in columns_read(law_names()) if is_whole(table, c)]
    return (*found, *scale)


def applicable(data: Points) -> tuple[str, ...]:
    """The catalogue; of laws of further columns those alone that the table has, varied apart from size and tokens."""
    return tuple(name for name in PRESETS if of_size_and_data(name) or _varied(name, data))


def _varied(name: str, data: Points) -> bool:
    values = [input_values(data.frame, column) for column in get_law(name)[0].reads().values()]
    if not all(v is not None and np.ptp(v, axis=-1).any() for v in values):
        return False
    return all(_apart(data, column) for column in unlike(get_law(name)[0].reads().values()))


def _apart(data: Points, column: Column) -> bool:
    """Whether an input is no function of size and tokens in these runs, as a width is: its effect is not identified."""
    if column.transform != "log" or data.frame[["n_params", "tokens"]].isna().any(axis=None):
        return True
    y = np.log(data.frame[column.name].to_numpy(float))
    known = np.column_stack([np.ones(len(y)), np.log(data.frame[["n_params", "tokens"]].to_numpy(float))])
    left = y - known @ np.linalg.lstsq(known, y, rcond=None)[0]
    return float(left @ left) > (1 - NARROW) * float(np.sum((y - y.mean()) ** 2))


def _of_both(inputs: Sequence[str]) -> bool:
    return {"N", "D"} <= set(inputs)


def _enter(
    laws: Sequence[str],
    data: Points,
    origins: list[Origin],
    objective: Objective,
    on_law: Callable[[str], None] | None,
    *,
    uncertain: bool,
) -> tuple[dict[str, Entrant], dict[str, str]]:
    entrants, refused = {}, {}
    known, falls = [origin.known for origin in origins], 0.0
    for law in laws:
        if on_law:
            on_law(law)
        if not falls:  # a law's noise falls, as a rule, where that of the law before it does
            search_for_fits_at([law], [data, *known], objective)
        try:
            whole = fit_at(law, data, objective)
        except FitError as error:
            refused[law] = str(error)
            continue
        falls = whole.falls
        search_for_fits_at([law], known, objective, falls=falls)
        made = _forecasts([_try_fit(law, data, objective, falls) for data in known], origins, uncertain)
        reasons = [why for _, _, why in made]
        k = refused_at(reasons)
        if k is not None:
            refused[law] = f"below {origins[k].threshold:.3g} {origins[k].scale}: {reasons[k]}"
            continue
        entrants[law] = Entrant(law, whole, tuple(fit for fit, _, _ in made), tuple(f for _, f, _ in made))
    return entrants, refused


def _try_fit(law: str, data: Points, objective: Objective, falls: float) -> Fit | str:
    try:
        return fit_at(law, data, objective, falls=falls)
    except FitError as error:
        return str(error)


def _forecasts(
    fits: Sequence[Fit | str], origins: Sequence[Origin], uncertain: bool
) -> list[tuple[Fit | None, Forecast | None, str]]:
    """The fit and the forecast at each origin, or why there is none."""
    if uncertain:
        jackknife_together([fit for fit in fits if isinstance(fit, Fit) and fit.n_clusters > 1])
    made: list[tuple[Fit | None, Forecast | None, str]] = []
    for fit, origin in zip(fits, origins, strict=True):
        try:
            if isinstance(fit, str):
                raise FitError(fit)
            made.append((fit, forecast(fit, origin.target, uncertain=uncertain), ""))
        except FitError as error:
            made.append((None, None, str(error)))
    return made


def _codes(fitted: Fit, level: float) -> tuple[str, ...]:
    """Codes of the Findings of a fit that are not of severity info."""
    case = Case(fitted, None, None, None, level)
    return tuple(dict.fromkeys(f.code for check in CHECKS for f in check(case) if f.severity != "info"))


def forecast_weights(entrants: dict[str, Entrant], origins: Sequence[Origin], *, upto: int) -> np.ndarray:
    """Weights of the laws in a forecast average from the first `upto` origins, (laws,).

    They are proportional to exp of the mean log density of the targets, summed over origins: an origin counts as one
    observation in the mean, because its runs share a fit, and by the square of the runs known there, as errors do.
    Without any origin they are Akaike weights (AICc) of the fits at the first one. A law without a forecast at an
    origin counts there as the worst of the others.
    """
    if upto == 0:
        known = {law: e.known[0] for law, e in entrants.items()}
        aicc = _aicc({law: f for law, f in known.items() if f is not None})
        if not aicc:
            return np.full(len(entrants), 1.0 / len(entrants))
        return softmax(np.array([-0.5 * aicc.get(law, np.inf) for law in entrants]))
    scores = np.full((len(entrants), upto), np.nan)
    for k, origin in enumerate(origins[:upto]):
        log_loss = np.log(origin.target["loss"].to_numpy(float))
        for m, e in enumerate(entrants.values()):
            predicted = e.forecasts[k]
            if predicted is not None:
                scores[m, k] = np.mean(predicted.log_density(log_loss))
    says = ~np.isnan(scores).all(axis=0)  # an origin that no law forecasts says nothing of any
    scores, known = scores[:, says], np.square([float(len(origin.known)) for origin in origins[:upto]])[says]
    worst = np.nanmin(scores, axis=0)
    return softmax(np.where(np.isnan(scores), worst, scores) @ (known * len(known) / known.sum()))


def _averages(
    entrants: dict[str, Entrant], origins: Sequence[Origin], weights: Sequence[np.ndarray]
) -> tuple[list[Forecast | None], float]:
    """The forecast average at each origin, weighted and widened by the origins before it; and the discrepancy."""
    averages: list[Forecast | None] = []
    missed, reached = 0.0, 0.0
    for k, origin in enumerate(origins):
        pairs = [(e.forecasts[k], w) for e, w in zip(entrants.values(), weights[k], strict=True)]
        if all(f is None for f, _ in pairs):
            averages.append(None)
            continue
        pooled = average([f for f, _ in pairs if f is not None], [w for f, w in pairs if f is not None])
        width = np.sqrt(max(missed, 0.0) / reached) if reached else 0.0
        freedom = min(f.freedom for f in pooled.members)
        averages.append(Forecast(pooled.mean, pooled.sd, freedom).widened(width * origin.reach))
        error = np.log(origin.target["loss"].to_numpy(float)) - pooled.mean
        missed += float(np.mean(error**2 - pooled.sd**2))
        reached += float(np.mean(origin.reach**2))
    return averages, float(np.sqrt(max(missed, 0.0) / reached)) if reached else 0.0


def _cells(scored: Mapping[str, Sequence[Forecast | None]], origins: Sequence[Origin], level: float) -> pd.DataFrame:
    """A row per law and run predicted: see `Scoreboard`."""
    targets = pd.concat([origin.target for origin in origins], ignore_index=True)
    ends = np.cumsum([len(origin.target) for origin in origins])
    rows, columns = [], []
    for law, forecasts in scored.items():
        for predicted, origin, end in zip(forecasts, origins, ends, strict=True):
            if predicted is None:
                continue
            n = len(origin.target)
            log_loss = np.log(origin.target["loss"].to_numpy(float))
            lo, hi = average([predicted], [1.0]).interval(level)
            with np.errstate(over="ignore"):  # an interval without an upper end
                band = {"predicted": np.exp(predicted.mean), "lo": np.exp(lo), "hi": np.exp(hi)}
            rows.append(np.arange(end - n, end))
            columns.append({
                "law": [law] * n, "origin": [origin.threshold] * n, "n_known": [len(origin.known)] * n, **band,
                "error": predicted.mean - log_loss,
                "covered": np.where(np.isnan(lo), np.nan, (lo <= log_loss) & (log_loss <= hi)),
            })  # fmt: skip
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    return targets.take(np.concatenate(rows)).reset_index(drop=True).assign(**joined)


def _score(
    cells: pd.DataFrame, entrants: dict[str, Entrant], weights: dict[str, float], among: Sequence[str]
) -> tuple[pd.DataFrame, str]:
    whole = [law for law in entrants if None not in entrants[law].forecasts] or list(entrants)
    among = [law for law in whole if law in among] or whole
    ranking = rank(cells, {law: len(e.fit.free) for law, e in entrants.items()}, among=among)
    frame, by_law = ranking.frame, cells.groupby("law")
    aicc = _aicc({law: e.fit for law, e in entrants.items()})
    share = {law: weights.get(law, 0.0) for law in entrants}
    extra = {
        "bias": pd.Series({law: weighted_mean(group["error"], group) for law, group in by_law}),
        "coverage": by_law["covered"].mean(), "aicc": pd.Series(aicc, dtype=float),
        "weight": pd.Series(share), "findings": pd.Series("", index=frame.index),
    }  # fmt: skip
    return frame.assign(**{name: values.reindex(frame.index) for name, values in extra.items()}), ranking.preferred


def _aicc(fits: dict[str, Fit]) -> dict[str, float]:
    """AICc of each fit less that of the best, counting clusters, from Huber's sum at the smallest delta of the fits.

    Weights count as the noise that they state: laws whose noise falls with size in other ways can be compared.
    """
    finite = [f.delta for f in fits.values() if np.isfinite(f.delta)]
    delta = min(finite) if finite else np.inf
    values = {}
    for law, f in fits.items():
        g, k = f.n_clusters, len(f.free) + 1
        mean = 2 * float(huber(f.residuals, f.weights, delta * f.spread)) / len(f.points)
        stated = float(np.mean(np.log(f.weights[f.weights > 0])))
        values[law] = g * (np.log(max(mean, 1e-30)) - stated) + (2 * k * g / (g - k - 1) if g > k + 1 else np.inf)
    least = min(values.values(), default=0.0)
    if not np.isfinite(least):
        return dict.fromkeys(fits, 0.0)
    return {law: value - least for law, value in values.items()}
