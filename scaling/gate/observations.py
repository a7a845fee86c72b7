"""Pairs of runs of an arm and the baseline, of equal size, compute and seed, and what a loss is worth in compute."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.arms.joint_fit import choose_form, frontier
from isoflop.scaling.arms.pairs import SAME_BUDGET, cluster_labels, pair_cells
from isoflop.scaling.fitting.fit import FitError, Huber, fit
from isoflop.scaling.gate.discrepancy import Discrepancy
from isoflop.scaling.gate.estimate import Observations
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Array
from isoflop.scaling.table.conventions import Points
from isoflop.scaling.table.runs import is_runs

SPEED = "tokens_per_second"
FLAT = 0.01  # -d ln loss / d ln compute below which a loss is no measure of compute
ASSUMED = 0.1  # -d ln loss / d ln compute where nothing shows it: small models on text


@dataclass(frozen=True)
class Slope:
    """-d ln loss / d ln compute of the baseline at a compute in FLOPs; `source` says what it comes from."""

    at: Callable[[Array], Array]
    source: str
    assumed: bool = False


@dataclass(frozen=True)
class PairTable:
    """Pairs (n,) of one arm: `flops` of the arm's run, `spent` by both, and what `estimate` takes.

    `order` puts them in the order in which they were made, where the table tells, else by seed and compute. `speed` is
    ln of the ratio of tokens per second, NaN where unknown. `unmatched` counts runs of the arm and of the baseline in
    no pair, `repeated` the pairs beside another of the same size, compute and seed. `cells` are n_params, tokens and
    flops of the baseline's runs, a row each distinct compute.
    """

    observations: Observations
    flops: Array
    spent: Array
    speed: Array
    unmatched: tuple[int, int]
    repeated: int
    same_seed: bool
    cells: pd.DataFrame


def baseline_slope(data: Points, discrepancy: Discrepancy | None) -> Slope:
    """What ln loss of the baseline falls by per ln compute: of its fitted law, of a line, learnt, or assumed.

    Raises FitError where the loss of the baseline does not fall.
    """
    computes = _budgets(data.frame)
    if len(computes) >= 3:
        try:
            form = choose_form([data])
            fitted = fit(form, data, objective=Huber("auto"))
            front = frontier(fitted.law, data.cost.power if form is Chinchilla else None)
            inside = computes["flops"].to_numpy()
            if (front.g * (1 - front.E / front.loss(inside)) > FLAT).all():
                return Slope(lambda C: front.g * (1 - front.E / front.loss(C)), f"the baseline's law ({form.name})")
        except (FitError, ArithmeticError):
            pass
    if len(computes) >= 2:
        slope = -float(np.polyfit(np.log(computes["flops"]), computes["log_loss"], 1)[0])
        if slope <= FLAT:
            raise FitError(
                f"ln loss of the baseline falls by {slope:.2g} per ln compute: where more compute brings so little, a "
                "gain is no saving of it (is every run tuned, --best-of?)"
            )
        return Slope(lambda C: np.full(np.shape(C), slope), f"a line through {len(computes)} computes of the baseline")
    if discrepancy is not None:
        return Slope(discrepancy.slope, "the arms of --learn")
    return Slope(lambda C: np.full(np.shape(C), ASSUMED), f"assumed: {ASSUMED:g}", assumed=True)


def _budgets(frame: pd.DataFrame) -> pd.DataFrame:
    """The distinct computes of the runs, with the lowest ln loss at each."""
    ordered = frame.sort_values("flops", kind="stable")
    budget = (np.log(ordered["flops"]).diff().fillna(0.0) > SAME_BUDGET).cumsum().to_numpy()
    grouped = ordered.groupby(budget)
    found = grouped["flops"].mean().to_frame()
    found["log_loss"] = np.log(grouped["loss"].min())
    return found.reset_index(drop=True)


def pair_table(
    ours: Points, theirs: Points, rows: tuple[pd.DataFrame, pd.DataFrame], slope: Slope, target: float
) -> PairTable:
    """The pairs of an arm (`ours`) and the baseline, in order; `rows` are the tables that their points come from."""
    found = pair_cells(ours.frame, theirs.frame)
    left, right = ours.frame.iloc[found.left], theirs.frame.iloc[found.right]
    order = np.argsort(_made(rows[0], ours)[found.left], kind="stable")
    if "seed" in left and left["seed"].notna().all():
        by_seed = np.lexsort([left["flops"].to_numpy(float), pd.factorize(left["seed"], sort=True)[0]])
        order = by_seed[np.argsort(_made(rows[0], ours)[found.left][by_seed], kind="stable")]
    left, right = left.iloc[order], right.iloc[order]
    flops = left["flops"].to_numpy(float)
    speeds = [_speed(table, points) for table, points in zip(rows, (ours, theirs), strict=True)]
    gain = np.log(right["loss"].to_numpy(float)) - np.log(left["loss"].to_numpy(float))
    cluster = pd.factorize(_clusters(ours, theirs)[found.left][order])[0]
    observations = Observations(gain, np.asarray(slope.at(flops), float), np.log(flops / target), cluster)
    cells = theirs.frame[["n_params", "tokens", "flops"]].sort_values("flops", kind="stable")
    keep = np.log(cells["flops"]).diff().fillna(np.inf) > SAME_BUDGET
    return PairTable(
        observations,
        flops,
        flops + right["flops"].to_numpy(float),
        speeds[0][found.left][order] - speeds[1][found.right][order],
        (len(ours) - len(found), len(theirs) - len(found)),
        _repeated(left),
        bool(found.same_seed.all()),
        cells[keep].reset_index(drop=True),
    )


def _made(table: pd.DataFrame, data: Points) -> Array:
    """When each run was made, as text; the same for all where the table does not say."""
    if "created_at" not in table or "run_id" not in data.frame:
        return np.full(len(data), "")
    made = table.astype({"created_at": str}).groupby("run_id")["created_at"].max()
    return data.frame["run_id"].map(made).fillna("").to_numpy(str)


def _speed(table: pd.DataFrame, data: Points) -> Array:
    """ln of the tokens per second of each run; NaN where the table does not tell."""
    unknown = np.full(len(data), np.nan)
    if SPEED in table:
        values = pd.to_numeric(table[SPEED], errors="coerce")
    elif is_runs(table) and "wall_seconds" in table:
        values = table["tokens"] / table["wall_seconds"]
    else:
        return unknown
    if "run_id" in data.frame and "run_id" in table:
        along = np.argsort(table["tokens"].to_numpy(float), kind="stable") if "tokens" in table else slice(None)
        last = pd.Series(values.to_numpy(float)[along], table["run_id"].to_numpy()[along]).groupby(level=0).last()
        values = data.frame["run_id"].map(last)
    if len(values) != len(data):
        return unknown
    found = values.to_numpy(float)
    return np.log(np.where(found > 0, found, np.nan))


def _clusters(ours: Points, theirs: Points) -> Array:
    """A label for every row of the arm: runs that share noise have the same one.

    Runs of one seed do, but where no two sizes of a seed read the same order of the data: there those of one trunk.
    """
    labels = cluster_labels(ours.frame, theirs.frame)[0][0]
    frame = ours.frame
    if ours.orders_differ or "seed" not in frame or frame["seed"].isna().any():
        return labels
    return frame["seed"].astype(str).to_numpy(object)


def _repeated(pairs: pd.DataFrame) -> int:
    """Pairs beside another of the same size, compute and seed: runs that differ in a setting."""
    seed = pairs["seed"] if "seed" in pairs else pd.Series(range(len(pairs)), index=pairs.index)
    keys = pd.DataFrame({"seed": seed, "flops": np.log(pairs["flops"]).round(2), "n": pairs["n_params"]})
    return int(keys.duplicated().sum())
