"""Laws that stand for the truth, and tables of runs simulated from them."""

import numpy as np
import pandas as pd

from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.laws.chinchilla import Chinchilla

BESIROGLU = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
BENT = Chinchilla(E=1.75, A=3.1e3, B=2.4e4, alpha=0.55, beta=0.58, kappa=0.6)
NOISE = 0.003


def isoflop_table(law: Chinchilla, *, seed: int, noise: float = NOISE, largest: float = 1e20) -> pd.DataFrame:
    """Five budgets over 2.5 decades below `largest`, seven sizes within a factor 5.6 of each optimum."""
    budgets = largest * 10.0 ** np.linspace(-2.5, 0, 5)
    sizes = law.optimal(budgets).N[:, None] * 10.0 ** np.linspace(-0.75, 0.75, 7)
    return simulate_points(law, sizes, budgets[:, None] / (6 * sizes), noise=noise, seed=seed)


BASE = Chinchilla(E=1.0, A=40.0, B=400.0, alpha=0.40, beta=0.45)
CROSSING = 3e13  # FLOPs where the steeper arm overtakes


def two_arms(rival: Chinchilla, *, seed: int, noise: float = 0.005) -> pd.DataFrame:
    """Twelve cells an arm: three budgets over 1.5 decades, four sizes around the baseline's optimum."""
    budgets = 10.0 ** np.array([12.5, 13.25, 14.0])
    sizes = BASE.optimal(budgets).N[:, None] * 10.0 ** np.linspace(-0.6, 0.6, 4)
    tokens = budgets[:, None] / (6 * sizes)
    arms = {"base": BASE, "rival": rival}
    frames = [
        simulate_points(law, sizes, tokens, noise=noise, seed=2 * seed + i).assign(arm=arm)
        for i, (arm, law) in enumerate(arms.items())
    ]
    return pd.concat(frames, ignore_index=True)


def cheaper(factor: float) -> Chinchilla:
    """BASE for a constant factor less compute."""
    half = np.sqrt(factor)
    return Chinchilla(BASE.E, BASE.A * half**-BASE.alpha, BASE.B * half**-BASE.beta, BASE.alpha, BASE.beta)


def steeper() -> Chinchilla:
    """Exponents 12% larger than BASE's, equal in loss at CROSSING: m grows with compute and passes 1 in the data."""
    best = BASE.optimal(CROSSING)
    alpha, beta = 1.12 * BASE.alpha, 1.12 * BASE.beta
    A, B = BASE.A * best.N ** (alpha - BASE.alpha), BASE.B * best.D ** (beta - BASE.beta)
    return Chinchilla(BASE.E, float(A), float(B), alpha, beta)
