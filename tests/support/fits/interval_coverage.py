"""How often the jackknife's 90% interval holds the truth, over simulated isoFLOP studies from a known surface."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Huber, LeastSquares, fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.law import Law
from tests.support.fits.hard_fits import SURFACE, isoflop

LARGEST = 1e21
LEVEL = 0.9
OBJECTIVES = {"auto": Huber("auto"), "1e-3": Huber(1e-3), "squares": LeastSquares()}


@dataclass(frozen=True)
class Design:
    """A design: runs, relative noise, share of outliers, checkpoints per run (which share most of their error)."""

    name: str
    runs: int
    noise: float
    outliers: float = 0.0
    checkpoints: int = 1


DESIGNS = (
    *(Design(f"{n} runs, {100 * s:.1f}%", n, s) for n in (12, 20, 35, 60) for s in (0.003, 0.01)),
    Design("35 runs, 0.3%, 5% outliers", 35, 0.003, outliers=0.05),
    Design("35 runs, 1.0%, 5% outliers", 35, 0.01, outliers=0.05),
    Design("15 runs x 4 checkpoints, 0.3%", 15, 0.003, checkpoints=4),
    Design("15 runs x 4 checkpoints, 1.0%", 15, 0.01, checkpoints=4),
)


def study(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    """One simulated study; checkpoints of a run carry its error plus a third of that of their own."""
    frame = isoflop(design.runs).drop(columns="flops").assign(run_id=[f"r{i}" for i in range(design.runs)])
    error = rng.normal(0, design.noise, design.runs)
    wild = rng.random(design.runs) < design.outliers
    error[wild] += rng.exponential(10 * design.noise, wild.sum())
    parts = []
    for k in range(design.checkpoints):
        own = rng.normal(0, design.noise / 3, design.runs) if design.checkpoints > 1 else 0.0
        part = frame.assign(tokens=frame["tokens"] * 2.0**-k)
        parts.append(part.assign(loss=SURFACE(part["n_params"], part["tokens"]) * np.exp(error + own)))
    return pd.concat(parts, ignore_index=True)


def n_opt(factor: float):
    """N* at `factor` times the largest budget, as a function of the law."""

    def quantity(law: Law) -> float:
        return float(law.optimal(factor * LARGEST).N)

    return quantity


QUANTITIES = {"alpha": "alpha", "beta": "beta", "a": "a", "E": "E", "N* at 10x": n_opt(10), "N* at 100x": n_opt(100)}


def interval_coverage(design: Design, studies: int, objective: str = "auto") -> dict[str, float]:
    """Share of studies whose interval holds the truth, by quantity."""
    truth = {name: SURFACE.exponents()["a"] if name == "a" else getattr(SURFACE, name, None) for name in QUANTITIES}
    truth |= {"N* at 10x": n_opt(10)(SURFACE), "N* at 100x": n_opt(100)(SURFACE)}
    hits = dict.fromkeys(QUANTITIES, 0)
    for seed in range(studies):
        found = fit("chinchilla", study(design, np.random.default_rng([seed, DESIGNS.index(design)])),
                    objective=OBJECTIVES[objective])  # fmt: skip
        draws = jackknife(found)
        for name, quantity in QUANTITIES.items():
            lo, hi = draws.interval(quantity, LEVEL)
            hits[name] += bool(lo <= truth[name] <= hi)
    return {name: count / studies for name, count in hits.items()}
