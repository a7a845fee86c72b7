"""Slow proofs that the decisions hold on simulated truths: python -m tests.proofs.decisions [NAME ...]

Each prints its measured figures beside the bar. The same simulations run small in the test suite.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from isoflop.scaling.arms.joint_fit import frontier
from isoflop.scaling.arms.multiplier import multiplier
from isoflop.scaling.design.design import isoflop_grid
from isoflop.scaling.design.planning import plan_from_law, plan_from_table
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.laws.chinchilla import Chinchilla, Cost
from isoflop.scaling.prediction.forecast import Target, outlook
from isoflop.scaling.selection.scoreboard import compare

BESIROGLU = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
BENT = Chinchilla(E=1.75, A=3.1e3, B=2.4e4, alpha=0.55, beta=0.58, kappa=0.6)
NOISE = 0.003


def isoflop_table(law: Chinchilla, *, seed: int, noise: float = NOISE, largest: float = 1e20) -> pd.DataFrame:
    """Five budgets over 2.5 decades below `largest`, seven sizes within a factor 5.6 of each optimum."""
    budgets = largest * 10.0 ** np.linspace(-2.5, 0, 5)
    sizes = law.optimal(budgets).N[:, None] * 10.0 ** np.linspace(-0.75, 0.75, 7)
    return simulate_points(law, sizes, budgets[:, None] / (6 * sizes), noise=noise, seed=seed)


def coverage(law: Chinchilla, laws: tuple[str, ...], *, repeats: int, first: int = 0) -> dict[str, dict[str, float]]:
    """Share of runs at 10x compute inside the 90% interval, by law and stacked, and the mean width of the interval."""
    target = Target(1e21)
    inside: dict[str, list[float]] = {}
    for seed in range(first, first + repeats):
        said = outlook(isoflop_table(law, seed=seed), target, laws)
        noise = np.random.default_rng([7, seed]).normal(0.0, NOISE)
        measured = float(np.log(law.optimal(target.flops).loss) + noise)
        share = float(said.stacked.cdf(np.array([measured]))[0])
        inside.setdefault("stacked", []).append(0.05 <= share <= 0.95)
        for name, own in said.members.items():
            inside.setdefault(name, []).append(0.05 <= float(own.cdf(np.array([measured]))[0]) <= 0.95)
    return {name: {"coverage": float(np.mean(hits)), "repeats": len(hits)} for name, hits in inside.items()}


def prove_coverage(repeats: int = 60) -> None:
    laws = ("chinchilla", "chinchilla-kappa", "chinchilla-tied", "saturating")
    told = coverage(BESIROGLU, laws, repeats=repeats)
    print(f"truth Chinchilla, 10x: right law {told['chinchilla']}, all {told}   (bar: .85 to .97)")
    told = coverage(BENT, laws, repeats=repeats)
    print(f"truth kappa .6, 10x: right law {told['chinchilla-kappa']}, all {told}   (bar: .85 to .97)")
    told = coverage(BENT, ("chinchilla", "chinchilla-tied", "chinchilla-no-floor"), repeats=repeats)
    print(f"truth kappa .6, only kappa = 1 in the stack: {told}   (bar: stacked at least .80)")


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


def arms_coverage(rival: Chinchilla, *, repeats: int) -> dict[str, float]:
    """Share of 90% intervals of m that hold the truth at three losses and three computes; how often an arm is said
    to be better with probability .95; how often the crossover's interval holds the true one."""
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


def prove_multiplier(repeats: int = 300) -> None:
    for name, rival in {"m = 1.5": cheaper(1.5), "m grows": steeper(), "m = 1": cheaper(1.0)}.items():
        print(f"{name}: {arms_coverage(rival, repeats=repeats)}", flush=True)
    print("(bars: coverage .85 to .97; at m = 1 claims at most .06; crossover inside its interval)")


