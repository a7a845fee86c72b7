"""What stands in a figure in words: whose numbers they are, and where they stand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.figures.arms import OPEN, gate_frame, plot_gate
from isoflop.analysis.figures.residuals import plot_residuals
from isoflop.analysis.figures.runs.bowls import bowl_frame, plot_bowls
from isoflop.analysis.figures.scoreboard import _short
from isoflop.analysis.style import style
from isoflop.examples import example


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


def words(ax) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def test_residuals_state_the_sd_of_the_report(study_table):
    fit = Evidence(study_table, law="chinchilla").fit
    assert f"robust sd {fit.noise:.2%}, n = {len(fit.points)}" in words(plot_residuals(fit))


def test_a_bound_that_is_open_does_not_flatten_the_estimates():
    found = Evidence(example("transformer_vs_lstm")).gate
    plain = plot_gate(found)
    assert "beyond the panel" not in words(plain)
    (verdict,) = found.verdicts
    sequence = verdict.sequence.assign(lo=1e-9, hi=3.0)
    ax = plot_gate(replace(found, verdicts=[replace(verdict, sequence=sequence)]))
    assert "bounds go on beyond the panel" in words(ax)
    frame = gate_frame(found)
    estimates = frame.loc[frame["what"] != "sequence", "multiplier"]
    assert min(estimates.min(), 1) / OPEN == pytest.approx(ax.get_ylim()[0])


def test_a_size_is_named_once_at_the_bowl_that_ends_at_the_right(study_table):
    final = study_table[study_table["final"] & (study_table["d_model"] == 16)]
    tried = [
        final.assign(peak_learning_rate=rate, arm=arm, run_id=final["run_id"] + arm)
        for arm, rates in (("x", [0.005, 0.01, 0.02, 0.04]), ("y", [0.0025, 0.005, 0.01]))
        for rate in rates
    ]
    ax = plot_bowls(bowl_frame(pd.concat(tried, ignore_index=True)))
    ends = [note for note in ax.texts if "tokens" in note.get_text() and hasattr(note, "xy")]
    assert len(ends) == final["horizon_tokens"].nunique()
    assert all(end.xy[0] == 0.04 for end in ends)


def test_a_reason_is_cut_between_words():
    why = "the law needs the worth of every token and of every parameter of a run, which nobody gave"
    short = _short(why)
    assert len(short) <= 58
    assert short.endswith(" ...")
    assert why.startswith(short.removesuffix(" ...") + " ")
    assert _short("no run repeats its data") == "no run repeats its data"


def test_what_cannot_be_drawn_is_said_of_the_law_and_not_of_another_of_its_form(study_table):
    """chinchilla-kappa is a name of the form chinchilla."""
    with pytest.raises(ValueError, match="three inputs or more; this one reads n_params, tokens"):
        FIGURES["slices"].draw(Evidence(study_table, law="chinchilla-kappa"))


def test_the_level_of_the_bands_stands_beside_the_title():
    ax = FIGURES["multiplier"].draw(Evidence(example("transformer_vs_lstm")))
    assert ax.get_title("right") == "bands 90%"
    assert not any("bands" in text.get_text() for text in ax.texts)
    assert np.isfinite(ax.get_ylim()).all()
