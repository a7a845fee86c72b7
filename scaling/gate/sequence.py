"""Bounds on a mean that hold however often they are looked at, for normal observations of unknown variance.

After n observations the null hypothesis "mean <= m0" is weighed against mean - m0 = delta sigma, delta half-normal with
variance 1/PRIOR, and sigma with the right Haar prior on both sides. That Bayes factor depends on the data through
Student's t alone, and in the filtration of what is invariant to the scale it is a test martingale at m0: by Ville's
inequality it ever exceeds 1/error with probability at most `error` (Lai 1976; Perez-Ortiz et al. 2024, arXiv
2208.07610; Wang and Ramdas 2023, arXiv 2310.03722). It grows with t, and t falls with the mean: it holds for all of the
null. No variance is plugged in: the bound is exact from the second observation on. Linear terms with flat priors cost
an observation each.
"""

import numpy as np
from numpy.typing import ArrayLike

from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import stdtr

PRIOR = 0.5  # information of the prior on delta, in observations: effects of 1.4 standard deviations and below
LARGEST = 1e9  # a t beyond which nothing is looked for: the bound is open
BISECTIONS = 80


def log_evidence(t: ArrayLike, information: ArrayLike, freedom: ArrayLike) -> Array:
    """ln of the Bayes factor of "mean > m0" against "mean <= m0", of the broadcast shape.

    `t` is (estimate - m0) / standard error, `information` the variance of one observation over that of the estimate,
    `freedom` the degrees of freedom of the standard error.
    """
    t, information, freedom = (np.asarray(v, dtype=float) for v in (t, information, freedom))
    whole = information + PRIOR
    left = PRIOR / whole  # of t squared / freedom under the alternative
    square = t**2 / np.maximum(freedom, 1.0)  # below one there is no standard error, see `critical`
    two_sided = 0.5 * np.log(left) + 0.5 * (freedom + 1) * (np.log1p(square) - np.log1p(square * left))
    z = t * np.sqrt(information / whole * (freedom + 1) / (freedom + t**2 * left))
    return two_sided + np.log(2 * stdtr(freedom + 1, z))


def critical(information: ArrayLike, freedom: ArrayLike, error: float) -> Array:
    """The t at which the evidence reaches 1/error, of the broadcast shape; infinite where no t does."""
    information, freedom = np.broadcast_arrays(np.asarray(information, float), np.asarray(freedom, float))
    low, high = np.zeros(information.shape), np.full(information.shape, LARGEST)
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = log_evidence(high, information, freedom) >= -np.log(error)
        for _ in range(BISECTIONS):
            middle = np.where(low > 0, np.sqrt(np.maximum(low, 1e-3) * high), 0.5 * np.minimum(high, 1.0))
            above = log_evidence(middle, information, freedom) >= -np.log(error)
            low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(reached & (freedom >= 1), high, np.inf)
