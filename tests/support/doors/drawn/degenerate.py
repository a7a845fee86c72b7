"""Degenerate tables: columns of any law whose values are constant, two, huge, zero, negative, empty or repeated."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.laws import PRESETS, get_law

RANGES = {
    "n_params": (1e5, 1e9), "tokens": (1e7, 1e11), "unique_tokens": (1e6, 1e10), "flops": (1e15, 1e21),
    "weight_bits": (2, 16), "activation_bits": (2, 16), "experts": (1, 64), "n_params_embedding": (1e4, 1e8),
    "peak_learning_rate": (1e-4, 1e-1), "batch_tokens": (1e4, 1e6),
}  # fmt: skip
Values = np.ndarray
COLUMNS: dict[str, Callable[[Values, np.random.Generator], Values]] = {
    "sound": lambda x, _: x,
    "constant": lambda x, _: np.full_like(x, x[0]),
    "two values": lambda x, rng: np.where(rng.random(len(x)) < 0.5, x[0], x[-1]),
    "a grid": lambda x, _: np.exp(np.round(np.log(np.maximum(x, 1e-300)))),
    "one huge": lambda x, _: np.r_[x[0] * 1e30, x[1:]],
    "one zero": lambda x, _: np.r_[0.0, x[1:]],
    "one negative": lambda x, _: np.r_[-x[0], x[1:]],
    "two empty": lambda x, _: np.r_[np.nan, np.nan, x[2:]],
    "replicated": lambda x, _: np.repeat(x[: max(len(x) // 3, 1)], 3),
}
LOSSES: dict[str, Callable[[Values, np.random.Generator], Values]] = {
    "sound": lambda y, _: y,
    "noisy": lambda y, rng: y * np.exp(rng.normal(0, 0.1, len(y))),
    "constant": lambda y, _: np.full_like(y, 2.0),
    "one tiny": lambda y, _: np.r_[1e-3, y[1:]],
    "in reverse": lambda y, _: y[::-1],
    "down to nothing": lambda y, _: y - y.min() + 1e-6,
}
SOUND = 3  # times as likely as any other kind of column


def degenerate(seed: int, folder: Path) -> list[str]:
    """Write the table of this number into `folder`; returns a command line that reads it."""
    rng = np.random.default_rng(seed)
    law, rows = str(rng.choice(list(PRESETS))), int(rng.choice([3, 6, 9, 15, 30]))
    kinds = [*COLUMNS, *["sound"] * (SOUND - 1)]
    table = {}
    for column in get_law(law)[0].reads().values():
        values = np.exp(rng.uniform(*np.log(RANGES[column.name]), rows))
        table[column.name] = COLUMNS[str(rng.choice(kinds))](values, rng)
    whole = [np.abs(np.nan_to_num(values, nan=1.0)) + 1e-9 for values in table.values()]
    loss = LOSSES[str(rng.choice(list(LOSSES)))](1 + sum((3 * values**-0.1 for values in whole), np.zeros(rows)), rng)
    path = folder / "runs.csv"
    pd.DataFrame(table | {"loss": loss}).to_csv(path, index=False)
    commands = (
        ["fit", "--law", law, "--bootstrap", "20"],
        ["fit", "--law", law, "--bootstrap", "0", "--json"],
        ["compare", "--laws", law],
        ["predict", "--laws", law, "--flops", "1e22"],
        ["predict", "--laws", law, "--n-params", "1e9", "--tokens", "1e11"],
        ["approaches", "--json"],
        ["suggest", "--law", law, "--budget", "1e22", "--target", "1e23", "--json"],
    )
    name, *options = commands[int(rng.integers(len(commands)))]
    return [name, str(path), *options]
