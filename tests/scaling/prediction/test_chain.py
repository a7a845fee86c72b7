"""Scores through the loss: log odds between any two ends, and intervals between guessing and the best."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.prediction.chain import Sigmoid
from isoflop.scaling.prediction.two_stage import two_stage

pytestmark = pytest.mark.usefixtures("kept_searches")

LOSS = Chinchilla(E=1.0, A=406.0, B=411.0, alpha=0.34, beta=0.28)


def few_items(seed: int, items: int = 60) -> pd.DataFrame:
    """Nine runs whose scores rise from a third to nearly one, each of few items."""
    rng = np.random.default_rng(seed)
    N = np.concatenate([0.1 * C**0.5 * np.exp([-1.2, 0.0, 1.2]) for C in (1e19, 1e20, 1e21)])
    D = np.repeat([1e19, 1e20, 1e21], 3) / 6 / N
    loss = LOSS(N, D) * np.exp(0.01 * rng.normal(size=9))
    score = rng.binomial(items, 0.25 + 0.75 / (1 + np.exp(6 * (loss - 1.9)))) / items
    return pd.DataFrame({"n_params": N, "tokens": D, "loss": loss, "accuracy": score})


@pytest.mark.parametrize("law", [Sigmoid(0.25, 1.9, 6.0), Sigmoid(0.1, 2.0, 3.0, 0.9), Sigmoid(0.0, 1.0, 150.0)])
def test_log_odds_are_those_of_the_score_also_where_it_is_an_end_to_rounding(law):
    losses = np.linspace(0.5, 5.0, 19)
    for low, high in ((0.0, 1.0), (law.floor, law.top), (0.0, law.top)):
        with np.errstate(divide="ignore"):
            plain = np.log(law(losses) - low) - np.log(high - law(losses))
        inner = np.abs(plain) < 15
        odds = law.log_odds(losses, low, high)
        assert odds[inner] == pytest.approx(plain[inner], rel=1e-6, abs=1e-9)
        assert not np.isnan(odds).any()
    assert law.log_odds(losses, law.floor, law.top) == pytest.approx(-law.steep * (losses - law.middle))


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_a_score_lies_between_guessing_and_the_best(seed):
    """It was symmetric on the score, and ended above 1."""
    found = two_stage(few_items(seed), chance=0.25)
    for flops in (1e16, 1e20, 1e22, 1e26):
        for made in (found.best(flops), found.at(1e9, flops / 6e9), found.direct.at(flops)):
            assert 0.25 <= made["lo"] <= made["accuracy"] <= made["hi"] <= 1
    far = found.best(1e22)
    assert far["accuracy"] - far["lo"] > far["hi"] - far["accuracy"]


def test_a_fitted_floor_bounds_no_interval():
    found = two_stage(few_items(1))
    made = found.best(1e12)
    assert 0 <= made["lo"] < found.second.law.floor < made["hi"] < 1


def test_the_freedom_of_a_score_is_of_what_moves_in_both_stages():
    """It was the number of runs less one, however few of them decide."""
    draws = two_stage(few_items(0), chance=0.25).draws
    moved = np.array([law.task_law.log_odds(law.loss_law(6e9, 2.6e11), 0.25, 1.0) for law in draws.laws])
    both = float(draws.freedom_of(moved))
    assert 1 <= both < 0.7 * draws.freedom
    # A quantity of one stage alone has the freedom that it has in that stage.
    for stage, part, name in zip(draws.stages, ("loss_law", "task_law"), ("alpha", "middle"), strict=True):
        alone = jackknife(stage)
        values = np.array([getattr(getattr(law, part), name) for law in draws.laws])
        assert float(draws.freedom_of(values)) == pytest.approx(float(alone.freedom_of(values)), rel=0.05)
