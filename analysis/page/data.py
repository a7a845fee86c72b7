"""The data behind the charts of the page: runs, frontiers and optima under every convention and law, as plain rows."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.style import LEVEL
from isoflop.scaling.approaches.isoflop_profiles import budget_groups, isoflop_profiles
from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit, search_for_fits
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.law import Allocation
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.table.conventions import Points
from isoflop.scaling.table.meaning import QUANTITIES

MOST_RUNS = 1000  # under each convention: beyond, every n-th by compute
MOST_CLUSTERS = 500  # a band by leaving each out is drawn up to here
FRONTIER_STEPS = 36
PROFILE_STEPS = 25
REACH = 10.0
DIGITS = 6


def convention_name(data: Points) -> str:
    """The name of a convention in the menu of the page."""
    return f"N {data.params}, C {data.compute}"


def law_names(e: Evidence) -> list[str]:
    """The law of the report first, then the other candidates. Raises UnsupportedError where none can be fitted."""
    fitted = [law for law in dict.fromkeys([e.law_name, *candidates(e.points)]) if _fit(e, law, e.points) is not None]
    if not fitted:
        raise UnsupportedError(f"no law of N and D can be fitted to these {len(e.points)} points")
    return fitted


def datasets(e: Evidence) -> dict[str, list[dict]]:
    """Rows by name: points, profiles, frontier, optima. A convention under which no law has a fit has points alone."""
    laws = law_names(e)
    budgets = _budgets(e.points)
    made: dict[str, list[pd.DataFrame]] = {"points": [], "profiles": [], "frontier": [], "optima": []}
    for law in laws:
        search_for_fits(((law, data) for data in e.conventions_known), e.objective)
    for data in e.conventions_known:
        fits = {law: fit for law in laws if (fit := _fit(e, law, data)) is not None}
        made["points"].append(_points(data, fits, budgets))
        made["profiles"] += _profiles(data, fits, budgets)
        made["frontier"] += _frontiers(e, fits)
        made["optima"].append(_optima(e, data))
    return {name: list(records(frames)) for name, frames in made.items()}


def records(frames: Iterable[pd.DataFrame]) -> Iterator[dict]:
    """Rows for JSON: six digits, None where a number is missing."""
    for frame in frames:
        for row in frame.to_dict("records"):
            yield {k: _plain(v) for k, v in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _fit(e: Evidence, law: str, data: Points) -> Fit | None:
    try:
        fitted = e.fit_of(law, data)
    except ValueError:
        return None
    return fitted if {"N", "D"} <= set(fitted.law.inputs) else None


def _budgets(data: Points) -> pd.Series:
    """The budget of each data point; NaN where fewer than three sizes share it."""
    named = data.frame.reset_index(names="point")
    shared = [g for g in budget_groups(Points(named, data.params, data.compute, data.cluster)) if _sizes(g) > 2]
    values = pd.Series(np.nan, index=range(len(data)), dtype=float)
    for group in shared:
        values[group["point"]] = np.exp(np.log(group["flops"]).mean())
    return values


def _sizes(frame: pd.DataFrame) -> int:
    return frame["n_params"].nunique()


def _points(data: Points, fits: dict[str, Fit], budgets: pd.Series) -> pd.DataFrame:
    frame = data.frame.assign(convention=convention_name(data), budget=budgets.to_numpy())
    if "run_id" not in frame:
        frame["run_id"] = [f"row {i + 1}" for i in range(len(frame))]
    for law, fit in fits.items():
        frame[law] = fit.predicted
    columns = [c for c in ("run_id", "seed", "arm", "convention", "budget", *QUANTITIES, *fits) if c in frame]
    return frame[columns].sort_values("flops").iloc[:: -(-len(frame) // MOST_RUNS)]


def _profiles(data: Points, fits: dict[str, Fit], budgets: pd.Series) -> list[pd.DataFrame]:
    """Each law at each shared budget, over the sizes trained there; what else it reads at its mean of those runs.

    Budgets are named by the report's way of counting. A curve is drawn at the compute that their runs have in this one,
    where runs of one budget may differ by their size: along a line of ln C in ln N.
    """
    frames = []
    for budget, runs in data.frame.groupby(budgets.to_numpy()):
        sizes = np.geomspace(runs["n_params"].min(), runs["n_params"].max(), PROFILE_STEPS)
        trained, counted = np.log(runs[["n_params", "flops"]].to_numpy(float)).T
        spent = np.exp(np.polyval(np.polyfit(trained, counted, 1), np.log(sizes)))
        rows = pd.DataFrame([runs.mean(numeric_only=True)] * PROFILE_STEPS).assign(n_params=sizes, flops=spent)
        curve = {"convention": convention_name(data), "budget": budget, "n_params": sizes}
        with np.errstate(all="ignore"):  # at a size that no run had, a law may be beyond floating point
            for law, fit in fits.items():
                curve[law] = fit.predict(rows.assign(tokens=fit.cost.tokens(spent, sizes)))
        frames.append(pd.DataFrame(curve))
    return frames


def _frontiers(e: Evidence, fits: dict[str, Fit]) -> list[pd.DataFrame]:
    """The optimum of each law over compute, with the band of the law of the report."""
    frames = []
    for law, fit in fits.items():
        if e.no_optimum(fit):
            continue
        try:
            frames.append(_frontier(fit, law, _band_draws(e, fit) if law == e.law_name else None))
        except ValueError:  # no optimum under this law
            continue
    return frames


def without_optimum(e: Evidence, laws: Iterable[str]) -> dict[str, list[str]]:
    """Laws whose optimum is drawn under no convention, or not under some, by the reason."""
    found: dict[str, list[str]] = {}
    for law in laws:
        fits = [fit for data in e.conventions_known if (fit := _fit(e, law, data)) is not None]
        refused = [(convention_name(fit.points), why) for fit in fits if (why := e.no_optimum(fit))]
        alike = len(refused) == len(fits) and len({why for _, why in refused}) == 1
        for name, why in refused[:1] if alike else refused:
            found.setdefault(why, []).append(law if alike else f"{law} ({name})")
    return found


def _band_draws(e: Evidence, fit: Fit) -> Draws | None:
    if (fit.points.params, fit.points.compute) == (e.points.params, e.points.compute):
        return e.draws
    return jackknife(fit) if fit.n_clusters <= MOST_CLUSTERS else None


def _frontier(fit: Fit, law: str, draws: Draws | None) -> pd.DataFrame:
    known = fit.points.frame["flops"]
    budgets = np.geomspace(known.min(), known.max() * REACH, FRONTIER_STEPS)

    def optimum(optimal: Callable[[np.ndarray], Allocation]) -> np.ndarray:
        best = optimal(budgets)
        return np.stack([best.N, best.D, best.loss], axis=-2)

    middle = optimum(fit.optimal)
    low, high = np.full((2, *middle.shape), np.nan)
    if draws is not None:
        low, high = draws.band(lambda _: middle, LEVEL, values=optimum(draws.optimal))
    columns = {
        "convention": convention_name(fit.points),
        "law": law,
        "flops": budgets,
    }
    for k, name in enumerate(("n_params", "tokens", "loss")):
        columns |= {name: middle[k], f"{name}_low": low[k], f"{name}_high": high[k]}
    return pd.DataFrame(columns)


def _optima(e: Evidence, data: Points) -> pd.DataFrame:
    """The optimum of each budget by its profile."""
    try:
        found = e.profiles if data is e.points else isoflop_profiles(data)
    except ValueError:
        found = []
    profiles = [p for p in found if _sizes(p.frame) > 2 and np.isfinite(p.n_opt)]
    return pd.DataFrame(
        [
            {"convention": convention_name(data), "flops": p.flops, "n_params": p.n_opt, "tokens": p.tokens_opt,
             "loss": p.loss_opt, "accepted": p.accepted, "reason": p.reason}
            for p in profiles
        ]
    )  # fmt: skip
