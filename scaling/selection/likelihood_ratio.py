"""Is the simpler law enough, and what moves the answer: nested tests with a bootstrap null, and a table of choices.

Nested tests: kappa = 1, alpha = beta, E = 0. The statistic is the likelihood ratio of Huber's objective; its null
comes from refits to losses made under the simpler law with the residuals' signs flipped cluster by cluster, because
neither the noise nor the bound at E = 0 is what chi-square assumes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.findings.finding import likelihood_ratio, variant
from isoflop.scaling.fitting.fit import Fit, FitError, Huber, LeastSquares, fit
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.solver import minimise
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Array
from isoflop.scaling.selection.rolling_origins import Scale
from isoflop.scaling.selection.scoreboard import Scoreboard, compare
from isoflop.scaling.selection.scoreboard_text import records
from isoflop.scaling.table.conventions import COMPUTE, PARAMS, Points, count_params, is_runs, points

RESAMPLES = 199
OUTLIER = 4.0  # robust standard deviations
DROPPED_BUDGETS = 2
FAR = 10.0  # the target of the sensitivity table, over the largest compute


@dataclass(frozen=True)
class NestedTest:
    """A simpler law against the one that frees a parameter. `p` is the share of null statistics at least as large."""

    claim: str
    statistic: float
    p: float
    estimate: float
    resamples: int

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def __str__(self) -> str:
        verdict = "rejected" if self.p < 0.05 else "not rejected"
        return (
            f"  {self.claim:<14} {verdict:<12} p {self.p:.3f}  (ratio {self.statistic:.2f}, free {self.estimate:.4g})"
        )


def nested_tests(data: Points, *, resamples: int = RESAMPLES, seed: int = 0) -> list[NestedTest]:
    """The claims kappa = 1, alpha = beta and E = 0, each against Chinchilla's form without it.

    Claims that the table cannot test are left out. Raises FitError when the form itself cannot be fitted.
    """
    plain = fit(Chinchilla, data)
    claims: list[tuple[str, Callable[[], tuple[Fit, Fit]], Callable[[Fit], float]]] = [
        ("kappa = 1", lambda: (variant(plain, free=("kappa",)), plain), lambda f: getattr(f.law, "kappa", np.nan)),
        ("alpha = beta", lambda: (plain, _tied(plain)), _ratio_of_exponents),
        ("E = 0", lambda: (plain, variant(plain, fixed={"E": 0.0})), lambda f: getattr(f.law, "E", np.nan)),
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
        tests.append(NestedTest(claim, statistic, p, float(estimate(full)), len(null)))
    return tests


def _ratio_of_exponents(fitted: Fit) -> float:
    law = fitted.law
    return law.alpha / law.beta if isinstance(law, Chinchilla) else float("nan")


def _tied(plain: Fit) -> Fit:
    objective = Huber(plain.delta) if np.isfinite(plain.delta) else LeastSquares()
    return fit(Chinchilla, plain.points, objective=objective, tied=True, weights=plain.weights)


def _null(full: Fit, restricted: Fit, resamples: int, rng: np.random.Generator) -> Array:
    """Likelihood ratios of refits to data made under the restricted law, (resamples,)."""
    cluster = pd.factorize(full.points.frame["cluster"])[0]
    n, count = len(cluster), cluster.max() + 1
    scale = np.sqrt(n / max(n - len(full.free), 1))
    signs = rng.choice([-1.0, 1.0], size=(resamples, count))[:, cluster]
    log_loss = np.log(restricted.predicted) + signs * full.residuals * scale
    small, _ = _refit(restricted, log_loss, [restricted.theta])
    large, residual = _refit(full, log_loss, [full.problem.coordinates(restricted.law), full.theta])
    # The scale of `likelihood_ratio`, for every resample.
    inside = np.maximum(np.mean(np.abs(residual) <= full.delta, axis=1), 1.0 / n)
    psi_squared = np.sum(np.minimum(np.abs(residual), full.delta) ** 2, axis=1) / max(n - len(full.free), 1)
    return 2.0 * np.maximum(small - large, 0.0) * inside / np.maximum(psi_squared, 1e-30)


@dataclass(frozen=True)
class _Resampled:
    """A problem on many sets of ln losses (R, n) at once: a last coordinate, which nothing moves, says which set."""

    problem: FitProblem
    log_loss: Array
    log: bool = True

    @property
    def has_curvature(self) -> bool:
        return self.problem.has_curvature

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
        minimise(moved, np.hstack([np.tile(start, (len(log_loss), 1)), which]), delta=fitted.delta,
                 weights=fitted.weights, max_steps=60, tolerance=1e-7)
        for start in starts
    ]  # fmt: skip
    best = np.argmin([end.value for end in ends], axis=0)
    theta = np.stack([end.theta for end in ends])[best, np.arange(len(best))]
    return np.min([end.value for end in ends], axis=0), moved.residuals(theta)[0]


def sensitivity(table: "pd.DataFrame | Points", *, params: str = "matrices", compute: str = "exact") -> pd.DataFrame:
    """How a, E and the loss at 10 times the largest compute move with every choice behind a Chinchilla fit.

    Indexed by choice, `as fitted` first: a, E, loss, runs, and a_moved, loss_moved in half-widths of the 90% interval.
    """
    data = points(table, params=params, compute=compute)
    base = fit(Chinchilla, data)
    target = FAR * float(data.frame["flops"].max())
    draws = jackknife(base)
    half_a = float(np.ptp(draws.interval("a"))) / 2
    half_loss = float(np.ptp(draws.interval(lambda law: law.optimal(target, base.cost).loss))) / 2
    rows = {"as fitted": _row(base, target)}
    for name, make in _choices(table, data, base, params, compute):
        try:
            rows[name] = _row(make(), target)
        except (FitError, ValueError) as error:
            rows[name] = {"a": np.nan, "E": np.nan, "loss": np.nan, "runs": 0, "why": str(error)}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame["a_moved"] = (frame["a"] - frame["a"].iloc[0]) / half_a
    frame["loss_moved"] = (frame["loss"] - frame["loss"].iloc[0]) / half_loss
    return frame


def _row(fitted: Fit, target: float) -> dict[str, Any]:
    law = fitted.law
    assert isinstance(law, Chinchilla)
    loss = float(fitted.optimal(target).loss)
    return {"a": fitted.exponents()["a"], "E": law.E, "loss": loss, "runs": len(fitted.points), "why": ""}


def _choices(
    table: "pd.DataFrame | Points", data: Points, base: Fit, params: str, compute: str
) -> Iterator[tuple[str, Callable[[], Fit]]]:
    for delta in (1e-3, np.inf):
        objective = LeastSquares() if delta == np.inf else Huber(delta)
        label = "least squares" if delta == np.inf else f"delta {delta:g}"
        yield label, partial(fit, Chinchilla, data, objective=objective)
    yield "kappa free", partial(variant, base, free=("kappa",), delta="auto")
    yield "E = 0", partial(variant, base, fixed={"E": 0.0}, delta="auto")
    budgets = budget_groups(data)
    for k in range(1, min(DROPPED_BUDGETS, len(budgets) - 2) + 1):
        least = float(budgets[k]["flops"].min())
        yield f"from {least:.2g} FLOPs", partial(fit, Chinchilla, _keep(data, data.frame["flops"] >= least))
    scale = max(base.noise, 1e-12)
    outliers = np.abs(base.residuals) > OUTLIER * scale
    if outliers.any():
        yield f"less {outliers.sum()} outliers", partial(fit, Chinchilla, _keep(data, ~outliers))
    if isinstance(table, pd.DataFrame) and is_runs(table):
        for name in PARAMS:
            if (count_params(table, name) != count_params(table, params)).any():
                yield f"params {name}", partial(fit, Chinchilla, table, params=name, compute=compute)
        for name in COMPUTE:
            if name != compute:
                yield f"compute {name}", partial(fit, Chinchilla, table, params=params, compute=name)


def _keep(data: Points, keep: Any) -> Points:
    return Points(data.frame[keep].reset_index(drop=True), data.params, data.compute, data.cluster, data.notes)


@dataclass(frozen=True)
class Comparison:
    """The scoreboard with the nested tests and the sensitivity table, or why those could not be had."""

    board: Scoreboard
    tests: tuple[NestedTest, ...]
    moved: pd.DataFrame | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        moved = records(self.moved.reset_index(names="choice")) if self.moved is not None else None
        tests = [t.to_dict() for t in self.tests]
        return self.board.to_dict() | {"nested": tests, "sensitivity": moved, "notes": list(self.notes)}

    def __str__(self) -> str:
        lines = [str(self.board)]
        if self.tests:
            lines += [
                "",
                f"nested tests, null from {self.tests[0].resamples} refits under the claim:",
                *map(str, self.tests),
            ]
        if self.moved is not None:
            lines += [
                "",
                f"choices behind a chinchilla fit, with the loss at {FAR:g} times the largest compute; how far each "
                "moves it, in half-widths of the 90% interval:",
            ]
            for name, r in self.moved.iterrows():
                told = (
                    f"{r['a']:.4f} ({r['a_moved']:+.2f})  E {r['E']:.4f}  loss {r['loss']:.4f} ({r['loss_moved']:+.2f})"
                )
                lines.append(f"  {name:<24} a {told}" if np.isfinite(r["a"]) else f"  {name:<24} {r['why']}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def comparison(
    table: pd.DataFrame,
    laws: Sequence[str] | str | None = None,
    *,
    by: Scale = "flops",
    above: float | None = None,
    params: str = "matrices",
    compute: str = "exact",
    level: float = 0.9,
    on_step: Callable[[str], None] | None = None,
) -> Comparison:
    """Everything about which law to trust on a table; `on_step` is told what is being fitted.

    >>> import isoflop
    >>> found = isoflop.compare(isoflop.example("quick"), ["chinchilla", "chinchilla-no-floor"])
    >>> sorted(found.to_dict()["refused"])
    []
    """
    if by not in ("flops", "n_params", "tokens"):
        raise ValueError(f"--holdout-by {by}: choose flops, n_params or tokens")
    data = points(table, params=params, compute=compute)
    board = compare(data, laws, by=by, above=above, level=level, on_law=on_step)
    if on_step:
        on_step("the nested tests")
    try:
        return Comparison(
            board, tuple(nested_tests(data)), sensitivity(table, params=params, compute=compute), data.notes
        )
    except FitError as error:
        return Comparison(board, (), None, (*data.notes, f"no nested tests: {error}"))
