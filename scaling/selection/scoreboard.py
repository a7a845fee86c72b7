"""Which law to trust: a scoreboard by what each law predicted before it saw it.

Every law is fitted below a scale and predicts the next block of runs above it, at several scales (`rolling`). The
score is the mean |ln loss error|; a law is preferred to a simpler one only if it wins by more than a standard error.
Beside the laws stand a naive baseline and a stacked forecast. R2 is not shown: a wrong law reaches .99 with ease.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Case
from isoflop.scaling.findings.fit_checks import at_bound, conditioning, converged, enough, plausible
from isoflop.scaling.findings.residual_checks import residuals
from isoflop.scaling.fitting.fit import Fit, FitError, Huber
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.solver import huber
from isoflop.scaling.selection.averaging import Forecast, mixture, softmax
from isoflop.scaling.selection.rolling_origins import (
    BASELINE,
    Origin,
    Scale,
    fit_at,
    forecast,
    local_slope,
    names_of,
    rolling_origins,
)
from isoflop.scaling.selection.scoreboard_text import scoreboard_dict, scoreboard_text
from isoflop.scaling.table.conventions import Points, points

STACKED = "stacked"
CHECKS = (converged, at_bound, conditioning, enough, residuals, plausible)


class CompareError(ValueError):
    """No law can be compared on this table."""

    exit_code = 1


@dataclass(frozen=True)
class Entrant:
    """One law: fitted to the whole table and below every origin, with its forecasts; None where it has no fit."""

    law: str
    fit: Fit
    known: tuple[Fit | None, ...]
    forecasts: tuple[Forecast | None, ...]
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scoreboard:
    """Laws, the baseline and the stacked forecast, best first; `refused` says why a law has none.

    `frame` is indexed by law: error (mean |ln loss error|) with error_se, bias, coverage of the intervals at `level`,
    aicc, free, behind (the best law's error) with behind_se, weight in the stack, findings.
    `cells` has a row per law and run predicted: origin, error = ln(loss / predicted), covered, and the run.
    `discrepancy` is the sd of ln loss that the forecasts missed per unit of ln(scale) extrapolated.
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
        """Weight of each law in a stacked forecast, from all origins."""
        return {law: float(w) for law, w in self.frame["weight"].items() if law in self.entrants}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return scoreboard_dict(self)

    def __str__(self) -> str:
        return scoreboard_text(self)


def compare(
    table: "pd.DataFrame | Points",
    laws: Sequence[str] | str | None = None,
    *,
    by: Scale = "flops",
    above: float | None = None,
    params: str = "matrices",
    compute: str = "exact",
    objective: Objective = Huber("auto"),  # noqa: B008
    level: float = 0.9,
    findings: bool = True,
    on_law: Callable[[str], None] | None = None,
) -> Scoreboard:
    """Score `laws` (None: all) by rolling hold-outs along `by`, or by the one hold-out `above` that scale.

    Stacked are the laws that weigh N against D, as in a forecast; a law of one scale has a score, and weight 0.
    `on_law` is told each law before it is fitted, at every origin and to the whole: some take seconds.
    Raises HoldOutError when the table allows no origin, CompareError when no law can be scored on it.
    """
    data = points(table, params=params, compute=compute)
    origins = rolling_origins(data, by=by, above=above)
    entrants, refused = _enter(names_of(laws), data, origins, objective, on_law)
    if not entrants:
        raise CompareError("no law can be compared: " + "; ".join(f"{law}: {why}" for law, why in refused.items()))
    stackable = {law: e for law, e in entrants.items() if {"N", "D"} <= set(e.fit.law.inputs)} or entrants
    weights = [stack_weights(stackable, origins, upto=k) for k in range(len(origins) + 1)]
    stacked, discrepancy = _stack(stackable, origins, weights)
    scored: dict[str, Sequence[Forecast | None]] = {law: e.forecasts for law, e in entrants.items()}
    scored |= {BASELINE: [local_slope(origin) for origin in origins], STACKED: stacked}
    cells = pd.concat([_cells(law, forecasts, origins, level) for law, forecasts in scored.items()], ignore_index=True)
    frame, preferred = _score(cells, entrants, dict(zip(stackable, weights[-1].tolist(), strict=True)))
    if findings:
        for law in entrants:
            entrants[law] = replace(entrants[law], findings=_codes(entrants[law].fit, level))
            frame.loc[law, "findings"] = ", ".join(entrants[law].findings)
    return Scoreboard(frame, cells, preferred, refused, entrants, tuple(origins), discrepancy, level)


def _enter(
    laws: Sequence[str],
    data: Points,
    origins: list[Origin],
    objective: Objective,
    on_law: Callable[[str], None] | None,
) -> tuple[dict[str, Entrant], dict[str, str]]:
    entrants, refused = {}, {}
    for law in laws:
        if on_law:
            on_law(law)
        try:
            whole = fit_at(law, data, objective)
        except FitError as error:
            refused[law] = str(error)
            continue
        made = [_try_forecast(law, origin, objective) for origin in origins]
        reasons = [why for _, _, why in made]
        if reasons[-1] or sum(map(bool, reasons)) > len(origins) / 2:
            k = max(k for k, why in enumerate(reasons) if why)
            refused[law] = f"below {origins[k].threshold:.3g} {origins[k].scale}: {reasons[k]}"
            continue
        entrants[law] = Entrant(law, whole, tuple(f for f, _, _ in made), tuple(said for _, said, _ in made))
    return entrants, refused


def _try_forecast(law: str, origin: Origin, objective: Objective) -> tuple[Fit | None, Forecast | None, str]:
    try:
        fitted = fit_at(law, origin.known, objective)
        return fitted, forecast(fitted, origin.target), ""
    except FitError as error:
        return None, None, str(error)


def _codes(fitted: Fit, level: float) -> tuple[str, ...]:
    """What is wrong with a fit itself; how choices move it is for the nested tests and the table of choices."""
    case = Case(fitted, None, None, None, level)
    return tuple(dict.fromkeys(f.code for check in CHECKS for f in check(case) if f.severity != "info"))


def stack_weights(entrants: dict[str, Entrant], origins: Sequence[Origin], *, upto: int) -> np.ndarray:
    """Weights of the laws from the first `upto` origins: exp of the mean log density at each, summed over origins.

    An origin counts as one observation, because its runs share a fit. Before any origin the weights are those of AICc.
    A law without a forecast at an origin counts there as the worst of the others.
    """
    if upto == 0:
        known = {law: e.known[0] for law, e in entrants.items()}
        aicc = _aicc({law: f for law, f in known.items() if f is not None})
        return softmax(np.array([-0.5 * aicc.get(law, np.inf) for law in entrants]))
    scores = np.full((len(entrants), upto), np.nan)
    for k, origin in enumerate(origins[:upto]):
        log_loss = np.log(origin.target["loss"].to_numpy(float))
        for m, e in enumerate(entrants.values()):
            said = e.forecasts[k]
            if said is not None:
                scores[m, k] = np.mean(said.log_density(log_loss))
    worst = np.nanmin(scores, axis=0)
    return softmax(np.where(np.isnan(scores), worst, scores).sum(axis=1))


def _stack(
    entrants: dict[str, Entrant], origins: Sequence[Origin], weights: Sequence[np.ndarray]
) -> tuple[list[Forecast], float]:
    """The stacked forecast at each origin from what was known there, and the discrepancy from all origins."""
    stacked, missed, reached = [], 0.0, 0.0
    for k, origin in enumerate(origins):
        able = [(e.forecasts[k], w) for e, w in zip(entrants.values(), weights[k], strict=True)]
        pooled = mixture([f for f, _ in able if f is not None], [w for f, w in able if f is not None])
        width = np.sqrt(max(missed, 0.0) / reached) if reached else 0.0
        freedom = min(f.freedom for f in pooled.members)
        stacked.append(Forecast(pooled.mean, pooled.sd, freedom).widened(width * origin.reach))
        error = np.log(origin.target["loss"].to_numpy(float)) - pooled.mean
        missed += float(np.mean(error**2 - pooled.sd**2))
        reached += float(np.mean(origin.reach**2))
    return stacked, float(np.sqrt(max(missed, 0.0) / reached))


def _cells(law: str, forecasts: Sequence[Forecast | None], origins: Sequence[Origin], level: float) -> pd.DataFrame:
    frames = []
    for said, origin in zip(forecasts, origins, strict=True):
        if said is None:
            continue
        log_loss = np.log(origin.target["loss"].to_numpy(float))
        lo, hi = mixture([said], [1.0]).interval(level)
        told = origin.target.assign(law=law, origin=origin.threshold, predicted=np.exp(said.mean), lo=np.exp(lo))
        frames.append(
            told.assign(hi=np.exp(hi), error=log_loss - said.mean, covered=(lo <= log_loss) & (log_loss <= hi))
        )
    return pd.concat(frames, ignore_index=True)


def _score(cells: pd.DataFrame, entrants: dict[str, Entrant], weights: dict[str, float]) -> tuple[pd.DataFrame, str]:
    sizes = cells.assign(size=cells["error"].abs())
    groups = {str(law): group.reset_index(drop=True) for law, group in sizes.groupby("law", sort=False)}
    whole = [law for law in entrants if None not in entrants[law].forecasts] or list(entrants)
    best = min(whole, key=lambda law: groups[law]["size"].mean())
    aicc = _aicc({law: e.fit for law, e in entrants.items()})
    rows = []
    for law, group in groups.items():
        rival = groups[best][groups[best]["origin"].isin(group["origin"].unique())]
        group = group[group["origin"].isin(rival["origin"].unique())]
        behind = group["size"].to_numpy() - rival["size"].to_numpy()
        entrant = entrants.get(law)
        rows.append({
            "law": law, "error": group["size"].mean(), "error_se": _standard_error(group["size"], group["origin"]),
            "bias": group["error"].mean(), "coverage": group["covered"].mean(),
            "aicc": aicc.get(law, np.nan), "free": len(entrant.fit.free) if entrant else np.nan,
            "behind": behind.mean(), "behind_se": _standard_error(behind, group["origin"]),
            "weight": weights.get(law, 0.0) if entrant else np.nan,
            "origins": group["origin"].nunique(), "runs": len(group),
            "findings": "",
        })  # fmt: skip
    frame = pd.DataFrame(rows).sort_values("behind", kind="stable").set_index("law")
    close = frame[frame.index.isin(whole) & (frame["behind"] <= frame["behind_se"])]
    return frame, str(close.sort_values(["free", "error"], kind="stable").index[0])


def _standard_error(values: Any, origin: pd.Series) -> float:
    """Of a mean over runs: by runs or by origins, whichever is larger, since runs of one origin share a fit."""
    values = np.asarray(values, dtype=float)
    n, off = len(values), values - values.mean()
    by_run = np.sqrt(off @ off / max(n - 1, 1) / n)
    sums = pd.Series(off).groupby(origin.to_numpy()).sum().to_numpy()
    k = len(sums)
    by_origin = np.sqrt(k / (k - 1) * (sums @ sums)) / n if k > 1 else 0.0
    return float(max(by_run, by_origin))


def _aicc(fits: dict[str, Fit]) -> dict[str, float]:
    """AICc less that of the best, counting clusters, from the sum of Huber at the smallest delta of the fits."""
    finite = [f.delta for f in fits.values() if np.isfinite(f.delta)]
    delta = min(finite) if finite else np.inf
    values = {}
    for law, f in fits.items():
        g, k = f.n_clusters, len(f.free) + 1
        mean = 2 * float(huber(f.residuals, f.weights, delta)) / len(f.points)
        values[law] = g * np.log(max(mean, 1e-30)) + (2 * k * g / (g - k - 1) if g > k + 1 else np.inf)
    least = min(values.values())
    if not np.isfinite(least):
        return dict.fromkeys(fits, 0.0)
    return {law: value - least for law, value in values.items()}
