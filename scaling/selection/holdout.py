"""Hold-out tests of laws: fit the small compute budgets, predict the large ones.

`hold_out` makes that test for several laws. `choose` picks one law by the same test rolled over the budgets below the
largest, so that the choice never uses the largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import POSITIVE, SHARE, check
from isoflop.printable import loss_text
from isoflop.scaling.approaches.isoflop_profiles import IsoflopProfile, budget_groups, isoflop_profiles
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.settings import table_findings
from isoflop.scaling.fitting.fit import Fit, FitError, Huber, fit
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import jackknife, predict_runs
from isoflop.scaling.laws import Laws, columns_read, law_names
from isoflop.scaling.selection.preference import candidates, rank, refused_at
from isoflop.scaling.selection.rolling_origins import (
    FEWEST_ROWS,
    FEWEST_TARGETS,
    HoldOutError,
    Origin,
    fit_at,
    rolling_origins,
)
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.json_plain import plain

SIZES = 3  # a budget with fewer has no optimum to predict
LAST = 10**0.5  # how far below the largest compute runs are held out where no budget has its sizes
ONE_IN = 0.05  # least share of the runs
BUDGET_COLUMNS = ("flops", "predicted_loss", "loss_opt", "predicted_n", "n_opt", "best_run_loss", "best_run_n")


@dataclass(frozen=True)
class HeldOutForecast:
    """One law, fitted up to the threshold, against the runs and budgets above it.

    `cells` has a row per run held out: its predicted loss, the interval (lo, hi), error = ln(predicted / loss).
    `budgets` has a row per budget held out: predicted and measured loss_opt and n_opt (from the isoFLOP profile), loss
    and size of the best run, loss_error = predicted / measured - 1 and n_ratio = predicted / measured.
    """

    law: str
    fit: Fit
    cells: pd.DataFrame
    budgets: pd.DataFrame

    @property
    def rms_error(self) -> float:
        """Root mean square of the error of ln loss over the runs held out."""
        return float(np.sqrt(np.mean(self.cells["error"] ** 2)))

    @property
    def coverage(self) -> float:
        """Share of the runs held out whose loss lies inside its interval."""
        return float(np.mean((self.cells["lo"] <= self.cells["loss"]) & (self.cells["loss"] <= self.cells["hi"])))


@dataclass(frozen=True, repr=False, eq=False)
class HoldOut(Answer):
    """Forecasts of several laws for the budgets above `threshold` FLOPs.

    `failed` names the laws without a forecast, with the reason. `chosen` is the law that `choose` picks from the runs
    up to the threshold (None where they hold too few budgets), `scores` its table of scores, `level` that of the
    intervals.
    """

    threshold: float
    forecasts: dict[str, HeldOutForecast]
    failed: dict[str, str]
    chosen: str | None
    scores: pd.DataFrame
    level: float
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values of every law, with each run and budget held out."""
        return {
            "threshold_flops": self.threshold,
            "chosen": self.chosen,
            "level": self.level,
            "laws": {
                name: {
                    "params": dict(zip(f.fit.law.parameters(), f.fit.law.values().tolist(), strict=True)),
                    "n_fitted": len(f.fit.points),
                    "n_predicted": len(f.cells),
                    "rms_error": f.rms_error,
                    "coverage": f.coverage,
                    "budgets": plain(f.budgets),
                    "cells": plain(f.cells),
                }
                for name, f in self.forecasts.items()
            },
            "failed": self.failed,
            "scores": plain(self.scores.reset_index()),
            "findings": [f.to_dict() for f in self.findings],
        }

    def __str__(self) -> str:
        lines = [
            f"fitted up to {self.threshold:.3g} FLOPs, predicted above",
            f"{'law':<22} {'budget':>9} {'loss':>8} {'measured':>8} {'error':>7} {'n_opt':>10} {'measured':>10} "
            f"{'ratio':>6} {'runs':>5} {'rms':>6} {'covered':>7}",
        ]
        for name, f in self.forecasts.items():
            mark = "*" if name == self.chosen else " "
            runs = f"{len(f.cells):>5} {f.rms_error:>6.2%} {f.coverage:>7.0%}"
            if f.budgets.empty:
                lines.append(f"{mark}{name:<21} {'no profile: the runs above are of no common budget':>66} {runs}")
            for b in f.budgets.itertuples():
                loss = f"{loss_text(b.predicted_loss):>8} {loss_text(b.loss_opt):>8} {b.loss_error:>+7.2%}"
                size = f"{b.predicted_n:>10.4g} {b.n_opt:>10.4g} {b.n_ratio:>6.2f}"
                lines.append(f"{mark}{name:<21} {b.flops:>9.3g} {_dashed(f'{loss} {size}')} {runs}")
        lines += [f" {name}: {why}" for name, why in self.failed.items()]
        lines.append("error: predicted / measured - 1, of the best loss")
        if self.chosen:
            lines.append("* the law preferred on the budgets below the threshold, without those above")
        return "\n".join([*lines, *map(str, self.findings)])


