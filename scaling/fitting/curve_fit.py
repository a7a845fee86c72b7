"""Fit a law of whole curves to runs: `fit_curves`, `CurveFit`.

The objective is a sum of Huber's function of ln predicted - ln measured loss over the rows of all runs, minimised from
many starts by the solver of every other fit here. A start has its shapes from a grid and its amplitudes by least
squares. Intervals are by the jackknife over runs: rows of one run are not independent.

Over several sizes one law is tied through N: a coordinate c of the law becomes c + s ln(N / N_ref), and its floor
L0 = E + K (N / N_ref)^-kappa.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from isoflop.scaling.fitting.objective import Solution, Task
from isoflop.scaling.fitting.search.search import go_on
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.laws.curves.curve_law import CURVE_LAWS, CoolingLaw, CurveLaw, Prior
from isoflop.scaling.laws.curves.sums import CurveRows, Units, compile_run, join
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import stdtrit
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.schedules.curve_run import CurveRun

DELTA = 1e-3  # of Huber's function of ln loss, as in the papers
NOISE = 3e-3  # of ln loss: a prior pulls as a row of this noise does; rows of a curve err together, by about so much
STARTS = 12  # best points of the grid that a fit begins from
STAGES = (30.0, 10.0, 3.0)  # times delta
ROUGH, ENOUGH = 1e-7, 1e-9
KEPT = 4  # ends of the first search, on few rows, that go on
THIN = 40  # rows of a run in that search
TIED = ("log_A", "alpha", "log_B")  # coordinates that move with the size by default, beside the floor
SLOPE = Prior(0.0, 0.3)  # of a coordinate in ln N
KAPPAS = (0.1, 0.25, 0.5)
FLOOR_SIZES = 4  # from so many sizes on the floor E of a tied L0 is free
LARGE = 1e3


@dataclass(frozen=True)
class CurveProblem:
    """Residuals of a form on the rows of curves, in coordinates theta (B, Q); see `Problem` of the solver.

    `tied` names coordinates that move with ln N; None is a law of one size. `priors` pull coordinates, by name, as rows
    that are as good as a loss with noise `noise` (of ln loss).
    """

    form: type[CurveLaw]
    rows: CurveRows
    log_loss: Array
    tied: tuple[str, ...] | None = None
    floor: bool = True  # whether E is free in a tied fit
    priors: Mapping[str, Prior] = field(default_factory=dict)
    noise: float = DELTA

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        own = self.form.coordinates()
        if self.tied is None:
            return own
        level = (*(("E",) if self.floor else ()), "log_K", "kappa")
        return (*level, *(n for n in own if n != "L0"), *(f"{n}_N" for n in self.tied))

    @cached_property
    def lower(self) -> Array:
        """Lower bounds (Q,)."""
        return np.array([self._limit(name, 0) for name in self.names])

    @cached_property
    def upper(self) -> Array:
        """Upper bounds (Q,)."""
        return np.array([self._limit(name, 1) for name in self.names])

    def _limit(self, name: str, end: int) -> float:
        if name in self.form.box:
            return (self.form.box[name].lo, self.form.box[name].hi)[end]
        return {"E": (0.0, LARGE), "log_K": (-14.0, 8.0), "kappa": (0.0, 3.0)}.get(name, (-2.0, 2.0))[end]

    @property
    def one_basin(self) -> bool:
        """False: the second derivative is trusted late."""
        return False

    @property
    def log(self) -> bool:
        """True: residuals are differences of ln loss."""
        return True

    @cached_property
    def _pull(self) -> tuple[Array, Array, Array]:
        """Places, centres and standard deviations of the priors."""
        at = [(self.names.index(k), p.centre, p.sd) for k, p in self.priors.items() if k in self.names]
        place = np.array([i for i, _, _ in at], dtype=int)
        return place, np.array([centre for _, centre, _ in at]), np.array([sd for _, _, sd in at])

    def coordinates(self, theta: Array, z: Array) -> Array:
        """Coordinates of the form at sizes z (n,), (B, P, n), or (B, P, 1) of one size."""
        if self.tied is None:
            return theta[:, :, None]
        at = dict(zip(self.names, theta.T[:, :, None], strict=True))
        own = []
        for name in self.form.coordinates():
            if name == "L0":
                own.append(at.get("E", 0.0) + np.exp(at["log_K"] - at["kappa"] * z))
            else:
                own.append(at[name] + (at[f"{name}_N"] if name in self.tied else 0.0) * z)
        return np.stack(np.broadcast_arrays(*own), axis=1)

    def evaluate(self, theta: Array, rows: CurveRows) -> tuple[Array, Array]:
        """Loss (B, n) of rows and its derivatives (B, Q, n)."""
        loss, slopes = self.form.evaluate(self.coordinates(theta, rows.z), rows)
        if self.tied is None:
            return loss, slopes
        at = dict(zip(self.names, theta.T[:, :, None], strict=True))
        own = dict(zip(self.form.coordinates(), np.moveaxis(slopes, 1, 0), strict=True))
        K = np.exp(at["log_K"] - at["kappa"] * rows.z)
        found = own | {"E": own["L0"], "log_K": K, "kappa": -rows.z * K}
        found |= {f"{name}_N": own[name] * rows.z for name in self.tied}
        return loss, np.stack([found[name] for name in self.names], axis=1)

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        """Residuals (B, n + priors) and their gradient (B, Q, n + priors), twice."""
        loss, slopes = self.evaluate(theta, self.rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            residual, slopes = np.log(loss) - self.log_loss, slopes / loss[:, None]
        place, centre, sd = self._pull
        pull = self.noise * (theta[:, place] - centre) / sd
        unit = np.zeros((len(place), len(self.names)))
        unit[np.arange(len(place)), place] = self.noise / sd if len(place) else 0.0
        slopes = np.concatenate([slopes, np.broadcast_to(unit.T, (len(theta), *unit.T.shape))], axis=2)
        return np.concatenate([residual, pull], axis=1), slopes, slopes

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        """Zero (B, P, P): residuals of a curve are so small that the gradients say enough of the second derivative."""
        return np.zeros((*theta.shape, theta.shape[1]))

    def thinned(self, runs: Sequence[CurveRun], parts: Sequence[dict[str, Array]]) -> "CurveProblem":
        """The same problem on some of the rows of each run, of which `parts` are compiled."""
        thin, kept, at = [], [], 0
        for run, part in zip(runs, parts, strict=True):
            count = len(run.loss)
            rows = np.unique(np.round(np.linspace(0, count - 1, min(count, THIN))).astype(int))
            place = np.full(count, -1)
            place[rows] = np.arange(len(rows))
            use = place[part["row"]] >= 0
            terms = {k: v[use] for k, v in part.items() if k not in ("total", "row")}
            thin.append(terms | {"total": part["total"][rows], "row": place[part["row"][use]]})
            kept.append(at + rows)
            at += count
        index = np.concatenate(kept)
        z = [self.rows.z[one[0]] for one in kept]
        return replace(self, rows=join(thin, z, self.rows.units), log_loss=self.log_loss[index])

    def deltas(self, delta: float) -> Array:
        """Huber's delta (n + priors,): none for priors."""
        return np.concatenate([np.full(len(self.log_loss), delta), np.full(len(self._pull[0]), np.inf)])

    def starts(self, count: int) -> Array:
        """The best `count` points (S, Q) of a grid of shapes, with amplitudes by least squares of relative errors."""
        rows, loss = self.rows, np.exp(self.log_loss)
        names = [n for n in self.form.coordinates() if n not in ("L0", "log_A", "log_B")]
        kernel_names = [n for n in names if n != "alpha"]
        kernels = np.array(list(itertools.product(*(self.form.grids[n] for n in kernel_names))))
        alphas = np.array(self.form.grids["alpha"])
        slow = rows.total ** -alphas[:, None]
        columns = [np.ones_like(loss)[None]]
        kappas = KAPPAS if self.tied is not None else (0.0,)
        gains = None
        if issubclass(self.form, CoolingLaw):
            shape = {n: kernels[:, [j]] for j, n in enumerate(kernel_names)}
            gains = -rows.sum(rows.weight * self.form.kernel(shape, rows)[0])
        found = []
        for kappa, (i, alpha), k in itertools.product(kappas, enumerate(alphas), range(len(kernels))):
            level = columns[0][0] if not kappa else np.exp(-kappa * rows.z)
            basis = [level, slow[i]] + ([gains[k]] if gains is not None else [])
            basis += [np.ones_like(loss)] if kappa and self.floor else []
            X = np.stack(basis) / loss
            gram = X @ X.T
            value = np.linalg.solve(gram + 1e-10 * np.trace(gram) * np.eye(len(X)), X @ np.ones_like(loss))
            value = np.maximum(value, 1e-4)
            found.append((float(((value @ X - 1) ** 2).sum()), kappa, alpha, k, value))
        found.sort(key=lambda one: one[0])
        return np.array([self._start(*one[1:], kernels, kernel_names) for one in found[:count]])

    def _start(
        self, kappa: float, alpha: float, k: int, value: Array, kernels: Array, kernel_names: list[str]
    ) -> list[float]:
        at = {"L0": value[0], "log_K": np.log(value[0]), "kappa": kappa, "log_A": np.log(value[1]), "alpha": alpha}
        at |= {"log_B": np.log(value[2]) if kernel_names else 0.0, "E": value[-1]}
        at |= dict(zip(kernel_names, kernels[k], strict=True))
        return [float(at.get(name, 0.0)) for name in self.names]


