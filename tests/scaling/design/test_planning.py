"""What a plan is made of: which laws, which noise, which candidates; and the tables that it refuses."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design import planning
from isoflop.scaling.design.candidates import RATIOS, STEP, DesignError
from isoflop.scaling.design.design import Design
from isoflop.scaling.design.information import Noise
from isoflop.scaling.design.planning import plan_from_law, plan_from_table, ratios_of
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.findings.settings import setting_findings
from isoflop.scaling.fitting.fit import LeastSquares, fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.cost import SIX_ND
from isoflop.scaling.table.conventions import Points, points
from tests.support.fits.simulated import BESIROGLU, NOISE, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")

TABLE = isoflop_table(BESIROGLU, seed=0)
LARGEST = float(points(TABLE).frame["flops"].max())


@pytest.fixture(scope="module")
def fitted():
    return fit("chinchilla", TABLE, objective=LeastSquares())


@pytest.fixture
def planned(monkeypatch, fitted):
    """A function that plans with laws of these weights, noise and discrepancy, and returns what `suggest` was given."""

    def plan(weights=None, *, noise=0.004, discrepancy=0.002, shared=0.0, table=TABLE, **options):
        weights = weights or {"best": 1.0}
        fits = {law: SimpleNamespace(name=law, law=law, noise=noise, optimal=fitted.optimal) for law in weights}
        found = SimpleNamespace(fits=fits, weights=weights, preferred="best", discrepancy=discrepancy)
        monkeypatch.setattr(planning, "weigh_laws", lambda *args: found)
        monkeypatch.setattr(planning, "_shared", lambda best: shared if best.name == "best" else None)
        monkeypatch.setattr(planning, "scenario_of_fit", lambda f, weight, cells, *goal: (f.name, weight, goal))
        given = {}

        def suggest(cells, scenarios, **rest):
            given.update(rest, cells=cells, scenarios=scenarios)
            return Design("loss", 0.0, 0.0, 0.0, cells.frame, {}, {}, cells.frame, notes=("made",))

        monkeypatch.setattr(planning, "suggest", suggest)
        options = {"budget": 3e20, "target": 1e22, "goal": "loss"} | options
        return given | {"design": plan_from_table(table, **options)} | given

    return plan


def test_noise_is_the_best_laws_and_discrepancy_lies_within_its_limits(planned):
    for noise, used in ((0.004, 0.004), (1e-4, 1e-4), (1e-7, 1e-4)):
        assert planned(noise=noise)["noise"] == Noise(used, 0.002, 1e22)
    assert planned(shared=0.3, noise=0.004)["noise"] == Noise(0.004, 0.002, 1e22, 0.3)
    for discrepancy, used in ((0.0, 0.001), (0.0015, 0.0015), (0.05, 0.01)):
        assert planned(discrepancy=discrepancy)["noise"].tau == used


def test_laws_of_little_weight_are_left_out_but_for_the_preferred(planned):
    given = planned({"light": 0.099, "best": 0.001, "least": 0.1, "heavy": 0.8})
    assert [(name, weight) for name, weight, _ in given["scenarios"]] == [("best", 0.1), ("least", 0.1), ("heavy", 0.8)]
    assert {goal for *_, goal in given["scenarios"]} == {("loss", 1e22)}
    assert (given["best"], given["goal"], given["target"], given["budget"]) == ("best", "loss", 1e22, 3e20)


def test_a_target_is_above_the_largest_run(planned):
    assert planned(target=LARGEST * 1.001)["target"] == LARGEST * 1.001
    for target in (LARGEST, LARGEST / 2):
        with pytest.raises(DesignError, match="not above the largest run"):
            planned(target=target)


def test_runs_that_were_repeated_are_known_to_be(planned):
    assert planned()["replicated"] is False
    twice = pd.concat([TABLE, TABLE.head(1).assign(loss=TABLE["loss"].iloc[0] * 1.001)], ignore_index=True)
    assert planned(table=twice)["replicated"] is True
    first = TABLE.head(1)
    for name in ("n_params", "tokens"):  # of one size, or of as many tokens, alone
        alike = pd.concat([TABLE, first.assign(**{name: 1.1 * first[name]})], ignore_index=True)
        assert planned(table=alike)["replicated"] is False


def test_notes_of_the_table_come_before_those_of_the_design(planned, fitted, monkeypatch):
    design = planned()["design"]
    assert "made" in design.notes
    monkeypatch.setattr(Points, "cost_notes", lambda self, n_params: [f"{n_params:.6g}"])
    assert planned()["design"].notes[-2:] == ("made", f"{fitted.optimal(1e22).N:.6g}")
    assert design.conventions == points(TABLE).conventions


def test_candidates_that_are_given_are_taken(planned):
    cells = planning.candidate_runs(planning.any_sizes(SIX_ND, 1e9), 1e20, min_steps=1)
    assert planned(cells=cells)["cells"] is cells


def test_free_sizes_go_up_from_the_smallest_of_the_table_and_what_is_done_is_left_out(planned, fitted):
    frame = planned()["cells"].frame
    smallest = TABLE["n_params"].min()
    assert 0.9 * smallest <= frame["n_params"].min() < 0.9 * smallest * 10 ** (1 / 8)
    assert frame["flops"].max() <= 3e20
    for run in TABLE.itertuples():  # of the nearest free size
        size = frame["n_params"].to_numpy()[np.argmin(np.abs(np.log(frame["n_params"] / run.n_params)))]
        assert np.abs(np.log(frame.loc[frame["n_params"] == size, "tokens"] / run.tokens)).min() >= 0.15
    centre = fitted.optimal(3e20 / 20).N
    off = np.log10(np.sort(frame["n_params"].unique()) / centre) * 8
    assert off == pytest.approx(np.round(off), abs=1e-6)


def test_a_centre_below_the_table_is_its_smallest_size():
    cells = planning._free_candidates(TABLE, SIX_ND, 1.0, 1e20)
    smallest = TABLE["n_params"].min()
    assert cells.frame["n_params"].min() == pytest.approx(smallest)


def test_ratios_are_widened_to_those_of_a_table():
    frame = pd.DataFrame({"n_params": [1.0, 10.0], "tokens": [20.0, 400.0]})
    assert ratios_of(frame) == RATIOS
    assert ratios_of(frame.assign(tokens=[1.0, 4000.0])) == (1.0, 400.0)
    assert ratios_of(frame.assign(tokens=[500.0, 10.0])) == (1.0, 500.0)


def test_a_published_law_is_planned_with_up_to_a_budget_below_the_target(monkeypatch):
    given = {}
    monkeypatch.setattr(planning, "suggest", lambda cells, scenarios, **rest: given.update(rest, cells=cells) or given)
    plan_from_law(BESIROGLU, budget=1e20, target=1.001e20, goal="loss")
    assert given["noise"] == Noise(0.003, 0.001, 1.001e20)
    assert (given["best"], given["budget"], given["target"]) == (BESIROGLU, 1e20, 1.001e20)
    off = np.log10(np.sort(given["cells"].frame["n_params"].unique()) / BESIROGLU.optimal(5e18).N) * 8
    assert off == pytest.approx(np.round(off), abs=1e-6)
    levels = np.log(given["cells"].frame["budget"].max()) / np.log(STEP)
    assert levels == pytest.approx(160, abs=0.1)
    for target in (1e20, 1e19):
        with pytest.raises(DesignError, match="is within the budget"):
            plan_from_law(BESIROGLU, budget=1e20, target=target)


def settings(**columns):
    """The table with these columns, whose second value costs 2% of the loss."""
    extra = TABLE.assign(**{name: first for name, (first, _) in columns.items()})
    other = TABLE.assign(**{name: second for name, (_, second) in columns.items()}, loss=TABLE["loss"] * 1.02)
    return pd.concat([extra, other], ignore_index=True)


def test_a_setting_that_explains_losses_is_refused_unless_the_arms_are_told_apart_by_it(planned):
    with pytest.raises(DesignError, match=r"keep one value of warmup \(--where\), or the best .* \(--best-of warmup\)"):
        planned(table=settings(warmup=(1, 2)))
    arms = settings(arm=("a", "b"), warmup=(1, 2))
    assert planned(table=arms)["design"].findings
    more = arms[arms["arm"] == "b"].assign(warmup=3, loss=lambda frame: frame["loss"] * 1.02)
    with pytest.raises(DesignError, match="warmup"):
        planned(table=pd.concat([arms, more], ignore_index=True))
    across = pd.concat([arms, arms.assign(arm=arms["arm"].map({"a": "b", "b": "a"}))], ignore_index=True)
    with pytest.raises(DesignError, match="warmup"):
        planned(table=across)


def test_of_two_settings_that_of_the_lower_p_is_described_and_both_are_named(planned):
    table = settings(warmup=(1, 2))
    table["decay"] = np.where(np.arange(len(table)) % 7 == 0, 0.1, table["warmup"] / 10)
    found = setting_findings(table, points(table))
    assert [f.columns for f in found] == [("warmup",), ("decay",)]
    with pytest.raises(DesignError, match=re.escape(found[0].message)) as refused:
        planned(table=table)
    assert "keep one value of warmup and of decay" in str(refused.value)


def test_mixtures_are_refused_with_the_command_for_them_unless_each_arm_is_one(planned):
    mixed = settings(weight_code=(0.3, 0.6), weight_prose=(0.7, 0.4))
    with pytest.raises(DesignError, match=r"2 mixtures of data \(weight_code, weight_prose\) .* ask isoflop mix"):
        planned(table=mixed)
    both = settings(weight_code=(0.3, 0.6), weight_prose=(0.7, 0.4), arm=("a", "b"))
    assert "pooled_mixtures" in [found.code for found in planned(table=both)["design"].findings]
    with pytest.raises(DesignError, match="2 mixtures of data"):
        planned(table=both.assign(arm="a"))


@pytest.mark.parametrize(("epochs", "refused"), [(3.9, False), (4.0, False), (4.1, True)])
def test_text_that_was_seen_often_is_refused_with_the_filter_that_keeps_the_rest(planned, epochs, refused):
    table = TABLE.assign(unique_tokens=TABLE["tokens"])
    table.loc[3, "unique_tokens"] = table.loc[3, "tokens"] / epochs
    if not refused:
        planned(table=table)
        return
    with pytest.raises(DesignError, match=r"4\.1 times, .* --where 'tokens / unique_tokens <= 4'"):
        planned(table=table)
    with pytest.raises(DesignError, match=r"--where 'epochs <= 4'"):
        planned(table=table.assign(epochs=table["tokens"] / table["unique_tokens"]))


@pytest.mark.slow
def test_a_table_is_planned_from_what_it_shows():
    table = isoflop_table(BESIROGLU, seed=0)
    made = plan_from_table(table, budget=1e21, target=1e23, goal="loss")
    assert made.sd["after"] < made.sd["now"]
    assert made.sampling["after"] < made.sampling["now"]
    assert made.cells.query("role == 'hold-out'")["flops"].max() > 1.1e20
    assert made.to_dict()["gains"][0]["gain"] >= 0
    with pytest.raises(DesignError, match="not above the largest run"):
        plan_from_table(table, budget=3e20, target=1e19)


@pytest.mark.slow
def test_doing_what_was_suggested_narrows_the_question():
    table = isoflop_table(BESIROGLU, seed=0)
    made = plan_from_table(table, budget=1e20, target=1e22)
    more = simulate_points(BESIROGLU, made.cells["n_params"], made.cells["tokens"], noise=NOISE, seed=50)
    spread = [
        float(jackknife(fit("chinchilla", t)).standard_error(lambda law: np.log(law.optimal(1e22).N)))
        for t in (table, pd.concat([table, more]))
    ]
    assert spread[1] < 0.8 * spread[0]


@pytest.mark.slow
def test_where_rows_are_does_not_change_the_plan():
    table = isoflop_table(BESIROGLU, seed=0)
    plans = [plan_from_table(rows, budget=1e20, target=1e22) for rows in (table, table[::-1].reset_index(drop=True))]
    pd.testing.assert_frame_equal(plans[0].cells, plans[1].cells)
    assert plans[0].to_dict() == plans[1].to_dict()


def test_noise_is_shared_by_runs_of_a_trunk_where_the_residuals_of_the_fit_show_it():
    rng = np.random.default_rng(0)
    trunk = np.arange(len(TABLE)) % 9
    table = isoflop_table(BESIROGLU, seed=0, noise=1e-4).assign(trunk_id=trunk.astype(str), seed=trunk)
    table["loss"] *= np.exp(0.01 * rng.normal(size=9)[trunk] + 0.002 * rng.normal(size=len(table)))
    assert planning._shared(fit("chinchilla", table, objective=LeastSquares())) > 0.5
    assert planning._shared(fit("chinchilla", table.drop(columns=["trunk_id", "seed"]), objective=LeastSquares())) == 0


def test_residuals_and_gradients_are_of_equal_variance_where_noise_shared_by_trunks_is_looked_for(monkeypatch):
    gradient, spread = np.arange(8.0).reshape(2, 4), np.array([1.0, 2.0, 4.0, 0.5])
    best = SimpleNamespace(
        problem=SimpleNamespace(residuals=lambda theta: (None, gradient[None], None)), theta=np.zeros(2),
        residuals=np.array([0.1, 0.2, 0.3, 0.4]), spread=spread,
        points=SimpleNamespace(frame=pd.DataFrame({"cluster": ["b", "a", "b", "c"]})),
    )  # fmt: skip
    monkeypatch.setattr(planning, "shared_by_cluster", lambda *given: given)
    residual, design, label = planning._shared(best)
    assert residual == pytest.approx([0.1, 0.1, 0.075, 0.8])
    np.testing.assert_allclose(design, gradient.T / spread[:, None])
    assert label.tolist() == [0, 1, 0, 2]
