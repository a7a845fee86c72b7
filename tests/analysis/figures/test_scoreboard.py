"""The figure of the scoreboard gives reasons in whole words."""

from isoflop.analysis.figures.scoreboard import _short


def test_a_reason_is_cut_between_words():
    why = "the law needs the worth of every token and of every parameter of a run, which nobody gave"
    short = _short(why)
    assert len(short) <= 58
    assert short.endswith(" ...")
    assert why.startswith(short.removesuffix(" ...") + " ")
    assert _short("no run repeats its data") == "no run repeats its data"