FIRST_SEED = 5000  # of the refits that judge suggestions: fixed before any was looked at
BLOCK = 60


def refits(cells: pd.DataFrame, flops: float, *, repeats: int, first: int = FIRST_SEED) -> np.ndarray:
    """ln N* at a compute from refits to fresh noise on the cells, (repeats,)."""
    return np.array([
        np.log(fit("chinchilla", simulate_points(BESIROGLU, cells["n_params"], cells["tokens"], noise=NOISE, seed=s))
               .optimal(flops).N)
        for s in range(first, first + repeats)
    ])  # fmt: skip


def suggestion(*, repeats: int, budget: float = 6e19, tau: float = 0.0) -> dict[str, float | list[float]]:
    """Suggested cells against the five-budget isoFLOP grid of the same spend, at 100 times its largest budget.

    `ratio` and `realised` are of the first block of 60 repeats, `blocks` the ratio in every block, `all` over all.
    """
    grid = isoflop_grid(BESIROGLU, Cost(), budget)
    target = 100 * float(grid["flops"].max())
    made = plan_from_law(BESIROGLU, budget=budget, target=target, tau=tau)
    ours, theirs = (refits(cells, target, repeats=repeats) for cells in (made.cells, grid))
    spread = [(np.std(a, ddof=1), np.std(b, ddof=1)) for a, b in zip(_blocks(ours), _blocks(theirs), strict=True)]
    return {
        "ratio": float(spread[0][0] / spread[0][1]), "realised": float(spread[0][0]),
        "predicted": made.sampling["after"], "grid realised": float(spread[0][1]),
        "grid predicted": made.sampling["grid"], "blocks": [float(a / b) for a, b in spread],
        "all": float(np.std(ours, ddof=1) / np.std(theirs, ddof=1)), "cells": len(made.cells), "spent": made.spent,
    }  # fmt: skip


def _blocks(values: np.ndarray) -> list[np.ndarray]:
    return [values[i : i + BLOCK] for i in range(0, len(values), BLOCK)]


def prove_suggest(repeats: int = 10 * BLOCK) -> None:
    for tau in (0.0, 0.001):
        told = suggestion(repeats=repeats, tau=tau)
        rounded = {k: [round(x, 3) for x in v] if isinstance(v, list) else float(f"{v:.3g}") for k, v in told.items()}
        print(f"planned with discrepancy {tau:g}, seeds from {FIRST_SEED}:", rounded)
    print(f"(bars: ratio of the first {BLOCK} repeats at most .5; predicted within 30% of realised)")


def prove_speed() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(5e7), np.log(1e10), 250))
    table = simulate_points(BESIROGLU, sizes, sizes * np.exp(rng.uniform(1.5, 5.7, 250)), noise=0.005, seed=0)
    laws = ("chinchilla", "chinchilla-kappa", "chinchilla-tied", "chinchilla-no-floor", "kaplan", "saturating",
            "power", "power-n")  # fmt: skip
    began, cpu = time.monotonic(), time.process_time()
    board = compare(table, laws)
    print(f"compare, {len(board.entrants)} laws x {len(board.origins)} origins x 250 runs: "
          f"{time.monotonic() - began:.1f} s, {time.process_time() - cpu:.1f} s of CPU (bar 5)")  # fmt: skip
    began, cpu = time.monotonic(), time.process_time()
    plan_from_table(isoflop_table(BESIROGLU, seed=0), budget=1e20, target=1e22)
    print(f"suggest: {time.monotonic() - began:.1f} s, {time.process_time() - cpu:.1f} s of CPU (bar 10)")


PROOFS: dict[str, Callable[[], None]] = {
    "coverage": prove_coverage,
    "multiplier": prove_multiplier,
    "suggest": prove_suggest,
    "speed": prove_speed,
}


def main(names: list[str]) -> None:
    for name in names or list(PROOFS):
        began = time.monotonic()
        PROOFS[name]()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
