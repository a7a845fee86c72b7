"""What the runs of a study know of one another's curves: a law of whole curves with deviations of each run.

ln loss of a row = ln of the law at its size, step and schedule, plus what the law misses in all runs alike, plus the
run's own deviation, plus noise of the evaluation. The shared misfit (Kennedy and O'Hagan 2001) is a line between knots
along ln step, and evaluations at the end of a run, which are on other windows and after a cooldown, have an offset and
a line of their own. Deviations of one trunk are a Gaussian process along ln step that forgets at a length
(Ornstein-Uhlenbeck): a level at which a run stays for long, and which differs between seeds and sizes. How large all
these are is what is likeliest over all runs; the coordinates of the law and the misfit follow by generalised least
squares, and a forecast is conditional on the rows that a run has (universal kriging).

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
from isoflop.scaling.laws.curves.sums import Array, CurveRows, join
from isoflop.scaling.laws.special_functions import stdtrit
from isoflop.scaling.prediction.curves.deviation import DEFAULT, Deviation, Places, Trunks, in_order
from isoflop.scaling.prediction.curves.likelihood import Likelihood
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import without_repeats

STARTS = 6
SLOPE = Prior(0.0, 0.1)  # of a coordinate in ln N
HUBER = 0.01  # of the fit that everything is linearised at
OFFSET_SD = 0.05  # of the offset of evaluations at the end, before any run has one
STEPS = 12  # of Gauss and Newton at most, of the generalised least squares
DAMPINGS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of a step (Levenberg), the first that lowers the objective
ENOUGH = 1e-3  # of twice the log-likelihood
ROUNDING = 1e-9  # equivalent: relative, of the same sum of squares found in two ways
FEW = 4  # trunks: with fewer the deviations are those of DEFAULT
APART = np.log(2.0)  # of its knots
ALONE = 3.0  # degrees of freedom of a run without siblings


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
    """The runs of one trunk with their rows (n,) as the law takes them: `parts` of each run, ln loss and places."""

    trunk: str
    runs: tuple[CurveRun, ...]
    parts: tuple[dict[str, Array], ...]
    log_loss: Array
    places: Places


@dataclass(frozen=True)
class CurveModel:
    """The runs of a study, the law fitted to them, and how they deviate from it; made by `curve_model`.

    `knots` (K,) are the ln steps between which the shared misfit is a line; without any there is none. Models of one
    fit that differ by a run share in `known` what they find of the other trunks.
    """

    fit: CurveFit
    runs: tuple[CurveRun, ...]
    deviation: Deviation
    knots: Array = field(default_factory=lambda: np.zeros(0))
    known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _pulls(self) -> list[Prior | None]:
        """What is known of each coordinate of the law (Q,)."""
        problem = self.fit.problem
        return [problem.priors.get(name) for name in problem.names]

    @cached_property
    def _centre(self) -> Array:
        """What theta is pulled to, (Q + 1 + 2 K,): coordinates, the offset of ends, the misfit of rows and of ends."""
        return np.array([p.centre if p else 0.0 for p in self._pulls] + [0.0] * (1 + 2 * len(self.knots)))

    def _precision(self, deviation: Deviation) -> Array:
        """How strongly, (Q + 1 + 2 K,) squared."""
        own = [1 / p.sd**2 if p else 0.0 for p in self._pulls] + [1 / OFFSET_SD**2]
        found = np.diag(own + [0.0] * (2 * len(self.knots)))
        if len(self.knots):
            found[len(own) :, len(own) :] = np.kron(np.eye(2), np.linalg.inv(deviation.misfit(self.knots)))
        return found

    def _parts(self, runs: Sequence[CurveRun]) -> tuple[dict[str, Array], ...]:
        return tuple(self.fit.compiled(run) for run in runs)

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
            parts, log_loss = self._parts(runs), np.log(np.concatenate([run.loss for run in runs]))
            self.known[key] = Block(trunk, runs, parts, log_loss, self._places(runs, self._join(runs, parts)))
        return self.known[key]

    def _places(self, runs: Sequence[CurveRun], rows: CurveRows) -> Places:
        """Where the rows of runs lie, by the law as it was first fitted."""
        problem, theta = self.fit.problem, self.fit.theta[None]
        loss, slopes = problem.evaluate(theta, rows)
        alpha = problem.coordinates(theta, rows.z)[0, problem.form.coordinates().index("alpha")]
        at = np.log(np.concatenate([run.steps for run in runs]) + 1.0)
        ends = np.concatenate([_ends(run) for run in runs])
        return Places(at, ends, alpha * slopes[0, problem.names.index("log_A")] / loss[0])

    @cached_property
    def _every_row(self) -> tuple[CurveRows, Places, Array]:
        """The rows (n,) of all blocks one after another, where they lie, and what is linear in theta there."""
        blocks = self._blocks
        rows = self._join([run for b in blocks for run in b.runs], [part for b in blocks for part in b.parts])
        every = (np.concatenate([getattr(b.places, name) for b in blocks]) for name in ("at", "ends", "slope"))
        places = Places(*every)
        return rows, places, self._linear(places)

    @cached_property
    def _log_loss(self) -> Array:
        """ln loss (n,) of the same rows."""
        return np.concatenate([b.log_loss for b in self._blocks])

    @cached_property
    def _trunks(self) -> Trunks:
        return Trunks([len(b.log_loss) for b in self._blocks])

    def _design(self, theta: Array, rows: CurveRows, linear: Array) -> tuple[Array, Array]:
        """ln loss of the law with the offset of ends and the shared misfit, (n,), and its derivatives in theta."""
        q = len(self.fit.theta)
        loss, slopes = self.fit.problem.evaluate(theta[None, :q], rows)
        return np.log(loss[0]) + linear @ theta[q:], np.column_stack([(slopes[0] / loss[0]).T, linear])

    def _linear(self, places: Places) -> Array:
        """The derivatives (n, 1 + 2 K) in the offset of ends and the shared misfit, which are the same at any theta."""
        hats, ends = self._hats(places.at), places.ends.astype(float)
        return np.column_stack([ends, hats, hats * ends[:, None]])

    def _hats(self, at: Array) -> Array:
        """What each knot counts at ln steps (n,): (n, K), as a line between two of them."""
        if not len(self.knots):
            return np.zeros((len(at), 0))
        return np.stack([np.interp(at, self.knots, one) for one in np.eye(len(self.knots))], axis=1)

    def columns(self, theta: Array) -> Array:
        """The derivatives in theta of the rows of all blocks, and last what it leaves of their ln loss, (n, P + 1)."""
        rows, _, linear = self._every_row
        mean, design = self._design(theta, rows, linear)
        return np.column_stack([design, self._log_loss - mean])

    def _factor(self, block: Block) -> Array:
        """The Cholesky factor of a trunk's covariance."""
        key = (block, self.deviation)
        if key not in self.known:
            self.known[key] = np.linalg.cholesky(self.deviation.covariance(block.places))
        return self.known[key]

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        """Theta as `_centre` has it and its covariance, by generalised least squares."""
        centre, precision = self._centre, self._precision(self.deviation)
        linear = np.zeros(len(centre) - len(self.fit.theta))
        theta = np.append(self.fit.theta, linear)
        lower = np.append(self.fit.problem.lower, linear - 1.0)
        upper = np.append(self.fit.problem.upper, linear + 1.0)
        own = [self._factor(block) for block in self._blocks]
        factors = [np.stack([own[i] for i in which]) for which, _ in self._trunks.alike]
        value, gram, slope = self._objective(theta, factors, centre, precision)
        for _ in range(STEPS):
            free = ~(((theta <= lower) & (slope < 0)) | ((theta >= upper) & (slope > 0)))
            for damping in DAMPINGS:
                move = np.zeros_like(theta)
                damped = gram[np.ix_(free, free)] + damping * np.diag(np.diag(gram)[free])
                move[free] = np.linalg.lstsq(damped, slope[free], rcond=1e-12)[0]
                tried = np.clip(theta + move, lower, upper)
                if self._is_beyond(tried, value):
                    continue
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
        slope = precision @ (centre - theta)
        grams, slopes, squares = self._trunks.products(factors, self.columns(theta))
        value = in_order(float((centre - theta) @ slope), squares)
        return (float(value) if np.isfinite(value) else np.inf), in_order(precision, grams), in_order(slope, slopes)

    def _is_beyond(self, theta: Array, value: float) -> bool:
        """Whether one trunk alone makes the objective larger than `value`, as after most steps damped too little."""
        first = self._blocks[0]
        rows, linear = self._first
        white = np.linalg.solve(self._factor(first), first.log_loss - self._design(theta, rows, linear)[0])
        return bool(white @ white > value * (1 + ROUNDING))

    @cached_property
    def _first(self) -> tuple[CurveRows, Array]:
        """The rows (n,) of the first trunk, and what is linear in theta there."""
        first = self._blocks[0]
        return self._join(first.runs, first.parts), self._linear(first.places)

    @property
    def theta(self) -> Array:
        """Coordinates of the law (Q,), by generalised least squares."""
        return self._solved[0][: len(self.fit.theta)]

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
        rates = run.rates if rates is None else rates
        requested = replace(run, steps=steps, loss=np.ones(len(steps)), rates=rates, ends=ends)
        mean, design, places = self._at(requested)
        theta, covariance = self._solved
        variance = np.diag(self.deviation.cross(places, places))
        trunk = run.trunk_id or run.run_id
        for own in self._blocks:
            if own.trunk == trunk:
                cross = self.deviation.cross(own.places, places)
                weights = np.linalg.solve(self.deviation.covariance(own.places), cross)
                own_mean, own_design = self._design(theta, self._join(own.runs, own.parts), self._linear(own.places))
                mean = mean + weights.T @ (own.log_loss - own_mean)
                design = design - weights.T @ own_design
                variance = variance - (cross * weights).sum(axis=0)
        curve = np.maximum(variance, 0.0) + np.einsum("np,pq,nq->n", design, covariance, design)
        noise = self.deviation.noise(places)
        return Forecast(mean, np.sqrt(curve + noise), np.sqrt(curve), self.freedom)

    def joint(self, *runs: CurveRun) -> tuple[Array, Array]:
        """The forecast of ln loss at every row of a trunk that the model lacks: mean (n,) and covariance (n, n)."""
        mean, design, places = self._at(*runs)
        return mean, self.deviation.covariance(places) + design @ self._solved[1] @ design.T

    def planned(self, *runs: CurveRun) -> tuple[Array, Array]:
        """How rows of a trunk that the model lacks depend on the coordinates that `precision` is of: the derivatives
        (n, P) of their ln loss; and the covariance (n, n) of their deviations and noise."""
        _, design, places = self._at(*runs)
        return design, self.deviation.covariance(places)

    @property
    def precision(self) -> Array:
        """What is known of the coordinates of the law, the offset of ends and the misfit before any row, (P, P)."""
        return self._precision(self.deviation)

    def scatter(self, *runs: CurveRun) -> tuple[Array, Array, Array]:
        """What rows of a trunk that the model lacks would be drawn from, were the law certain: mean (n,) and covariance
        (n, n) of ln loss, and the variance (n,) of their evaluation, which the covariance holds too."""
        mean, _, places = self._at(*runs)
        return mean, self.deviation.covariance(places), self.deviation.noise(places)

    def _at(self, *runs: CurveRun) -> tuple[Array, Array, Places]:
        rows = self._join(runs, self._parts(runs))
        places = self._places(runs, rows)
        return *self._design(self._solved[0], rows, self._linear(places)), places


