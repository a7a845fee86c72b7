"""The solver: optima against SciPy, walls, batches, and an honest `converged`."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from isoflop.scaling.fitting.objective import Anchor, Task, huber
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.search.starts import nonnegative, random_starts, starts
from isoflop.scaling.fitting.solver.minimise import LOOK, minimise, minimise_together
from isoflop.scaling.laws.broken import BNSL, BNSLD, BNSLN
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Law
from tests.support.fits.hard_fits import SURFACE, isoflop


def make_problem(n: int = 35, noise: float = 0.005, law: Chinchilla = SURFACE, seed: int = 0, **kwargs) -> FitProblem:
    frame = isoflop(n)
    N, D = frame["n_params"].to_numpy(), frame["tokens"].to_numpy()
    loss = law(N, D) * np.exp(np.random.default_rng(seed).normal(0, noise, n))
    return FitProblem(Chinchilla, {"N": N, "D": D}, loss, {"kappa": 1.0}, **kwargs)


def start_at(problem: FitProblem, law: Chinchilla = SURFACE) -> np.ndarray:
    return problem.coordinates(law)[None]


def test_huber_is_quadratic_inside_delta_and_linear_beyond():
    value = huber(np.array([[0.5, -3.0]]), np.array([2.0, 1.0]), 1.0)
    assert value == pytest.approx(2 * 0.125 + (3.0 - 0.5))


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("free", [{}, {"kappa": 1.0}])
def test_problems_of_other_rows_solved_together_end_where_each_ends_alone_to_the_bit(free, curved):
    problems = [replace(make_problem(n, seed=n), pinned=free) for n in (35, 12, 23)]
    deltas, weights = (1e-2, np.inf, 2e-3), np.random.default_rng(0).uniform(0.5, 2.0, (8, 12))
    tasks = [
        Task(problem, random_starts(problem, 8, seed=1), delta, weights if n == 12 else np.ones(n))
        for problem, delta, n in zip(problems, deltas, (35, 12, 23), strict=True)
    ]
    options = {"max_steps": 130, "curved": curved, "race": curved}
    for task, found in zip(tasks, minimise_together(tasks, **options), strict=True):
        alone = minimise(task.problem, task.start, delta=task.delta, weights=task.weights, **options)
        assert len(set(alone.steps)) > 3
        for name in ("theta", "value", "converged", "steps"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("log", [True, False])
def test_laws_side_by_side_take_the_steps_of_each_alone_to_the_bit(log, curved, monkeypatch):
    """Laws of other columns, and of other losses, on equally many rows are one calculation; others beside them not."""
    requested, evaluate = [], FitProblem.residuals

    def counted(self, theta):
        requested.append(len(self.loss))
        return evaluate(self, theta)

    problems, rng = [], np.random.default_rng(0)
    for form, n, seed in ((BNSL, 30, 0), (BNSLN, 30, 0), (BNSL, 21, 1), (BNSLD, 30, 2), (BNSLN, 21, 3)):
        frame = isoflop(n)
        N, D = frame["n_params"].to_numpy(), frame["tokens"].to_numpy()
        columns = {"N": N, "D": D, "C": 6 * N * D}
        loss = SURFACE(N, D) * np.exp(np.random.default_rng(seed).normal(0, 0.01, n))
        problems.append(FitProblem(form, columns, loss, {}, log=log))
    deltas, shapes = (1e-2, 2e-2 * np.ones(30), np.inf, 5e-2, np.inf), (30, (6, 30), 21, 30, (6, 21))
    tasks = [
        Task(problem, random_starts(problem, 6, seed=3), delta, rng.uniform(0.5, 2.0, shape))
        for problem, delta, shape in zip(problems, deltas, shapes, strict=True)
    ]
    options = {"max_steps": 160, "curved": curved, "race": curved}
    monkeypatch.setattr(FitProblem, "residuals", counted)
    together = minimise_together(tasks, **options)
    assert requested[:2] == [18, 12]  # starts of three robust problems on 30 rows, of two least squares on 21
    monkeypatch.undo()
    for task, found in zip(tasks, together, strict=True):
        alone = minimise(task.problem, task.start, delta=task.delta, weights=task.weights, **options)
        for name in ("theta", "value", "converged", "steps"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    assert len({step for found in together for step in found.steps}) > 4


def test_a_law_with_a_formula_of_its_own_is_not_worked_out_by_that_of_the_law_it_comes_from():
    class Doubled(BNSL):
        @classmethod
        def evaluate(cls, theta, x):
            loss, jacobian = super().evaluate(theta, x)
            return 2 * loss, 2 * jacobian

    frame = isoflop(20)
    columns = {"C": 6 * frame["n_params"].to_numpy() * frame["tokens"].to_numpy()}
    loss = SURFACE(frame["n_params"].to_numpy(), frame["tokens"].to_numpy())
    problems = [FitProblem(form, columns, loss, {}) for form in (BNSL, Doubled)]
    tasks = [Task(problem, random_starts(problems[0], 4, seed=0), np.inf, np.ones(20)) for problem in problems]
    for task, found in zip(tasks, minimise_together(tasks, max_steps=5), strict=True):
        alone = minimise(task.problem, task.start, delta=np.inf, weights=task.weights, max_steps=5)
        np.testing.assert_array_equal(found.theta, alone.theta)


def test_rows_without_a_delta_leave_the_others_theirs():
    """As priors do, which stand beside the rows of a fit."""
    problem = make_problem(noise=0.02)
    problem.loss[3] *= 1.5
    squares = minimise(problem, start_at(problem), delta=np.inf, weights=np.ones(35))
    mixed = np.r_[np.full(20, 1e-3), np.full(15, np.inf)]
    found = minimise(problem, squares.theta, delta=mixed, weights=np.ones(35))
    assert found.converged.all()
    residual, gradient, _ = problem.residuals(found.theta)
    assert abs(residual[0, 3]) > 0.1
    assert found.value[0] == pytest.approx(huber(residual, np.ones(35), mixed)[0], rel=1e-12)
    assert np.abs(gradient[0] @ np.clip(residual[0], -mixed, mixed)).max() < 1e-6


@pytest.mark.parametrize("delta", [np.inf, 1e-2, 1e-3])
@pytest.mark.parametrize("log", [True, False])
def test_optimum_is_no_worse_than_scipy_polished_from_it_and_has_no_slope(delta, log):
    problem = make_problem(log=log)
    weights = np.ones(35)
    squares = minimise(problem, start_at(problem), delta=np.inf, weights=weights)
    found = minimise(problem, squares.theta, delta=delta, weights=weights)
    assert found.converged.all()

    def objective(theta):
        residual, gradient, _ = problem.residuals(theta[None])
        psi = np.clip(residual[0], -delta, delta)
        return huber(residual, weights, delta)[0] * 1e4, gradient[0] @ psi * 1e4

    other = minimize(objective, found.theta[0], jac=True, method="BFGS", options={"gtol": 1e-12})
    assert found.value[0] <= other.fun / 1e4 * (1 + 1e-12)
    assert np.abs(objective(found.theta[0])[1]).max() < 1e-4


class Valley:
    """Rosenbrock's valley, (1 - x, steep (y - x^2)), with a residual of .1 that no step lowers; its end is (1, 1)."""

    lower, upper, one_basin, log = np.full(2, -10.0), np.full(2, 100.0), True, False

    def __init__(self, steep: float):
        self.steep = steep

    def residuals(self, theta):
        x, one = theta[:, 0], np.ones(len(theta))
        residual = np.stack([1 - x, self.steep * (theta[:, 1] - x**2), 0.1 * one], axis=1)
        by_x = np.stack([-one, -2 * self.steep * x, 0 * one], axis=1)
        gradient = np.stack([by_x, np.stack([0 * one, self.steep * one, 0 * one], axis=1)], axis=1)
        return residual, gradient, gradient

    def curvature(self, theta, full, weight):
        second = np.zeros((len(theta), 2, 2))
        second[:, 0, 0] = -2 * self.steep * weight[:, 1]
        return second


