"""Fisher information of runs about a goal, under laws linearised at plausible parameter values.

A `Scenario` is one form at several plausible parameter values. The variance of the goal is g' V g, with g the goal's
gradient and V the inverse of the Fisher information of all runs, prior included. A run with gradient j and variance
s^2 lowers it by (g' V j)^2 / (s^2 + j' V j).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from isoflop.scaling.design.candidates import DesignError
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.uncertainty import bootstrap
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Array, Law

Goal = Literal["loss", "n_opt", "multiplier"]
DRAWS = 11  # equivalent: of plausible values; one more or less says the same
DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Noise:
    """Noise of ln loss of one run: standard deviation `sigma`, and model discrepancy `tau` per ln(target / compute).

    `shared` is the correlation of both between the runs of one trunk.
    """

    sigma: float
    tau: float
    target: float
    shared: float = 0.0

    def variance(self, flops: Array) -> Array:
        """Variance of ln loss of runs of these FLOPs, (n,)."""
        return self.sigma**2 + (self.tau * np.maximum(np.log(self.target / flops), 0.0)) ** 2


@dataclass(frozen=True)
class Scenario:
    """A form with P free parameters, linearised at B plausible parameter values `theta` (B, P).

    `goal` (B, P) is the gradient of the goal; `known` and `offered` (B, n, P) are the gradients of ln loss at the known
    runs and at the candidates; `prior` (P,) is the precision of the prior; `weight` that of the form among scenarios.
    """

    weight: float
    goal: Array
    known: Array
    offered: Array
    prior: Array
    problem: FitProblem
    theta: Array

    def inverse(
        self, variance_known: Array, rows: Array | None = None, variance: Array | None = None,
        trunk: Array | None = None, shared: float = 0.0,
    ) -> Array:  # fmt: skip
        """Inverse Fisher information (B, P, P) of the prior, the known runs, and further gradients `rows` (B, n, P).

        Runs, known ones first, of one `trunk` have the correlation `shared`.
        """
        scaled = self._scaled(variance_known, rows, variance)
        return np.linalg.inv(_fisher_information(scaled, trunk, shared) + np.diag(self.prior))

    def covariance(self, variance_known: Array, rows: Array, variance: Array, trunk: Array, shared: float) -> Array:
        """The same of a fit that takes runs for independent, as fits do: no less than the inverse information."""
        scaled = self._scaled(variance_known, rows, variance)
        whole, sums = scaled.swapaxes(1, 2) @ scaled, trunk_sums(scaled, trunk, np.unique(trunk))
        taken = whole + np.diag(self.prior)
        inverse = np.linalg.inv(taken)
        return inverse @ (taken + shared * (sums.swapaxes(1, 2) @ sums - whole)) @ inverse

    def _scaled(self, variance_known: Array, rows: Array | None, variance: Array | None) -> Array:
        """The gradients of the known runs and of further ones, over their standard deviations."""
        known = self.known / np.sqrt(variance_known)[:, None]
        if rows is None or variance is None:
            return known
        return np.concatenate([known, rows / np.sqrt(variance)[:, None]], axis=1)

    def spread(self, inverse: Array) -> Array:
        """Variance of the goal, (B,), under an inverse Fisher information (B, P, P)."""
        return np.einsum("bp,bpq,bq->b", self.goal, inverse, self.goal)


def _fisher_information(scaled: Array, trunk: Array | None, shared: float) -> Array:
    """Of gradients (B, n, P) of unit variance, (B, P, P); in closed form, since each trunk has one correlation."""
    whole = scaled.swapaxes(1, 2) @ scaled
    if trunk is None:
        return whole
    numbers, count = np.unique(trunk, return_counts=True)
    sums = trunk_sums(scaled, trunk, numbers)
    return (whole - (sums * within_trunk(count, shared)[:, None]).swapaxes(1, 2) @ sums) / (1 - shared)


def trunk_sums(rows: Array, trunk: Array, numbers: Array) -> Array:
    """The sums (B, T, P) of rows (B, n, P) over each of the trunks of these numbers (T,)."""
    return (numbers[:, None] == trunk).astype(float) @ rows


def within_trunk(count: Array, shared: float) -> Array:
    """What the sum over runs of unit variance counts in the best guess at another of their trunk, by their number."""
    return shared / (1 - shared + count * shared)


def scenario_of_fit(fitted: Fit, weight: float, offered: pd.DataFrame, goal: Goal, target: float) -> Scenario:
    """The scenario of a fit: its parameters and those of DRAWS bootstrap refits."""
    laws = [fitted.law, *bootstrap(fitted, DRAWS).laws]
    theta = np.array([fitted.problem.coordinates(law) for law in laws])
    theta = np.clip(theta, fitted.problem.lower, fitted.problem.upper)
    return _scenario(fitted.problem, theta, weight, fitted.points.frame, offered, goal, target, fitted.cost)


def scenario_of_law(law: Law, offered: pd.DataFrame, goal: Goal, target: float, cost: Cost, seed: int = 0) -> Scenario:
    """The scenario of a published law and DRAWS random perturbations of about 10%, without any run."""
    columns = {"N": offered["n_params"].to_numpy(float), "D": offered["tokens"].to_numpy(float)}
    problem = FitProblem(type(law), columns, np.asarray(law(**columns)), law.defaults())
    theta = np.repeat(problem.coordinates(law)[None], DRAWS + 1, axis=0)
    off = np.random.default_rng(seed).normal(0.0, 0.1, theta[1:].shape) * np.maximum(np.abs(theta[1:]), 0.3) / 2
    theta[1:] += off  # equivalent: errors either way
    empty = offered.iloc[:0]
    return _scenario(problem, theta, 1.0, empty, offered, goal, target, cost)


def _scenario(
    problem: FitProblem, theta: Array, weight: float, known: pd.DataFrame, offered: pd.DataFrame, goal: Goal,
    target: float, cost: Cost,
) -> Scenario:  # fmt: skip
    quantity = _goal(goal, target, cost)
    with np.errstate(all="ignore"):
        gradient = goal_gradient(problem, theta, quantity)
        if goal == "multiplier":
            gradient /= np.array([_slope(law, target, cost) for law in problem.laws(theta)])[:, None]
    finite = np.isfinite(gradient).all(axis=1)
    if not finite.any():
        raise DesignError(
            f"the goal ({goal}) has no value at {target:.3g} FLOPs under the law {problem.form.name} of these runs: "
            "choose a target nearer to them, or another --goal"
        )
    theta, gradient = theta[finite], gradient[finite]
    prior = np.array([1.0 / problem.form.prior_sd.get(p, 1.0) ** 2 for p in problem.free])
    return Scenario(
        weight, gradient, _gradient(problem, theta, known), _gradient(problem, theta, offered), prior, problem, theta
    )


def _goal(goal: Goal, target: float, cost: Cost) -> Callable[[Law], float]:
    """The goal as a function of a law: ln of the lowest loss, or of the optimal size, at the target."""
    if goal == "n_opt":
        return lambda law: float(np.log(law.optimal(target, cost).N))
    return lambda law: float(np.log(law.optimal(target, cost).loss))


def _slope(law: Law, target: float, cost: Cost) -> float:
    """-d ln loss / d ln C on the frontier at the target: the factor from an error of ln loss to one of ln compute."""
    loss = np.log(law.optimal(target * np.array([1 / 1.01, 1.01]), cost).loss)
    return float(loss[0] - loss[1]) / (2 * np.log(1.01))


def goal_gradient(problem: FitProblem, theta: Array, quantity: Callable[[Law], float]) -> Array:
    """Central differences of a quantity of the law, (B, P); a floor is moved by no more than the losses allow."""
    count, box = theta.shape[1], problem.form.box
    floors = [name in problem.form.amplitudes and not box[name].log for name in problem.free]
    step = DIFFERENCE * np.where(floors, min(1.0, float(problem.loss.min())), 1.0)
    shift = np.diag(step)
    around = np.concatenate([theta[:, None] + shift, theta[:, None] - shift], axis=1)
    around = around.reshape(-1, count)  # equivalent: any negative number
    values = np.array([quantity(law) for law in problem.laws(around)]).reshape(len(theta), 2, count)
    return (values[:, 0] - values[:, 1]) / (2 * step)


def _gradient(problem: FitProblem, theta: Array, frame: pd.DataFrame) -> Array:
    if frame.empty:
        return np.zeros((len(theta), 0, theta.shape[1]))
    columns = {"N": frame["n_params"].to_numpy(float), "D": frame["tokens"].to_numpy(float)}
    moved = FitProblem(problem.form, columns, np.ones(len(frame)), problem.pinned, problem.tied)
    moved.__dict__["units"] = problem.units
    return moved.residuals(theta)[1].swapaxes(1, 2)


def standard_deviation(scenarios: Sequence[Scenario], inverses: Sequence[Array]) -> float:
    """Standard deviation of the goal at the fitted parameters, its variance averaged over scenarios by weight."""
    pairs = zip(scenarios, inverses, strict=True)
    values = [s.weight * float(s.spread(v)[0]) for s, v in pairs]
    return float(np.sqrt(sum(values) / sum(s.weight for s in scenarios)))
