"""Akima's interpolation is scipy's, to the bit."""

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from isoflop.scaling.approaches.akima import akima


@pytest.mark.parametrize("places", [2, 3, 4, 9])
@pytest.mark.parametrize("shape", [(), (5,)])
@pytest.mark.parametrize("flat", [False, True])
def test_values_are_those_of_scipy(places, shape, flat):
    rng = np.random.default_rng(places)
    x, y = np.sort(rng.normal(size=places)), rng.normal(size=(places, *shape))
    y = np.round(y) if flat else y  # neighbours without a change of slope
    at = np.concatenate([rng.normal(size=40) * 2, x, [np.nan]])
    np.testing.assert_array_equal(akima(x, y)(at), Akima1DInterpolator(x, y)(at))


@pytest.mark.parametrize("x", [[1.0], [1.0, 1.0, 2.0], [2.0, 1.0]])
def test_places_must_increase(x):
    with pytest.raises(ValueError, match="two places or more"):
        akima(np.array(x), np.ones(len(x)))