def hold_out(
    table: "pd.DataFrame | Points",
    budgets_above: float | None = None,
    laws: Laws | None = None,
    *,
    params: str | None = None,
    compute: str | None = None,
    objective: Objective = Huber("auto"),  # noqa: B008
    level: float = 0.9,
) -> HoldOut:
    """Fit each law to the budgets up to `budgets_above` FLOPs and predict those above.

    None holds out the largest budget alone, or where it has fewer than SIZES sizes the runs of the last half decade, at
    least one in twenty and FEWEST_TARGETS; `laws` None are the candidates of `choose`. Intervals are at `level`, from
    the jackknife. Raises HoldOutError when nothing lies above or below the threshold, or no law can be fitted below it.

    >>> import isoflop
    >>> held = isoflop.hold_out(isoflop.example("quick"), laws=("chinchilla", "chinchilla-kappa"))
    >>> held.chosen
    'chinchilla-kappa'
    """
    check(POSITIVE, budgets_above=budgets_above)
    check(SHARE, level=level)
    named = law_names(laws) if laws else ()
    whole = points(table, params=params, compute=compute, inputs=columns_read(named))
    found, data = table_findings(table, whole, columns_read(named)), whole.measured
    groups = budget_groups(data)
    means = [_budget(g) for g in groups]
    if budgets_above is None:
        if len(groups) < 2:
            raise HoldOutError("one budget only: there is nothing to hold out; add runs at another budget")
        budgets_above = _threshold(groups, means)
    below = [g for g, c in zip(groups, means, strict=True) if c <= budgets_above * 1.05]
    above = [g for g, c in zip(groups, means, strict=True) if c > budgets_above * 1.05]
    if not below or not above:
        raise HoldOutError(
            f"{len(below)} budgets lie up to {budgets_above:g} FLOPs and {len(above)} above: "
            f"choose a threshold between {means[0]:.3g} and {means[-1]:.3g}"
        )
    known, held_out = _subset(data, below).in_order(), {_budget(g) for g in budget_groups(_subset(data, above))}
    profiles = [p for p in isoflop_profiles(data) if p.flops in held_out]
    forecasts, failed = {}, {}
    for law in named or candidates(data):
        try:
            forecasts[law] = _forecast(law, known, _subset(data, above), profiles, objective, level)
        except FitError as error:
            failed[law] = str(error)
    if not forecasts:
        raise HoldOutError(
            f"no law can be fitted below {budgets_above:g} FLOPs: {'; '.join(dict.fromkeys(failed.values()))}"
        )
    try:
        chosen, scores = choose(known, list(forecasts), objective=objective, spare_last=False)
    except HoldOutError:
        chosen, scores = None, pd.DataFrame()
    return HoldOut(float(budgets_above), forecasts, failed, chosen, scores, level, found)


def choose(
    table: "pd.DataFrame | Points",
    laws: Sequence[str] | None = None,
    *,
    params: str | None = None,
    compute: str | None = None,
    objective: Objective = Huber("auto"),  # noqa: B008
    spare_last: bool = True,
) -> tuple[str, pd.DataFrame]:
    """The law that the rule of `preference` prefers by its errors at rolling origins, and all scores, best first.

    `laws` None are the candidates. `spare_last` leaves the largest budget out altogether. The scores are indexed by
    law: score (weighted mean |ln loss error|), behind (the best) with behind_se, free, runs_predicted.
    Raises HoldOutError when nothing can be predicted from smaller runs by any law.
    """
    data = points(table, params=params, compute=compute, inputs=columns_read(laws or ())).in_order()
    laws = candidates(data) if laws is None else laws
    if spare_last:
        groups = budget_groups(data)[:-1]
        if not groups:
            raise HoldOutError("one budget only: without it none can be predicted from smaller ones")
        data = _subset(data, groups)
    origins = rolling_origins(data)
    cells, free = [], {}
    for law in laws:
        fits = [_try_fit(law, origin, objective) for origin in origins]
        if refused_at(["" if f else "no fit" for f in fits]) is None:
            made = [(f, o) for f, o in zip(fits, origins, strict=True) if f is not None]
            free[law] = len(made[0][0].free)
            cells += [errors_at(law, f, origin) for f, origin in made]
    if not free:
        raise HoldOutError(f"none of {', '.join(laws)} can be fitted to the smaller runs at enough scales")
    found = rank(pd.concat(cells, ignore_index=True), free, among=list(free))
    renamed = found.frame.rename(columns={"error": "score", "runs": "runs_predicted"})
    return found.preferred, renamed[["score", "behind", "behind_se", "free", "runs_predicted"]]


