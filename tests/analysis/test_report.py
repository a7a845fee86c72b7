"""The report: complete on a study, honest on less, never stopped by one failing part."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import isoflop.analysis.report as report_module
from isoflop.__main__ import app
from isoflop.analysis import sections as summary
from isoflop.analysis.evidence import Evidence, UnsupportedError, part
from isoflop.analysis.figures import FIGURES, get_figure
from isoflop.analysis.figures.runs.cost import trained_tokens
from isoflop.analysis.hero import draw_hero
from isoflop.analysis.own_files import LIST, claimed
from isoflop.analysis.report import ReportError, draw_figure, write_report
from isoflop.scaling.design.simulate import simulate_points, simulate_study
from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.runs import final_rows
from tests.support.page.known_parts import knowing

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_searches")]  # each draws a whole report


@pytest.fixture(scope="module")
def written(study_table, tmp_path_factory):
    """A report of a study by four laws: the whole catalogue is reported in test_report_tables.py."""
    timed = study_table.assign(wall_seconds=study_table["flops"] / 1e10)
    laws = ("chinchilla", "chinchilla-kappa", "chinchilla-tied", "power-n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.analysis.evidence.candidates", lambda points: laws)
        return write_report(
            timed, tmp_path_factory.mktemp("report"), law="chinchilla", n_draws=50, command="isoflop report x"
        )


@pytest.fixture
def two_laws(monkeypatch):
    """Two candidates in place of the catalogue, for a test that is of neither."""
    monkeypatch.setattr("isoflop.analysis.evidence.candidates", lambda points: ("chinchilla", "power-n"))


@pytest.fixture
def no_page(monkeypatch):
    """Reports without report.html, for a test that is not of it."""
    monkeypatch.setattr(report_module, "_write_page", lambda *_: None)


@pytest.fixture(scope="module")
def small():
    """A table of fifteen runs."""
    return simulate_study(LAW, noise=0.005, sizes=(8, 12, 16, 24, 32), budgets=(1e10, 3e10, 1e11))


def test_a_study_supports_every_figure(written):
    assert set(written.missing) == {
        "multiplier",
        "gate",
        "bowls",
        "positions",
        "slices",
        "mixtures",
        "mixture_ranks",
    }, "one arm, one rate, no runs folder, a law of two inputs, no mixtures"
    assert set(written.figures) == set(FIGURES) - set(written.missing)
    for name in written.figures:
        assert (written.folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (written.folder / f"{name}.svg").read_text().startswith("<?xml")
        assert len(pd.read_csv(written.folder / f"{name}.csv")) > 0


def test_the_text_has_the_numbers_of_the_fit(written):
    text = (written.folder / "report.md").read_text()
    fit, draws = written.evidence.fit, written.evidence.draws
    low, high = draws.interval("a", 0.9)
    assert f"C^{fit.exponents()['a']:.3f} [{low:.3f}, {high:.3f}]" in text
    assert f"{fit.law.E:.4f} + {fit.law.A:.5g} N^-{fit.law.alpha:.4f}" in text
    for heading in ("Findings", "Held out", "Laws", "Conventions", "Three approaches", "Noise", "Cost", "Provenance"):
        assert f"## {heading}" in text
    assert "Not available" not in text
    assert all(f"({name}.png)" in text for name in written.figures)


def test_exponents_stand_under_four_conventions(written):
    frame = written.evidence.conventions
    assert len(frame) == 4
    by_name = frame[frame["compute"] == "exact"].set_index("params")["a"]
    assert by_name["no-embedding"] > by_name["matrices"] > by_name["total"]


def test_both_kappas_are_held_out(written):
    text = summary.held_out(written.evidence)
    assert "| chinchilla |" in text or "| **chinchilla** |" in text
    assert "chinchilla-kappa" in text
    assert "Errors are predicted / measured - 1: above 0 the law was too high" in text


def rows_of(text: str) -> list[list[str]]:
    """The cells of the Markdown tables in a text, heads and rules left out."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [cells for cells in lines if cells[0] not in ("law", "---")]


