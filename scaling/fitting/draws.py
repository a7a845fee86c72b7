"""`Draws`: laws refitted to resampled data, and intervals of any function of a law.

A jackknife's interval has Student's t on as many degrees of freedom as its variance has (Bell and McCaffrey 2002),
which are few where few clusters decide; a bootstrap's are quantiles of the draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import SHARE, check
from isoflop.scaling.fitting.fit import EXACT_NOISE, Fit
from isoflop.scaling.fitting.noise_model import shared_by_sizes
from isoflop.scaling.fitting.profile_likelihood import profile
from isoflop.scaling.laws.law import Allocation, Array, Law
from isoflop.scaling.laws.special_functions import stdtr, stdtrit
from isoflop.scaling.table.json_plain import plain

CELLS = 1_000_000  # rows x laws refitted at once
Quantity = Callable[[Law], Any] | str  # of a law: a function of it, or the name of a parameter or exponent
HUGE = 1e100  # a quantity that moves so far is measured in its largest move: squares of others overflow
HALVINGS = 24  # of the bracket of a half-width: to 1e-7 of it


@dataclass(frozen=True, repr=False, eq=False)
class Draws(Answer):
    """Laws refitted to resampled clusters; `kind` decides how they become an interval.

    `frame` has a row per law: parameters, exponents, objective value, converged. `by` is the column resampled,
    `left_out` (n,) of a jackknife the number of the law that was refitted without each row.
    """

    laws: tuple[Law, ...]
    frame: pd.DataFrame
    fit: Fit
    kind: Literal["jackknife", "bootstrap"]
    by: str
    seed: int | None = None
    left_out: Array = field(default_factory=lambda: np.zeros(0, dtype=int))

    def __len__(self) -> int:
        return len(self.laws)

    def __str__(self) -> str:
        converged = f"{self.share_converged:.0%} converged"
        return f"{self.fit.law.name} refitted {len(self)} times, {self.kind} over {self.by}: {converged}"

    def to_dict(self, level: float = 0.9) -> dict[str, Any]:
        """JSON-ready values: those of the fit with its intervals at `level`, and how it was refitted."""
        found = {"interval_kind": self.kind, "intervals": plain(intervals(self, level=level)), "level": level}
        refits = {"by": self.by, "seed": self.seed, "n": len(self), "share_converged": self.share_converged}
        return self.fit.to_dict() | found | {"refits": refits}

    @property
    def share_converged(self) -> float:
        """Share of the refits that converged."""
        return float(self.frame["converged"].mean())

    def evaluate(self, fn: Quantity) -> Array:
        """The quantity for every law, (draws, ...), infinite or NaN where a law has none.

        A name means a parameter or a derived exponent.
        """
        if isinstance(fn, str):
            return self.frame[self._known(fn)].to_numpy(float)
        with np.errstate(all="ignore"):
            return np.array([fn(law) for law in self.laws], dtype=float)

    def optimal(self, C: Array) -> Allocation:
        """The compute-optimal allocation of every law at C FLOPs (n,), (draws, n), or at one, (draws, 1).

        Raises ValueError as a law does.
        """
        C = np.atleast_1d(C)
        with np.errstate(all="ignore"):
            return family(self.laws).optimal(np.broadcast_to(C, (len(self), len(C))), self.fit.cost)

    def estimate(self, fn: Quantity) -> Any:
        """The quantity at the full fit."""
        if isinstance(fn, str):
            return {**parameters_of(self.fit.law), **self.fit.exponents()}[self._known(fn)]
        return np.asarray(fn(self.fit.law), dtype=float)

    def interval(self, fn: Quantity, level: float = 0.9, *, positive: bool = True) -> tuple[float, float]:
        """Interval (lo, hi) of a scalar function of a law, or of a parameter or exponent by name.

        In log space where the quantity is positive in every draw, unless `positive` is False. That of the irreducible
        loss lies between 0 and the lowest loss, or the estimate where that is beyond, in the log space of what is left
        of the latter; at its bound 0 it is one-sided (see `one_sided`). Raises ValueError for an unknown name or a
        level outside 0 to 1.
        """
        if not (isinstance(fn, str) and fn == self.fit.law.floor_name and fn in self.fit.free):
            lo, hi = (float(end) for end in self.band(fn, level, positive=positive))
            return lo, hi
        estimate = float(self.estimate(fn))
        least, most = min(0.0, estimate), max(float(self.fit.points.frame["loss"].min()), estimate)
        if self.one_sided(fn):
            lo, hi = 0.0, self._floor_at_most(fn, level)
        elif self.kind == "jackknife":  # a floor near the losses is known better than one far below them
            hi, lo = (most - float(end) for end in self.band(lambda law: most - getattr(law, fn), level))
        else:
            lo, hi = (float(end) for end in self.band(fn, level))
        return min(max(lo, least), most), min(max(hi, least), most)

    def one_sided(self, name: str) -> bool:
        """Whether the interval of a parameter has one end only: that of an irreducible loss at its bound 0."""
        law = self.fit.law
        return name == law.floor_name and name in self.fit.bounds_hit and law.irreducible == 0

    def _floor_at_most(self, name: str, level: float) -> float:
        """The upper end of the one-sided interval of a floor at 0, which few refits move: by its profile likelihood."""
        kept = self.fit.__dict__.setdefault("_floor_at_most", {})
        if level not in kept:
            kept[level] = profile(self.fit, name, level=max(2 * level - 1, level / 2)).hi
        return float(max(kept[level], np.quantile(self.evaluate(name), level)))

    def band(
        self, fn: Quantity, level: float = 0.9, *, positive: bool = True, values: Array | None = None
    ) -> tuple[Array, Array]:
        """Pointwise interval (lo, hi) of an array-valued function of a law, of its `values` where they are known."""
        check(SHARE, level=level)
        draws, centre = self.evaluate(fn) if values is None else values, np.asarray(self.estimate(fn), dtype=float)
        if self.kind == "bootstrap":
            lo, hi = np.percentile(draws, [50 * (1 - level), 50 * (1 + level)], axis=0)
            return lo, hi
        # Log space is decided point by point: E may be 0 in some draws while every other quantity is positive.
        logs = (draws > 0).all(axis=0) & (centre > 0) & positive
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(logs, np.log(np.where(logs, draws, 1.0)), draws)
            half = self._half_width(values, level)
            middle = np.where(logs, np.log(np.where(logs, centre, 1.0)), centre)
        lo, hi = middle - half, middle + half
        with np.errstate(over="ignore"):
            return np.where(logs, np.exp(np.where(logs, lo, 0)), lo), np.where(logs, np.exp(np.where(logs, hi, 0)), hi)

    def standard_error(self, fn: Quantity) -> Any:
        """Standard error of a function of a law, or of a parameter or exponent by name; of its shape."""
        return self.standard_error_of(self.evaluate(fn))

    def standard_error_alone(self, fn: Quantity) -> Any:
        """The same as if clusters were independent, for forecasts: a law that does not hold leaves residuals like noise
        that sizes share, and what it misses by is a part of their own."""
        return self.error_of(self.evaluate(fn))

    def quantile(self, level: float) -> float:
        """Half-width of a central interval in standard errors: Student's t with `freedom` degrees of freedom."""
        return float(stdtrit(self.freedom, 0.5 + level / 2))

    @property
    def freedom(self) -> float:
        """Degrees of freedom: clusters - 1."""
        clusters = len(self) if self.kind == "jackknife" else self.fit.n_clusters
        return max(clusters - 1.0, 1.0)

    def freedom_of(self, values: Array) -> Array:
        """Degrees of freedom of the jackknife's variance of a quantity, of its `values` (G, ...); at most `freedom`.

        Of the fit made linear, with rows of equal variance: leaving out cluster g moves the quantity by c_g times its
        residuals, and the sum of the squares of the moves is like chi-square with trace(B)^2 / trace(B^2) degrees of
        freedom, B the covariance of the moves (Bell and McCaffrey 2002).
        """
        if self._leverage is None:
            return np.full(values.shape[1:], self.freedom)
        design, moves, label, inverse = self._leverage
        off = _in_reach(values - values.mean(axis=0))
        parts = -(-design.shape[0] * off.shape[1] // CELLS)
        found = [self._effective(part, design, moves, label, inverse) for part in np.array_split(off, parts, axis=1)]
        return np.clip(np.concatenate(found), 1.0, self.freedom).reshape(values.shape[1:])

    def _effective(self, off: Array, design: Array, moves: Array, label: Array, inverse: Array) -> Array:
        """trace(B)^2 / trace(B^2) of quantities (G, k); infinite where nothing moves one."""
        c = (self._to_slope @ off).T @ moves
        squares, pulls = np.zeros((len(c), len(off))), np.zeros((len(c), len(off), design.shape[1]))
        np.add.at(squares.T, label, (c * c).T)
        np.add.at(pulls.swapaxes(0, 1), label, (c[:, :, None] * design).swapaxes(0, 1))
        shared = np.einsum("kgp,pq,kgq->kg", pulls, inverse, pulls)
        product = inverse @ np.einsum("kgp,kgq->kpq", pulls, pulls)
        trace = squares.sum(axis=1) - shared.sum(axis=1)
        square = np.einsum("kg,kg->k", squares, squares - 2 * shared) + np.einsum("kpq,kqp->k", product, product)
        return np.where(trace > 0, trace**2 / np.where(square > 0, square, 1.0), np.inf)

    @cached_property
    def _leverage(self) -> tuple[Array, Array, Array, Array] | None:
        """The linearised fit: its columns (n, P) on rows of equal variance, what the coordinates move by for each unit
        of a row's residual when its cluster is left out (P, n), clusters (n,), and (X'X)^-1. None where laws of this
        fit have no common coordinates."""
        design, label = self._design, self.left_out
        if self.kind != "jackknife" or design is None:
            return None
        gram = design.T @ design
        own = np.zeros((len(self), *gram.shape))
        np.add.at(own, label, design[:, :, None] * design[:, None, :])
        left = np.linalg.pinv(gram - own, rcond=1e-10, hermitian=True)
        return design, np.einsum("npq,nq->pn", left[label], design), label, np.linalg.pinv(gram, hermitian=True)

    @property
    def _design(self) -> Array | None:
        """The columns (n, P) of the linearised fit on rows of equal variance; None where it has none."""
        if not isinstance(self.laws[0], self.fit.problem.form) or self.fit.noise < EXACT_NOISE:
            return None
        return self.fit.weighted_design

    def standard_error_of(self, values: Array) -> Array:
        """The same of a quantity whose `values` (draws, ...) are known."""
        if self.kind == "bootstrap":
            return values.std(axis=0, ddof=1)
        error = self.error_of(values)
        if self._shared is None:
            return error
        ratio = self._inflation(values - values.mean(axis=0))
        return error * np.sqrt(np.tensordot(self._shared[0], ratio**2, axes=1))

    def error_of(self, values: Array) -> Array:
        """The jackknife's standard error of a quantity, of its `values` (G, ...), as if clusters were independent."""
        g = len(values)
        with np.errstate(over="ignore", invalid="ignore"):  # a law without a finite value leaves no error either
            return np.sqrt((g - 1) / g * np.sum((values - values.mean(axis=0)) ** 2, axis=0))

    def _half_width(self, values: Array, level: float) -> Array:
        """Half the width of a central interval of jackknife values (G, ...): of Student's t, or of as many as there are
        correlations that sizes may have, each with its probability."""
        freedom, error = self.freedom_of(values), self.error_of(values)
        alone = stdtrit(freedom, 0.5 + level / 2) * error
        if self._shared is None:
            return alone
        likely, ratio = self._shared[0], self._inflation(values - values.mean(axis=0))
        lo, hi, scale = alone, alone * ratio.max(axis=0), np.where(error > 0, error, 1.0) * ratio
        for _ in range(HALVINGS):
            middle = 0.5 * (lo + hi)
            inside = likely @ stdtr(freedom, middle / scale).reshape(len(likely), -1) > 0.5 + level / 2
            inside = inside.reshape(middle.shape)
            lo, hi = np.where(inside, lo, middle), np.where(inside, middle, hi)
        return 0.5 * (lo + hi)

    @cached_property
    def _shared(self) -> tuple[Array, Array] | None:
        """Probability (K,) of each correlation that noise may have between sizes, the first of none, and covariance
        (K, P, P) of the parameters under it; None where it is not looked for."""
        fit = self.fit
        looked_for = self.kind == "jackknife" and fit.objective.delta == "auto" and not fit.points.orders_differ
        # Two stages refitted together have no common coordinates; scores from losses do not share the noise of either.
        if not looked_for or not isinstance(self.laws[0], fit.problem.form) or fit.noise < EXACT_NOISE:
            return None
        design = fit.problem.residuals(fit.theta[None])[1][0].T / np.reshape(fit.spread, (-1, 1))
        labels, _ = clusters_of(fit, "auto")
        found = shared_by_sizes(fit.residuals / fit.spread, design, fit.points.frame, labels)
        if found is None:
            return None
        solve = np.linalg.pinv(design)
        return found[0], solve @ found[1] @ solve.T

    def _inflation(self, off: Array) -> Array:
        """How many times larger the standard error is under each correlation between sizes (K, ...), of values off
        their mean.

        By the delta method: the refits tell how each quantity moves with the parameters.
        """
        assert self._shared is not None
        slope = self._to_slope @ _in_reach(off)
        variance = np.einsum("pk,cpq,qk->ck", slope, self._shared[1], slope)
        alone = variance[:1]
        ratio = np.where(alone > 0, np.sqrt(np.maximum(variance, alone) / np.maximum(alone, 1e-300)), 1.0)
        return ratio.reshape(-1, *off.shape[1:])

    @cached_property
    def _to_slope(self) -> Array:
        """What takes values (G, k) of the refits, off their mean, to their slopes (P, k) in the parameters."""
        theta = np.array([self._coordinates(law) for law in self.laws])
        return np.linalg.pinv(theta - theta.mean(axis=0), rcond=1e-8)

    def _coordinates(self, law: Law) -> Array:
        """The free coordinates (P,) of one of the laws."""
        return self.fit.problem.coordinates(law)

    def _known(self, name: str) -> str:
        """The name of a parameter or exponent. Raises ValueError for another."""
        names = [c for c in self.frame if c not in ("value", "converged")]
        if name not in names:
            raise ValueError(f"no parameter or exponent {name!r}; there are {', '.join(names)}")
        return name


def intervals(draws: Draws, names: Sequence[str] | None = None, level: float = 0.9) -> dict[str, tuple[float, float]]:
    """Intervals by name, of the free parameters and derived exponents unless others are named.

    Of a parameter that few data bound on both sides, the profile likelihood joins the jackknife where it is open: no
    refit without one run leaves the basin, and the data do not object to values far outside it.
    """
    names = names or [*draws.fit.free, *draws.fit.exponents()]
    found = {name: draws.interval(name, level) for name in names}
    if draws.kind == "jackknife" and draws.fit.noise > EXACT_NOISE:
        for name in [n for n in names if n in draws.fit.law.open_ended and n in draws.fit.free]:
            found[name] = _with_open_profile(draws.fit, name, found[name], level)
    return found


def _with_open_profile(fit: Fit, name: str, interval: tuple[float, float], level: float) -> tuple[float, float]:
    """The wider of an interval and the profile's where that is open, inside the search box; else the interval."""
    kept = fit.__dict__.setdefault("_open_profiles", {})
    if (name, level) not in kept:
        curve = profile(fit, name, level=level)
        kept[name, level] = (curve.lo, curve.hi) if curve.open_below or curve.open_above else (np.inf, -np.inf)
    lo, hi = kept[name, level]
    return max(min(interval[0], lo), fit.law.box[name].lo), max(interval[1], hi)


def family(laws: Sequence[Law]) -> Law:
    """Laws of one form as one whose parameters are arrays (laws, 1)."""
    form = type(laws[0])  # equivalent: they are of one form
    return form(*np.array([law.values() for law in laws]).T[..., None])


def _in_reach(off: Array) -> Array:
    """Values (G, ...) off their mean as (G, k), without NaN; those that move beyond HUGE in units of their largest."""
    off = np.nan_to_num(off.reshape(len(off), -1))
    far = np.abs(off).max(axis=0)
    return np.where(far > HUGE, off / np.maximum(far, HUGE), off) if (far > HUGE).any() else off


def parameters_of(law: Law) -> dict[str, float]:
    """The values of the parameters of a law by name."""
    return dict(zip(law.parameters(), law.values().tolist(), strict=True))


def clusters_of(fit: Fit, by: str) -> tuple[Array, Array]:
    """The cluster number (n,) of each row, and the clusters (G,), by a column, "row" or "auto": that of the points."""
    frame = fit.points.frame
    if by == "row":
        return np.arange(len(frame)), np.arange(len(frame))
    column = "cluster" if by in ("auto", fit.points.cluster) else by
    if column not in frame:
        raise ValueError(f"no column {by!r} to resample by; there are {', '.join(map(str, frame.columns))}, or row")
    labels, clusters = pd.factorize(frame[column])
    return labels, np.asarray(clusters)
