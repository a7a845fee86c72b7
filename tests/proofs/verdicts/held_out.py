"""How well do forecasts of measured runs hold: `python -m tests.proofs.verdicts.held_out`.

The runs of a table up to a quantile of compute forecast those above, at three quantiles, on the committed tables and,
where ISOFLOP_PUBLIC_DATA names them, on public ones. Laws are weighed by their probability, as `predict` does, and
beside it by their forecasts of held-out runs alone; a row is the mean over runs of the ln density of the measured ln
loss, the share inside 90%, the root mean square error and the median spread. Below, means over all rows.
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Huber
from isoflop.scaling.prediction.breaks import probabilities, runs_with_breaks
from isoflop.scaling.prediction.forecast import beyond_the_data
from isoflop.scaling.selection.averaging import ForecastAverage, average
from isoflop.scaling.selection.law_weights import NoLawError, weigh_laws
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.selection.rolling_origins import forecast
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.read import read_table
from tests.support.root import RESULTS

OURS = ("quick", "v1/quick", "known_answer", "repeated_data", "gpu_quarter", "transformer_vs_lstm")
QUANTILES = (0.4, 0.6, 0.75)
FEWEST_KNOWN, FEWEST_HELD_OUT = 12, 3
NEAR = 1e-4  # in ln loss: the density is a difference of probabilities


def tables() -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and runs of every table."""
    for name in OURS:
        yield name, read_table(RESULTS / f"{name}.parquet")
    public = Path(os.environ.get("ISOFLOP_PUBLIC_DATA", "/nowhere"))
    if public.is_dir():
        runs = pd.read_csv(public / "chinchilla_epoch" / "runs.csv")
        yield "chinchilla", runs[~runs["excluded_top5_loss"].astype(bool)]
        sweeps = pd.read_csv(public / "porian_discrepancies" / "isoflop_points.csv")
        for (group, row), sweep in sweeps.groupby(["group", "row"]):
            if row < 2:
                yield f"porian {group} {row}", sweep[["flops", "n_params", "tokens", "loss"]]


def splits(data: Points) -> Iterator[tuple[float, Points, pd.DataFrame]]:
    """The quantile, the runs known, and those held out, cut half way between two budgets."""
    flops = data.frame["flops"].to_numpy(float)
    for quantile in QUANTILES:
        at = np.quantile(flops, quantile)
        known = flops < np.sqrt(flops[flops <= at].max() * flops[flops > at].min())
        if known.sum() >= FEWEST_KNOWN and (~known).sum() >= FEWEST_HELD_OUT:
            below, above = (data.frame[mask].reset_index(drop=True) for mask in (known, ~known))
            yield quantile, replace(data, frame=below), above


def scores(pooled: ForecastAverage, log_loss: np.ndarray) -> tuple[float, float, float, float]:
    """ln density, share inside 90%, root mean square error, median spread."""
    density = (pooled.cdf(log_loss + NEAR) - pooled.cdf(log_loss - NEAR)) / (2 * NEAR)
    inside = np.abs(pooled.cdf(log_loss) - 0.5) <= 0.45
    error = log_loss - pooled.quantile(0.5)
    far = float(np.log(np.maximum(density, 1e-30)).mean())
    return far, float(inside.mean()), float(np.sqrt(np.mean(error**2))), float(np.median(pooled.spread))


def main() -> None:
    """Print a row per table and split, and the means."""
    print("ln density, in 90%, rms error, spread: laws by probability | by forecasts of held-out runs")
    found: dict[str, list[tuple[float, ...]]] = {"by probability": [], "by held-out runs": []}
    for name, table in tables():
        for quantile, known, held_out in splits(points(table).in_order()):
            try:
                weighed = weigh_laws(known, candidates(known), Huber("auto"))
            except NoLawError:
                continue
            made = {}
            for law, fitted in weighed.fits.items():
                try:
                    made[law] = forecast(fitted, held_out)
                except ValueError:  # no finite loss there
                    continue
            log_loss = np.log(held_out["loss"].to_numpy(float))
            line = f"{name:20s} {quantile:.2f} {len(known):4d} runs forecast {len(held_out):3d}"
            for how, weights in (
                ("by probability", probabilities({law: weighed.fits[law] for law in made})),
                ("by held-out runs", {law: weighed.weights[law] for law in made}),
            ):
                parts, share = runs_with_breaks(weighed.fits, weights, made, held_out)
                pooled = average(beyond_the_data(parts, held_out, known, weighed.discrepancy), share)
                row = scores(pooled, log_loss)
                found[how].append(row)
                line += f" | {row[0]:+.2f} {row[1]:4.0%} {row[2]:7.2%} {row[3]:7.2%}"
            print(line, flush=True)
    for how, rows in found.items():
        values = np.array(rows)
        error, spread = np.exp(np.log(values[:, 2:]).mean(axis=0))
        means = f"{values[:, 0].mean():+.3f}, {values[:, 1].mean():.1%}, {error:.2%}, {spread:.2%}"
        print(f"{how}: mean ln density, share in 90%, geometric means of rms error and spread: {means} ({len(rows)})")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
