"""What the runs of a study know of one another's curves: a law of whole curves with deviations of each run.

ln loss of a row = ln of the law at its size, step and schedule, plus an offset of evaluations at the end of a run
(which are on other windows), plus the run's own deviation, plus noise of the evaluation. Deviations of one trunk are a
Gaussian process along ln step that forgets at a length (Ornstein-Uhlenbeck): a level at which a run stays for long, and
which differs between seeds and sizes. Its parameters are those of greatest likelihood over all runs; those of the law
follow by generalised least squares, and a forecast is conditional on the rows that a run has (universal kriging).

So a young run borrows the shape of its curve from its siblings, and keeps its own level. Alone it borrows the priors of
the law.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from isoflop.scaling.fitting.curve_fit import CurveFit, fit_curves
from isoflop.scaling.laws.curves.curve_law import Prior
from isoflop.scaling.laws.curves.sums import Array, CurveRows, compile_run, join
from isoflop.scaling.laws.special_functions import stdtrit
from isoflop.scaling.prediction.curves.simplex import downhill
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import without_repeats

STARTS = 6
SLOPE = Prior(0.0, 0.1)  # of a coordinate in ln N
HUBER = 0.01  # of the fit that everything is linearised at
LEAST = 1e-5  # a standard deviation of ln loss
OFFSET_SD = 0.05  # of the offset of evaluations at the end, before any run has one
STEPS = 12  # of Gauss and Newton at most, of the generalised least squares
DAMPINGS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of a step (Levenberg), the first that lowers the objective
ENOUGH = 1e-3  # of twice the log-likelihood
FEW = 4  # trunks: with fewer the deviations are those of DEFAULT
ALONE = 3.0  # degrees of freedom of a run without siblings


@dataclass(frozen=True)
class Deviation:
    """Standard deviations of ln loss, of a run's deviation (`run`), of a row (`row`) and of a row at a run's end
    (`end`), and the `length` in ln step over which a deviation is forgotten."""

    run: float = 0.01
    length: float = 2.0
    row: float = 0.004
    end: float = 0.004

    def cross(self, one: Array, other: Array) -> Array:
        """Covariance (n, m) of the deviations of rows of one trunk at ln steps (n,) and (m,)."""
        return self.over(np.abs(one[:, None] - other[None]))

    def over(self, apart: Array) -> Array:
        """Covariance of the deviations of rows of one trunk so far `apart` in ln step, of its shape."""
        return self.run**2 * np.exp(-apart / self.length)

    def noise(self, ends: Array) -> Array:
        """Variance (n,) of the evaluation of rows; `ends` (n,) says which are at a run's end."""
        return np.where(ends, self.end, self.row) ** 2


DEFAULT = Deviation()


@dataclass(frozen=True)
class Forecast:
    """ln loss at rows: centre (n,), its standard deviation with and without the noise of a row, degrees of freedom."""

    log_loss: Array
    sd: Array
    sd_curve: Array
    freedom: float

    def interval(self, level: float) -> tuple[Array, Array]:
        """Lower and upper ends (n,) of the loss that is going to be measured."""
        half = stdtrit(self.freedom, 0.5 + level / 2) * self.sd
        return np.exp(self.log_loss - half), np.exp(self.log_loss + half)

    @property
    def loss(self) -> Array:
        """The median (n,) of the loss."""
        return np.exp(self.log_loss)


@dataclass(frozen=True, eq=False)
class Block:
    """The runs of one trunk with their rows (n,) as the law takes them: `parts` of each run, ln loss, ln step, and
    which are evaluations at an end."""

    trunk: str
    runs: tuple[CurveRun, ...]
    parts: tuple[dict[str, Array], ...]
    log_loss: Array
    at: Array
    ends: Array

    def covariance(self, deviation: Deviation) -> Array:
        """Covariance (n, n) of the rows."""
        return deviation.over(self._apart) + np.diag(deviation.noise(self.ends))

    @cached_property
    def _apart(self) -> Array:
        """How far apart the rows are in ln step (n, n)."""
        return np.abs(self.at[:, None] - self.at[None])