def test_bent_steps_follow_a_valley_that_bends_to_its_end():
    begin = np.array([[-1.2, 1.0], [-3.0, 9.0]])
    straight, curved = (
        minimise(Valley(100.0), begin, delta=np.inf, weights=np.ones(3), max_steps=500, curved=bent)
        for bent in (False, True)
    )
    assert straight.converged.all()
    assert curved.converged.all()
    assert curved.theta == pytest.approx(np.ones((2, 2)), abs=1e-6)
    assert curved.value == pytest.approx([0.005, 0.005], rel=1e-12)
    assert (curved.steps < straight.steps / 10).all()


@pytest.mark.slow
def test_a_flat_valley_is_followed_at_the_damping_that_held_there():
    found = minimise(
        Valley(1e5), np.array([[-1.2, 1.0]]), delta=np.inf, weights=np.ones(3), max_steps=1000, curved=True
    )
    assert found.converged.all()  # 571 steps; 1,822 where each failure begins again at a damping of 1e-5
    assert found.theta[0] == pytest.approx([1, 1], abs=1e-6)


class Tails:
    """A bowl of residual `low` at -1 and, right of 0, a tail 2 + 1 / ln(e + x) that falls for ever and ever less."""

    lower, upper, one_basin, log = np.full(1, -10.0), np.full(1, 1e300), True, False

    def __init__(self, low: float):
        self.low = low

    def residuals(self, theta):
        left, x = theta < 0, np.maximum(theta, 0) + np.e
        residual = np.where(left, self.low + (theta + 1) ** 2, 2 + 1 / np.log(x))
        gradient = np.where(left, 2 * (theta + 1), -1 / (x * np.log(x) ** 2))[:, None]
        return residual, gradient, gradient

    def curvature(self, theta, full, weight):
        x = np.maximum(theta, 0) + np.e
        second = np.where(theta < 0, 2.0, (np.log(x) + 2) / (x**2 * np.log(x) ** 3))
        return (weight * second)[..., None]


