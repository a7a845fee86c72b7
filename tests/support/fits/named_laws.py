"""Every law that has a name, put through every command on three tables: what each must answer there."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd

from isoflop.analysis.evidence import Evidence
from isoflop.scaling.findings.verdict import verdict
from isoflop.scaling.laws import get_law, law_names
from isoflop.scaling.prediction.predict import predict
from isoflop.scaling.selection.comparison import comparison
from tests.support.fits.hard_fits import REPEATS, repeated

SIZES = (1238144, 2869504, 8886784, 33506304)
LOSSES = (8.156, 5.643, 4.211, 7.294, 5.299, 3.818, 6.653, 4.798, 3.207, 6.061, 4.497, 2.790)


def exact() -> pd.DataFrame:
    """Without noise: the residuals of a right law are of rounding size."""
    n = np.repeat([1e7, 1e8, 1e9], 4)
    d = n * np.tile([5, 20, 80, 320], 3)
    return pd.DataFrame({"n_params": n, "tokens": d, "loss": 1.8 + 400 * n**-0.34 + 2000 * d**-0.37})


def twelve() -> pd.DataFrame:
    """Twelve runs whose losses fall fast: the floor lies near zero."""
    return pd.DataFrame({"n_params": np.repeat(SIZES, 3), "tokens": np.tile([5e6, 2e7, 8e7], 4), "loss": LOSSES})


def repeats() -> pd.DataFrame:
    """Thirty-six runs of 0.3% noise, most of which repeat their data."""
    frame = repeated(36)
    noise = np.random.default_rng(0).normal(0, 0.003, 36)
    return frame.assign(loss=REPEATS(frame["n_params"], frame["tokens"], frame["unique_tokens"]) * np.exp(noise))


TABLES = {"exact": cache(exact), "twelve": cache(twelve), "repeats": cache(repeats)}


def refusal(answer: Callable[[], object]) -> ValueError | None:
    """The error that stands in place of an answer."""
    try:
        assert str(answer())
    except ValueError as error:
        return error
    return None


def beyond(table: str, name: str) -> set[str]:
    """The columns that the law reads and the table lacks."""
    return {column.name for column in get_law(name)[0].reads().values()} - {*TABLES[table](), "flops"}


def own_table(name: str) -> str:
    """The table without noise where it has the columns that the law reads, else that of repeated data."""
    return "repeats" if beyond("exact", name) else "exact"


def check_every_command(table: str, name: str) -> None:
    """Assert that each has an answer, or a reason that the table gives (exit 1): never a wrong name or number."""
    data = TABLES[table]()
    largest = float((6 * data["n_params"] * data["tokens"]).max())
    commands = {
        "fit": lambda: verdict(data, name, resamples=2),
        "compare": lambda: comparison(data, name).board,
        "predict": lambda: predict(data, flops=3 * largest, laws=name),
        "a run": lambda: predict(data, n_params=1e9, tokens=largest / 2e9, laws=name),
        "report": lambda: Evidence(data, law=name, n_draws=10).fit,
    }
    if table != own_table(name) or name != get_law(name)[0].name:  # the fits of "predict" again
        del commands["a run"]
    refused = {command: error for command, answer in commands.items() if (error := refusal(answer)) is not None}
    assert all(getattr(error, "exit_code", 2) == 1 and name in str(error) for error in refused.values()), refused
    assert set(refused) == set(commands) if beyond(table, name) else "fit" not in refused
    assert law_names(name) == (name,)
