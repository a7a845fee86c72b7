"""The law of vocabularies: exact losses, and the best vocabulary of a size."""

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import LeastSquares, fit, predict_loss
from isoflop.scaling.laws.axes.vocabulary import Vocabulary

TRUE = Vocabulary(0.3, 150.0, 40.0, 1500.0, 0.35, 0.4, 0.36)


def test_exact_losses_give_back_their_law():
    grid = np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e6, 1e8, 4), np.geomspace(1e9, 1e11, 4))
    frame = pd.DataFrame(dict(zip(["n_params", "n_params_embedding", "tokens"], map(np.ravel, grid), strict=True)))
    found = fit("vocabulary", frame.assign(loss=predict_loss(TRUE, frame)), objective=LeastSquares())
    assert np.allclose(found.law.values(), TRUE.values(), rtol=1e-3)


def test_at_a_fixed_sum_the_vocabulary_grows_slower_than_the_model():
    """The best V solves alpha A N^-(alpha + 1) = g G V^-(g + 1): it grows as N^((1 + alpha) / (1 + g))."""
    best = []
    for total in (1e9, 1e10):
        V = np.geomspace(1e-4, 0.5, 20001) * total
        best.append(V[np.argmin(TRUE(total - V, V, 1e11))])
    assert np.isclose(np.log10(best[1] / best[0]), 1.35 / 1.4, atol=0.02)