@pytest.mark.slow
def test_a_start_that_cannot_reach_the_lowest_value_stops_and_one_that_may_goes_on():
    begin = np.array([[-2.0], [1.0]])
    tasks = [Task(Tails(low), begin, np.inf, np.ones(1)) for low in (0.1, 2.01)]
    stopped, goes_on = minimise_together(tasks, max_steps=900, curved=True, race=True)  # no race between problems
    assert stopped.converged[0]
    assert goes_on.converged[0]
    assert not stopped.converged[1]
    assert stopped.steps[1] == 2 * LOOK
    assert goes_on.steps[1] > 2 * LOOK
    assert goes_on.value[1] < goes_on.value[0]


def test_a_valley_that_leaves_the_box_is_followed_along_its_wall():
    inside = Valley(100.0)
    inside.upper = np.array([0.5, 100.0])
    found = minimise(inside, np.array([[-1.2, 1.0]]), delta=np.inf, weights=np.ones(3), max_steps=500, curved=True)
    assert found.converged.all()
    assert found.theta[0] == pytest.approx([0.5, 0.25])


def test_a_batch_solves_each_problem_as_if_alone():
    problem = make_problem()
    rng = np.random.default_rng(3)
    weights = rng.multinomial(35, np.ones(35) / 35, size=300).astype(float)
    begin = np.repeat(start_at(problem), 300, axis=0)
    together = minimise(problem, begin, delta=2e-3, weights=weights)
    assert together.converged.all()
    for i in (0, 17, 299):
        alone = minimise(problem, begin[[i]], delta=2e-3, weights=weights[i])
        assert alone.value[0] == pytest.approx(together.value[i], rel=1e-11)


def test_weights_count_rows():
    problem = make_problem(20)
    counts = np.random.default_rng(4).integers(0, 4, 20)
    rows = np.repeat(np.arange(20), counts)
    weighted = minimise(problem, start_at(problem), delta=3e-3, weights=counts.astype(float))
    repeated = minimise(problem.on_rows(rows), weighted.theta, delta=3e-3, weights=np.ones(len(rows)))
    assert repeated.value[0] == pytest.approx(weighted.value[0], rel=1e-10)


def test_floor_of_zero_is_reached_and_reported_as_a_wall():
    problem = make_problem(law=Chinchilla(0.0, 477.8, 2143.4, 0.3473, 0.3672), noise=0.02, seed=9)
    found = minimise(problem, start_at(problem), delta=np.inf, weights=np.ones(35), max_steps=200)
    inside = FitProblem(Chinchilla, problem.columns, problem.loss, {"kappa": 1.0, "E": 0.0})
    fixed = minimise(inside, inside.coordinates(SURFACE)[None], delta=np.inf, weights=np.ones(35), max_steps=200)
    assert found.converged.all()
    assert np.all(found.theta >= problem.lower)
    assert found.value[0] <= fixed.value[0] * (1 + 1e-9)


