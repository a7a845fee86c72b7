"""Learning-rate and batch bowls over the run table, and whether one setting serves every width.

A bowl is the final loss of one model against the logarithm of the value that was varied; its optimum is the vertex of a
parabola through the runs near the lowest. A bowl whose lowest loss is at an edge of the values tried is refused: it
shows where to try next, not where the optimum is. A setting transfers if the optimum stays as models widen, or as they
deepen, or train for longer.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f

from isoflop.scaling.table.formats.run_columns import with_roles
from isoflop.scaling.table.read import require

AXES = {"learning-rate": "peak_learning_rate", "batch": "batch_tokens", "weight-decay": "weight_decay"}
ALONG = {"width": "d_model", "depth": "n_layer", "horizon": "horizon_tokens"}
FIRST = {"width": "narrowest", "depth": "shallowest", "horizon": "shortest"}
# What two runs of one bowl, and two bowls of one transfer, have in common.
SETTING = ("arm", "family", "optimizer", "parametrization", "schedule", "tied", "corpus_id", "context_length", "budget")
FURTHER = tuple(
    name for name in with_roles("ruler", "experiment") if name not in (*SETTING, "device")
)  # where it varies
NEAR = (0.65, 0.35)  # decades around the lowest that a parabola reads: the wider where it fits, else the narrower
Z90 = 1.645


class TuneError(ValueError):
    """No model was trained at enough values for a bowl."""

    exit_code = 1


@dataclass(frozen=True)
class Bowl:
    """The optimum of one model along one axis, or why there is none. `error` is one standard error in decades."""

    setting: dict[str, Any]
    place: dict[str, float]  # the columns of ALONG
    runs: pd.DataFrame  # value, seed, loss of every run
    optimum: float = math.nan
    error: float = math.nan
    loss: float = math.nan
    curvature: float = math.nan  # nats per decade squared
    refused: str = ""
    at_edge: bool = False  # refused because the optimum is at or beyond an edge of what was tried

    @property
    def width(self) -> int:
        """Width of the model."""
        return int(self.place["d_model"])

    def cost(self, value: float) -> float:
        """Loss given away by using `value` instead of the optimum, nats/token."""
        return self.curvature * math.log10(value / self.optimum) ** 2


@dataclass(frozen=True)
class Transfer:
    """How far the optimum moves, in decades per decade `along` width, depth or horizon and over all that were measured,
    with standard errors."""

    setting: dict[str, Any]
    bowls: tuple[Bowl, ...]
    slope: float
    slope_error: float
    limit: float
    along: str = "width"

    @property
    def places(self) -> list[float]:
        """The widths, depths or horizons, the least first."""
        return [bowl.place[ALONG[self.along]] for bowl in self.bowls]

    @property
    def span(self) -> float:
        """Decades between the narrowest and the widest model, or as it is along depth or horizon."""
        return math.log10(self.places[-1] / self.places[0])

    @property
    def drift(self) -> float:
        """Decades that the optimum moves from the narrowest to the widest model, or as it is along the others."""
        return self.slope * self.span

    @property
    def drift_error(self) -> float:
        """One standard error of `drift`, in decades."""
        return self.slope_error * self.span

    @property
    def verdict(self) -> str:
        """pass or fail where the 90% interval of the drift lies on one side of the limit, else undecided."""
        margin = Z90 * self.drift_error
        if abs(self.drift) + margin <= self.limit:
            return "pass"
        return "fail" if abs(self.drift) - margin > self.limit else "undecided"

    @property
    def cost(self) -> float:
        """The most that any model loses by training at the optimum of the first, nats/token."""
        return max(bowl.cost(self.bowls[0].optimum) for bowl in self.bowls)


_READ = (
    "run_id", "step", "state", "budget_flops", "horizon_tokens", "loss", "seed", "d_model", "n_layer",
)  # fmt: skip


def bowls(table: pd.DataFrame, axis: str = "learning-rate") -> list[Bowl]:
    """A bowl for every model and setting in the run table that at least three values of the axis were tried for.

    The noise is pooled over the bowls. Runs that diverged bound a bowl from above and carry no loss. On the axes of
    batch and weight decay each value is taken at its best learning rate; no decay at all has no place there. Raises
    TuneError if there is no such model, or the decay of some runs is not known, TableError where a column that a run
    table has is absent.
    """
    if axis not in AXES:
        raise ValueError(f"--axis must be one of {', '.join(AXES)}; not {axis!r}")
    source = str(table.attrs.get("source", "table"))
    require(table, [*SETTING[:-1], "peak_learning_rate", "batch_tokens", AXES[axis], *_READ], source=source)
    last = _last_rows(table.assign(weight_decay=table.get("weight_decay", 0.0)))
    unknown = int(last["weight_decay"].isna().sum())
    if unknown > 0 and (axis == "weight-decay" or unknown < len(last)):
        raise TuneError(
            f"{source}: weight_decay is not known of {unknown} of {len(last)} runs: keep others with --where"
        )
    raw = list(_groups(last, axis))
    if not raw:
        raise TuneError(f"no model was trained at three or more values of {AXES[axis]}; vary it in study.vary")
    fits = [_parabola(runs) for _, _, runs in raw]
    freedom = sum(fit.freedom for fit in fits if fit)
    noise = sum(fit.squares for fit in fits if fit) / freedom if freedom else math.nan
    return [_bowl(setting, place, runs, fit, noise) for (setting, place, runs), fit in zip(raw, fits, strict=True)]


def transfers(found: Sequence[Bowl], *, limit: float, along: str = "width") -> list[Transfer]:
    """A transfer for every setting with an accepted bowl at two or more widths (depths, horizons).

    Depths are kept apart where one width has several, all that is not `along` where another than width is requested.
    Raises ValueError for another name.
    """
    if along not in ALONG:
        raise ValueError(f"--along must be one of {', '.join(ALONG)}; not {along!r}")
    apart = _apart(found, along)
    result = []
    for setting in _distinct(map(apart, found)):
        accepted = [b for b in found if apart(b) == setting and not b.refused]
        accepted.sort(key=lambda bowl: bowl.place[ALONG[along]])
        if len({bowl.place[ALONG[along]] for bowl in accepted}) >= 2:
            slope, error = _slope(accepted, [bowl.place[ALONG[along]] for bowl in accepted])
            result.append(Transfer(setting, tuple(accepted), slope, error, limit, along))
    return result


def _apart(found: Sequence[Bowl], along: str) -> Callable[[Bowl], dict[str, Any]]:
    """The setting of a bowl with the parts of its place that bowls of one transfer share."""
    depths: dict[tuple, set[float]] = {}
    for bowl in found:
        depths.setdefault((*bowl.setting.items(), bowl.width), set()).add(bowl.place["n_layer"])
    of_depth = max(map(len, depths.values()), default=1) > 1
    shared = {"width": ["n_layer"] if of_depth else [], "depth": ["d_model"], "horizon": ["d_model", "n_layer"]}[along]

    def setting(bowl: Bowl) -> dict[str, Any]:
        kept = {key: value for key, value in bowl.setting.items() if along != "horizon" or key != "budget"}
        return kept | {name: int(bowl.place[name]) for name in shared}

    return setting


def _last_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run, with `budget`: FLOPs where cells met a budget of FLOPs, else tokens. Runs of one cell
    have one, however many budgets came to its steps."""
    last = table.sort_values("step").groupby("run_id", as_index=False).tail(1).copy()
    cells = last.groupby([*SETTING[:-1], "d_model", "n_layer", "horizon_tokens"], dropna=False)
    last["budget"] = cells["budget_flops"].transform("min").fillna(last["horizon_tokens"])
    last.loc[last["state"] == "diverged", "loss"] = math.inf
    return last


