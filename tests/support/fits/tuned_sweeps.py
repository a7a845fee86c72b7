"""Sweeps of rate, batch and weight decay with a known optimum: noise, cells missing, cells with the optimum outside."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.laws.axes.tuning import RateBowl, rate_bowl
from isoflop.scaling.tuning.best import Scale, best_setting, lost
from isoflop.scaling.tuning.tune import tune

NOISE = 0.01  # of the loss, of each run
SIZES = (1e7, 3e7, 1e8, 3e8)
RATIOS = (10.0, 40.0)  # tokens per parameter
AT = Scale(3e9, 6e10)  # ten times the largest size
MISSING = 0.1  # share of the cells, and of the runs of the others
BATCHES = (5e3, 2e4, 8e4, 3.2e5)
DECAYS = (0.03, 0.1, 0.3)
# Name: the inputs of the law, its powers, seeds of a cell.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "rates": (("N", "D", "r"), ("N", "D"), 1),
    "rates at one horizon": (("N", "r"), ("N",), 2),
    "rates and batches": (("N", "D", "T", "r"), ("N", "S", "T"), 1),
    "rates and decays": (("N", "D", "W", "r"), ("N", "D"), 1),
    "rates, batches and decays": (("N", "D", "T", "W", "r"), ("N", "S", "T"), 1),
    "rates below a cliff": (("N", "D", "r"), ("N", "D"), 2),  # the loss rises faster above the best rate than below it
}


@dataclass(frozen=True)
class Outcome:
    """What a tuning stated of one sweep: whether each interval holds the true value, and the share of the loss that
    the stated setting gives away."""

    holds: dict[str, bool]
    regret: float
    edges: int


def truth(kind: str, rng: np.random.Generator) -> RateBowl:
    """A law of tuning, its numbers drawn around those of published sweeps."""
    inputs, powers, _ = KINDS[kind]
    usual: dict[str, float] = {
        "E": rng.uniform(1.5, 1.9), "A": rng.uniform(0.4, 0.8), "alpha": rng.uniform(0.25, 0.4),
        "B": rng.uniform(0.5, 0.9), "beta": rng.uniform(0.3, 0.45), "G": rng.uniform(0.2, 0.4),
        "g": rng.uniform(0.4, 0.6), "q": rng.uniform(0.06, 0.14), "best": 2e-3 * np.exp(rng.normal(0, 0.5)),
        "m_N": rng.uniform(-0.7, -0.1), "m_D": rng.uniform(-0.1, 0.4), "m_T": rng.uniform(0.2, 0.6),
        "h": rng.uniform(0.06, 0.14),
    }  # fmt: skip
    cliff = "cliff" in kind
    usual |= {"s": rng.uniform(1.0, 3.0)} if cliff else {}
    form = rate_bowl(inputs, powers, skewed=cliff)
    if "W" in inputs:  # a decay of .1 is the best at the middle of the sweep
        middle = form(*(usual.get(name, 1.0) for name in form.parameters()))
        N, D, T = 5e7, 1e9, 4e4
        usual["tau"] = float(middle.best_decay(middle.best_rate(N, D, T), D, T)) / (0.1 * rng.uniform(0.6, 1.6))
    return form(*(usual[name] for name in form.parameters()))


def sweep(law: RateBowl, seeds: int, rng: np.random.Generator, noise: float = NOISE) -> pd.DataFrame:
    """Runs of four sizes at one or two horizons: five rates a factor 2 apart, up to two steps off the best."""
    ratios = RATIOS if "D" in law.inputs else (None,)
    batches = BATCHES if "T" in law.inputs else (1e5,)
    decays = DECAYS if "W" in law.inputs else (0.1,)
    rows: list[dict[str, float]] = []
    for N in SIZES:
        for ratio in ratios:
            D = N * ratio if ratio else 2e9
            for T in batches:
                middle = 2 ** np.round(np.log2(law.best_rate(N, D, T)) + rng.integers(-2, 3))
                for W in decays:
                    if rng.random() < MISSING:
                        continue
                    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
                        row = {"n_params": N, "tokens": D, "batch_tokens": T, "weight_decay": W}
                        row["peak_learning_rate"] = middle * factor
                        rows += [row] * int(rng.binomial(seeds, 1 - MISSING))
    frame = pd.DataFrame(rows)
    names = {"N": "n_params", "D": "tokens", "T": "batch_tokens", "W": "weight_decay", "r": "peak_learning_rate"}
    loss = np.asarray(law(*(frame[names[k]].to_numpy(float) for k in law.inputs)))
    return frame.assign(loss=loss * np.exp(rng.normal(0, noise, len(frame))))


def outcome(kind: str, seed: int, noise: float = NOISE) -> Outcome:
    """What a tuning states of one sweep, against the truth."""
    rng = np.random.default_rng([seed, *kind.encode()])
    law = truth(kind, rng)
    table = sweep(law, KINDS[kind][2], rng, noise)
    at: dict[str, Any] = {"n_params": AT.n_params} | ({"tokens": AT.tokens} if "D" in law.inputs else {})
    found = tune(table, at).best
    scale = found.at if "T" not in law.inputs else AT
    best = best_setting(law, scale)
    holds = {part: lo <= getattr(best, part) <= hi for part, (lo, hi) in found.intervals.items()}
    regret = lost(law, scale, found.optimum) / law_loss(law, scale)
    return Outcome(holds, regret, len(found.edges))


def law_loss(law: RateBowl, at: Scale) -> float:
    """The lowest loss at a scale."""
    from isoflop.scaling.tuning.best import loss_at

    return loss_at(law, at, best_setting(law, at))