def _apart(done: Solution) -> list[int]:
    """The best ends that differ."""
    kept: list[int] = []
    for i in np.argsort(done.value, kind="stable"):
        if all(np.abs(done.theta[i] - done.theta[j]).max() > 1e-3 for j in kept):
            kept.append(int(i))
    return kept[:KEPT]


@dataclass(frozen=True)
class CurveFit:
    """A law of whole curves with the runs that it was fitted to.

    `theta` (Q,) are its coordinates, `value` the sum of Huber's function at them (priors apart), `reached` the share of
    the starts that ended there.
    """

    problem: CurveProblem
    theta: Array
    value: float
    delta: float
    runs: tuple[CurveRun, ...]
    centre: float
    reached: float
    converged: bool
    weights: Array
    parts: tuple[dict[str, Array], ...] = field(repr=False)

    @property
    def form(self) -> type[CurveLaw]:
        """The form of the law."""
        return self.problem.form

    @property
    def units(self) -> Units:
        """Units of the coordinates."""
        return self.problem.rows.units

    def parameters(self, n_params: float | None = None, theta: Array | None = None) -> dict[str, float]:
        """The parameters in the units of the paper; of a tied law at a size (None: at the centre of its sizes)."""
        z = np.array([0.0 if n_params is None else np.log(n_params) - self.centre])
        at = self.problem.coordinates((self.theta if theta is None else theta)[None], z)
        return self.form.parameters(at[0, :, 0], self.units)

    def rows(self, rates: Array, steps: Array, n_params: float | None = None) -> CurveRows:
        """The rows of a run of a size at `steps` under a schedule, as the law takes them."""
        z = 0.0 if n_params is None else float(np.log(n_params)) - self.centre
        return join([compile_run(rates, steps, first=0, units=self.units)], [z], self.units)

    def compiled(self, run: CurveRun) -> dict[str, Array]:
        """The rows of a run as the law takes them; those of a run that it was fitted to are kept."""
        for own, part in zip(self.runs, self.parts, strict=True):
            if own is run:
                return part
        return compile_run(run.rates, run.steps, first=0, units=self.units)

    def predict(self, rates: Array, steps: Array, n_params: float | None = None) -> Array:
        """The loss (n,) at `steps`, the indices of last updates, under a schedule's rates (T,)."""
        return self.problem.evaluate(self.theta[None], self.rows(rates, steps, n_params))[0][0]

    def errors(self) -> dict[str, float]:
        """The mean absolute error of the loss of each run fitted."""
        predicted = np.exp(self.problem.residuals(self.theta[None])[0][0, : len(self.problem.log_loss)])
        off = np.abs(predicted - 1) * np.exp(self.problem.log_loss)
        counts = np.cumsum([len(run.loss) for run in self.runs])[:-1]
        return {run.run_id: float(part.mean()) for run, part in zip(self.runs, np.split(off, counts), strict=True)}

    @cached_property
    def refits(self) -> Array:
        """Coordinates (runs, Q) refitted without each run in turn. Raises ValueError for fewer than two runs."""
        if len(self.runs) < 2:
            raise ValueError("one run has no other run to be compared with: no interval by runs")
        label = np.repeat(np.arange(len(self.runs)), [len(run.loss) for run in self.runs])
        keep = np.ones((len(self.runs), len(self.weights)))
        keep[label, np.arange(len(label))] = 0.0
        begin = np.repeat(self.theta[None], len(self.runs), axis=0)
        delta = self.problem.deltas(self.delta)
        done = minimise(self.problem, begin, delta=delta, weights=keep * self.weights, max_steps=60, tolerance=1e-9)
        return done.theta

    def intervals(self, level: float = 0.9, n_params: float | None = None) -> dict[str, tuple[float, float]]:
        """Intervals of the parameters by the jackknife over runs, with Student's t of runs - 1."""
        g = len(self.runs)
        each = [self.parameters(n_params, theta) for theta in self.refits]
        half = stdtrit(g - 1, 0.5 + level / 2)
        out = {}
        for name, value in self.parameters(n_params).items():
            values = np.array([one[name] for one in each])
            error = half * float(np.sqrt((g - 1) / g * ((values - values.mean()) ** 2).sum()))
            out[name] = (value - error, value + error)
        return out

    def to_dict(self) -> dict[str, object]:
        """JSON-ready values."""
        return {
            "law": self.form.name, "formula": self.form.formula, "parameters": self.parameters(),
            "objective": self.value, "delta": self.delta, "errors": self.errors(), "converged": self.converged,
            "reached": self.reached, "tied": None if self.problem.tied is None else list(self.problem.tied),
        }  # fmt: skip

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} = {value:.5g}" for name, value in self.parameters().items())
        rows = len(self.problem.log_loss)
        return (
            f"{self.form.name}: {self.form.formula}\n  {numbers}\n"
            f"  {len(self.runs)} runs, {rows} rows; sum of Huber({self.delta:g}) on ln loss {self.value:.4g}; "
            f"{self.reached:.0%} of the starts ended there"
        )


