"""Bowls of several arms: labels lie over no other curve."""

import pandas as pd
import pytest

from isoflop.analysis.figures.runs.bowls import bowl_frame, plot_bowls
from isoflop.analysis.style import style


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


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
