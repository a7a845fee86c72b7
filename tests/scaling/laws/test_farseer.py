"""Farseer's law where its exponentials of powers end."""

import numpy as np
import pytest

from isoflop.scaling.laws.cost import SIX_ND
from isoflop.scaling.laws.farseer import Farseer
from isoflop.scaling.laws.law import minimise_scalar

PUBLISHED = Farseer(*Farseer.typical)


@pytest.mark.parametrize("flops", [1e19, 1e20, 1e21, 1e22])
def test_the_published_law_has_a_best_size_at_the_compute_it_was_fitted_to(flops):
    """Its loss falls to nothing at one token, far beyond all runs: that is no allocation."""
    best = PUBLISHED.optimal(flops)
    around = best.N * np.geomspace(1 / 3, 3, 2001)
    losses = PUBLISHED(around, SIX_ND.tokens(flops, around))
    assert around[losses.argmin()] == pytest.approx(float(best.N), rel=3e-3)
    assert float(best.loss) == pytest.approx(losses.min(), rel=1e-6)
    assert 1 < best.D / best.N < 100


def test_the_least_inside_is_taken_however_low_the_ends_are():
    def wave(u):
        return np.cos(u) + 0.1 * u - 5.0 * (u / 20) ** 40  # minima near pi and 3 pi, and the lowest value at 20

    lo, hi = np.zeros(2), np.full(2, 20.0)
    assert np.isnan(minimise_scalar(wave, lo, hi)).all()
    (found, same) = minimise_scalar(wave, lo, hi, inside=True)
    assert found == same == pytest.approx(np.pi - np.arcsin(0.1), rel=1e-6)
    falling = minimise_scalar(lambda u: -u, lo, hi, inside=True)
    assert np.isnan(falling).all()
    flat = minimise_scalar(lambda u: 0.0 * u, lo, hi, inside=True)
    assert np.isnan(flat).all()
    one = minimise_scalar(lambda u: (u - np.array([3.0, 30.0])) ** 2, lo, hi, inside=True)
    assert one[0] == pytest.approx(3.0)
    assert np.isnan(one[1])