def test_the_scoreboard_leads_with_what_to_do_and_ends_with_what_nobody_would_use(written):
    """The baseline's error is made 377%, that of one law three times the preferred one's; the average is the best."""
    board = written.evidence.scoreboard
    frame = board.frame.copy()
    poor = next(law for law in board.entrants if law != board.preferred)
    base = frame.loc[board.preferred, "error"]
    frame.loc[frame.index != board.preferred, "error"] = 1.5 * base
    frame.loc[["local-slope", poor, "stacked"], "error"] = [3.77, 3 * base, 0.9 * base]
    e = knowing(written.evidence, scoreboard=replace(board, frame=frame))
    text = summary.scoreboard(e)
    first = text.split("\n\n")[0]
    assert f"`{board.preferred}`**" in first
    assert f"missed the next runs by {base:.2%}" in first
    assert f"isoflop predict`: it missed by {0.9 * base:.2%}" in first
    assert "do not extrapolate" not in first
    close, far = summary.scoreboard_close(e), summary.scoreboard_far(e)
    assert rows_of(close)[0][0] == f"**{board.preferred}** (preferred)"
    assert [r[0] for r in rows_of(far)] == [poor, "local slope (no law)"]
    assert "377" not in close
    assert len(rows_of(text)) == len(frame)
    assert rows_of(close)[0][3] == f"{frame.loc[board.preferred, 'bias']:+.2%}"  # above 0 where predicted is
    assert "Errors are ln(predicted / measured), `too high by` is their mean" in close
    frame.loc[["local-slope", "stacked"], "error"] = [0.5 * base, 1.5 * base]
    first = summary.scoreboard(e).split("\n\n")[0]
    assert f"No law did as well as going on at the last slope ({0.5 * base:.2%}): do not extrapolate" in first
    assert "isoflop predict" not in first


BOUNDS = {
    (0.0, 0.0, 0.0): "0 (bound)",
    (0.0, 0.0, 0.2351): "0 (bound), up to 0.235",
    (10.0, 8.25, 10.0): "10 (bound), down to 8.250",
}


@pytest.mark.parametrize(("value", "low", "high"), BOUNDS)
def test_an_interval_at_a_bound_has_one_side_or_none(written, value, low, high):
    frame = written.evidence.candidates.copy()
    frame.loc[0, ["E", "E_low", "E_high"]] = [value, low, high]
    frame.at[0, "at_bound"] = ("E",)
    text = summary.laws(knowing(written.evidence, candidates=frame))
    assert rows_of(text)[0][1] == BOUNDS[value, low, high]
    assert "[0.000, 0.000]" not in text


def test_an_exponent_that_the_form_fixes_has_no_interval(written):
    tied = next(r for r in rows_of(summary.laws(written.evidence)) if r[0] == "chinchilla-tied")
    assert tied[5].endswith(" (by its form)")


def test_every_file_of_the_folder_is_named_on_the_page(written):
    page = (written.folder / "report.html").read_text()
    links = set(re.findall(r'<a href="([^"#]+)">', page))
    assert links == {path.name for path in written.folder.iterdir()} - {"report.html", "report.md", LIST}


def test_the_cells_are_all_there(written):
    cells = pd.read_csv(written.folder / "cells.csv")
    assert len(cells) == len(written.evidence.points)
    np.testing.assert_allclose(np.log(cells["loss"] / cells["predicted"]), cells["residual"], atol=1e-12)


def test_the_same_table_gives_the_same_bytes(written, tmp_path):
    for name in ("isoflop.png", "n_star.svg", "surface.pdf"):
        figure, _, _ = name.partition(".")
        first, second = (draw_figure(figure, written.evidence, tmp_path / f"{i}-{name}") for i in (1, 2))
        assert first.read_bytes() == second.read_bytes()


