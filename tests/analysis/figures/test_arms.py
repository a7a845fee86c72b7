"""Tables of several arms: whose run a dot is can be seen, and what is drawn of all arms together says so."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.legend import Legend

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.figures.arms import OPEN, gate_frame, plot_gate
from isoflop.analysis.style import MOST_ARMS, arm_keys, arm_looks, style
from isoflop.examples import example
from isoflop.scaling.design.simulate import simulate_study
from isoflop.scaling.selection.holdout import hold_out


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


@pytest.mark.slow
def test_arms_have_a_mark_each_and_what_is_of_all_together_is_said(study_law):
    """A dot of the wrong arm, or one twice, is found by its place."""
    tables = [
        simulate_study(replace(study_law, A=factor * study_law.A)).assign(arm=arm, wall_seconds=9.0)
        for arm, factor in (("x", 1), ("y", 0.8), ("z", 0.6))
    ]
    for arm, table in zip("xyz", tables, strict=True):
        table[["run_id", "trunk_id"]] += arm
    table = pd.concat(tables, ignore_index=True)
    e = Evidence(table, law="chinchilla", n_draws=20)
    e.done["held_out"] = hold_out(e.points, None, ("chinchilla",))
    runs = e.points.frame.assign(predicted=e.fit.predicted)
    runs["residual_percent"] = 100 * (runs["loss"] / runs["predicted"] - 1)
    for name, x, y in (("isoflop", "n_params", "loss"), ("prediction", "n_params", "loss"),
                       ("surface", "n_params", "tokens"), ("residuals_flops", "flops", "residual_percent"),
                       ("curves", "flops", "loss"), ("throughput", "n_params", None)):  # fmt: skip
        ax = FIGURES[name].draw(e)
        marks = {}
        for c in ax.collections:
            if isinstance(c, PathCollection):
                marks.setdefault(len(c.get_paths()[0].vertices), []).append(c.get_offsets())
        assert len(marks) >= 2, name
        drawn = sorted(map(tuple, np.round(np.concatenate([np.concatenate(m) for m in marks.values()]), 6).tolist()))
        if y is not None:
            assert drawn == sorted(map(tuple, np.round(runs[[x, y]].to_numpy(), 6).tolist())), name
        keys = [t.get_text() for legend in ax.get_children() if isinstance(legend, Legend) for t in legend.get_texts()]
        assert {"x", "y", "z"} <= set(keys), name
    for name in ("isoflop", "prediction", "n_star", "d_star"):
        assert any("3 arms together" in text.get_text() for text in FIGURES[name].draw(e).texts), name
    assert set(FIGURES["isoflop"].data(e)["arm"]) == {"x", "y", "z"}


def test_arms_look_unlike_and_too_many_have_no_legend():
    looks = arm_looks(f"arm {k}" for k in range(MOST_ARMS))
    assert len({mark for _, mark in looks.values()}) == MOST_ARMS  # a dot has no dashes
    assert len(arm_keys(looks)) == MOST_ARMS
    assert arm_keys(arm_looks(f"arm {k}" for k in range(MOST_ARMS + 1))) == []
    assert [key.get_label() for key in arm_keys(arm_looks("yx"))] == ["x", "y"]
    assert arm_keys(arm_looks("x")) == []


def words(ax) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


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


def test_the_level_of_the_bands_stands_beside_the_title():
    ax = FIGURES["multiplier"].draw(Evidence(example("transformer_vs_lstm")))
    assert ax.get_title("right") == "bands 90%"
    assert not any("bands" in text.get_text() for text in ax.texts)
    assert np.isfinite(ax.get_ylim()).all()


def test_long_names_of_arms_are_cut_where_they_still_differ():
    """Forty letters pushed the axis out of the figure, and its label beyond both ends."""
    found = Evidence(example("transformer_vs_lstm")).gate
    (verdict,) = found.verdicts
    long = "llama-baseline-lr3e-4-wd0.1-seqlen2048-"
    ax = plot_gate(replace(found, baseline=f"{long}a", verdicts=[replace(verdict, arm=f"{long}b")]))
    assert ax.get_ylabel().endswith("...a")
    assert f"...b: {verdict.decision}" in words(ax)
    assert "llama" not in words(ax) + ax.get_ylabel()
