"""Simulated studies of mixtures whose best one is known: a loss with power laws of effective data."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from isoflop.scaling.laws.mixtures.means import MixtureLaw, effective_data

NAMES = ("code", "prose", "web")


def truth(domains: int, rng: np.random.Generator) -> MixtureLaw:
    """A loss over all domains alike, each of which is learnt best from itself: its best mixture lies inside."""
    form = effective_data(NAMES[:domains], domains)
    values = {"E": rng.uniform(1.5, 2.0)}
    for i in range(domains):
        values[f"a{i + 1}"] = rng.uniform(0.3, 0.8)
        for j, name in enumerate(NAMES[:domains]):
            values[f"v{i + 1}_{name}"] = rng.uniform(0.25, 0.4) if i == j else rng.uniform(1.0, 2.0)
    return form(**values)


def study(domains: int, seed: int, *, runs: int = 60, noise: float = 0.01) -> tuple[MixtureLaw, pd.DataFrame]:
    """The law of a seed, and its losses at mixtures drawn over the whole simplex."""
    rng = np.random.default_rng([seed, domains])
    law = truth(domains, rng)
    h = rng.dirichlet(np.ones(domains), runs)
    table = pd.DataFrame(h, columns=[f"weight_{name}" for name in NAMES[:domains]])
    return law, table.assign(loss=law(h.T) * np.exp(rng.normal(0, noise, runs)))


def best_of(law: MixtureLaw) -> np.ndarray:
    """The shares (k,) with the lowest loss: the law is convex in them."""
    k = len(law.domains)
    sum_to_one = {"type": "eq", "fun": lambda h: h.sum() - 1}
    options = {"ftol": 1e-14, "maxiter": 500}
    found = minimize(lambda h: float(law(h)), np.full(k, 1 / k), bounds=[(1e-9, 1)] * k, constraints=sum_to_one,
                     method="SLSQP", options=options)  # fmt: skip
    return found.x