def test_a_failing_figure_costs_only_itself(small, tmp_path, monkeypatch, two_laws, no_page):
    def broken(*_, ax):
        raise RuntimeError("no such artist")

    kept = {n: FIGURES[n] for n in ("isoflop", "surface")}
    kept["surface"] = replace(kept["surface"], plot=broken)
    monkeypatch.setattr(report_module, "FIGURES", kept)
    with claimed(tmp_path, ["surface.png"], "a report"):
        (tmp_path / "surface.png").write_text("of an earlier report")
    result = write_report(small, tmp_path, n_draws=50)
    assert result.figures == ("isoflop",)
    assert result.missing == {"surface": "RuntimeError: no such artist"}
    assert not (tmp_path / "surface.png").exists()
    assert "surface: RuntimeError: no such artist" in (tmp_path / "report.md").read_text()


def test_a_part_is_computed_once_and_fails_the_same_way_again():
    class Thing:
        def __init__(self):
            self.done, self.calls = {}, 0

        @part
        def value(self):
            self.calls += 1
            raise ZeroDivisionError("x")

    thing = Thing()
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="ZeroDivisionError: x"):
            _ = thing.value
    assert thing.calls == 1


LAW = Chinchilla(E=0.9, A=33.0, B=332.0, alpha=0.45, beta=0.5)


def test_a_table_without_common_budgets_holds_out_its_last_half_decade(two_laws):
    sizes, tokens = np.tile([1e4, 2.1e4, 4.3e4, 8.7e4], 4), np.repeat([1e5, 1e6, 1e7, 1e8], 4)
    e = Evidence(simulate_points(LAW, sizes, tokens, noise=0.003))
    below = e.points.frame["flops"][e.points.frame["flops"] <= e.points.frame["flops"].max() / 10**0.5]
    assert e.held_out.threshold == pytest.approx(below.max())
    assert "rms of runs" in summary.held_out(e)
    assert FIGURES["forecast_errors"].draw(e)
    with pytest.raises(ValueError, match="at least three sizes"):
        FIGURES["prediction"].draw(e)


def test_collinear_runs_get_no_optimum():
    sizes = np.geomspace(1e4, 1e6, 12)
    e = Evidence(simulate_points(LAW, sizes, 20 * sizes, noise=0.003), law="chinchilla")
    e.done["approaches"] = UnsupportedError("not of this test")
    assert "How to split compute is not known: size and tokens were not varied apart" in summary.verdict(e)
    with pytest.raises(UnsupportedError, match="collinear"):
        FIGURES["n_star"].draw(e)


def test_a_fit_at_its_bounds_gets_no_optimum():
    def larger_is_worse(N, D):
        return (1.5 + 400 * D**-0.5) * N**0.01

    sizes, tokens = np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e5, 1e7, 5))
    e = Evidence(simulate_points(larger_is_worse, sizes.ravel(), tokens.ravel(), noise=0.002), law="chinchilla")
    with pytest.raises(UnsupportedError, match="bound of the search box"):
        _ = e.optimum
    assert "C^" not in summary.verdict(e).split(chr(10))[0]


def test_a_known_floor_stands_beside_the_fitted_one(study_table):
    floor = 0.9
    e = Evidence(study_table.assign(loss_floor=floor), law="chinchilla", n_draws=50)
    low, high = e.draws.interval("E")
    assert low <= floor <= high
    assert "exact floor of 0.9000, inside the interval" in summary.irreducible(e)
    far = replace(e, table=study_table.assign(loss_floor=0.5))
    far.done.update({name: value for name, value in e.done.items() if name != "loss_floor"})
    assert "OUTSIDE" in summary.irreducible(far)


def test_an_unidentified_floor_is_called_so():
    law = Chinchilla(E=0.0, A=130.0, B=700.0, alpha=0.62, beta=0.66, kappa=0.36)
    e = Evidence(simulate_study(law, noise=0.01), law="chinchilla-kappa", n_draws=50)
    assert "E is at its bound, 0: these runs do not identify it" in summary.irreducible(e)
    assert "0.0000" not in summary.verdict(e)


