"""The two-stage law: recovered where it holds, refused where nothing shows, with intervals that cover the truth."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.experiments.store.store import create_store
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.fitting.fit import FitError, fit
from isoflop.scaling.fitting.uncertainty import bootstrap, jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.prediction.chain import Chain, Sigmoid
from isoflop.scaling.prediction.direct import RAW
from isoflop.scaling.prediction.two_stage import two_stage
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.evaluations.task_scores import ITEMS, SCORES, write_scores
from isoflop.scaling.table.runs import final_rows, write_run

pytestmark = pytest.mark.usefixtures("kept_searches")

LOSS = Chinchilla(E=0.9, A=33.0, B=332.0, alpha=0.45, beta=0.5)
TASK = Sigmoid(floor=0.25, middle=1.4, steep=4.0)
SIZES, TOKENS = np.geomspace(3e3, 3e6, 7), np.geomspace(1e5, 1e9, 7)


def runs(*, noise=0.0, loss_noise=0.0, seed=0, items=None):
    """A plain table on a grid; the score follows each run's own loss."""
    grid = np.meshgrid(SIZES, TOKENS)
    table = simulate_points(LOSS, grid[0].ravel(), grid[1].ravel(), noise=loss_noise, seed=seed)
    rng = np.random.default_rng(seed + 1)
    score = TASK(table["loss"].to_numpy())
    if items:
        score = rng.binomial(items, score) / items
        table["accuracy_se"] = np.sqrt(np.clip(score * (1 - score), 1e-4, None) / items)
    table["accuracy"] = np.clip(score + rng.normal(0, noise, len(table)) if noise else score, 0, 1)
    return table


def test_the_derivative_of_the_sigmoid_is_that_of_its_formula():
    theta = Sigmoid.encode(np.array([[0.2, 1.5, 3.0, 0.9], [0.0, 2.5, 60.0, 1.0]]))
    x = {"L": np.log(np.linspace(0.5, 6.0, 9))}
    _, jacobian = Sigmoid.evaluate(theta, x)
    for j in range(4):
        step = 1e-6 * np.eye(4)[j]
        up, down = (Sigmoid.evaluate(theta + s * step, x)[0] for s in (1, -1))
        np.testing.assert_allclose(jacobian[:, j], (up - down) / 2e-6, atol=1e-6)
    assert np.isfinite(Sigmoid.evaluate(theta, {"L": np.log([1e-3, 40.0])})[1]).all()


@pytest.mark.parametrize("law", [TASK, Sigmoid(0.05, 2.0, 1.5), Sigmoid(0.5, 1.1, 12.0)])
def test_a_sigmoid_without_noise_is_recovered(law):
    table = runs()
    table["accuracy"] = law(table["loss"])
    found = two_stage(table)
    np.testing.assert_allclose(found.second.law.values(), law.values(), rtol=1e-5)
    np.testing.assert_allclose(found.first.law.values(), LOSS.values(), rtol=1e-4)
    assert found.error < 1e-8


@pytest.mark.slow
def test_both_stages_leave_out_and_draw_the_same_runs():
    found = two_stage(runs(noise=0.01, loss_noise=0.01, seed=3), resamples=6, seed=4)
    alone = [bootstrap(stage, 6, seed=4) for stage in (found.first, found.second)]
    for chain, loss_law, task_law in zip(found.resamples.laws, *(draws.laws for draws in alone), strict=True):
        assert (chain.loss_law, chain.task_law) == (loss_law, task_law)
    left_out = [jackknife(stage).laws for stage in (found.first, found.second)]
    assert [(c.loss_law, c.task_law) for c in found.draws.laws] == list(zip(*left_out, strict=True))


@pytest.mark.slow
def test_a_ceiling_below_one_is_recovered_when_it_is_freed():
    law = Sigmoid(0.25, 1.5, 5.0, 0.8)
    table = runs()
    table["accuracy"] = law(table["loss"])
    np.testing.assert_allclose(
        two_stage(table, free_top=True, chance=0.25).second.law.values(), law.values(), rtol=1e-4
    )
    assert two_stage(table, chance=0.25).error > 0.01


def test_prediction_goes_through_the_loss_to_the_score():
    found = two_stage(runs(), chance=0.25)
    for N, D in ((1e5, 1e8), (3e7, 1e10)):
        assert found.at(N, D)["accuracy"] == pytest.approx(TASK(LOSS(N, D)), abs=1e-6)
    best = LOSS.optimal(1e17)
    printed = found.best(1e17)
    assert printed["accuracy"] == pytest.approx(TASK(best.loss), abs=1e-5)
    assert printed["n_params"] == pytest.approx(best.N, rel=1e-3)
    chained = Chain(LOSS, TASK)
    assert chained.optimal(1e17).loss == pytest.approx(TASK(best.loss))


