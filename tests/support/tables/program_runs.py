"""Runs that are known, for sources in the formats of other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.laws.chinchilla import Chinchilla
from tests.support.tables.dialects import Known

LAW = Chinchilla(E=1.8, A=400.0, B=1200.0, alpha=0.34, beta=0.37)
NAMES = ("small", "large", "wide-2", "r_7", "d12", "None", "nan", "base")


@dataclass(frozen=True)
class Run:
    """A run with evaluations at some of its steps: each (step, tokens so far, loss), the last its end."""

    name: str
    n_params: int
    batch: int  # tokens of a step
    points: tuple[tuple[int, int, float], ...]

    @property
    def end(self) -> tuple[int, int, float]:
        return self.points[-1]


def some_runs(rng: np.random.Generator, most: int = 4) -> list[Run]:
    """One to `most` runs of different sizes, whose numbers of parameters have at most four digits."""
    every = int(rng.choice([50, 100, 250]))
    batch = 512 * int(rng.integers(1, 65))
    runs = []
    for name in rng.permutation(NAMES)[: int(rng.integers(1, most + 1))]:
        n_params = int(rng.integers(100, 10_000)) * 10_000
        count = int(rng.integers(2, 6))
        steps = [every * k for k in range(1, count + 1)]
        points = tuple((s, s * batch, round(float(LAW(n_params, s * batch)), 4)) for s in steps)
        runs.append(Run(str(name), n_params, batch, points))
    return runs


def known(path: Path, runs: Sequence[Run], message: str, *, options: dict | None = None, named: bool = True) -> Known:
    """What a source of these runs holds; `named` where it tells their names."""
    rows = [{"n_params": run.n_params, "tokens": run.end[1], "loss": run.end[2]} for run in runs]
    table = pd.DataFrame(rows).astype(float)
    if named:
        table.insert(0, "run_id", [run.name for run in runs])
    return Known(path, table, "nats/token", [message], options or {})
