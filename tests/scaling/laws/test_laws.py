"""Every form: its facts, Jacobian, units, optimum. Nothing here fits."""

import os
import shutil
import subprocess
import sys
from dataclasses import make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling import laws
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.laws import LAWS, PRESETS, form_of, get_law, taken_names, with_role
from isoflop.scaling.laws.axes.data_constrained import DataConstrained
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.kaplan import Kaplan
from isoflop.scaling.laws.law import Box, Law, minimise_scalar
from isoflop.scaling.laws.power import PowerN
from isoflop.scaling.laws.saturating import Saturating

FURTHER = {k: column for form in LAWS.values() for k, column in form.reads().items() if k not in "NDUC"}
UNITS = {"N": 3e8, "D": 7e9, "U": 7e9, "C": 2e19} | {k: column.typical for k, column in FURTHER.items()}


def instance(name: str) -> Law:
    return LAWS[name](*LAWS[name].typical)


def columns(rng: np.random.Generator, n: int = 9) -> dict[str, np.ndarray]:
    N, D = 3e8 * np.exp(rng.normal(0, 1.5, n)), 7e9 * np.exp(rng.normal(0, 1.5, n))
    usual = {"N": N, "D": D, "C": 6 * N * D, "U": D / np.exp(np.abs(rng.normal(0, 1.5, n)))}
    return usual | {k: column.typical * np.exp(rng.normal(0, 0.3, n)) for k, column in FURTHER.items()}


@pytest.mark.parametrize("name", LAWS)
def test_every_form_carries_the_facts_that_others_ask_of_it(name):
    form = LAWS[name]
    assert set(form.box) == set(form.parameters())
    assert len(form.typical) == len(form.parameters())
    assert form.formula
    assert form.source
    named = {form.floor_name, form.ceiling_name, *(form.ties or ()), *form.amplitudes, *form.open_ended} - {None}
    assert named | set(form.coupled) | set(form.coupled.values()) <= set(form.parameters())
    for preset in form.all_presets().values():
        assert set(preset.free) <= set(form.defaults())
        assert set(preset.fixed) <= set(form.parameters())
        assert form.ties or not preset.tied
    assert instance(name).written().isascii()
    assert taken_names(form) == []


def own_law(*parameters: str, bases=(Law,)) -> type[Law]:
    """A user's form with these parameters."""
    form = make_dataclass("Own", [(name, float) for name in parameters], bases=bases, frozen=True)
    form.box = dict.fromkeys(parameters, Box(0.1, 1.0))
    return form


class WithExponents(Law):
    def exponents(self, cost=None):
        return {"a": 0.5}


@pytest.mark.parametrize(
    "taken",
    ["value", "converged", "law", "status", "noise", "at_bound", "free", "k_low", "k_high", "name", "values", "optimal",
     "irreducible"],
)  # fmt: skip
def test_a_parameter_is_not_called_as_what_stands_beside_it(taken):
    with pytest.raises(ValueError, match=f"its parameter {taken} has a name that .* such as {taken}_0"):
        form_of(own_law("k", taken))
    form_of(own_law("k", f"{taken}_0"))


@pytest.mark.parametrize("name", ["a", "b", "frontier", "a_low"])
def test_a_parameter_is_called_as_an_exponent_only_where_the_law_has_none(name):
    form_of(own_law("k", name))
    with pytest.raises(ValueError, match=f"its parameter {name} has a name"):
        form_of(own_law("k", name, bases=(WithExponents,)))