def errors_at(law: str, fitted: Fit, origin: Origin) -> pd.DataFrame:
    """A row per run that an origin predicts: law, origin, n_known, cluster and error of ln loss of a fit."""
    error = np.log(fitted.predict(origin.target)) - np.log(origin.target["loss"].to_numpy(float))
    known = {"law": law, "origin": origin.threshold, "n_known": len(origin.known)}
    return pd.DataFrame({"cluster": origin.target["cluster"], **known, "error": error})


def _try_fit(law: str, origin: Origin, objective: Objective) -> Fit | None:
    """A law's fit below an origin; None where there is none, or one without a finite loss at a run to predict."""
    try:
        fitted = fit_at(law, origin.known, objective)
    except FitError:
        return None
    return fitted if np.isfinite(fitted.predict(origin.target)).all() else None


def _forecast(
    law: str, known: Points, target: Points, profiles: Sequence[IsoflopProfile], objective: Objective, level: float
) -> HeldOutForecast:
    fitted = fit(law, known, objective=objective)
    frame = target.frame
    predicted = predict_runs(fitted, jackknife(fitted), frame, level)
    lost = int(np.sum(~np.isfinite(predicted.loss)))
    if lost:
        raise FitError(f"it has no finite loss at {lost} of the {len(frame)} runs to predict")
    cells = frame.assign(
        predicted=predicted.loss, lo=predicted.lo, hi=predicted.hi, error=np.log(predicted.loss / frame["loss"])
    )
    rows = []
    for profile in profiles:
        predicted_loss, predicted_n = _optimum(fitted, profile.flops)
        best = profile.frame.loc[profile.frame["loss"].idxmin()]
        rows.append({
            "flops": profile.flops,
            "predicted_loss": predicted_loss, "loss_opt": profile.loss_opt if profile.accepted else np.nan,
            "predicted_n": predicted_n, "n_opt": profile.n_opt if profile.accepted else np.nan,
            "best_run_loss": float(best["loss"]), "best_run_n": float(best["n_params"]),
        })  # fmt: skip
    budgets = pd.DataFrame(rows, columns=list(BUDGET_COLUMNS), dtype=float)  # empty where no budget has two sizes
    budgets["loss_error"] = budgets["predicted_loss"] / budgets["loss_opt"] - 1
    budgets["best_run_error"] = budgets["predicted_loss"] / budgets["best_run_loss"] - 1
    budgets["n_ratio"] = budgets["predicted_n"] / budgets["n_opt"]
    return HeldOutForecast(law, fitted, cells.reset_index(drop=True), budgets)


def _optimum(fitted: Fit, flops: float) -> tuple[float, float]:
    """The law's lowest loss and the size that reaches it at a budget; NaN for a law that is not of N and D."""
    try:
        best = fitted.optimal(flops)
    except ValueError:
        return float("nan"), float("nan")
    return float(best.loss), float(best.N)


def _dashed(text: str) -> str:
    """Numbers in columns, a dash where there is none."""
    return text.replace("+nan%", "    -").replace("nan", "  -")


def _threshold(groups: Sequence[pd.DataFrame], means: Sequence[float]) -> float:
    """The budget up to which laws are fitted where none is given; enough runs stay below it for a fit."""
    if groups[-1]["n_params"].nunique() >= SIZES:
        return means[-2]
    below = np.cumsum([len(group) for group in groups])
    above = below[-1] - below[:-1]
    enough = (above >= max(FEWEST_TARGETS, ONE_IN * below[-1])) & (below[:-1] >= FEWEST_ROWS)
    allowed = np.flatnonzero(enough & (np.array(means[:-1]) <= means[-1] / LAST))
    return means[allowed[-1]] if len(allowed) else means[-2]


def _budget(group: pd.DataFrame) -> float:
    return float(np.exp(np.log(group["flops"]).mean()))


def _subset(data: Points, groups: Sequence[pd.DataFrame]) -> Points:
    frame = pd.concat(groups, ignore_index=True)
    return replace(data, frame=frame)
