"""Refit a law under other weights of its rows: from the optimum of its fit, all at once.

Intervals, hold-outs and designs leave rows out so, or draw them again.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from isoflop.scaling.fitting.fit import SAME_BASIN, Fit
from isoflop.scaling.fitting.objective import Huber, Solution, Task
from isoflop.scaling.fitting.search.search import go_on, search
from isoflop.scaling.fitting.solver.minimise import minimise_together
from isoflop.scaling.laws.law import Array

MOST_SEARCHED = 20  # refits of one batch that are searched for from new starts, each as dear as a whole fit


def refit(fit: Fit, weights: Array, *, tolerance: float = 1e-11) -> Solution:
    """Refit under other row weights (B, n) at the fit's delta, each from the fit's optimum.

    Refits that still move after the usual number of steps go on together; those that then still do are searched for
    from new starts, up to MOST_SEARCHED of them.
    """
    return refit_together([fit], [weights], tolerance=tolerance)[0]


def refit_together(fits: Sequence[Fit], weights: Sequence[Array], *, tolerance: float = 1e-11) -> list[Solution]:
    """What `refit` finds for each of some fits of one form, to the bit; they take their steps together."""
    tasks = [
        Task(fit.problem, np.repeat(fit.theta[None], len(own), axis=0), fit.deltas, own)
        for fit, own in zip(fits, weights, strict=True)
    ]
    warm = minimise_together(tasks, tolerance=tolerance, damping=1e-3)
    warm = go_on(tasks, warm, [~solution.converged for solution in warm], tolerance=tolerance, curved=True)
    return [_searched(fit, own, solution) for fit, own, solution in zip(fits, weights, warm, strict=True)]


def _searched(fit: Fit, weights: Array, warm: Solution) -> Solution:
    """Refits with those that have not converged searched for from new starts, up to MOST_SEARCHED of them."""
    theta, value, converged = warm.theta.copy(), warm.value.copy(), warm.converged.copy()
    exact = replace(fit.objective, delta=fit.delta) if isinstance(fit.objective, Huber) else fit.objective
    for i in np.flatnonzero(~converged)[:MOST_SEARCHED]:
        again, _, _ = search(fit.problem, weights[i], exact, patient=False, spread=fit.spread)
        best = int(np.argmin(np.where(np.isfinite(again.value), again.value, np.inf)))
        if again.value[best] <= value[i] * (1 + SAME_BASIN) or not np.isfinite(value[i]):
            theta[i], value[i], converged[i] = again.theta[best], again.value[best], again.converged[best]
    return Solution(theta, value, converged, warm.steps)
