"""Which laws a forecast averages, and with which weights: from the scoreboard, or equal where there is none."""

from types import SimpleNamespace

import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.fitting.objective import Huber
from isoflop.scaling.selection import law_weights
from isoflop.scaling.selection.law_weights import NOT_JOINT, NoLawError, weigh_laws
from isoflop.scaling.selection.rolling_origins import HoldOutError

ERRORS = {"joint": 0.3, "second": 0.1, "size": 0.01, "tokens only": 0.02}
INPUTS = {"joint": ("N", "D"), "second": ("N", "D", "U"), "size": ("N",), "tokens only": ("D",)}


TABLE = SimpleNamespace(in_order=lambda: None)  # the stand-ins read nothing of it


def fitted(law):
    return SimpleNamespace(law=SimpleNamespace(inputs=INPUTS[law]))


@pytest.fixture
def scored(monkeypatch):
    """A function that stands a scoreboard of these laws, which prefers one, in for that of a table."""

    def stand_in(laws, preferred, scale=1.0):
        def compare(data, requested, *, objective, findings):
            assert not findings  # nobody reads them
            return SimpleNamespace(
                entrants={law: SimpleNamespace(fit=fitted(law)) for law in laws}, preferred=preferred,
                refused={"other": "too few runs"}, discrepancy=0.25, weights={law: scale * ERRORS[law] for law in laws},
                frame=pd.DataFrame({"error": ERRORS}),
            )  # fmt: skip

        monkeypatch.setattr(law_weights, "compare", compare)
        return weigh_laws(TABLE, laws, Huber("auto"))

    return stand_in


def test_the_laws_of_both_sizes_and_tokens_are_weighed(scored):
    found = scored(list(ERRORS), "joint")
    assert found.weights == {"joint": 0.3, "second": 0.1}
    assert found.fits.keys() == found.weights.keys()
    assert (found.preferred, found.discrepancy) == ("joint", 0.25)
    assert found.refused == {"other": "too few runs", "size": NOT_JOINT, "tokens only": NOT_JOINT}
    assert len(found.notes) == 3


def test_laws_that_the_scoreboard_gives_no_weight_share_it(scored):
    assert scored(list(ERRORS), "joint", 0.0).weights == {"joint": 0.5, "second": 0.5}


def test_a_preferred_law_that_does_not_weigh_both_gives_way_to_the_best_that_does(scored):
    assert scored(list(ERRORS), "size").preferred == "second"
    assert scored(["joint", "size"], "size").preferred == "joint"


@pytest.fixture
def unscored(monkeypatch):
    def refuse(*args, **options):
        raise HoldOutError("too few scales")

    def fit_at(law, data, objective):
        if law == "none":
            raise FitError("no fit")
        return fitted(law)

    monkeypatch.setattr(law_weights, "compare", refuse)
    monkeypatch.setattr(law_weights, "fit_at", fit_at)


def test_without_scales_to_test_on_weights_are_equal_and_said(unscored):
    found = weigh_laws(TABLE, ["size", "joint", "none", "second"], Huber("auto"))
    assert found.weights == {"joint": 0.5, "second": 0.5}
    assert (found.preferred, found.discrepancy) == ("joint", 0.0)
    assert found.refused == {"none": "no fit", "size": NOT_JOINT}
    assert "too few scales" in found.notes[-1]


def test_no_law_of_both_is_an_error_with_the_reasons(unscored):
    with pytest.raises(NoLawError, match=f"none: no fit; size: {NOT_JOINT}") as caught:
        weigh_laws(TABLE, ["none", "size"], Huber("auto"))
    assert caught.value.exit_code == 1
    with pytest.raises(NoLawError, match="no law was requested"):
        weigh_laws(TABLE, [], Huber("auto"))