@pytest.mark.parametrize("name", LAWS)
def test_what_is_added_to_every_loss_is_named_as_the_irreducible_one(name):
    """By that name its interval ends at 0 and at the lowest loss, and checks ask whether it is identified."""
    law, x = instance(name), columns(np.random.default_rng(0))
    at = [x[k] for k in law.inputs]
    for parameter, value in zip(law.parameters(), law.values().tolist(), strict=True):
        more = replace(law, **{parameter: value + 0.25})(*at) - law(*at)
        if np.allclose(more, 0.25, rtol=1e-6):
            assert law.floor_name == parameter


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_jacobian_equals_complex_step_to_1e_12(name, seed):
    rng = np.random.default_rng(seed)
    law = instance(name)
    form, x = type(law), columns(rng)
    centred = law.rescaled({k: UNITS[k] for k in law.inputs} if law.scales else {})
    near = centred.values() * np.exp(rng.normal(0, 0.1, len(centred.values())))
    theta = form.encode(near)[None]
    logs = {k: np.log(x[k] / (UNITS[k] if k in (*form.scales, "U") else 1.0)) for k in form.inputs}
    loss, jacobian = form.evaluate(theta, logs)
    expected, oracle = Law.evaluate.__func__(form, theta, logs)
    assert np.allclose(loss, expected, rtol=1e-12)
    scale = np.abs(oracle).max(axis=2, keepdims=True)
    assert np.all(np.abs(jacobian - oracle) <= 1e-12 * np.maximum(scale, np.abs(loss).max()))


