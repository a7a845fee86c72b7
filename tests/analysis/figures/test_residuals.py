"""The figure of residuals states the spread of the report."""

import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures.residuals import plot_residuals
from isoflop.analysis.style import style


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


def test_residuals_state_the_sd_of_the_report(study_table):
    fit = Evidence(study_table, law="chinchilla").fit
    assert f"robust sd {fit.noise:.2%}, n = {len(fit.points)}" in "".join(
        text.get_text() for text in plot_residuals(fit).texts
    )
