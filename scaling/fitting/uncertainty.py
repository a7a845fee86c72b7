"""Uncertainty of a fit: its law refitted to resampled data, intervals of parameters and predictions of runs.

The default is the delete-one-cluster jackknife, the one method that keeps its nominal coverage on small, clustered and
outlying data (Efron 1982). The cluster bootstrap is the cross-check.
Both resample clusters (training trunks, else runs, else rows), because checkpoints of one run are not independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from isoflop.arguments import MOST_RESAMPLES, SEED, check, whole
from isoflop.scaling.fitting.draws import CELLS, Draws, clusters_of, parameters_of
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.objective import Solution
from isoflop.scaling.fitting.problem import FitError, law_inputs
from isoflop.scaling.fitting.refit import refit, refit_together
from isoflop.scaling.laws.law import Array, Law

MOST_CLUSTERS, GROUPS = 500, 100  # left out one by one up to here; more are pooled at random into so many groups


def jackknife(fit: Fit) -> Draws:
    """The law refitted without each cluster in turn: G draws. Raises FitError when only one exists.

    Above MOST_CLUSTERS clusters, GROUPS random groups of them are left out, which estimates the same variance.

    >>> import isoflop
    >>> fitted = isoflop.fit("chinchilla", isoflop.example("quick"))
    >>> draws = isoflop.jackknife(fitted)
    >>> [round(float(end), 2) for end in draws.interval("a")]  # 90%
    [0.5, 0.63]
    >>> lo, hi = draws.interval(lambda law: law.optimal(1e13, fitted.cost).N)  # of any quantity of a law
    >>> bool(lo < fitted.optimal(1e13).N < hi)
    True
    """
    _check_fit(fit)
    jackknife_together([fit])
    return fit.__dict__["_jackknife"]


def jackknife_together(fits: Sequence[Fit]) -> None:
    """Make the jackknife of each of some fits of one form, where it is not known, by refits that take steps together.

    Raises FitError as `jackknife` does.
    """
    fits = [fit for fit in fits if "_jackknife" not in fit.__dict__]  # kept with the fit: every figure needs it
    left_out, weights = [], []
    for fit in fits:
        labels, clusters = clusters_of(fit, "auto")
        if len(clusters) < 2:
            raise FitError(f"{len(clusters)} cluster cannot be left out: an interval needs at least two")
        groups = len(clusters) if len(clusters) <= MOST_CLUSTERS else GROUPS
        if groups < len(clusters):
            labels = _numbered_in_order(fit, labels)
            labels = (np.random.default_rng(0).permutation(len(clusters)) % groups)[labels]
        left_out.append(labels)
        weights.append(fit.weights * (labels[None, :] != np.arange(groups)[:, None]))
    if len(fits) > 1 and sum(w.size for w in weights) <= CELLS:
        solutions = [[solution] for solution in refit_together(fits, weights)]
    else:
        solutions = [_in_pieces(fit, own) for fit, own in zip(fits, weights, strict=True)]
    for fit, labels, found in zip(fits, left_out, solutions, strict=True):
        draws = _draws(fit, found, "jackknife", fit.points.cluster, None)
        fit.__dict__["_jackknife"] = replace(draws, left_out=labels)


def bootstrap(fit: Fit, n: int = 1000, *, by: str = "auto", seed: int = 0) -> Draws:
    """The law refitted to n resamples of whole clusters, drawn with replacement (Efron 1979).

    `by` names the column of the clusters, or "row"; "auto" is that of the points. Raises ValueError for an
    unknown column or fewer than two resamples.

    >>> import isoflop
    >>> draws = isoflop.bootstrap(isoflop.fit("chinchilla", isoflop.example("quick")), 50)
    >>> len(draws)
    50
    >>> lo, hi = draws.interval("alpha")
    >>> bool(0 < lo < hi)
    True
    """
    _check_fit(fit)
    check(whole(2, MOST_RESAMPLES), n=n)
    check(SEED, seed=seed)
    labels, clusters = clusters_of(fit, by)
    g, labels = len(clusters), _numbered_in_order(fit, labels)
    counts = np.random.default_rng(seed).multinomial(g, np.full(g, 1.0 / g), size=n).astype(float)
    solutions = _in_pieces(fit, fit.weights * counts[:, labels])
    return _draws(fit, solutions, "bootstrap", fit.points.cluster if by == "auto" else by, seed)


def _check_fit(fit: object) -> None:
    if not isinstance(fit, Fit):
        raise TypeError(f"a fit is refitted, as isoflop.fit(law, table) gives it, and this is a {type(fit).__name__}")


def _numbered_in_order(fit: Fit, labels: Array) -> Array:
    """The same clusters (n,), numbered in the order of the points: what is drawn does not depend on where rows were."""
    order, numbered = fit.points.order, np.empty_like(labels)
    numbered[order] = pd.factorize(labels[order])[0]
    return numbered


def _in_pieces(fit: Fit, weights: Array) -> list[Solution]:
    """Refits under row weights (B, n), so many at once."""
    return [refit(fit, piece) for piece in np.array_split(weights, -(-weights.size // CELLS)) if len(piece)]


def _draws(
    fit: Fit, solutions: Sequence[Solution], kind: Literal["jackknife", "bootstrap"], by: str, seed: int | None
) -> Draws:
    laws = tuple(law for solution in solutions for law in fit.problem.laws(solution.theta))
    rows = [{**parameters_of(law), **fit.exponents_of(law)} for law in laws]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    for name in ("value", "converged"):
        columns[name] = np.concatenate([getattr(solution, name) for solution in solutions])
    return Draws(laws, pd.DataFrame(columns), fit, kind, by, seed)


@dataclass(frozen=True)
class Prediction:
    """Loss in nats/token of runs not yet made, of N parameters on D tokens.

    `loss` is the law's, [law_lo, law_hi] the interval of the law there, [lo, hi] that of the run itself: arrays of one
    shape, as is `noise`, the standard deviation of ln loss from run to run.
    """

    N: Array
    D: Array
    loss: Array
    law_lo: Array
    law_hi: Array
    lo: Array
    hi: Array
    noise: Array
    level: float


def predict(fit: Fit, draws: Draws, N: Any, D: Any, level: float = 0.9) -> Prediction:
    """Prediction interval at N parameters and D tokens (broadcast): uncertainty of the law and noise of one run.

    Both add on ln loss, so that the interval of a run is never narrower than the law's. Assumes that the law holds
    there: the interval covers neither a wrong form nor another regime.
    """
    N, D = np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float))
    frame = pd.DataFrame({"n_params": N.ravel(), "tokens": D.ravel()})
    frame["flops"] = fit.cost.flops(N, D).ravel()
    found = predict_runs(fit, draws, frame, level)
    loss, law_lo, law_hi, lo, hi, noise = (
        np.reshape(values, N.shape)
        for values in (found.loss, found.law_lo, found.law_hi, found.lo, found.hi, found.noise)
    )
    return Prediction(N, D, loss, law_lo, law_hi, lo, hi, noise, level)


def predict_runs(fit: Fit, draws: Draws, frame: pd.DataFrame, level: float = 0.9) -> Prediction:
    """The same for the rows (n,) of a frame with the columns that the law reads; N and D are NaN where it has none."""

    columns = law_inputs(type(fit.law), frame).values()

    def at(law: Law) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(law(*columns), dtype=float)

    loss, each = at(fit.law), draws.evaluate(at)
    law_lo, law_hi = draws.band(at, level, values=each)
    noise = np.broadcast_to(fit.noise_at(frame), loss.shape)
    with np.errstate(all="ignore"):
        below, above = (np.hypot(np.log(end / loss), draws.quantile(level) * noise) for end in (law_lo, law_hi))
    N, D = (
        frame[name].to_numpy(float) if name in frame else np.full(len(frame), np.nan) for name in ("n_params", "tokens")
    )
    return Prediction(N, D, loss, law_lo, law_hi, loss * np.exp(-below), loss * np.exp(above), noise, level)