@pytest.mark.parametrize("name", LAWS)
def test_every_problem_may_have_columns_of_its_own(name):
    """As where each has its own break, which moves the sizes of its runs."""
    rng, form = np.random.default_rng(0), LAWS[name]
    theta = form.encode(np.array(form.typical)[None]) + rng.normal(0, 1e-3, (4, len(form.typical)))
    several = [columns(np.random.default_rng(k)) for k in range(4)]
    together = {k: np.stack([x[k] for x in several]) for k in form.inputs}
    logs = {k: np.log(v) if form.reads()[k].transform == "log" else v for k, v in together.items()}
    loss, jacobian = form.evaluate(theta, logs)
    for k in range(4):
        alone, slopes = form.evaluate(theta[k : k + 1], {name: column[k] for name, column in logs.items()})
        np.testing.assert_allclose(loss[k], alone[0], rtol=1e-12)
        np.testing.assert_allclose(jacobian[k], slopes[0], rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", LAWS)
def test_internal_coordinates_give_the_formula(name):
    law, x = instance(name), columns(np.random.default_rng(0))
    loss, _ = type(law).evaluate(type(law).encode(law.values())[None], {k: np.log(x[k]) for k in law.inputs})
    assert np.allclose(loss[0], law(*(x[k] for k in law.inputs)), rtol=1e-12)
    assert np.allclose(type(law).decode(type(law).encode(law.values())), law.values(), rtol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_what_is_fitted_is_what_is_predicted_in_all_of_the_box(name):
    rng, form = np.random.default_rng(0), LAWS[name]
    x = {letter: column for letter, column in columns(rng).items() if letter in form.inputs}
    problem = FitProblem(form, x, np.exp(rng.normal(1, 0.3, 9)), form.defaults(), False, True)
    lower, upper = np.maximum(problem.lower, -40), np.minimum(problem.upper, 40)
    theta = lower + (upper - lower) * np.clip(rng.uniform(-0.2, 1.2, (400, len(lower))), 0.0, 1.0)
    with np.errstate(all="ignore"):
        fitted = problem.residuals(theta)[0] + np.log(problem.loss)
        predicted = np.log([law(*(x[letter] for letter in form.inputs)) for law in problem.laws(theta)])
    inside = np.abs(fitted) < 600
    assert inside.mean() > 0.5
    np.testing.assert_allclose(predicted[inside], fitted[inside], atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
@given(n=st.floats(-12, 12), d=st.floats(-12, 12))
def test_changing_units_leaves_the_loss_alone(name, n, d):
    law, x = instance(name), columns(np.random.default_rng(1))
    units = {k: np.exp({"N": n, "D": d, "U": d, "C": n + d}.get(k, n - d)) for k in law.scales}
    if "U" in law.inputs:
        units["U"] = units["D"]
    moved = law.rescaled(units)
    there = moved(*(x[k] / units.get(k, 1.0) for k in law.inputs))
    assert np.allclose(there, law(*(x[k] for k in law.inputs)), rtol=1e-9)


@pytest.mark.parametrize("spread", [0.0, 0.1])
@pytest.mark.parametrize("name", [name for name in LAWS if LAWS[name].curvature.__func__ is not Law.curvature.__func__])
def test_curvature_is_the_derivative_of_the_jacobian(name, spread):
    rng = np.random.default_rng(2)
    form = LAWS[name]
    centred = instance(name).rescaled({k: UNITS[k] for k in form.inputs} if form.scales else {}).values()
    theta = form.encode(centred * np.exp(rng.normal(0, spread, (3, len(centred)))))
    x = {k: np.log(v / (UNITS[k] if k in form.scales else 1.0)) for k, v in columns(rng).items()}
    loss, jacobian = form.evaluate(theta, x)
    weight = rng.normal(size=loss.shape)
    second = form.curvature(theta, x, jacobian / loss[:, None], weight)
    for k in range(len(centred)):
        step = 1e-4 * np.eye(len(centred))[k]
        near, far = (form.evaluate(theta + n * step, x)[1] - form.evaluate(theta - n * step, x)[1] for n in (1, 2))
        expected = np.einsum("bpn,bn->bp", (8 * near - far) / 12e-4, weight / loss)
        assert np.allclose(second[:, k], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "saturating", "data-constrained"])
@settings(max_examples=25, deadline=None)
@given(log_c=st.floats(40, 58), slope=st.floats(-0.1, 0.05), k=st.floats(3, 9))
def test_optimum_spends_the_budget_where_the_loss_is_stationary(name, log_c, slope, k):
    law, C, cost = instance(name), np.exp(log_c), Cost(k, slope)
    best = law.optimal(C, cost)
    assert np.isclose(cost.flops(best.N, best.D), C, rtol=1e-9)

    def loss(log_n):
        N = np.exp(log_n)
        D = cost.tokens(C, N)
        return law(N, D, D) if "U" in law.inputs else law(N, D)

    if name != "data-constrained":  # whose optimum sits on the kink at U_N = N
        slope_there = np.imag(loss(np.log(best.N) + 1e-30j)) / 1e-30
        assert abs(slope_there) < 1e-7
    assert loss(np.log(best.N)) < min(loss(np.log(best.N) - 0.05), loss(np.log(best.N) + 0.05))


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "saturating"])
def test_closed_form_optimum_equals_the_numerical_one_and_scales_with_its_exponents(name):
    law, C, cost = instance(name), np.array([1e19, 1e21]), Cost(5.5, -0.04)
    closed, numerical = law.optimal(C, cost), Law.optimal(law, C, cost)
    assert np.allclose(closed.N, numerical.N, rtol=1e-7)
    exponents = law.exponents(cost)
    assert np.isclose(np.diff(np.log(closed.N))[0] / np.log(100), exponents["a"])
    assert np.isclose(np.diff(np.log(closed.D))[0] / np.log(100), exponents["b"])


def test_frontier_exponent_is_the_slope_of_the_reducible_loss():
    law = instance("chinchilla")
    excess = law.optimal(np.array([1e19, 1e21])).loss - law.E
    assert np.isclose(-np.diff(np.log(excess))[0] / np.log(100), law.exponents()["frontier"])


def test_repeating_no_data_is_the_unconstrained_law_and_repeats_are_worth_less():
    law = DataConstrained(1.9, 520.0, 1490.0, 0.35, 0.35, 15.0, 5.0)
    plain = Chinchilla(1.9, 520.0, 1490.0, 0.35, 0.35)
    best = plain.optimal(1e20)
    assert np.isclose(law(best.N, best.D, best.D), plain(best.N, best.D))
    assert law(best.N, best.D, best.D / 20) > law(best.N, best.D, best.D / 2) > law(best.N, best.D, best.D)
    fewer = law.optimal(1e20, unique_tokens=best.D / 30)
    assert fewer.N < best.N * 1.5
    assert fewer.loss > law.optimal(1e20).loss


