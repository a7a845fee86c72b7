"""Every figure on every kind of table: drawn, or refused with a reason. Never a traceback."""

import re

import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.report import write_report
from isoflop.analysis.style import style
from isoflop.scaling.design.simulate import simulate_study
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.table.read import read_table
from tests.support.root import RESULTS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_searches")]  # each draws a whole report

LAW = Chinchilla(E=0.9, A=33.0, B=332.0, alpha=0.45, beta=0.5)
DEGENERATE = {
    "one cell": lambda: simulate_study(LAW, sizes=(16,), budgets=(1e11,)),
    "one size": lambda: simulate_study(LAW, sizes=(16,), budgets=(3e10, 1e11)),
    "one budget, three sizes": lambda: simulate_study(LAW, sizes=(12, 16, 24), budgets=(1e11,)),
    "all diverged": lambda: simulate_study(LAW, sizes=(16, 24), budgets=(1e11,)).assign(state="diverged", final=False),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_poor_table_still_gets_its_report_with_reasons(name, tmp_path):
    result = write_report(DEGENERATE[name](), tmp_path, n_draws=50)
    text = (tmp_path / "report.md").read_text()
    assert set(result.figures) | set(result.missing) == set(FIGURES)
    assert result.missing
    for why in result.missing.values():
        assert not re.match(r"\w+(Error|Exception):", why), f"a bug, not a reason: {why}"
    assert all(f"- {n}: {why}" in text for n, why in result.missing.items())


QUICK = RESULTS / "quick.parquet"
PUBLIC = {
    "chinchilla_epoch/runs.csv": ({}, None),
    "gadre_overtraining/runs.csv": ({"loss": "loss_c4_val"}, "dataset == 'c4_original'"),
    "porian_discrepancies/isoflop_points.csv": ({}, "row == 3 and group == 'rw' and loss > 0"),
    "datablations/fit182.csv": ({}, None),
}


def drawn(evidence: Evidence) -> set[str]:
    """Every figure laid out with its data written, or refused with a reason: the names of those that were drawn."""
    found, reasons = set(), []
    with style():
        for name, figure in FIGURES.items():
            try:
                figure.draw(evidence).figure.draw_without_rendering()
            except ValueError as error:
                reasons.append(str(error))
                continue
            assert len(figure.data(evidence)) > 0
            found.add(name)
    assert [r for r in reasons if re.match(r"\w+(Error|Exception):", r)] == [], "bugs, not reasons"
    return found


ALWAYS = {"n_star", "d_star", "surface", "residuals_flops", "residuals_n_params", "residuals_tokens",
          "forecast_errors", "scoreboard", "exponents", "local_slope", "sensitivity"}  # fmt: skip


@pytest.mark.parametrize("path", PUBLIC)
def test_every_figure_is_drawn_or_refused_on_the_public_tables(path, public_data, monkeypatch):
    """With a sixth of the laws that could be fitted; all of them on the quick study."""
    monkeypatch.setattr("isoflop.analysis.evidence.candidates", lambda points: candidates(points)[::6])
    mapping, where = PUBLIC[path]
    table = read_table(public_data / path, mapping=mapping, where=where)
    found = drawn(Evidence(table, law="chinchilla", n_draws=50))
    assert found >= ALWAYS
    assert ("isoflop" in found) == ("gadre" not in path), "Gadre's runs share no budget"
    assert not {"curves", "bowls", "positions", "throughput", "cost"} & found, "no plain table has these"


def test_every_figure_but_seven_is_drawn_on_the_quick_study():
    found = drawn(Evidence(read_table(QUICK), n_draws=50))
    assert set(FIGURES) - found == {
        "multiplier",
        "gate",
        "bowls",
        "positions",
        "slices",
        "mixtures",
        "mixture_ranks",
    }, "one arm, one rate, no runs folder, a law of two inputs, no mixtures"


def test_a_table_of_learning_rates_has_its_bowls(monkeypatch):
    monkeypatch.setattr("isoflop.analysis.evidence.candidates", lambda points: ("chinchilla", "power-n"))
    found = drawn(Evidence(read_table(QUICK.with_name("lr_transfer.parquet")), n_draws=50))
    assert {"bowls", "multiplier", "gate", "curves", "throughput", "cost"} <= found
