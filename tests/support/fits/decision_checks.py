"""How often what is decided on simulated runs is right: intervals of forecasts and multipliers, suggested cells."""

import numpy as np
import pandas as pd
from scipy.special import ndtri

from isoflop.scaling.arms.joint_fit import frontier
from isoflop.scaling.arms.multiplier import multiplier
from isoflop.scaling.design.planning import plan_from_law
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.prediction.forecast import Target, forecast_loss
from tests.support.fits.simulated import BASE, BESIROGLU, CROSSING, NOISE, isoflop_table, two_arms


def coverage(law: Chinchilla, laws: tuple[str, ...], *, repeats: int, first: int = 0) -> dict[str, dict]:
    """Of runs at 10x compute, by law and of the forecast average: the share inside the 90% interval (`coverage`), and
    where each lies in its forecast, as a normal deviate (`z`).
    """
    target = Target(1e21)
    places: dict[str, list[float]] = {}
    for seed in range(first, first + repeats):
        predicted = forecast_loss(isoflop_table(law, seed=seed), target, laws)
        noise = np.random.default_rng([7, seed]).normal(0.0, NOISE)
        measured = np.array([float(np.log(law.optimal(target.flops).loss) + noise)])
        for name, own in {"average": predicted.average, **predicted.members}.items():
            places.setdefault(name, []).append(float(own.cdf(measured)[0]))
    return {
        name: {"coverage": float(np.mean(np.abs(np.array(p) - 0.5) <= 0.45)), "repeats": len(p), "z": ndtri(p)}
        for name, p in places.items()
    }


def arms_coverage(rival: Chinchilla, *, repeats: int) -> dict[str, float]:
    """Shares over studies: of 90% intervals of m that hold the truth, at three losses and three computes; of claims
    with probability .95 that an arm is better, or worse; of crossovers whose interval holds the true one.
    """
    hits: list[bool] = []
    claims, false, crossed = [], [], []
    for seed in range(repeats):
        pair = multiplier(two_arms(rival, seed=seed), by="arm", baseline="base").pairs[0]
        base, new = frontier(BASE, Cost()), frontier(rival, Cost())
        loss = pair.at_loss["loss"].to_numpy()
        flops = pair.at_compute["flops"].to_numpy()
        truth = [base.compute(loss) / new.compute(loss), base.compute(new.loss(flops)) / flops]
        for frame, true in zip((pair.at_loss, pair.at_compute), truth, strict=True):
            hits += list((frame["lo"] <= true) & (true <= frame["hi"]))
        claims.append(float(np.mean(pair.at_compute["p_better"] > 0.95)))
        false.append(float(np.mean(pair.at_compute["p_better"] < 0.05)))
        at = pair.crossover
        crossed.append(at["possible"] and (at["lo"] or 0) <= CROSSING <= (at["hi"] or np.inf))
    shares = {"coverage": hits, "claimed better": claims, "claimed worse": false, "crossover inside": crossed}
    return {name: round(float(np.mean(values)), 3) for name, values in shares.items()}


FIRST_SEED = 5000  # of the refits that judge suggestions: fixed before any was looked at
BLOCK = 60


def refits(cells: pd.DataFrame, flops: float, *, repeats: int, first: int = FIRST_SEED) -> np.ndarray:
    """ln N* at a compute from refits to fresh noise on the cells, (repeats,)."""
    return np.array([
        np.log(fit("chinchilla", simulate_points(BESIROGLU, cells["n_params"], cells["tokens"], noise=NOISE, seed=s))
               .optimal(flops).N)
        for s in range(first, first + repeats)
    ])  # fmt: skip


def full_grid(budget: float) -> pd.DataFrame:
    """Five budgets over two decades, five sizes a factor 2 apart about the optimum of each, for `budget` FLOPs in all.

    It keeps no rule of candidates (steps, tokens per parameter), and so is the harder one to beat.
    """
    shares = 10.0 ** np.linspace(-2, 0, 5)
    flops = np.repeat(budget * shares / (5 * shares.sum()), 5)
    n = BESIROGLU.optimal(flops).N * np.tile(2.0 ** np.arange(-2, 3), 5)
    return pd.DataFrame({"n_params": n, "tokens": flops / 6 / n, "flops": flops})


def suggestion(*, repeats: int, budget: float = 6e19, tau: float = 0.0) -> dict[str, float | list[float]]:
    """Suggested cells against the full grid of the same spend, at 100 times its largest budget.

    `ratio` and `realised` are of the first block of 60 repeats, `blocks` the ratio in every block, `all` over all.
    """
    grid = full_grid(budget)
    target = 100 * float(grid["flops"].max())
    made = plan_from_law(BESIROGLU, budget=budget, target=target, tau=tau)
    ours, theirs = (refits(cells, target, repeats=repeats) for cells in (made.cells, grid))
    spread = [(np.std(a, ddof=1), np.std(b, ddof=1)) for a, b in zip(_blocks(ours), _blocks(theirs), strict=True)]
    return {
        "ratio": float(spread[0][0] / spread[0][1]), "realised": float(spread[0][0]),
        "predicted": made.sampling["after"], "grid realised": float(spread[0][1]),
        "blocks": [float(a / b) for a, b in spread],
        "all": float(np.std(ours, ddof=1) / np.std(theirs, ddof=1)), "cells": len(made.cells), "spent": made.spent,
    }  # fmt: skip


def _blocks(values: np.ndarray) -> list[np.ndarray]:
    return [values[i : i + BLOCK] for i in range(0, len(values), BLOCK)]