def test_no_step_leaves_the_box():
    problem = make_problem()
    wild = random_starts(problem, 64, seed=5)
    found = minimise(problem, wild, delta=np.inf, weights=np.ones(35), max_steps=30)
    assert np.all((found.theta >= problem.lower) & (found.theta <= problem.upper))
    assert np.isfinite(found.value).all()


def test_too_few_steps_are_not_called_converged():
    problem = make_problem()
    far = random_starts(problem, 8, seed=6)
    assert not minimise(problem, far, delta=1e-3, weights=np.ones(35), max_steps=2).converged.any()


def test_noise_free_data_converge_to_zero():
    problem = make_problem(noise=0.0)
    found = minimise(problem, starts(problem, np.ones(35), count=4, seed=0), delta=np.inf, weights=np.ones(35))
    assert found.converged.all()
    assert problem.laws(found.theta[[0]])[0].values() == pytest.approx(SURFACE.values(), rel=1e-8)


def test_anchor_moves_the_quantity_and_stays_optimal_otherwise():
    problem = make_problem()
    free = minimise(problem, start_at(problem), delta=np.inf, weights=np.ones(35))

    def floor(theta):
        return theta[:, 0], np.repeat(np.eye(5)[[0]], len(theta), axis=0)

    anchor = Anchor(floor, np.array([1.7]), np.array([1e3]))
    pulled = minimise(problem, free.theta, delta=np.inf, weights=np.ones(35), anchor=anchor)
    E = float(pulled.theta[0, 0])
    held = FitProblem(Chinchilla, problem.columns, problem.loss, {"kappa": 1.0, "E": E})
    exact = minimise(held, pulled.theta[:, 1:], delta=np.inf, weights=np.ones(35))
    assert abs(E - 1.7) < abs(free.theta[0, 0] - 1.7)
    assert pulled.value[0] == pytest.approx(exact.value[0], rel=1e-9)


@pytest.mark.parametrize("log", [True, False])
def test_a_form_without_a_curvature_of_its_own_has_its_gradient_differenced(log):
    class Plain(BNSL):
        curvature = Law.curvature

    x = np.geomspace(1e16, 1e20, 12)
    law = BNSL(1.2, 300.0, 0.12, 0.06, 3e18, 0.5)
    own, plain = (FitProblem(form, {"C": x}, law(x) * 1.01, {"a": 1.2}, log=log) for form in (BNSL, Plain))
    theta, weight = own.coordinates(law)[None], np.linspace(-1, 1, 12)[None]
    _, _, full = own.residuals(theta)
    assert np.allclose(plain.curvature(theta, full, weight), own.curvature(theta, full, weight), atol=1e-6)


def test_nonnegative_least_squares_equals_scipy():
    from scipy.optimize import nnls

    rng = np.random.default_rng(7)
    basis, target = rng.normal(size=(40, 3, 15)), rng.normal(size=15)
    weights = rng.uniform(0.5, 2, 15)
    found, cost = nonnegative(basis, target, weights, np.full(3, np.nan))
    for g in range(40):
        expected, norm = nnls((basis[g] * np.sqrt(weights)).T, target * np.sqrt(weights))
        assert found[g] == pytest.approx(expected, abs=1e-8)
        assert cost[g] == pytest.approx(norm**2, rel=1e-9)


def test_pinned_amplitude_stays():
    basis = np.random.default_rng(8).uniform(0.1, 1, size=(5, 2, 9))
    found, _ = nonnegative(basis, np.ones(9), np.ones(9), np.array([0.25, np.nan]))
    assert (found[:, 0] == 0.25).all()


def test_exact_curvature_converges_quadratically_even_with_large_residuals():
    problem, weights = make_problem(noise=0.15, seed=2), np.ones(35)
    optimum = minimise(problem, start_at(problem), delta=np.inf, weights=weights)
    near = optimum.theta + 1e-3
    again = minimise(problem, near, delta=np.inf, weights=weights, damping=0.0)
    assert optimum.converged.all()
    assert again.steps[0] <= 3