def _groups(last: pd.DataFrame, axis: str) -> Iterator[tuple[dict[str, Any], dict[str, float], pd.DataFrame]]:
    """(setting, place, runs with value, seed and loss) of each model with at least three values."""
    other = [column for name, column in AXES.items() if name not in (axis, "learning-rate")]
    further = [column for column in FURTHER if column in last and last[column].nunique() > 1]
    keys = [*SETTING, *further, *(c for c in other if c == "batch_tokens" or last[c].nunique() > 1)]
    if axis == "weight-decay":
        last = last[last["weight_decay"] > 0]
    for key, group in last.groupby([*keys, "d_model", "n_layer"], sort=True):
        runs = group[["peak_learning_rate", "seed", "loss"]].assign(value=group[AXES[axis]])
        if axis != "learning-rate":
            means = runs.groupby(["value", "peak_learning_rate"])["loss"].mean()
            best = means.groupby("value").idxmin()
            runs = runs[[(v, lr) in set(best) for v, lr in zip(runs["value"], runs["peak_learning_rate"], strict=True)]]
        if runs["value"].nunique() >= 3:
            yield (
                dict(zip(keys, key[:-2], strict=True)),
                {column: float(group[column].median()) for column in ALONG.values()},
                runs[["value", "seed", "loss"]].sort_values("value"),
            )


@dataclass(frozen=True)
class _Fit:
    """Loss = level of the seed + slope u + curvature u^2, with u the decades from `centre`."""

    centre: float
    level: float  # mean over seeds
    slope: float
    curvature: float
    spread: np.ndarray  # covariance of slope and curvature per unit of noise variance
    squares: float
    freedom: int