def test_saturating_law_never_exceeds_its_ceiling_and_nears_chinchilla_far_below_it():
    law, plain = Saturating(1.8, 480, 2100, 0.35, 0.37, 10.8), Chinchilla(1.8, 480, 2100, 0.35, 0.37)
    assert law(1e2, 1e3) < 10.8 < plain(1e2, 1e3)
    assert np.isclose(law(1e12, 1e14), plain(1e12, 1e14), rtol=1e-3)


def test_kaplan_is_the_kappa_family_with_no_floor():
    law = Kaplan(6.4e13, 1.8e13, 0.076, 0.103)
    inner = 0.076 / 0.103
    same = Chinchilla(0.0, 6.4e13**inner, 1.8e13, inner, 1.0, 0.103)
    x = columns(np.random.default_rng(3))
    assert np.allclose(law(x["N"], x["D"]), same(x["N"], x["D"]))
    assert np.isclose(law.exponents()["frontier"], same.exponents()["frontier"])


def test_a_law_of_one_column_has_no_allocation():
    with pytest.raises(ValueError, match="power-n: a law of N has no compute-optimal allocation"):
        PowerN(1.7, 160.0, 0.16).optimal(1e20)


def test_the_catalogue_holds_every_form_once_in_its_order():
    shipped = [
        "chinchilla", "kaplan", "saturating", "data-constrained", "farseer", "power", "power-n", "power-d", "bnsl",
        "bnsl-n", "bnsl-d",
    ]  # fmt: skip
    assert [name for name in LAWS if name in shipped] == shipped
    assert with_role("choose")[:4] == ("chinchilla", "chinchilla-kappa", "chinchilla-tied", "chinchilla-no-floor")
    assert {"kaplan", "saturating", "data-constrained"} <= set(with_role("choose"))
    assert with_role("approach 3")[:2] == ("chinchilla", "chinchilla-kappa")