@pytest.mark.slow
def test_intervals_of_a_prediction_cover_the_truth_at_their_rate():
    N, D = 3e7, 3e9
    truth, inside, widths = TASK(LOSS(N, D)), 0, []
    for seed in range(20):
        printed = two_stage(runs(loss_noise=0.01, items=500, seed=seed), chance=0.25).at(N, D)
        inside += printed["lo"] <= truth <= printed["hi"]
        widths.append(printed["hi"] - printed["lo"])
    assert 15 <= inside <= 20  # 18 of 20 at 90%
    assert np.median(widths) < 0.1


@pytest.mark.slow
def test_bootstrap_and_jackknife_agree_and_resample_both_stages_together():
    found = two_stage(runs(loss_noise=0.01, items=500), chance=0.25, resamples=200)
    by = [draws.standard_error(lambda law: law(3e7, 3e9)) for draws in (found.draws, found.resamples)]
    assert 0.6 < by[0] / by[1] < 1.7
    assert len(found.draws) == 49
    one = found.draws.laws[7]
    keep = np.arange(49) != 7
    alone = fit("chinchilla", runs(loss_noise=0.01, items=500)[keep], objective=found.first.objective)
    np.testing.assert_allclose(one.loss_law.values(), alone.law.values(), rtol=0.02)


@pytest.mark.slow
def test_the_interval_of_an_open_floor_is_one_of_scores():
    found = two_stage(runs(loss_noise=0.02, noise=0.03)[::3])
    lo, hi = found.to_dict()["sigmoid"]["intervals"]["floor"]
    assert 0.0 <= lo < found.second.law.floor < hi <= 1.0


@pytest.mark.parametrize("chance", [-0.1, 1.0, 1.5, 25.0, float("nan")])
def test_a_chance_that_no_guessing_has_is_refused(chance):
    with pytest.raises(TableError, match=r"^--chance .*guessing scores at least 0 and less than 1"):
        two_stage(runs(), chance=chance)
    if chance == chance:
        with pytest.raises(TableError, match=r"table: chance .*guessing scores at least 0 and less than 1"):
            two_stage(runs().assign(chance=chance))


@pytest.mark.slow
def test_a_chance_above_the_scores_is_refused_and_one_above_most_is_objected_to():
    table = runs()
    with pytest.raises(FitError, match=r"no run's accuracy lies above chance \(0.999\)"):
        two_stage(table, chance=0.999)
    high = float(table["accuracy"].quantile(0.6))
    codes = {f.code: f for f in two_stage(table, chance=high).findings()}
    assert codes["below_chance"].severity == "fail"
    assert "below_chance" not in {f.code for f in two_stage(table, chance=0.25).findings()}


@pytest.mark.slow
def test_runs_with_more_items_weigh_more():
    table = runs(items=200)
    table.loc[::2, "accuracy"] = 0.9
    table.loc[::2, "accuracy_se"] = 5.0
    found = two_stage(table, chance=0.25)
    assert found.second.law.middle == pytest.approx(TASK.middle, abs=0.1)
    assert RAW.residual == "raw"


def test_scores_at_chance_are_refused_and_so_is_what_is_no_score():
    table = runs(items=500).assign(accuracy=0.26, accuracy_se=0.02, chance=0.25)
    with pytest.raises(FitError, match=r"no run's accuracy lies two standard errors above chance \(0.25\)"):
        two_stage(table)
    with pytest.raises(
        TableError, match=r"accuracy must lie between 0 and 1; it does not in 49 of 49 rows \(rows? .*: 155; "
    ):
        two_stage(runs().assign(accuracy=155.0))
    some = runs().assign(accuracy=np.where(np.arange(49) == 7, 45.2, 0.5))
    with pytest.raises(TableError, match=r"it does not in 1 of 49 rows .*: 45.2; write all of them as shares"):
        two_stage(some)
    with pytest.raises(TableError, match="no column 'score'"):
        two_stage(runs(), column="score")


@pytest.mark.slow
def test_the_direct_law_stands_beside_and_disagrees_where_the_score_is_no_power_of_compute():
    found = two_stage(runs(), chance=0.25)
    (beside,) = found.to_dict([found.best(1e17)])["direct"]["predictions"]
    assert beside["flops"] == 1e17
    assert 0.25 < beside["lo"] <= beside["accuracy"] <= beside["hi"] <= 1
    printed = found.text([found.best(1e17)])
    assert printed.splitlines()[1] == f"  {found.first.law.written()}"
    assert "in one stage, -ln(score - chance) = A C^-alpha + top: A " in printed
    (finding,) = [f for f in found.findings([found.best(1e17)]) if f.code == "stages_disagree"]
    assert "1e+17 FLOPs" in finding.message
    assert not [f for f in found.findings() if f.code == "stages_disagree"]


