"""The figure of residuals: every run is seen, groups are of several, and it states the spread of the report."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures.residuals import MAX_GROUPS, grouped, plot_residuals
from isoflop.analysis.style import style
from isoflop.scaling.fitting.fit import fit


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


def test_residuals_state_the_sd_of_the_report(study_table):
    fit = Evidence(study_table, law="chinchilla").fit
    assert f"robust sd {fit.noise:.2%}, n = {len(fit.points)}" in "".join(
        text.get_text() for text in plot_residuals(fit).texts
    )


def one_budget(count=9, slip=1e-16):
    """Runs of one compute, which differs by rounding as a product does."""
    sizes = np.geomspace(1e7, 1e9, count)
    flops = 1e19 * (1 + slip * np.arange(count))
    rows = {"n_params": sizes, "tokens": flops / 6 / sizes, "flops": flops}
    return pd.DataFrame(rows | {"loss": 2 + 400 * sizes**-0.34 + 400 * (flops / 6 / sizes) ** -0.28})


@pytest.mark.parametrize("slip", [0.0, 1e-16, 3e-16, 1e-12])
def test_runs_of_one_compute_up_to_rounding_are_seen(slip):
    fitted = fit("kaplan", one_budget(slip=slip))
    (dots,) = [c for c in plot_residuals(fitted, by="n_params").collections if isinstance(c, PathCollection)]
    assert len(dots.get_offsets()) == 9
    assert (dots.get_facecolor()[:, 3] == 1).all()


def test_means_are_of_several_runs_and_their_errors_inside_the_panel(study_table):
    alone = plot_residuals(fit("kaplan", one_budget()), by="n_params")
    assert not alone.containers
    assert not [text for text in alone.texts if "means" in text.get_text()]
    ax = plot_residuals(Evidence(study_table, law="chinchilla").fit, by="n_params")
    (bars,) = ax.containers
    ends = np.concatenate([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    assert ax.get_ylim()[0] < ends.min()
    assert ends.max() < ax.get_ylim()[1]


def test_dense_runs_have_as_many_groups_as_any():
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"n_params": np.exp(rng.uniform(14, 23, 3000)), "residual_percent": rng.normal(size=3000)})
    groups = grouped(many, "n_params")
    assert len(groups) == MAX_GROUPS
    assert groups["runs"].between(270, 330).all()
