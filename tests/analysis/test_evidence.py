"""What a report is made of where a table holds more than sizes and tokens."""

import itertools
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from isoflop import example
from isoflop.analysis.evidence import BEGUN, WORTH_A_PROCESS, Evidence, UnsupportedError
from isoflop.analysis.sections import scoreboard, section, verdict
from isoflop.scaling.approaches.approaches import Approaches
from isoflop.scaling.approaches.envelope import Envelope
from isoflop.scaling.fitting.search import kept_searches
from isoflop.scaling.laws import law_name
from isoflop.scaling.laws.power import PowerN


@pytest.fixture
def sweep():
    """Runs of four sizes and three horizons at three rates, which move the loss by several percent."""
    grid = itertools.product((1e4, 3e4, 1e5, 3e5), (1e6, 3e6, 1e7), (1e-3, 3e-3, 1e-2))
    table = pd.DataFrame(grid, columns=["n_params", "tokens", "peak_learning_rate"])
    off = 0.03 * np.log(table["peak_learning_rate"] / 3e-3) ** 2
    noise = np.random.default_rng(0).normal(0, 0.003, len(table))
    law = 1.5 + 30 * table["n_params"] ** -0.4 + 40 * table["tokens"] ** -0.4
    return table.assign(loss=law * np.exp(off + noise))


@pytest.mark.slow
def test_laws_are_not_told_apart_by_what_none_of_them_reads(sweep):
    evidence = Evidence(sweep)
    message = section(evidence, "Scoreboard", scoreboard)
    assert "3 values of peak_learning_rate stand in one law" in message
    assert "report one of them (--where), or name a law that reads them (--law)" in message
    with pytest.raises(UnsupportedError, match="peak_learning_rate"):
        _ = evidence.held_out
    assert "Law `chinchilla` (by default: runs differ by what no candidate reads)" in verdict(evidence)


@pytest.mark.slow
def test_a_law_that_was_asked_for_is_held_against_none_that_reads_less(sweep):
    assert list(Evidence(sweep, law="kaplan").scoreboard.entrants) == ["kaplan"]


@pytest.mark.slow
def test_arms_are_no_such_setting(sweep):
    arms = sweep.rename(columns={"peak_learning_rate": "arm"}).astype({"arm": str})
    assert Evidence(arms).unread == ()
    one = Evidence(arms[arms["arm"] == "0.003"])
    assert one.unread == ()
    assert "Preferred is the law with the fewest free parameters" in section(one, "Scoreboard", scoreboard)


def test_the_envelope_of_the_approaches_is_the_one_that_is_drawn(sweep):
    evidence, found = Evidence(sweep), Envelope(pd.DataFrame(), None, ())
    evidence.done["approaches"] = Approaches((), {}, found, {}, None)
    assert evidence.envelope is found
    evidence = Evidence(sweep)
    evidence.done["approaches"] = Approaches((), {}, None, {}, None)
    with pytest.raises(UnsupportedError, match="no training curves"):
        _ = evidence.envelope


def test_the_runs_below_the_largest_budget_are_searched_once_wherever_their_rows_are(monkeypatch):
    evidence = Evidence(example("quick").sample(frac=1.0, random_state=1), law="chinchilla")
    with kept_searches.keep_searches():
        below = len(evidence.scoreboard.origins[-1].known)
        rows, search = [], kept_searches.search
        monkeypatch.setattr(kept_searches, "search", lambda *a, **k: rows.append(len(a[0].loss)) or search(*a, **k))
        _ = evidence.held_out, evidence.sensitivity
    assert below < len(evidence.points)
    assert rows
    assert below not in rows


@pytest.mark.parametrize(("held", "tested"), [([1e12], [1e12]), ([3e11, 1e12], [3e11, 1e12]), ([1e11], [1e12])])
def test_a_report_fits_without_the_budgets_that_a_study_holds_out_and_predicts_them(held, tested):
    """Those below another budget are in no fit, and the largest of the others is predicted."""
    table = example("quick")
    table.attrs["held_out"] = tuple(table.loc[table["budget_flops"].isin(held), "run_id"].unique())
    evidence = Evidence(table, law="chinchilla")
    assert not set(evidence.table["budget_flops"]) & set(held)
    assert any("are held out" in note for note in evidence.notes)
    forecast = evidence.held_out.forecasts["chinchilla"]
    assert forecast.budgets["flops"].tolist() == pytest.approx(tested, rel=0.02)
    assert evidence.held_out.threshold < min(tested)


def test_an_answer_is_of_the_table_law_and_convention_that_the_evidence_has(sweep):
    evidence = Evidence(sweep, law="power")
    fitted = evidence.fit
    for name, value in {"table": sweep, "law": "power-n", "params": "total", "compute": "6nd"}.items():
        with pytest.raises(FrozenInstanceError):
            setattr(evidence, name, value)
    other = replace(evidence, law="power-n")
    assert other.fit.law.name == "power-n"
    assert evidence.fit is fitted


def test_a_fit_is_of_the_points_that_were_given(sweep):
    evidence = Evidence(sweep, law="power")
    some = replace(evidence.points, frame=evidence.points.frame.iloc[::2].reset_index(drop=True))
    assert len(evidence.fit_of("power").points) == len(sweep)
    assert len(evidence.fit_of("power", some).points) == len(some)
    assert evidence.fit_of("power", evidence.points) is evidence.fit


@dataclass(frozen=True)
class Own(PowerN):
    """A law that this process alone knows."""

    name: ClassVar[str] = "own"


@pytest.mark.parametrize(("laws", "begun"), [(("power",), True), (("power", law_name(Own)), False)])
def test_a_scoreboard_of_a_law_of_ones_own_is_made_where_that_law_is_known(laws, begun, sweep, monkeypatch):
    evidence = Evidence(pd.concat([sweep] * 5, ignore_index=True))
    assert len(evidence.points) >= WORTH_A_PROCESS
    monkeypatch.setattr(Evidence, "_laws", lambda self: laws)
    monkeypatch.setattr("isoflop.analysis.evidence.BackgroundCall", lambda *args, **kwargs: args)
    evidence.begin()
    assert (BEGUN in evidence.done) is begun
