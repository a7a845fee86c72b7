"""Simulated isoFLOP studies without a fault and with one, to measure how often Findings object to either.

Five budgets over 2.2 decades, the 7 or 8 sizes of one ladder within 3x of each optimum, 3 seeds at 4 cells.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Array

TRUTH = Chinchilla(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
KAPPA = Chinchilla(E=1.75, A=3.1e3, B=2.4e4, alpha=0.55, beta=0.58, kappa=0.6)
BUDGETS = np.geomspace(1e18, 10**20.2, 5)
STEP = 1.36  # between sizes
TRUNK_SHARE = 0.7  # of the variance, where runs of one size and seed share a trunk
MISTUNED = (0.03, 0.02, 0.01)  # ln loss, smallest size first
Loss = Callable[[Array, Array], Array]


def cells(law: Chinchilla = TRUTH) -> pd.DataFrame:
    """The cells of the design around the optima of a law: n_params, tokens, flops, seed."""
    ladder = law.optimal(float(np.sqrt(BUDGETS[0] * BUDGETS[-1]))).N * STEP ** np.arange(-30.0, 31.0)
    rows = []
    for i, flops in enumerate(BUDGETS):
        best = law.optimal(flops).N
        sizes = ladder[np.abs(np.log(ladder / best)) < np.log(3.0)]
        rows += [(n, flops / 6 / n, flops, 0) for n in sizes]
        if i < 4:
            near = sizes[np.argmin(np.abs(np.log(sizes / best)))]
            rows += [(near, flops / 6 / near, flops, seed) for seed in (1, 2)]
    return pd.DataFrame(rows, columns=["n_params", "tokens", "flops", "seed"])


def bent(n_params: Array, tokens: Array) -> Array:
    """TRUTH's loss, but the size exponent falls from .40 to .22 at the optimum of the middle budget."""
    knee = float(TRUTH.optimal(BUDGETS[2]).N)
    x = np.log(np.asarray(n_params) / knee)
    size = TRUTH.A * knee**-TRUTH.alpha * np.exp(np.where(x < 0, -0.40 * x, -0.22 * x))
    return TRUTH.E + size + TRUTH.B * np.power(tokens, -TRUTH.beta)


def noise(frame: pd.DataFrame, kind: str, sd: float, rng: np.random.Generator) -> Array:
    """Errors (n,) of ln loss: iid, falling as N^-.35 from `sd` at the smallest size, t of 3, or shared by trunks."""
    n = len(frame)
    if kind == "falling":
        return rng.normal(0, sd, n) * (frame["n_params"] / frame["n_params"].min()).to_numpy() ** -0.35
    if kind == "t":
        return sd * rng.standard_t(3, n)
    own = rng.normal(0, sd, n)
    if kind == "trunk":
        _, trunk = np.unique(frame[["n_params", "seed"]].to_numpy(float).round(6), axis=0, return_inverse=True)
        shared = rng.normal(0, sd, trunk.max() + 1)[trunk.ravel()]
        return np.sqrt(TRUNK_SHARE) * shared + np.sqrt(1 - TRUNK_SHARE) * own
    return own


def study(kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """One study of a kind in KINDS: a plain table of n_params, tokens, flops, loss, seed, and trunk_id where named."""
    law, scatter, sd, change = KINDS[kind]
    frame = cells(law if isinstance(law, Chinchilla) else TRUTH)
    frame["loss"] = law(frame["n_params"].to_numpy(), frame["tokens"].to_numpy())
    frame = change(frame)
    frame["loss"] *= np.exp(noise(frame, scatter, sd, rng))
    if scatter == "trunk" and kind != "unnamed trunks":
        frame["trunk_id"] = [f"{n:.6g}-{s}" for n, s in zip(frame["n_params"], frame["seed"], strict=True)]
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)


def _nothing(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def _mistuned(frame: pd.DataFrame) -> pd.DataFrame:
    smallest = np.sort(frame["n_params"].unique())[: len(MISTUNED)]
    extra = frame["n_params"].map(dict(zip(smallest, MISTUNED, strict=True))).fillna(0.0)
    return frame.assign(loss=frame["loss"] * np.exp(extra))


def _low_budget(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(loss=frame["loss"].where(frame["flops"] < 0.9 * BUDGETS[-1], 0.99 * frame["loss"]))


def _one_side(frame: pd.DataFrame) -> pd.DataFrame:
    best = TRUTH.optimal(frame["flops"].to_numpy()).N
    moved = frame.assign(n_params=frame["n_params"] * 3.0, tokens=frame["tokens"] / 3.0)
    moved["loss"] = TRUTH(moved["n_params"].to_numpy(), moved["tokens"].to_numpy())
    return moved[moved["n_params"] > best]


def _outlier(frame: pd.DataFrame) -> pd.DataFrame:
    loss = frame["loss"].to_numpy().copy()
    loss[len(loss) // 2] *= 1.05
    return frame.assign(loss=loss)


CLEAN: dict[str, tuple[Loss, str, float, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "iid .5%": (TRUTH, "iid", 0.005, _nothing),
    "iid 2.6%": (TRUTH, "iid", 0.026, _nothing),
    "trunk 1%": (TRUTH, "trunk", 0.01, _nothing),
    "falling 2.6%": (TRUTH, "falling", 0.026, _nothing),
    "t(3) 1%": (TRUTH, "t", 0.01, _nothing),
}
FAULTY: dict[str, tuple[Loss, str, float, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "kappa law": (KAPPA, "iid", 0.01, _nothing),
    "mistuned small sizes": (TRUTH, "iid", 0.01, _mistuned),
    "largest budget 1% low": (TRUTH, "iid", 0.01, _low_budget),
    "bent law": (bent, "iid", 0.01, _nothing),
    "one side of the optimum": (TRUTH, "iid", 0.01, _one_side),
    "unnamed trunks": (TRUTH, "trunk", 0.01, _nothing),
    "one run 5% high": (TRUTH, "iid", 0.01, _outlier),
}
KINDS = CLEAN | FAULTY
