"""Figures of mixtures: every run's shares, the best mixture with its flat reach, predictions of mixtures left out."""

import numpy as np
import pytest
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.figures.runs.mixtures import mixture_frame, plot_mixtures, plot_ranks
from tests.support.fits.mixed_studies import study

TABLE = study(2, 3, runs=24)[1]


@pytest.fixture(scope="module")
def found():
    return Evidence(TABLE).mix


def test_lines_are_the_runs_and_the_best_mixture_has_its_reach(found):
    axes = plot_mixtures(found)
    *runs, natural, best = [line.get_ydata() for line in axes.lines[: len(TABLE) + 2]]
    assert sorted(map(tuple, runs)) == sorted(map(tuple, TABLE[["weight_code", "weight_prose"]].to_numpy()))
    assert np.array_equal(natural, found.natural)
    assert np.array_equal(best, found.weights)
    frame = mixture_frame(found)
    assert frame["kind"].value_counts().to_dict() == {"run": 24, "best": 1, "natural": 1}


def test_points_are_measured_against_predicted(found):
    axes = plot_ranks(found)
    points = axes.collections[0].get_offsets()
    assert np.array_equal(np.asarray(points), found.tried[["predicted", "loss"]].to_numpy())
    assert np.array_equal(found.tried["loss"], TABLE["loss"])
    assert f"{found.held_out['loss'][0]:.3f}" in axes.texts[0].get_text()


def test_a_table_without_mixtures_is_told(study_table):
    with pytest.raises(UnsupportedError, match="no mixtures: columns weight_NAME of two domains or more"):
        FIGURES["mixtures"].data(Evidence(study_table))


@pytest.mark.slow
def test_a_table_of_shares_and_losses_alone_is_drawn(tmp_path):
    TABLE.to_csv(tmp_path / "mixtures.csv", index=False)
    for figure in ("mixtures", "mixture_ranks"):
        out = tmp_path / f"{figure}.png"
        done = CliRunner().invoke(app, ["plot", str(tmp_path / "mixtures.csv"), "--figure", figure, "-o", str(out)])
        assert done.exit_code == 0, done.output
        assert out.stat().st_size > 10_000
    done = CliRunner().invoke(app, ["plot", str(tmp_path / "mixtures.csv"), "-o", str(tmp_path / "x.png")])
    assert "no column 'n_params'" in str(done.exception)