@dataclass(frozen=True)
class CurveModel:
    """The runs of a study, the law fitted to them, and how they deviate from it; made by `curve_model`.

    Models of one fit that differ by a run share in `known` what they find of the other trunks.
    """

    fit: CurveFit
    runs: tuple[CurveRun, ...]
    deviation: Deviation
    known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _prior(self) -> tuple[Array, Array]:
        """Centre and precision (Q + 1,) of the coordinates and of the offset."""
        problem = self.fit.problem
        at = [problem.priors.get(name) for name in problem.names]
        centre = np.array([p.centre if p else 0.0 for p in at] + [0.0])
        precision = np.array([1 / p.sd**2 if p else 0.0 for p in at] + [1 / OFFSET_SD**2])
        return centre, precision

    def _parts(self, runs: Sequence[CurveRun]) -> tuple[dict[str, Array], ...]:
        return tuple(compile_run(run.rates, run.steps, first=0, units=self.fit.units) for run in runs)

    def _join(self, runs: Sequence[CurveRun], parts: Sequence[dict[str, Array]]) -> CurveRows:
        return join(parts, [np.log(run.n_params) - self.fit.centre for run in runs], self.fit.units)

    @cached_property
    def _blocks(self) -> list[Block]:
        by: dict[str, list[CurveRun]] = {}
        for run in self.runs:
            if len(run.loss):
                by.setdefault(run.trunk_id or run.run_id, []).append(run)
        return [self._block(name, tuple(runs)) for name, runs in by.items()]

    def _block(self, trunk: str, runs: tuple[CurveRun, ...]) -> Block:
        key = tuple(map(id, runs))  # which a block keeps
        if key not in self.known:
            self.known[key] = Block(
                trunk, runs, self._parts(runs), np.log(np.concatenate([r.loss for r in runs])),
                np.log(np.concatenate([r.steps for r in runs]) + 1.0), np.concatenate([_ends(r) for r in runs]),
            )  # fmt: skip
        return self.known[key]

    @cached_property
    def _every_row(self) -> tuple[CurveRows, Array, Array]:
        """The rows of all blocks one after another, which are ends, and where each block but the last one ends."""
        blocks = self._blocks
        rows = self._join([run for b in blocks for run in b.runs], [part for b in blocks for part in b.parts])
        return rows, np.concatenate([b.ends for b in blocks]), np.cumsum([len(b.at) for b in blocks])[:-1]

    def _design(self, theta: Array, rows: CurveRows, ends: Array) -> tuple[Array, Array]:
        """ln loss of the law with the offset theta[-1] of ends, (n,), and its derivatives (n, Q + 1)."""
        loss, slopes = self.fit.problem.evaluate(theta[None, :-1], rows)
        design = np.column_stack([(slopes[0] / loss[0]).T, ends.astype(float)])
        return np.log(loss[0]) + theta[-1] * ends, design

    def designs(self, theta: Array) -> list[tuple[Array, Array]]:
        """The same of the rows of each trunk."""
        rows, ends, cuts = self._every_row
        mean, design = self._design(theta, rows, ends)
        return list(zip(np.split(mean, cuts), np.split(design, cuts), strict=True))

    def _factor(self, block: Block) -> Array:
        """The Cholesky factor of a trunk's covariance."""
        key = (block, self.deviation)
        if key not in self.known:
            self.known[key] = np.linalg.cholesky(block.covariance(self.deviation))
        return self.known[key]

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        """Coordinates with the offset (Q + 1,) and their covariance, by generalised least squares."""
        centre, precision = self._prior
        theta = np.append(self.fit.theta, 0.0)
        lower, upper = (np.append(v, s) for v, s in ((self.fit.problem.lower, -1.0), (self.fit.problem.upper, 1.0)))
        factors = [self._factor(block) for block in self._blocks]
        value, gram, slope = self._objective(theta, factors, centre, precision)
        for _ in range(STEPS):
            free = ~(((theta <= lower) & (slope < 0)) | ((theta >= upper) & (slope > 0)))
            for damping in DAMPINGS:
                move = np.zeros_like(theta)
                damped = gram[np.ix_(free, free)] + damping * np.diag(np.diag(gram)[free])
                move[free] = np.linalg.lstsq(damped, slope[free], rcond=1e-12)[0]
                tried = np.clip(theta + move, lower, upper)
                found = self._objective(tried, factors, centre, precision)
                if found[0] < value:
                    break
            else:
                break
            near = value - found[0] < ENOUGH
            theta, (value, gram, slope) = tried, found
            if near:
                break
        free = (theta > lower) & (theta < upper)
        covariance = np.zeros_like(gram)
        covariance[np.ix_(free, free)] = np.linalg.pinv(gram[np.ix_(free, free)], rcond=1e-12, hermitian=True)
        return theta, covariance

    def _objective(
        self, theta: Array, factors: list[Array], centre: Array, precision: Array
    ) -> tuple[float, Array, Array]:
        gram, slope = np.diag(precision), precision * (centre - theta)
        value = float(precision @ (centre - theta) ** 2)
        for block, factor, (mean, design) in zip(self._blocks, factors, self.designs(theta), strict=True):
            white = np.linalg.solve(factor, np.column_stack([design, block.log_loss - mean]))
            gram = gram + white[:, :-1].T @ white[:, :-1]
            slope = slope + white[:, :-1].T @ white[:, -1]
            value += float(white[:, -1] @ white[:, -1])
        return (value if np.isfinite(value) else np.inf), gram, slope

    @property
    def theta(self) -> Array:
        """Coordinates of the law (Q,), by generalised least squares."""
        return self._solved[0][:-1]

    @property
    def freedom(self) -> float:
        """Degrees of freedom of an interval: trunks less one."""
        return max(len(self._blocks) - 1.0, ALONE)

    def with_run(self, run: CurveRun) -> "CurveModel":
        """The same law and deviations, with one run more (in place of the one of its name)."""
        kept = tuple(other for other in self.runs if other.run_id != run.run_id)
        return replace(self, runs=without_repeats((*kept, run)))

    def forecast(
        self, run: CurveRun, steps: Array, *, ends: Array | None = None, rates: Array | None = None
    ) -> Forecast:
        """Forecast a run of the model at `steps` (n,), indices of last updates, under `rates` (None: its own).

        `ends` (n,) says which are evaluations at the end of the run.
        """
        steps = np.asarray(steps, dtype=int)
        ends = np.zeros(len(steps), dtype=bool) if ends is None else np.asarray(ends, dtype=bool)
        asked = [replace(run, steps=steps, loss=np.ones(len(steps)), rates=run.rates if rates is None else rates)]
        rows = self._join(asked, self._parts(asked))
        theta, covariance = self._solved
        mean, design = self._design(theta, rows, ends)
        at = np.log(steps + 1.0)
        variance = np.full(len(steps), self.deviation.run**2)
        trunk = run.trunk_id or run.run_id
        for own in self._blocks:
            if own.trunk == trunk:
                cross = self.deviation.cross(own.at, at)
                weights = np.linalg.solve(own.covariance(self.deviation), cross)
                own_mean, own_design = self._design(theta, self._join(own.runs, own.parts), own.ends)
                mean = mean + weights.T @ (own.log_loss - own_mean)
                design = design - weights.T @ own_design
                variance = variance - (cross * weights).sum(axis=0)
        curve = np.maximum(variance, 0.0) + np.einsum("np,pq,nq->n", design, covariance, design)
        noise = self.deviation.noise(ends)
        return Forecast(mean, np.sqrt(curve + noise), np.sqrt(curve), self.freedom)

    def joint(self, *runs: CurveRun) -> tuple[Array, Array]:
        """The forecast of ln loss at every row of a trunk that the model lacks: mean (n,) and covariance (n, n)."""
        theta, covariance = self._solved
        ends = np.concatenate([_ends(run) for run in runs])
        at = np.log(np.concatenate([run.steps for run in runs]) + 1.0)
        mean, design = self._design(theta, self._join(runs, self._parts(runs)), ends)
        own = self.deviation.cross(at, at) + np.diag(self.deviation.noise(ends))
        return mean, own + design @ covariance @ design.T


