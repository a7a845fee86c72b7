"""Likelihood-ratio tests of simpler forms of Chinchilla's law: kappa = 1, alpha = beta, E = 0.

The statistic is the likelihood ratio of Huber's objective. Its null distribution comes from refits (a wild bootstrap):
losses are made under the simpler law with the signs of the residuals flipped cluster by cluster, because neither the
noise nor the bound at E = 0 meets the assumptions of chi-square.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import likelihood_ratio, likelihood_ratios, variant
from isoflop.scaling.fitting.fit import Fit, FitError, Huber, LeastSquares, fit
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Array
from isoflop.scaling.table.conventions import Points

RESAMPLES = 199
LEVEL = 0.05  # p below which a claim is rejected


@dataclass(frozen=True)
class LikelihoodRatioTest:
    """A claim about Chinchilla's form, tested against the form without it.

    `statistic` is the likelihood ratio, `p` the share of null statistics at least as large, `estimate` what the fit
    without the claim gives for the parameter that the claim fixes.
    """

    claim: str
    statistic: float
    p: float
    estimate: float
    resamples: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dict(vars(self))

    def __str__(self) -> str:
        verdict = "rejected" if self.p < LEVEL else "not rejected"
        return (
            f"  {self.claim:<14} {verdict:<12} p {self.p:.3f}  (ratio {self.statistic:.2f}, free {self.estimate:.4g})"
        )


def likelihood_ratio_tests(data: Points, *, resamples: int = RESAMPLES, seed: int = 0) -> list[LikelihoodRatioTest]:
    """Test the claims kappa = 1, alpha = beta and E = 0, each against Chinchilla's form without it.

    Claims whose two fits do not succeed on these points are left out. Raises FitError when the form itself cannot be
    fitted.
    """
    fitted = fit(Chinchilla, data)
    claims: list[tuple[str, Callable[[], tuple[Fit, Fit]], Callable[[Fit], float]]] = [
        ("kappa = 1", lambda: (variant(fitted, free=("kappa",)), fitted), lambda f: getattr(f.law, "kappa", np.nan)),
        ("alpha = beta", lambda: (fitted, _tied(fitted)), _ratio_of_exponents),
        ("E = 0", lambda: (fitted, variant(fitted, fixed={"E": 0.0})), lambda f: getattr(f.law, "E", np.nan)),
    ]
    rng, tests = np.random.default_rng(seed), []
    for claim, pair, estimate in claims:
        try:
            full, restricted = pair()
        except FitError:
            continue
        statistic = likelihood_ratio(full, restricted)
        null = _null(full, restricted, resamples, rng)
        p = (1 + int(np.sum(null >= statistic * (1 - 1e-9)))) / (1 + len(null))
        tests.append(LikelihoodRatioTest(claim, statistic, p, float(estimate(full)), len(null)))
    return tests


def _ratio_of_exponents(fitted: Fit) -> float:
    law = fitted.law
    return law.alpha / law.beta if isinstance(law, Chinchilla) else float("nan")


def _tied(fitted: Fit) -> Fit:
    objective = Huber(fitted.delta) if np.isfinite(fitted.delta) else LeastSquares()
    return fit(
        Chinchilla, fitted.points, objective=objective, tied=True, weights=fitted.table_weights, falls=fitted.falls
    )


def _null(full: Fit, restricted: Fit, resamples: int, rng: np.random.Generator) -> Array:
    """Likelihood ratios of refits to losses made under the restricted law, (resamples,).

    Their noise is the residuals of the restricted law (Davidson and Flachaire 2008): those of the full one have lost
    what its further parameter takes up, and reject a true claim too often.
    """
    cluster = pd.factorize(full.points.frame["cluster"])[0]
    count, n = cluster.max() + 1, int(np.sum(full.weights > 0))
    scale = np.sqrt(n / max(n - len(restricted.free), 1))
    signs = rng.choice([-1.0, 1.0], size=(resamples, count))[:, cluster]
    log_loss = np.log(restricted.predicted) + signs * restricted.residuals * scale
    small, _ = _refit(restricted, log_loss, [restricted.theta])
    large, residual = _refit(full, log_loss, [full.problem.coordinates(restricted.law), full.theta])
    return likelihood_ratios(small, large, residual, full.weights, full.deltas, len(full.free))


@dataclass(frozen=True)
class _Resampled:
    """A fit problem on many sets of ln losses (R, n) at once.

    An extra last coordinate, which the solver never moves (its gradient is 0), is the number of the set.
    """

    problem: FitProblem
    log_loss: Array
    log: bool = True

    @property
    def one_basin(self) -> bool:
        return self.problem.one_basin

    @property
    def lower(self) -> Array:
        return np.append(self.problem.lower, -np.inf)

    @property
    def upper(self) -> Array:
        return np.append(self.problem.upper, np.inf)

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        log_predicted, gradient, full = self.problem.residuals(theta[:, :-1])
        still = np.zeros((len(theta), 1, gradient.shape[2]))
        return log_predicted - self.log_loss[theta[:, -1].astype(int)], np.concatenate([gradient, still], axis=1), full

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        return np.pad(self.problem.curvature(theta[:, :-1], full, weight), ((0, 0), (0, 1), (0, 1)))


def _refit(fitted: Fit, log_loss: Array, starts: list[Array]) -> tuple[Array, Array]:
    """The objective (R,) and the residuals (R, n) of refits to each set of losses, the best of the starts."""
    problem = fitted.problem
    blank = FitProblem(problem.form, problem.columns, np.ones(log_loss.shape[1]), problem.pinned, problem.tied)
    blank.__dict__["units"] = problem.units
    moved = _Resampled(blank, log_loss)
    which = np.arange(len(log_loss), dtype=float)[:, None]
    ends = [
        minimise(moved, np.hstack([np.tile(start, (len(log_loss), 1)), which]), delta=fitted.deltas,
                 weights=fitted.weights, max_steps=60, tolerance=1e-7)
        for start in starts
    ]  # fmt: skip
    best = np.argmin([end.value for end in ends], axis=0)
    theta = np.stack([end.theta for end in ends])[best, np.arange(len(best))]
    return np.min([end.value for end in ends], axis=0), moved.residuals(theta)[0]
