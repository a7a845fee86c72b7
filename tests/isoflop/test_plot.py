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