def curve_model(runs: Sequence[CurveRun], law: str = "multi_power", *, n_starts: int = STARTS) -> CurveModel:
    """Fit a law of whole curves to the runs of a study, and how far and for how long a run deviates from it.

    Rows that runs of one trunk share count once. Raises ValueError where no run has rows.
    """
    kept = tuple(run for run in without_repeats(runs) if len(run.loss))
    first = fit_curves(kept, law, delta=HUBER, n_starts=n_starts, noise=0.01, slopes=SLOPE)
    model = CurveModel(first, kept, DEFAULT)
    if len(model._blocks) < FEW:
        return model
    for _ in range(2):
        model = replace(model, deviation=_likeliest(model))
    return model


def _likeliest(model: CurveModel) -> Deviation:
    """The deviations of greatest restricted likelihood at the coordinates of the model's generalised least squares."""
    theta = model._solved[0]
    designed = [
        (np.column_stack([design, block.log_loss - mean]), block)
        for block, (mean, design) in zip(model._blocks, model.designs(theta), strict=True)
    ]
    _, precision = model._prior
    some_end = any(block.ends.any() for _, block in designed)

    def cost(logs: Array) -> float:
        deviation = _deviation(logs)
        gram, slope, total = np.diag(precision + 1e-9), np.zeros(len(precision)), 0.0
        for columns, block in designed:
            try:
                factor = np.linalg.cholesky(block.covariance(deviation))
            except np.linalg.LinAlgError:
                return 1e12
            white = np.linalg.solve(factor, columns)
            total += white[:, -1] @ white[:, -1] + 2 * np.log(np.diag(factor)).sum()
            gram = gram + white[:, :-1].T @ white[:, :-1]
            slope = slope + white[:, :-1].T @ white[:, -1]
        sign, log = np.linalg.slogdet(gram)
        weak = ((logs - _logs(DEFAULT)) ** 2).sum() / 9  # sd 3 of a logarithm
        return float(total - slope @ np.linalg.solve(gram, slope) + (log if sign > 0 else 1e12) + weak)

    likeliest = _deviation(downhill(cost, _logs(model.deviation), most=250, near=0.02, close=0.02))
    return likeliest if some_end else replace(likeliest, end=likeliest.row)


def _logs(deviation: Deviation) -> Array:
    return np.log([deviation.run, deviation.length, deviation.row, deviation.end])


def _deviation(logs: Array) -> Deviation:
    run, length, row, end = np.exp(np.clip(logs, np.log(LEAST), 5.0))
    return Deviation(float(run), float(np.clip(length, 0.05, 100.0)), float(row), float(end))


def _ends(run: CurveRun) -> Array:
    return np.zeros(len(run.loss), dtype=bool) if run.ends is None else run.ends