def curve_model(runs: Sequence[CurveRun], law: str = "multi_power", *, n_starts: int = STARTS) -> CurveModel:
    """Fit a law of whole curves to the runs of a study, and how far and for how long a run deviates from it.

    Rows that runs of one trunk share count once. Raises ValueError where no run has rows.
    """
    kept = tuple(run for run in without_repeats(runs) if len(run.loss))
    first = fit_curves(kept, law, delta=HUBER, n_starts=n_starts, noise=0.01, slopes=SLOPE)
    model = CurveModel(first, kept, DEFAULT)
    if len(model._blocks) < FEW:
        return model
    model = replace(model, knots=knots_of(kept))
    for _ in range(2):
        model = replace(model, deviation=_likeliest(model))
    return model


def _likeliest(model: CurveModel) -> Deviation:
    """The deviations of greatest restricted likelihood at the coordinates of the model's generalised least squares."""
    theta, every = model._solved[0], model._every_row[1]
    columns, misfit = model.columns(theta), 2 * len(model.knots)
    likelihood = Likelihood(model._trunks, every, columns, model._centre - theta, model._precision, misfit)
    likeliest = likelihood.likeliest(model.deviation)
    return likeliest if every.ends.any() else replace(likeliest, end=likeliest.row)


def knots_of(runs: Sequence[CurveRun]) -> Array:
    """Knots (K,) along ln step for what all runs deviate by together: from their first row to their longest plan."""
    first = min(int(run.steps[0]) for run in runs) + 1
    last = max(run.horizon for run in runs)
    return np.arange(np.floor(np.log(first) / APART), np.ceil(np.log(last) / APART) + 1) * APART


def _ends(run: CurveRun) -> Array:
    return np.zeros(len(run.loss), dtype=bool) if run.ends is None else run.ends