def curve_law(name: str) -> type[CurveLaw]:
    """The form of that name. Raises ValueError for another one."""
    if name not in CURVE_LAWS:
        raise ValueError(
            f"law of curves {name!r} is not known; choose one of {', '.join(CURVE_LAWS)}{hint(name, CURVE_LAWS)}"
        )
    return CURVE_LAWS[name]


def fit_curves(
    runs: Sequence[CurveRun],
    law: str = "multi_power",
    *,
    tied: Sequence[str] | None = None,
    delta: float = DELTA,
    priors: Mapping[str, Prior] | None = None,
    noise: float = NOISE,
    n_starts: int = STARTS,
    slopes: Prior | None = None,
) -> CurveFit:
    """Fit a law of whole curves to the rows of runs: of one size, or tied over sizes where they have several.

    `tied` names the coordinates that move with size beside L0 (None: log_A, alpha and log_B). `priors` (by
    coordinate; None: those of the law, from published fits) and `slopes` (of all that moves with size) pull as rows of
    the noise `noise` do: two schedules hardly tell the kernel's coordinates apart. Raises ValueError for no rows.
    """
    form = curve_law(law)
    runs = tuple(run for run in runs if len(run.loss))
    if not runs:
        raise ValueError("no run has a row with a loss")
    sizes = sorted({run.n_params for run in runs})
    several = len(sizes) > 1
    own = tuple(n for n in (TIED if tied is None else tied) if n in form.box) if several else None
    peak = max(float(run.rates.max()) for run in runs)
    middle = np.median(np.concatenate([np.cumsum(run.rates)[run.steps] for run in runs])) / peak
    units, centre = Units(peak, float(middle)), float(np.mean(np.log(sizes)))
    parts = [compile_run(run.rates, run.steps, first=0, units=units) for run in runs]
    rows = join(parts, [np.log(run.n_params) - centre for run in runs], units)
    log_loss = np.log(np.concatenate([run.loss for run in runs]))
    pulls = dict(form.priors if priors is None else priors) | ({f"{n}_N": slopes for n in own or ()} if slopes else {})
    problem = CurveProblem(form, rows, log_loss, own, len(sizes) >= FLOOR_SIZES, pulls, noise)
    weights = np.ones(len(log_loss) + len(problem._pull[0]))
    few = problem.thinned(runs, parts)
    some = np.ones(len(few.log_loss) + len(few._pull[0]))
    rough = minimise(few, few.starts(n_starts), delta=np.inf, weights=some, max_steps=30, tolerance=ROUGH)
    ends = rough.theta[_apart(rough)]
    for stage in STAGES:
        ends = minimise(
            problem, ends, delta=problem.deltas(stage * delta), weights=weights, max_steps=8, tolerance=ROUGH
        ).theta
    done = minimise(problem, ends, delta=problem.deltas(delta), weights=weights, tolerance=ENOUGH, max_steps=60)
    late = ~done.converged & (done.value <= 1.1 * np.nanmin(done.value))
    (done,) = go_on([Task(problem, ends, problem.deltas(delta), weights)], [done], [late], tolerance=ENOUGH)
    at = int(np.nanargmin(done.value))
    residual = problem.residuals(done.theta[at][None])[0][0, : len(log_loss)]
    psi = np.clip(residual, -delta, delta)
    return CurveFit(
        problem, done.theta[at], float((psi * (residual - 0.5 * psi)).sum()), delta, runs, centre,
        float(np.mean(done.value <= done.value[at] * (1 + 1e-4))), bool(done.converged[at]), weights, tuple(parts),
    )  # fmt: skip
