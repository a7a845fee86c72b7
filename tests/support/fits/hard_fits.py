"""Fits that are hard: few points, outliers, floors near zero, collinear designs; held against 200 polished starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from isoflop.scaling.fitting.fit import Fit, Huber, fit, predict_loss
from isoflop.scaling.fitting.search.starts import random_starts
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.laws.axes.data_constrained import DataConstrained
from isoflop.scaling.laws.broken import BNSL
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.kaplan import Kaplan
from isoflop.scaling.laws.law import Law
from isoflop.scaling.laws.power import Power

SURFACE = Chinchilla(1.8172, 477.8, 2143.4, 0.3473, 0.3672)
SAME = 1e-9
Design = Callable[[int], pd.DataFrame]


@dataclass(frozen=True)
class Kind:
    """A law, a design (number of points -> columns), relative noise and share of outliers."""

    name: str
    law: Law
    design: Design
    n: int
    noise: float
    outliers: float = 0.0

    def table(self, rng: np.random.Generator) -> pd.DataFrame:
        """One data set: the law on the design, with noise and outliers of ln loss."""
        frame = self.design(self.n)
        error = rng.normal(0, self.noise, len(frame)) if self.noise else np.zeros(len(frame))
        wild = rng.random(len(frame)) < self.outliers
        error[wild] += rng.exponential(20 * self.noise, wild.sum())
        return frame.assign(loss=predict_loss(self.law, frame) * np.exp(error))


def isoflop(n: int, width: float = 0.8, budgets: tuple[float, float] = (1e18, 1e21)) -> pd.DataFrame:
    """n points on about sqrt(n) budgets, sizes within +-width decades of the optimum of the surface."""
    per = max(3, round(np.sqrt(n)))
    rank = np.arange(n)
    flops = np.geomspace(*budgets, -(-n // per))[rank // per]
    n_params = SURFACE.optimal(flops).N * 10 ** np.linspace(-width, width, per)[rank % per]
    return pd.DataFrame({"n_params": n_params, "tokens": flops / 6 / n_params, "flops": flops})


def narrow(n: int) -> pd.DataFrame:
    """Sizes within 0.3 decades of the optimum."""
    return isoflop(n, width=0.3)


def collinear(n: int) -> pd.DataFrame:
    """Twenty tokens per parameter in every run."""
    n_params = np.geomspace(1e7, 1e10, n)
    return pd.DataFrame({"n_params": n_params, "tokens": 20 * n_params, "flops": 120 * n_params**2})


def repeated(n: int) -> pd.DataFrame:
    """Runs that see their unique tokens 1 to 50 times."""
    frame = isoflop(n)
    return frame.assign(unique_tokens=frame["tokens"] / np.resize([1, 2, 4, 8, 20, 50], n))


def frontier(n: int) -> pd.DataFrame:
    """Points of a law of compute alone."""
    return pd.DataFrame({"n_params": 1.0, "tokens": 1.0, "flops": np.geomspace(1e15, 1e22, n)})


def surface(E: float = 1.8172, beta: float = 0.3672) -> Chinchilla:
    """SURFACE with another floor or another beta."""
    return Chinchilla(E, 477.8, 2143.4, 0.3473, beta)


KAPLAN = Kaplan(6.4e13, 1.8e13, 0.076, 0.103)
POWER = Power(1.7, 1637.0, 0.165)
REPEATS = DataConstrained(1.87, 521.0, 1488.0, 0.3527, 0.3527, 15.4, 5.3)
BROKEN = BNSL(1.2, 300.0, 0.12, 0.06, 3e18, 0.5)
KINDS = (
    Kind("chinchilla 35, 0.3%", surface(), isoflop, 35, 0.003),
    Kind("chinchilla 35, 1%", surface(), isoflop, 35, 0.01),
    Kind("chinchilla 35, 10% outliers", surface(), isoflop, 35, 0.003, 0.1),
    Kind("chinchilla alpha = beta", surface(beta=0.3473), isoflop, 35, 0.003),
    Kind("chinchilla 8", surface(), isoflop, 8, 0.003),
    Kind("chinchilla 12", surface(), isoflop, 12, 0.003),
    Kind("chinchilla 20", surface(), isoflop, 20, 0.01),
    Kind("chinchilla narrow", surface(), narrow, 35, 0.003),
    Kind("chinchilla noise-free 54", surface(), isoflop, 54, 0.0),
    Kind("chinchilla E = 0.05", surface(0.05), isoflop, 35, 0.003),
    Kind("chinchilla E = 0", surface(0.0), isoflop, 35, 0.01),
    Kind("chinchilla collinear", surface(), collinear, 30, 0.003),
    Kind("kaplan 35, 0.5%", KAPLAN, isoflop, 35, 0.005),
    Kind("kaplan outliers", KAPLAN, isoflop, 35, 0.005, 0.1),
    Kind("kaplan 12", KAPLAN, isoflop, 12, 0.005),
    Kind("power 12", POWER, frontier, 12, 0.003),
    Kind("power 8", POWER, frontier, 8, 0.01),
    Kind("power outliers", POWER, frontier, 30, 0.003, 0.1),
    Kind("power E tiny", Power(0.02, 40.0, 0.06), frontier, 12, 0.003),
    Kind("data-constrained 180", REPEATS, repeated, 180, 0.005),
    Kind("data-constrained 60, 0.5%", REPEATS, repeated, 60, 0.005),
    Kind("data-constrained 60, 1%", REPEATS, repeated, 60, 0.01),
    Kind("bnsl 40", BROKEN, frontier, 40, 0.003),
    Kind("bnsl 20", BROKEN, frontier, 20, 0.005),
    Kind("bnsl 15", BROKEN, frontier, 15, 0.01),
)


def reference(fit: Fit, count: int = 200, seed: int = 1) -> float:
    """Best objective of `count` random starts of the fit's own problem, polished by the solver and then by SciPy."""
    problem, delta, weights = fit.problem, fit.delta, fit.weights
    start = random_starts(problem, count, seed)
    squares = minimise(problem, start, delta=np.inf, weights=weights, max_steps=60)
    ends = minimise(problem, squares.theta, delta=10 * delta, weights=weights, max_steps=30).theta
    done = minimise(problem, ends, delta=delta, weights=weights, max_steps=200)
    best = int(np.nanargmin(done.value))

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        residual, gradient, _ = problem.residuals(theta[None])
        psi = np.clip(residual[0], -delta, delta)
        return float(weights @ (psi * (residual[0] - psi / 2))), gradient[0] @ (weights * psi)

    scale = max(float(done.value[best]), 1e-300)
    bounds = list(zip(problem.lower, problem.upper, strict=True))
    polished = minimize(
        lambda t: tuple(v / scale for v in objective(t)), done.theta[best], jac=True, method="L-BFGS-B", bounds=bounds,
        options={"ftol": 1e-16, "gtol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return min(float(done.value[best]), float(polished.fun) * scale)


def flagged(fit: Fit) -> bool:
    """Whether the fit itself says not to trust the optimum."""
    return fit.status != "converged" or fit.condition > 1e8


def run_kind(kind: Kind, sets: int) -> dict:
    """Counts over data sets of one kind; `bad` is neither within 1e-9 of the reference nor flagged."""
    rows, started = [], 0.0
    for seed in range(sets):
        table = kind.table(np.random.default_rng([seed, KINDS.index(kind)]))
        begin = time.perf_counter()
        result = fit(type(kind.law), table, objective=Huber(1e-3))
        started += time.perf_counter() - begin
        best = reference(result)
        gap = (result.value - best) / max(best, 1e-20)
        rows.append((gap <= SAME, result.converged, flagged(result), gap))
    reached, converged, flags, gaps = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "kind": kind.name, "reached": reached.sum(), "converged": converged.sum(), "flagged": flags.sum(),
        "bad": (~reached & ~flags).sum(), "worst gap": gaps.max(), "ms": 1e3 * started / sets,
    }  # fmt: skip
