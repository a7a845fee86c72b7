"""Simulated training curves: a law of whole curves, a level of each run, noise of each row that remembers the last."""

from dataclasses import replace

import numpy as np

from isoflop.scaling.laws.curves.curve_law import MultiPower
from isoflop.scaling.laws.curves.sums import Units, compile_run, join
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.schedule import Schedule

LAW = {"A": 6.0, "alpha": 0.4, "B": 12.0, "C": 1.5, "beta": 0.6, "gamma": 0.6}
PEAK, ROWS = 0.02, 40
UNITS = Units(PEAK, 1e3)


def loss_of(rates: np.ndarray, steps: np.ndarray, n_params: float) -> np.ndarray:
    """The loss of the law (n,) at a size under any rates."""
    law = LAW | {"L0": 1.0 + 2.0 * (n_params / 1e4) ** -0.3, "A": 0.9 * (n_params / 1e4) ** -0.05 * PEAK**0.4 * 20}
    rows = join([compile_run(rates, steps, first=0, units=UNITS)], [0.0], UNITS)
    return MultiPower.evaluate(MultiPower.theta(law, UNITS)[None, :, None], rows)[0][0]


def simulate(
    name: str,
    n_params: float,
    draw: np.random.Generator,
    *,
    steps: int = 2000,
    rates: np.ndarray | None = None,
    level: float = 0.008,
    noise: float = 0.004,
    memory: float = 0.5,
) -> CurveRun:
    """A run with rows evenly along its steps. It declares a wsd; `rates` are those that it trains with."""
    declared = Schedule("wsd", 100).rates(steps, PEAK)
    at = np.unique(np.linspace(150, steps - 1, ROWS).astype(int))
    loss = loss_of(declared if rates is None else rates, at, n_params)
    rough = draw.normal(0, noise, len(at))
    for i in range(1, len(at)):
        rough[i] = memory * rough[i - 1] + np.sqrt(1 - memory**2) * rough[i]
    return CurveRun(name, n_params, at, loss * np.exp(draw.normal(0, level) + rough), declared, True, "wsd", name)


def study(draw: np.random.Generator, sizes: tuple[float, ...] = (5e3, 1e4, 2e4, 4e4), seeds: int = 3) -> list[CurveRun]:
    """Sound runs of several sizes, seeds and lengths."""
    lengths = (1000, 2000, 3000)
    return [
        simulate(f"{size:g}-{seed}", size, draw, steps=lengths[seed % 3]) for size in sizes for seed in range(seeds)
    ]


def cut(run: CurveRun, share: float) -> CurveRun:
    """The first rows of a run."""
    kept = run.steps < share * run.horizon
    return replace(run, steps=run.steps[kept], loss=run.loss[kept], done=False)


def ladder(
    draw: np.random.Generator, sizes: tuple[float, ...], seeds: int, off: float = 1.0, ratio: float = 20.0
) -> list[CurveRun]:
    """Runs of several sizes at one ratio of tokens to parameters, whose reducible losses are one curve in share of
    their steps; the largest size is trained at `off` times its rate."""
    runs = []
    for size in sizes:
        times = size / sizes[0]
        steps = int(400 * times)
        rates = Schedule("wsd", 0).rates(steps, PEAK) * (off if size == sizes[-1] else 1.0)
        scale = times**-0.35  # of what is reducible
        law = {
            "L0": 1.2 + 0.5 * scale,
            "A": 2.4 * scale * times ** LAW["alpha"],
            "B": 12.0 * scale,
            "C": LAW["C"] / times,
        }
        rows = np.unique(np.geomspace(0.1 * steps, steps, ROWS).astype(int)) - 1
        compiled = join([compile_run(rates, rows, first=0, units=UNITS)], [0.0], UNITS)
        loss = MultiPower.evaluate(MultiPower.theta(LAW | law, UNITS)[None, :, None], compiled)[0][0]
        for seed in range(seeds):
            rough = draw.normal(0, 0.003, len(rows))
            for i in range(1, len(rows)):
                rough[i] = 0.5 * rough[i - 1] + np.sqrt(0.75) * rough[i]
            name = f"{size:g}-{seed}"
            noisy = loss * np.exp(draw.normal(0, 0.008) + rough)
            runs.append(CurveRun(name, size, rows, noisy, rates, True, "wsd", name, tokens=ratio * size))
    return runs
