"""What a table of past arms shows: shrink, scatter and noise that were put in; and tables that show nothing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.gate.discrepancy import LearnError, learn
from isoflop.scaling.table.conventions import points

COMPUTE = np.array([1e12, 1e13, 1e14])


def past(arms: int, shrink: float, scatter: float, noise: float = 0.0, seeds: int = 1, tail: float = 1e6) -> dict:
    """Points of arms whose gains ln m shrink over two decades, at a slope of -.1."""
    rng = np.random.default_rng(3)
    rows = []
    gains = rng.normal(0, 0.5, arms)
    off = scatter / np.sqrt(2) * rng.standard_t(tail, arms)
    for a in range(arms):
        share = np.log(COMPUTE[-1] / COMPUTE) / np.log(100)
        gain = (gains[a] + off[a] * share) * shrink**-share
        rows += [
            {"arm": f"a{a}", "n_params": C**0.5, "tokens": C**0.5 / 6, "seed": s,
             "loss": np.exp(1 - 0.1 * (np.log(C / 1e12) + g) + rng.normal(0, noise))}
            for C, g in zip(COMPUTE, gain, strict=True) for s in range(seeds)
        ]  # fmt: skip
    whole = points(pd.DataFrame(rows))
    return {arm: replace(whole, frame=frame) for arm, frame in whole.frame.groupby("arm")}


def changed(data: dict, change) -> dict:
    return {arm: replace(d, frame=change(d.frame)) for arm, d in data.items()}


@pytest.mark.slow
def test_what_was_put_in_is_learnt():
    found = learn(past(200, 0.7, 0.1))
    assert found.shrink == pytest.approx(0.7, rel=0.05)
    assert found.sd == pytest.approx(0.1, rel=0.15)
    assert found.span == pytest.approx(np.log(100))
    assert found.changes == 200
    assert found.slope(np.array([1e12, 3e15])) == pytest.approx([0.1, 0.1], rel=0.2)
    assert np.isnan(found.noise)
    assert found.to_dict()["noise"] is None


@pytest.mark.slow
def test_heavy_tails_are_seen():
    assert learn(past(200, 1.0, 0.1, tail=3)).freedom <= 10 < learn(past(200, 1.0, 0.1)).freedom


def test_seeds_show_the_noise_of_a_pair():
    found = learn(past(20, 1.0, 0.1, noise=0.01, seeds=4))
    assert found.noise == pytest.approx(0.01 * np.sqrt(2), rel=0.1)
    assert found.noise_freedom == 3 * 19 * 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (past(3, 1.0, 0.1), "at least 4 arms"),
        (changed(past(6, 1.0, 0.1), lambda f: f.query("flops < 2e12")), "at 1 computes"),
        (changed(past(6, 1.0, 0.1), lambda f: f.assign(loss=2.0)), "does not fall"),
    ],
)
def test_tables_that_show_nothing(data, message):
    with pytest.raises(LearnError, match=message):
        learn(data)
