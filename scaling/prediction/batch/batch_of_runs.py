"""What the runs of a study tell of the critical batch: steps to one loss from their curves, and the noise they logged.

Curves compare while the learning rate is constant: at its end a run of another length falls by what its decay gives.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from isoflop.scaling.findings.settings import unlike_runs
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import count_params
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.runs import final_rows
from isoflop.scaling.table.where import keeping

MAY_VARY = ("context_length", "schedule", "device")  # curves of any schedule compare at a constant rate
CURVE = ("n_params", "batch_tokens", "context_length", "peak_learning_rate", "weight_decay")


@dataclass(frozen=True)
class NoiseScale:
    """The noise scale of the gradient, tr(Sigma)/|G|^2 in tokens, before the end of runs of one size and horizon.

    `value` is the geometric mean over `runs` runs, `interval` by Student's t over them at some level, NaN of a single
    one; `loss` is their mean. The critical batch is of its order (McCandlish et al. 2018).
    """

    n_params: float
    tokens: float
    loss: float
    value: float
    interval: tuple[float, float]
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return plain(self.__dict__ | {"interval": list(self.interval)})

    def __str__(self) -> str:
        lo, hi = self.interval
        span = f"{lo:.4g} to {hi:.4g}" if np.isfinite(lo) else "-"
        return (
            f"{self.n_params:>10.4g} {self.loss:>7.4g} {self.tokens:>12.4g} {self.runs:>5} {self.value:>14.5g} "
            f"{span:>23}"
        )


def steps_of_runs(table: pd.DataFrame, params: str = "matrices") -> pd.DataFrame:
    """Steps of each size and batch of a run table to a loss that all batches of the size reach at a constant rate.

    The loss is the highest of the lowest ones of each batch; a batch is taken at the rate (and weight decay) that
    reaches it first, seeds averaged, steps interpolated along ln step. Columns: n_params, batch_tokens, context_length,
    target_loss, steps_to_target; no row where no run has a row at a constant rate, or no size has two batches. Its
    attrs hold `notes` on what was done and left out. Raises TableError for runs of several experiments.
    """
    _refuse_several(table)
    curves = table[(table["phase"] == "constant") & (table["state"] == "done")]
    curves = curves.assign(n_params=count_params(curves, params)).fillna({"weight_decay": 0.0})
    curves = curves.drop_duplicates(["trunk_id", "step"])  # cells of one trunk share its rows
    means = curves.groupby([*CURVE, "step"], as_index=False)["loss"].mean()
    made: list[dict[str, Any]] = []
    for n_params, of_size in means.groupby("n_params"):
        lowest = of_size.groupby("batch_tokens")["loss"].min()
        if len(lowest) < 2:
            continue
        target = float(lowest.max())
        for (batch, length), of_batch in of_size.groupby(["batch_tokens", "context_length"]):
            steps = min(_reached(one, target) for _, one in of_batch.groupby(["peak_learning_rate", "weight_decay"]))
            made.append({
                "n_params": n_params, "batch_tokens": batch, "context_length": length, "target_loss": target,
                "steps_to_target": steps,
            })  # fmt: skip
    columns = ["n_params", "batch_tokens", "context_length", "target_loss", "steps_to_target"]
    frame = pd.DataFrame(made, columns=columns).astype(float)
    early = ~np.isfinite(frame["steps_to_target"])
    notes = [
        "steps are of the curves of runs, each batch at its best rate, to the highest of the losses that the batches "
        "of a size reach before the rate decays"
    ]
    if early.any():
        notes.append(f"{early.sum()} batches are below the loss of their size at their first row: they are left out")
    frame = frame[~early].reset_index(drop=True)
    frame.attrs = {"notes": notes}
    return frame


def _refuse_several(table: pd.DataFrame) -> None:
    """Raise TableError where runs differ in what decides their losses beside size, batch, rate, decay and seed."""
    for found in unlike_runs(table, may_vary=MAY_VARY):
        name = found.columns[0]
        values = table[name].value_counts()
        shown = ", ".join(str(value) or "''" for value in values.index[:4])
        raise TableError(
            f"{table.attrs.get('source', 'table')}: {len(values)} values of {name} ({shown}), and a critical batch "
            f"is that of one: keep one, e.g. {keeping({name: values.index[0]})}"
        )


def _reached(curve: pd.DataFrame, target: float) -> float:
    """The step at which a curve first is at the target, between two rows; infinite where it never is."""
    steps, losses = curve["step"].to_numpy(float), curve["loss"].to_numpy(float)
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return np.inf
    k = int(below[0])
    if k == 0:
        return float(steps[0]) if losses[0] == target else np.inf  # before the first row: not known when
    share = (losses[k - 1] - target) / (losses[k - 1] - losses[k])
    return float(np.exp(np.log(steps[k - 1]) + share * np.log(steps[k] / steps[k - 1])))


def noise_of_runs(table: pd.DataFrame, level: float, params: str = "matrices") -> tuple[NoiseScale, ...]:
    """The noise scales that the finished runs of a run table logged before their ends, by size and horizon.

    Raises TableError for runs of several experiments.
    """
    _refuse_several(table)
    last = final_rows(table).drop_duplicates("run_id")
    last = last.assign(n_params=count_params(last, params))
    last = last[last["noise_scale"] > 0]
    found = []
    for (n_params, tokens), runs in last.groupby(["n_params", "horizon_tokens"]):
        log = np.log(runs["noise_scale"].to_numpy(float))
        middle, half = float(log.mean()), np.nan
        if len(log) > 1:
            half = float(student.isf((1 - level) / 2, len(log) - 1) * log.std(ddof=1) / len(log) ** 0.5)
        interval = (float(np.exp(middle - half)), float(np.exp(middle + half)))
        found.append(
            NoiseScale(float(n_params), float(tokens), runs["loss"].mean(), np.exp(middle), interval, len(log))
        )
    return tuple(found)