@pytest.mark.slow
def test_without_a_direct_law_its_reason_is_said():
    table = runs()
    table["accuracy"] = np.where(np.arange(len(table)) < 3, 0.9, 0.25)
    found = two_stage(table, chance=0.25)
    assert found.to_dict()["direct"]["failed"].startswith("3 runs score above chance")
    assert "no law of accuracy in compute: 3 runs" in found.text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "without",
    [lambda t: t.assign(weight=np.where(t.index == 5, 0, 1)), lambda t: t.assign(loss=t["loss"].where(t.index != 5)),
     lambda t: t.assign(accuracy=t["accuracy"].where(t.index != 5))],
    ids=["weight 0", "no loss", "no score"],
)  # fmt: skip
def test_a_row_that_is_left_out_takes_its_score_along(without):
    table = runs(noise=0.01)
    found = two_stage(without(table), chance=0.25)
    assert found.law.task_law == two_stage(table.drop(index=5).reset_index(drop=True), chance=0.25).law.task_law
    assert any("1 " in note and "left out" in note for note in found.notes)


def cli(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exception, result.output


@pytest.mark.slow
def test_the_command_on_anybodys_table(tmp_path):
    path = tmp_path / "runs.csv"
    runs(items=500).rename(columns={"accuracy": "hellaswag", "accuracy_se": "hellaswag_se"}).to_csv(path, index=False)
    requested = [path, "--column", "hellaswag", "--chance", 0.25, "--flops", 1e16]
    error, text = cli("accuracy", *requested)
    assert error is None, error
    assert "hellaswag from the loss, the loss from N and D; 49 runs" in text
    assert "floor    0.2500  fixed" in text
    printed = json.loads(cli("accuracy", *requested, "--json")[1])
    (one,) = printed["predictions"]
    assert one["lo"] < TASK(LOSS.optimal(1e16).loss) < one["hi"]
    assert printed["sigmoid"]["params"]["middle"] == pytest.approx(1.4, abs=0.1)
    assert printed["sigmoid"]["intervals"]["middle"][0] < 1.4 < printed["sigmoid"]["intervals"]["middle"][1]
    assert "go together" in str(cli("accuracy", path, "--column", "hellaswag", "--tokens", 1e9)[0])


@pytest.mark.slow
def test_the_command_on_scores_that_evaluate_kept(tmp_path, study_table):
    store = create_store(tmp_path / "runs")
    final = final_rows(study_table)
    rng = np.random.default_rng(0)
    for row in final.to_dict("records"):
        path = store.run_file(row["run_id"])
        write_run(path, study_table[study_table["run_id"] == row["run_id"]].to_dict("records"), {})
        value = rng.binomial(2000, Sigmoid(0.25, 1.6, 3.0)(row["loss"])) / 2000
        reported = {c.name: "x" for c in SCORES} | {"run_id": row["run_id"], "task": "next_line", "metric": "acc"}
        reported |= {"value": value, "stderr": 0.01, "items": 2000, "chance": 0.25, "higher_is_better": True}
        write_scores(path.parent, pd.DataFrame([reported]), pd.DataFrame(columns=[c.name for c in ITEMS]))
    error, text = cli("accuracy", store.root, "--task", "next_line", "--flops", 1e13)
    assert error is None, error
    assert "note: accuracy is acc on task next_line" in text
    assert "1e+13 FLOPs: N " in text
    assert "did you mean 'next_line'" in str(cli("accuracy", store.root, "--task", "nextline")[0])


@pytest.mark.parametrize("form", ["{:.4g}", "{:.4g}%"])
def test_scores_in_percent_are_shares(form):
    table = runs(loss_noise=0.01, items=500)[::2]
    percent = table.assign(accuracy=(100 * table["accuracy"]).map(form.format), accuracy_se=100 * table["accuracy_se"])
    if "%" not in form:
        percent["accuracy"] = percent["accuracy"].astype(float)
    shares = table.assign(accuracy=(100 * table["accuracy"]).map("{:.4g}".format).astype(float) / 100)
    found, alone = two_stage(percent, chance=0.25), two_stage(shares, chance=0.25)
    np.testing.assert_allclose(found.second.law.values(), alone.second.law.values(), rtol=1e-6)
    assert "accuracy is in percent: divided by 100" in found.notes


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_share_of_mistakes_is_no_score(noise):
    table = runs(noise=noise)
    wrong = table.assign(mistakes=1 - table["accuracy"])
    with pytest.raises(TableError, match=r"mistakes rises with the loss .* add a column of 1 - mistakes and name that"):
        two_stage(wrong, column="mistakes")
    assert two_stage(wrong, column="accuracy").score == "accuracy"


def test_scores_that_do_not_follow_the_loss_are_no_mistakes():
    table = runs()
    scatter = np.random.default_rng(0).uniform(0.25, 0.35, len(table))
    assert two_stage(table.assign(accuracy=scatter), chance=0.25).score == "accuracy"
