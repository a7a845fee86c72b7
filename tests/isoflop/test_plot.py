"""Figures by name: an Evidence is of one law and one convention, and says so where another is asked for."""

import matplotlib.pyplot as plt
import pytest

import isoflop
from isoflop.analysis.evidence import Evidence


@pytest.mark.parametrize(("option", "value"), [("law", "kaplan"), ("params", "total"), ("compute", "6nd")])
def test_what_an_evidence_is_not_of_is_refused(option, value):
    evidence = Evidence(isoflop.example("quick"), law="chinchilla")
    with pytest.raises(ValueError, match=f"{option}='{value}': this Evidence is of {option}="):
        isoflop.plot.isoflop(evidence, **{option: value})
    axes = isoflop.plot.isoflop(evidence, law="chinchilla", params="matrices", compute="exact")
    plt.close(axes.figure)


@pytest.mark.parametrize("several", [False, True])
def test_what_is_not_one_axes_is_refused(several):
    figure, axes = plt.subplots(1, 2)
    kind = "ndarray" if several else "Figure"
    with pytest.raises(TypeError, match=f"ax is one matplotlib Axes, and this is a {kind}: give figure.subplots"):
        isoflop.plot.isoflop(isoflop.example("quick"), ax=axes if several else figure)
    plt.close(figure)
