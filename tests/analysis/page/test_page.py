"""report.html without a browser: its numbers, its checklist, its size, and what it says when a part is missing."""

import html
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

import isoflop.analysis.page.checklist as checklist_module
import isoflop.analysis.page.page as page_module
from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.page.calculator import ABOVE, BELOW, calculator_frame
from isoflop.analysis.page.charts import SHAPES, charts
from isoflop.analysis.page.checklist import checklist
from isoflop.analysis.page.data import datasets, law_names, without_optimum
from isoflop.analysis.page.page import page, script_json
from isoflop.analysis.paper.kit import numbers
from isoflop.analysis.report import write_report
from isoflop.analysis.sections import laws
from isoflop.analysis.style import MARKS, arm_looks
from isoflop.scaling.design.simulate import simulate_points, simulate_study
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.laws.chinchilla import Chinchilla
from tests.support.page.known_parts import knowing

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_searches")]  # each draws a whole report

LAW = Chinchilla(0.9, 33.0, 332.0, 0.45, 0.5)
RULES = checklist_module._RULES


@pytest.fixture(scope="module", autouse=True)
def two_laws():
    """Two candidates in place of the catalogue, of which no test is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.analysis.evidence.candidates", lambda points: ("chinchilla", "power-n"))
        yield


@pytest.fixture(scope="module")
def evidence():
    return Evidence(simulate_study(LAW, noise=0.01, seeds=range(8), curves=False), law="chinchilla", n_draws=50)


@pytest.fixture(scope="module")
def text(evidence):
    return page(evidence, missing={"bowls": "one </script> rate"}, provenance="- isoflop 1")


@pytest.fixture
def lines_of(monkeypatch):
    """A function that judges some lines of the checklist alone: (evidence, codes) to them by their codes."""

    def judge(e, *codes):
        monkeypatch.setattr(checklist_module, "_RULES", [rule for rule in RULES if rule.code in codes])
        return {line.code: line for line in checklist(e)}

    return judge


def embedded(text: str) -> dict:
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])


def test_the_calculator_answers_as_the_law_and_its_draws_do(evidence):
    frame = calculator_frame(evidence.fit, evidence.draws)
    known = evidence.points.frame["flops"]
    for given, letter in (("flops", "C"), ("n_params", "N"), ("tokens", "D")):
        rows = frame[frame["given"] == given]
        assert np.all(np.diff(rows[given]) > 0)
        best = evidence.fit.optimal(rows["flops"].to_numpy())
        np.testing.assert_allclose(rows[given], getattr(best, letter), rtol=1e-9)
        np.testing.assert_allclose(rows["loss"], best.loss, rtol=1e-9)
        np.testing.assert_allclose(rows[f"{given}_low"], rows[f"{given}_high"], rtol=1e-9)
    budgets = frame.loc[frame["given"] == "flops", "flops"]
    assert budgets.min() <= known.min() / BELOW
    assert budgets.max() >= known.max() * ABOVE
    row = frame[frame["given"] == "flops"].iloc[40]
    interval = evidence.draws.interval(lambda law: law.optimal(row["flops"], evidence.fit.cost).N)
    assert (row["n_params_low"], row["n_params_high"]) == pytest.approx(interval, rel=1e-12)


def test_a_given_size_is_best_at_the_compute_of_its_row(evidence):
    """For each draw alone: what it says at a given size, it says at the compute it names for it."""
    frame = calculator_frame(evidence.fit, evidence.draws)
    row = frame[frame["given"] == "n_params"].iloc[60]

    def compute(law):
        def off(log_c):
            return float(np.log(law.optimal(np.exp(log_c), evidence.fit.cost).N / row["n_params"]))

        return np.exp(brentq(off, np.log(1e8), np.log(1e20), xtol=1e-13, rtol=1e-13))

    interval = evidence.draws.interval(compute)
    assert (row["flops_low"], row["flops_high"]) == pytest.approx(interval, rel=1e-9)


def test_the_charts_carry_the_fits_of_every_convention(evidence):
    rows = datasets(evidence)
    assert {p["convention"] for p in rows["points"]} == {
        "N matrices, C exact", "N total, C exact", "N no-embedding, C exact", "N matrices, C 6nd",
    }  # fmt: skip
    for data in evidence.conventions_known:
        name = f"N {data.params}, C {data.compute}"
        fit = evidence.fit_of("chinchilla", data)
        mine = {p["run_id"]: p for p in rows["points"] if p["convention"] == name}
        assert len(mine) == len(data)
        first = data.frame.iloc[0]
        assert mine[first["run_id"]]["chinchilla"] == pytest.approx(fit.predicted[0], rel=1e-5)
        assert mine[first["run_id"]]["n_params"] == pytest.approx(first["n_params"], rel=1e-5)
        line = next(r for r in rows["frontier"] if (r["convention"], r["law"]) == (name, "chinchilla"))
        assert line["n_params"] == pytest.approx(float(fit.optimal(line["flops"]).N), rel=1e-4)
        assert line["n_params_low"] < line["n_params"] < line["n_params_high"]
        curve = [r for r in rows["profiles"] if r["convention"] == name]
        at = curve[7]
        of_budget = data.frame["run_id"].map({run: p["budget"] for run, p in mine.items()}) == at["budget"]
        line = np.polyfit(*np.log(data.frame.loc[of_budget, ["n_params", "flops"]].to_numpy()).T, 1)
        tokens = fit.cost.tokens(np.exp(np.polyval(line, np.log(at["n_params"]))), at["n_params"])
        assert at["chinchilla"] == pytest.approx(float(fit.law(at["n_params"], tokens)), rel=1e-4)
        assert {r["budget"] for r in curve} == {p["budget"] for p in mine.values()}


def test_an_optimum_that_the_report_refuses_is_in_no_chart_no_table_and_no_paper():
    """One budget: sizes and tokens lie on a line."""
    size = np.geomspace(1e6, 1e8, 9)
    table = pd.DataFrame({"n_params": size, "tokens": 1e16 / 6 / size})
    table["loss"] = LAW(table["n_params"], table["tokens"]) * np.exp(np.random.default_rng(0).normal(0, 1e-3, 9))
    e = Evidence(table, law="chinchilla", n_draws=50)
    data = page_module.page_data(e)
    (why,) = data["no_optimum"]
    assert "collinear" in why
    assert data["datasets"]["frontier"] == []
    assert not {"n_params", "tokens"} & set(data["charts"])
    shown = page(e, missing={}, provenance="")
    assert f"No optimum is drawn of {', '.join(data['no_optimum'][why])}: {html.escape(why)}" in shown
    rows = {row.split(" | ")[0]: row.split(" | ")[2:6] for row in laws(e).splitlines()[2:]}
    assert [cell for k, cell in enumerate(rows["| **chinchilla**"]) if k != 2] == ["not known"] * 3


def test_an_optimum_is_refused_fit_by_fit(evidence):
    stuck = replace(evidence.fit, bounds_hit=("beta",))
    assert "beta at the bound" in evidence.no_optimum(stuck)
    at = f"fit of chinchilla to {id(evidence.points)}"
    assert at in evidence.done
    other = knowing(evidence, **{at: (evidence.points, stuck)})
    refused = without_optimum(other, ["chinchilla"])
    assert [name for names in refused.values() for name in names] == ["chinchilla (N matrices, C exact)"]
    drawn = {r["convention"] for r in datasets(other)["frontier"] if r["law"] == "chinchilla"}
    assert len(drawn) == len(evidence.conventions_known) - 1
    assert "isoflopexpa" not in numbers(knowing(other, fit=stuck))


def test_every_curve_of_the_page_goes_through_its_runs_however_they_are_counted(evidence):
    """The compute of a budget under another convention is another number: lines ran beside the runs."""
    rows = datasets(evidence)
    curves, runs = (pd.DataFrame(rows[name]) for name in ("profiles", "points"))
    for _, own in runs.groupby(["convention", "budget"]):
        of = (curves[["convention", "budget"]] == own[["convention", "budget"]].iloc[0]).all(axis=1)
        sizes, losses = np.log(curves.loc[of, ["n_params", "chinchilla"]].to_numpy()).T
        gap = np.interp(np.log(own["n_params"]), sizes, losses) - np.log(own["chinchilla"])
        assert np.sqrt(np.mean(gap**2)) < 0.005


def test_a_law_has_one_minimum_at_a_budget_of_two_arms(study_law):
    """Arms of unlike cost at one size: a curve through their runs has many, which the law has not."""
    tables = [simulate_study(study_law, curves=False).assign(arm=arm) for arm in ("x", "y")]
    tables[1][["run_id", "trunk_id"]] += "y"
    tables[1]["tokens"] = (tables[1]["tokens"] * 0.7).round()
    rows = datasets(Evidence(pd.concat(tables, ignore_index=True), law="chinchilla", n_draws=50))
    curves = pd.DataFrame(rows["profiles"]).groupby(["convention", "budget"])["chinchilla"]
    assert len(curves) > 4
    for _, losses in curves:
        turns = np.diff(np.sign(np.diff(losses))) != 0
        assert turns.sum() <= 1


def test_no_law_of_a_chart_looks_like_another_and_the_rule_is_at_the_largest_run():
    laws, arms = [f"law-{k}" for k in range(20)], ["x", "y", "z"]
    drawn = charts(laws, "one", (1e11, 3e12), arms=arms, joined=True, frontier=True)
    for name in ("isoflop", "compute", "n_params", "tokens"):
        (line,) = (layer["encoding"] for layer in drawn[name]["layer"] if layer["mark"]["type"] == "line")
        looks = [line[channel]["scale"]["range"] for channel in ("color", "strokeDash")]
        assert len({(colour, tuple(dash)) for colour, dash in zip(*looks, strict=True)}) == len(laws)
        assert line["color"]["legend"]["values"] == {"expr": "laws"}
        ends = [layer["data"] for layer in drawn[name]["layer"] if layer["encoding"].get("x", {}).get("field") == "end"]
        assert ends == ([] if name == "isoflop" else [{"values": [{"end": 3e12}]}])
    dots = next(layer for layer in drawn["isoflop"]["layer"] if layer.get("name") == "runs")
    assert len(set(dots["encoding"]["shape"]["scale"]["range"])) == len(arms)
    alone = charts(laws, "one", (1e11, 3e12), arms=["x"], joined=True, frontier=True)["isoflop"]["layer"]
    assert not any("shape" in layer["encoding"] for layer in alone)


def runs_layer(arms, **more):
    drawn = charts(["one"], "c", (1e11, 3e12), arms=arms, joined=False, frontier=True, **more)
    return next(layer for layer in drawn["isoflop"]["layer"] if layer.get("name") == "runs")


@pytest.mark.parametrize("count", [2, 7, 8, 12])
def test_every_arm_has_a_mark_of_its_own_and_a_label_of_its_own(count):
    arms = [f"llama-baseline-lr3e-4-wd0.1-seqlen2048-{k}" for k in range(count)]
    shape = runs_layer(arms)["encoding"]["shape"]
    assert len(set(shape["scale"]["range"])) == count
    labels = json.loads(shape["legend"]["labelExpr"].removesuffix(")[datum.label]")[1:])
    assert list(labels) == arms
    assert len(set(labels.values())) == count
    assert len({mark for _, mark in arm_looks(arms).values()}) == count


def test_more_arms_than_marks_have_none_and_the_page_says_so(study_table):
    assert "shape" not in runs_layer([str(k) for k in range(13)])["encoding"]
    assert len(SHAPES) == len(MARKS) == 12
    runs = study_table[study_table["final"]].reset_index(drop=True)
    e = Evidence(runs.assign(arm=[f"arm {k % 13}" for k in range(len(runs))]), law="chinchilla", n_draws=50)
    assert "13 arms have no marks of their own" in page_module._charts(page_module.page_data(e))


def test_a_tooltip_shows_what_the_runs_have_in_the_letters_of_the_axes():
    def titles(layer):
        return [one["title"] for one in layer["encoding"]["tooltip"]]

    plain, full = runs_layer(["x"]), runs_layer(["x", "y"], seeded=True)
    assert not {"seed", "arm"} & set(titles(plain))
    assert {"seed", "arm", "law", "its loss"} <= set(titles(full))
    steps = {one["as"]: one["calculate"] for one in full["transform"] if "as" in one}
    assert "replace(format(datum.tokens, '.4s'), 'G', 'B')" in steps["tokens_text"]
    drawn = charts(["one"], "c", (1e11, 3e12), arms=["x"], joined=False, frontier=True)
    assert "'.4s'), 'G', 'B')" in json.dumps(drawn["n_params"])
    assert '"format": ".4s"' not in json.dumps(drawn)


def test_every_link_of_the_page_leads_to_its_section(text):
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]+)"', text)
    assert all(f'<section id="{name}"' in text for name in links)


def test_the_list_of_figures_names_what_stands_in_the_file_of_another():
    every = page_module._figures(list(FIGURES.values()))
    assert (
        "All runs stand in cells.csv, the optima of budgets in isoflop.csv, the efficient frontier in n_star.csv"
        in every
    )
    assert "All runs stand in cells.csv:" in page_module._figures([FIGURES["surface"]])


def test_many_runs_are_thinned(evidence, monkeypatch):
    monkeypatch.setattr("isoflop.analysis.page.data.MOST_RUNS", 100)
    each = len(datasets(evidence)["points"]) / len(evidence.conventions_known)
    assert 50 < each <= 100 < len(evidence.points)


def test_the_checklist_holds_what_holds_and_names_what_nobody_measured(evidence):
    lines = {line.code: line for line in checklist(evidence)}
    assert len(lines) == 30
    assert lines["C2"].state == "holds"
    assert "8 sizes" in lines["C2"].evidence
    assert lines["C16"].state == "holds"
    assert lines["C15"].state == "open"
    assert lines["C30"].state == "open"
    for line in lines.values():
        assert line.evidence


def test_the_lines_of_tuning_and_arms_say_where_each_is_answered(evidence):
    lines = {line.code: line for line in checklist(evidence)}
    assert "isoflop tune" in lines["C15"].evidence
    assert "isoflop multiplier" in lines["C28"].evidence
    assert "isoflop multiplier and isoflop tune" in lines["C30"].evidence


def test_two_arms_are_ranked_at_equal_compute_and_their_tuning_compared(study_law, lines_of):
    better = replace(study_law, A=0.9 * study_law.A, B=0.9 * study_law.B)
    tables = [
        simulate_study(law, noise=0.002, curves=False).assign(arm=arm) for law, arm in ((study_law, "x"), (better, "y"))
    ]
    tables[1][["run_id", "trunk_id"]] += "y"
    e = Evidence(pd.concat(tables, ignore_index=True), law="chinchilla", n_draws=50)
    lines = lines_of(e, "C28", "C30")
    assert lines["C28"].state == "holds"
    assert "the largest budget of both, y is ahead" in lines["C28"].evidence
    assert lines["C30"].state == "open"
    assert "one learning rate an arm" in lines["C30"].evidence
    tables[1] = pd.concat([tables[1], tables[1].assign(peak_learning_rate=0.5, loss=tables[1]["loss"] + 1)])
    tables[1]["run_id"] += tables[1]["peak_learning_rate"].astype(str)
    unequal = Evidence(pd.concat(tables, ignore_index=True), law="chinchilla", n_draws=50)
    assert lines_of(unequal, "C30")["C30"].state == "objected"


def test_repeated_data_of_a_plain_table_are_objected_to(lines_of):
    sizes, tokens = np.tile([1e4, 3e4, 1e5, 3e5], 5), np.repeat(np.geomspace(1e6, 1e8, 5), 4)
    once = simulate_points(LAW, sizes, tokens, noise=0.003)
    states = {}
    for unique in (1e9, 1e7):
        states[unique] = lines_of(Evidence(once.assign(unique_tokens=unique), law="chinchilla"), "C18")["C18"]
    assert states[1e9].state == "holds"
    assert states[1e7].state == "objected"
    assert "8 of 20 runs repeat their data, up to 10 epochs" in states[1e7].evidence
    assert lines_of(Evidence(once, law="chinchilla"), "C18")["C18"].state == "open"


def test_every_line_states_the_number_that_was_tested_against_its_threshold(monkeypatch, lines_of):
    """C3, C10 and C21 on tables that meet them and on tables that do not."""
    budgets = np.geomspace(1e18, 1e20, 5)
    sizes = LAW.optimal(budgets).N[:, None] * np.geomspace(1 / 3, 3, 7)
    table = simulate_points(LAW, sizes, budgets[:, None] / 6 / sizes, noise=0.002)

    def evidence_of(changed):
        return Evidence(changed, law="chinchilla", n_draws=50)

    sound = evidence_of(table)
    good = lines_of(sound, "C3", "C10", "C21", "C27")
    assert (good["C3"].state, good["C10"].state, good["C21"].state) == ("holds", "holds", "holds")
    assert good["C3"].evidence == "35 clusters (row) for 5 free parameters: 7.0 each, against 5"
    assert "the figures go to 10 times the largest run" in good["C10"].evidence
    few = lines_of(evidence_of(table.iloc[::2]), "C3")["C3"]
    assert few.state == "objected"
    assert "3.6 each, against 5" in few.evidence
    monkeypatch.setattr(checklist_module, "FARTHEST", 5.0)
    assert lines_of(sound, "C10")["C10"].state == "objected"
    spent = table["n_params"] * table["tokens"]
    lower = table.assign(loss=table["loss"] * np.where(spent > 0.9 * spent.max(), 0.97, 1))
    low = lines_of(evidence_of(lower), "C11", "C21")
    assert "largest |t|" in good["C21"].evidence
    assert "against 0.08" in good["C21"].evidence
    assert low["C21"].state == "objected"
    assert low["C11"].state == "objected"
    assert "the runs of the largest budget lie -" in low["C11"].evidence
    assert good["C27"].state == "holds"


def test_a_law_of_tokens_alone_does_not_hold_what_is_said_of_sizes(lines_of):
    """No Finding speaks of sizes under it."""
    tokens = np.geomspace(1e6, 1e9, 12)
    table = simulate_points(LAW, np.full(12, 1e5), tokens, noise=0.002)
    lines = lines_of(Evidence(table, law="power-d"), "C2", "C4", "C5", "C12")
    assert {code: line.state for code, line in lines.items()} == {
        "C2": "objected", "C4": "objected", "C5": "objected", "C12": "objected",
    }  # fmt: skip
    assert lines["C2"].evidence.startswith("1 sizes")
    assert "n_params 0.00" in lines["C4"].evidence
    assert "correlation of ln N and ln D 1.00" in lines["C5"].evidence


@pytest.mark.parametrize(("condition", "state"), [(9e7, "holds"), (2e8, "objected")])
def test_the_condition_number_is_tested_where_no_finding_does(evidence, lines_of, monkeypatch, condition, state):
    monkeypatch.setattr(Fit, "condition", condition)
    assert lines_of(knowing(evidence, findings=[]), "C6")["C6"].state == state


def test_a_finding_turns_its_line(study_table, lines_of):
    short = Evidence(study_table.assign(step=100), law="chinchilla", n_draws=50)
    lines = lines_of(short, "C19")
    assert lines["C19"].state == "objected"
    assert "fewer than 300 steps" in lines["C19"].evidence


def test_a_sensitive_exponent_is_objected_to(study_table, lines_of):
    e = Evidence(study_table, law="chinchilla", n_draws=50)
    moved = e.sensitivity.copy()
    moved.loc[1, "value"] += 1.0
    e.done["sensitivity"] = moved
    assert lines_of(e, "C22")["C22"].state == "objected"


def test_200_runs_stay_under_3_megabytes(evidence, text):
    assert len(evidence.points) >= 200
    assert len(text.encode()) < 3_000_000
    assert len({row["run_id"] for row in embedded(text)["datasets"]["points"]}) == len(evidence.points)


def test_the_page_asks_for_nothing(text):
    outside = text.replace("</script>", "").split("<script>")[0]
    assert "http:" not in outside
    assert "https:" not in outside
    assert "default-src 'none'" in text
    assert "one &lt;/script&gt; rate" in text


def test_every_finding_stands_with_its_remedy(evidence, text):
    plain = html.unescape(text)
    for finding in evidence.findings:
        assert finding.message in plain
        assert finding.remedy[1:] in plain


def test_without_the_extra_the_report_says_so(study_table, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "NEEDS", ("vl_convert", "not_here"))
    with pytest.raises(UnsupportedError, match=r"not_here not installed: pip install 'isoflop\[report\]'"):
        page(Evidence(study_table), missing={}, provenance="")
    monkeypatch.setattr("isoflop.analysis.report.FIGURES", {})
    written = write_report(study_table, tmp_path, law="chinchilla", n_draws=50)
    assert "not_here" in written.missing["report.html"]
    assert not (tmp_path / "report.html").exists()
    assert "report.html: not_here" in (tmp_path / "report.md").read_text()


def test_an_unfittable_table_has_a_page_of_reasons():
    few = simulate_points(LAW, [1e4, 1e5], [1e6, 1e7])
    with pytest.raises(UnsupportedError, match="no law of N and D"):
        law_names(Evidence(few))
    made = page(Evidence(few), missing={}, provenance="- none")
    assert made.count("Not available") >= 4
    assert embedded(made)["charts"] == {}


@pytest.mark.process
def test_the_fit_needs_no_charts():
    code = "import sys, isoflop.scaling.findings.verdict\nsys.exit(bool({'vl_convert', 'matplotlib'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_in_the_data_stay_data():
    for name in ("<!--<script>", "</script>", "</SCRIPT ", "<"):
        text = script_json({"arm": name})
        assert "<" not in text
        assert json.loads(text) == {"arm": name}