def test_seed_noise_is_the_spread_over_seeds(study_law):
    table = simulate_study(study_law, noise=0.01, seeds=(0, 1, 2), curves=False)
    noise = Evidence(table).seed_noise
    assert (noise["seeds"] == 3).all()
    assert np.sqrt((noise["sd"] ** 2).mean()) == pytest.approx(0.01, rel=0.3)
    alone = Evidence(simulate_study(study_law, curves=False), law="chinchilla")
    with pytest.raises(UnsupportedError, match="more than one seed"):
        _ = alone.seed_noise
    assert summary.noise(alone).endswith("Seed noise is not measured: no cell was trained with more than one seed.")


@pytest.mark.parametrize("setting", ["peak_learning_rate", "batch_tokens", "optimizer", "corpus_id", "arm", "unknown"])
def test_settings_are_no_seeds(study_law, setting):
    """Runs of two settings 20% apart, whose seeds agree: nothing varies over seeds."""
    one = simulate_study(study_law, noise=0.0, seeds=(0, 1), curves=False)
    other = one.assign(run_id=one["run_id"] + "b", loss=one["loss"] * 1.2)
    if setting != "unknown":
        other[setting] = "other" if isinstance(one[setting].iloc[0], str) else one[setting] * 2
    both = Evidence(pd.concat([one, other], ignore_index=True))
    if setting == "unknown":  # equal seeds differ: so may unequal ones
        with pytest.raises(UnsupportedError, match="more than one seed"):
            _ = both.seed_noise
    else:
        assert len(both.seed_noise) == 2 * len(Evidence(one).seed_noise)
        assert both.seed_noise["sd"].max() < 1e-9


def test_the_noise_of_seeds_has_its_interval(written):
    """Two seeds a cell of sd .02 are 12 degrees of freedom of 12 cells: 12 s^2 over chi-square's quantiles."""
    noise = pd.DataFrame({"n_params": 1e4, "tokens": 1e6, "flops": 6e10, "loss": 2.0, "seeds": [2] * 12, "sd": 0.02})
    message = summary.noise(knowing(written.evidence, seed_noise=noise))
    low, high = (f"{0.02 * np.sqrt(12 / quantile):.1%}" for quantile in (21.0261, 5.2260))
    assert f"varies by 2.00% [{low}, {high}] (pooled sd of 12 cells, 12 degrees of freedom)" in message


def test_tokens_saved_by_shared_trunks(study_table):
    counted, trained = trained_tokens(study_table)
    assert counted == final_rows(study_table)["tokens"].sum()
    one = study_table[study_table["trunk_id"] == study_table["trunk_id"].iloc[0]]
    horizons = np.sort(one.groupby("run_id")["tokens"].max().to_numpy())
    branch = one[one["phase"] == "constant"].groupby("run_id")["tokens"].max()
    expected = branch.max() + (horizons.sum() - branch.sum())
    assert trained_tokens(one)[1] == expected
    assert trained < counted
    alone = one[one["run_id"] == one["run_id"].iloc[0]]
    assert trained_tokens(alone)[0] == trained_tokens(alone)[1]


