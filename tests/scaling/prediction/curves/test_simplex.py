"""The simplex takes the steps of scipy's, to the bit, and ends where it ends."""

import numpy as np
import pytest
from scipy.optimize import minimize

from isoflop.scaling.prediction.curves.simplex import downhill


def valley(y):
    return float((y**4).sum() + 100 * np.sum(np.roll(y, 1) - y**2) ** 2)


def waves(y):
    return float(np.abs(y).sum() + np.sin(3 * y).sum())


def steps(y):
    return float(np.round(y @ y, 1))


@pytest.mark.parametrize("function", [lambda y: float(y @ y), waves, steps, valley])
@pytest.mark.parametrize("coordinates", [1, 2, 4])
@pytest.mark.parametrize("most", [3, 20, 29, 250])
def test_ends_are_those_of_scipy(function, coordinates, most):
    rng = np.random.default_rng(coordinates)
    for _ in range(3):
        turn, centre = rng.normal(size=(coordinates, coordinates)), rng.normal(size=coordinates)
        start = rng.normal(size=coordinates) * rng.integers(0, 2, size=coordinates) + 0.0
        asked: list[bytes] = []

        def cost(at, turn=turn, centre=centre, asked=asked):
            asked.append(at.tobytes())
            return function(turn @ (at - centre))

        simplex = np.vstack([start, start + 0.3 * np.eye(coordinates)])
        options = {"maxfev": most, "xatol": 0.02, "fatol": 0.02, "initial_simplex": simplex}
        theirs = minimize(cost, start, method="Nelder-Mead", options=options).x
        known = [asked.copy(), asked.clear()][0]
        np.testing.assert_array_equal(downhill(cost, start, apart=0.3, most=most, near=0.02, close=0.02), theirs)
        assert asked == known