def _parabola(runs: pd.DataFrame) -> _Fit | None:
    """Through the finite runs at the values near the lowest mean, three at least; None if there are no three."""
    finite = runs[np.isfinite(runs["loss"])]
    if finite["value"].nunique() < 3:
        return None
    centre = math.log10(finite.groupby("value")["loss"].mean().idxmin())
    u = np.log10(finite["value"].to_numpy(float)) - centre
    third = np.sort(np.abs(np.unique(u)))[2]
    wide, narrow = (np.abs(u) <= max(near, third) + 1e-9 for near in NEAR)
    return _through(finite[wide], u[wide], centre, tested=True) or _through(finite[narrow], u[narrow], centre)


def _through(runs: pd.DataFrame, u: np.ndarray, centre: float, *, tested: bool = False) -> _Fit | None:
    """Least squares with a level per seed; `tested`: None unless the seeds show that a parabola fits (F, 5%)."""
    loss, seed = runs["loss"].to_numpy(), runs["seed"].to_numpy()
    levels = (seed[:, None] == np.unique(seed)).astype(float)  # a seed lifts or lowers its whole bowl
    design = np.column_stack([levels, u, u**2])
    coefficients, squares, freedom = _least_squares(design, loss)
    if tested:
        free = np.column_stack([levels, u[:, None] == np.unique(u)]).astype(float)
        _, pure, repeats = _least_squares(free, loss)
        extra = freedom - repeats
        if not repeats or (
            extra and f.sf((squares - pure) / extra / max(pure / repeats, 1e-30), extra, repeats) < 0.05
        ):
            return None
    *level, slope, curvature = coefficients
    spread = np.linalg.pinv(design.T @ design)[-2:, -2:]
    return _Fit(centre, float(np.mean(level)), float(slope), float(curvature), spread, squares, freedom)


def _least_squares(design: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Coefficients, residual sum of squares, degrees of freedom."""
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    squares = float(((values - design @ coefficients) ** 2).sum())
    return coefficients, squares, len(values) - int(np.linalg.matrix_rank(design))


def _bowl(setting: dict[str, Any], place: dict[str, float], runs: pd.DataFrame, fit: _Fit | None, noise: float) -> Bowl:
    """The bowl of one model from the parabola through its runs; `noise`: variance of a loss, pooled over bowls."""
    if at_edge := _edge(runs):
        return Bowl(setting, place, runs, refused=at_edge, at_edge=True)
    if fit is None:
        few = "fewer than three values near the lowest; try values a factor 2 apart around it"
        return Bowl(setting, place, runs, refused=few)
    if fit.curvature <= 0:
        flat = "no bowl: the loss does not curve up around its lowest value; widen the range or add seeds"
        return Bowl(setting, place, runs, refused=flat)
    slope, curvature = fit.slope, fit.curvature
    vertex = -slope / (2 * curvature)
    tried = np.log10(runs["value"].to_numpy(float)) - fit.centre
    if not tried.min() <= vertex <= tried.max():
        beyond = f"the optimum, {10 ** (fit.centre + vertex):.3g}, is beyond the edge"
        return Bowl(setting, place, runs, refused=beyond, at_edge=True)
    gradient = np.array([-1 / (2 * curvature), slope / (2 * curvature**2)])
    error = math.sqrt(noise * gradient @ fit.spread @ gradient)
    loss = fit.level - slope**2 / (4 * curvature)
    return Bowl(setting, place, runs, 10 ** (fit.centre + vertex), error, loss, curvature)


def _edge(runs: pd.DataFrame) -> str:
    """Why a bowl is refused whose lowest mean loss is at an edge of the values tried; "" if it is not.

    Runs that diverged bound a bowl from above.
    """
    means = runs.groupby("value")["loss"].mean()
    if not np.isfinite(means).any():
        return "every run diverged; try lower values"
    best = means.idxmin()
    if best == means.index[0]:
        return f"the lowest loss is at the lowest value tried, {best:g}; try lower ones"
    if best == means.index[-1]:
        return f"the lowest loss is at the highest value tried, {best:g}; try higher ones"
    return ""


def _slope(accepted: Sequence[Bowl], places: Sequence[float]) -> tuple[float, float]:
    """d log10(optimum) / d log10(place), weighted, and its standard error, scaled up by scatter beyond the errors."""
    x = np.log10(places)
    y = np.log10([bowl.optimum for bowl in accepted])
    errors = np.array([bowl.error for bowl in accepted])
    weights = 1 / errors**2 if (errors > 0).all() else np.ones(len(x))
    x0 = np.average(x, weights=weights)
    spread = weights @ (x - x0) ** 2
    slope = weights @ ((x - x0) * y) / spread
    residual = y - np.average(y, weights=weights) - slope * (x - x0)
    scatter = weights @ residual**2 / (len(x) - 2) if len(x) > 2 else math.nan
    known = (errors > 0).all()
    factor = max(1.0, scatter) if known and len(x) > 2 else (1.0 if known else scatter)
    return float(slope), float(math.sqrt(factor / spread))


def _distinct(settings: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({tuple(setting.items()): setting for setting in settings}.values())