def invoked(*arguments: str):
    """The command line as a user runs it: (exit code, lines of stderr)."""
    done = subprocess.run([sys.executable, "-m", "isoflop", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.parametrize("blocked", ["report", "report/isoflop.png", "report/report.md"])
def test_what_cannot_be_written_is_one_line_and_exit_1(small, tmp_path, blocked, monkeypatch, two_laws, no_page):
    """A file where the folder should be, a folder where a file should be: nobody can write there, not even root."""
    monkeypatch.setattr(report_module, "FIGURES", {"isoflop": FIGURES["isoflop"]})
    at = tmp_path / blocked
    if blocked == "report":
        at.write_text("")
    else:
        at.mkdir(parents=True)
    with pytest.raises(ReportError, match=re.escape(str(at))) as error:
        write_report(small, tmp_path / "report", law="chinchilla", n_draws=50)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)


@pytest.mark.process
def test_the_command_says_what_cannot_be_written(tmp_path):
    table, out = tmp_path / "runs.csv", tmp_path / "out"
    simulate_points(LAW, [1e4, 1e5, 1e6], [1e6, 1e7, 1e8]).to_csv(table, index=False)
    out.write_text("")
    code, reported = invoked("report", str(table), "--out", str(out / "report"))
    assert (code, len(reported)) == (2, 1)
    assert str(out) in reported[0]
    code, reported = invoked("plot", str(table), "--figure", "isoflop", "-o", str(out / "x.png"))
    assert (code, len(reported)) == (2, 1)


def test_a_fit_that_fails_is_a_reason_in_a_whole_report(small, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise FitError("the solver gave up")

    monkeypatch.setattr("isoflop.analysis.evidence.fit", broken)
    monkeypatch.setattr("isoflop.scaling.selection.holdout.fit", broken)
    monkeypatch.setattr(report_module, "FIGURES", {n: FIGURES[n] for n in ("isoflop", "curves", "surface")})
    result = write_report(small, tmp_path, n_draws=50)
    assert {"isoflop", "curves"} <= set(result.figures)
    assert result.missing["surface"] == "the solver gave up"
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "the solver gave up" in text
        assert "Traceback" not in text


MISSING = {"peak_learning_rate": "bowls", "wall_seconds": "throughput", "trunk_id": "curves", "vocab_size": ""}


@pytest.mark.parametrize("column", MISSING)
def test_a_missing_column_costs_the_figure_that_reads_it_and_is_named(study_table, column, tmp_path):
    e = Evidence(study_table.assign(wall_seconds=1.0).drop(columns=column), law="chinchilla", n_draws=50)
    assert FIGURES["surface"].draw(e)
    if MISSING[column]:
        with pytest.raises(UnsupportedError, match=column):
            draw_figure(MISSING[column], e, tmp_path / "x.png")


def test_tied_exponents_are_said_to_be_so(study_table):
    e = Evidence(study_table, law="chinchilla-tied", n_draws=50)
    assert "by its form the best model size grows as" in summary.verdict(e)
    assert "tied" in "".join(t.get_text() for t in FIGURES["n_star"].draw(e).texts)


def test_wrong_names_say_what_there_is(study_table):
    with pytest.raises(ValueError, match="isoflop, n_star"):
        get_figure("isoflops")
    with pytest.raises(ValueError, match=r"matrices, .*total"):
        Evidence(study_table, params="matrix")
    with pytest.raises(ValueError, match="chinchila"):
        Evidence(study_table, law="chinchila")
    with pytest.raises(ValueError, match="png, svg, pdf"):
        draw_figure("isoflop", Evidence(study_table), "x.jpeg")


def test_the_commands(tmp_path, monkeypatch, two_laws, no_page):
    monkeypatch.setattr(report_module, "FIGURES", {name: FIGURES[name] for name in ("isoflop", "curves", "surface")})
    table = tmp_path / "runs.csv"
    budgets = np.repeat([1e10, 1e11, 1e12], 5)
    sizes = np.concatenate([np.geomspace(c**0.5 / 90, c**0.5 / 3, 5) for c in (1e10, 1e11, 1e12)])
    simulate_points(LAW, sizes, budgets / 6 / sizes, noise=0.003).to_csv(table, index=False)
    runner = CliRunner()
    result = runner.invoke(
        app,
        ["report", str(table), "--out", str(tmp_path / "out"), "--bootstrap", "50", "--law", "chinchilla", "--json"],
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["figures"] == ["isoflop", "surface"]
    assert "curves" in answer["missing"]
    result = runner.invoke(app, ["plot", str(table), "--figure", "surface", "-o", str(tmp_path / "x.pdf")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x.pdf").read_bytes()[:4] == b"%PDF"


def test_the_hero_has_four_panels(study_table, tmp_path, two_laws):
    assert draw_hero(study_table, tmp_path / "hero.png").stat().st_size > 50_000
    with pytest.raises(UnsupportedError, match="panel isoflop"):
        draw_hero(simulate_study(LAW, sizes=(16,), budgets=(1e11,)), tmp_path / "no.png")