@pytest.mark.process
def test_a_law_is_added_by_one_module(tmp_path):
    """In a copy of the folder: a new module is in the catalogue, and a name used twice is an error that says so."""
    copy = tmp_path / "isoflop" / "scaling" / "laws"
    shutil.copytree(Path(laws.__file__).parent, copy)
    for folder in (copy.parent, copy.parent.parent):
        (folder / "__init__.py").touch()
    module = "from isoflop.scaling.laws.kaplan import Kaplan\nclass Mine(Kaplan):\n    name, presets = {!r}, {{}}\n"
    command = [sys.executable, "-c", "from isoflop.scaling.laws import LAWS; print(list(LAWS))"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    (copy / "mine.py").write_text(module.format("mine"))
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "'mine'" in done.stdout
    (copy / "mine.py").write_text(module.format("kaplan"))
    failed = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "are both named 'kaplan'" in failed.stderr


def test_names_resolve_and_a_wrong_one_lists_the_choices():
    form, preset = get_law("chinchilla-kappa")
    assert (form, preset.free) == (Chinchilla, ("kappa",))
    assert get_law("chinchilla-no-floor")[1].fixed == {"E": 0.0}
    assert set(LAWS) <= set(PRESETS)
    with pytest.raises(ValueError, match=r"'chinchila' is not known; choose one of chinchilla, kaplan"):
        get_law("chinchila")
    with pytest.raises(ValueError, match="cannot be imported"):
        get_law("no_such_module:Law")
    with pytest.raises(ValueError, match="not a subclass"):
        get_law("pathlib:Path")


def test_a_law_that_says_nowhere_to_start_is_told_what_to_define():
    class Lost(Law):
        amplitudes = ("A",)

    with pytest.raises(ValueError, match="Lost names amplitudes, and nowhere to start a fit: define linearise or"):
        Lost.linearise({}, {}, np.ones(3))


@pytest.mark.parametrize(
    "terms",
    [
        lambda n, d: np.abs(n) + np.abs(d),  # the imaginary part is dropped
        lambda n, d: np.abs(n) + d,  # of one term alone
        lambda n, d: np.exp(np.logaddexp(np.log(n), np.log(d))),  # of real numbers alone
        lambda n, d: n + d,
    ],
)
def test_the_best_size_of_a_formula_is_found_whether_it_is_analytic_or_not(terms):
    class Own(Chinchilla):
        def __call__(self, N, D):
            with np.errstate(all="ignore"):
                return self.E + terms(self.A * N**-self.alpha, self.B * D**-self.beta)

        optimal = Law.optimal

    parameters = (1.0, 406.0, 411.0, 0.34, 0.28)
    for C in (1e18, np.array([1e18, 1e20, 1e22])):
        found, known = Own(*parameters).optimal(C), Chinchilla(*parameters).optimal(C)
        np.testing.assert_allclose(found.N, known.N, rtol=1e-6)
        np.testing.assert_allclose(found.loss, known.loss, rtol=1e-12)


@pytest.mark.parametrize("kink", [-0.37, 0.0, 0.91])
def test_a_minimum_at_a_kink_is_found(kink):
    (at,) = minimise_scalar(lambda u: np.maximum(kink - u, 3 * (u - kink)), np.array([-2.0]), np.array([2.5]))
    assert at == pytest.approx(kink, abs=1e-7)


def law_file(floor: float) -> str:
    law = "from isoflop.scaling.laws.chinchilla import Chinchilla\nclass Mine(Chinchilla):\n    name = 'mine'\n"
    return f"{law}    floor = {floor}\n"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders with a module of the same name, and a package of it."""
    for name, floor in (("one", 1.5), ("two", 2.5)):
        (tmp_path / name / "owned").mkdir(parents=True)
        for file in ("ownlaw_here.py", "owned/__init__.py", "owned/inner.py"):
            (tmp_path / name / file).write_text(law_file(floor))
    monkeypatch.setattr(laws, "_OWN", {})
    yield tmp_path
    for name in ("ownlaw_here", "owned", "owned.inner"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("module", ["ownlaw_here", "owned", "owned.inner"])
def test_a_law_by_module_is_the_one_that_the_file_holds_now(module, folders, monkeypatch):
    path = list(sys.path)
    for folder, floor in (("one", 1.5), ("two", 2.5), ("one", 1.5)):
        monkeypatch.chdir(folders / folder)
        assert get_law(f"{module}:Mine")[0].floor == floor
        assert get_law(f"{module}:Mine")[0] is get_law(f"{module}:Mine")[0]
    file = Path(sys.modules[module].__file__)
    for floor in (1.6, 1.7):  # of the same length, within one second
        file.write_text(law_file(floor))
        os.utime(file, ns=(0, int(floor * 1e9)))
        assert get_law(f"{module}:Mine")[0].floor == floor
    assert sys.path == path
    monkeypatch.chdir(folders)
    with pytest.raises(ValueError, match="cannot be imported: No module named"):
        get_law(f"{module}:Mine")


@pytest.mark.parametrize("text", ["class Mine(:", "1 / 0", "raise KeyError('x')", "from nowhere_at_all import x"])
def test_a_module_that_ends_in_an_error_is_named_with_it(text, folders, monkeypatch):
    monkeypatch.chdir(folders / "one")
    path = list(sys.path)
    Path("ownlaw_here.py").write_text(text)
    with pytest.raises(ValueError, match=r"law 'ownlaw_here:Mine' cannot be imported: (\w+Error: |No module)"):
        get_law("ownlaw_here:Mine")
    assert sys.path == path


def test_a_law_of_a_session_is_the_class_that_was_given(monkeypatch, folders):
    monkeypatch.chdir(folders / "one")
    given = get_law("ownlaw_here:Mine")[0]
    assert get_law(laws.law_name(given))[0] is given
    assert get_law(laws.law_name(own_law("k")))[0].parameters() == ("k",)
