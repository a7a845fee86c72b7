"""The README's numbers, from the committed results: python -m isoflop.analysis.readme TABLE README.md

Each block between `<!-- name -->` and `<!-- /name -->` is written anew; a test compares it with the tables. What is not
of TABLE is of the tables beside it.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import chdtri

from isoflop.analysis import sections as summary
from isoflop.analysis.evidence import Evidence
from isoflop.scaling.arms.multiplier import multiplier
from isoflop.scaling.prediction.register import score
from isoflop.scaling.table.read import read_table

LEVEL = 0.9
NARROW = 0.005  # an interval of an exponent that is printed as a point: its form fixes it


def laws(e: Evidence) -> str:
    """The candidate laws: parameters with 90% intervals, and their error on the largest budget, unseen."""
    rows = []
    forecasts = e.held_out.forecasts
    for r in e.candidates.to_dict("records"):
        name = r["law"]
        chosen = name == e.law_name
        largest = forecasts[name].budgets.iloc[-1]
        values = [_value(r, parameter) for parameter in ("E", "alpha", "beta", "kappa", "a")]
        held_out = [f"{largest['loss_error']:+.1%}", f"{largest['n_ratio']:.2f}"]
        rows.append([f"**{name}**" if chosen else name, *values, *held_out])
    head = ["law", "E", "alpha", "beta", "kappa", "N\\* ~ C^a", "loss, held out", "N\\* ratio, held out"]
    return summary.table(head, rows)


def notes(e: Evidence) -> str:
    """What a reader of the table should know: runs, intervals, the hold-out, E, seeds."""
    fitted, largest = e.held_out.threshold, e.profiles[-1].flops
    said = [
        f"{len(e.points)} runs, {e.fit.n_clusters} trunks, 90% intervals by trunk. Held out: fitted up to "
        f"{fitted:.0e} FLOPs, compared with the largest budget, {largest / fitted:.1f}x further. In **bold** the law "
        "that `isoflop compare` prefers.",
        summary.irreducible(e),
        seeds(e),
    ]
    return " ".join(part for part in said if part)


def seeds(e: Evidence) -> str:
    """The pooled standard deviation of ln loss between seeds, with its interval from the chi-square distribution."""
    noise = e.seed_noise
    freedom = int((noise["seeds"] - 1).sum())
    pooled = float(np.sqrt(np.average(noise["sd"] ** 2, weights=noise["seeds"] - 1)))
    lo, hi = (pooled * np.sqrt(freedom / chdtri(freedom, p)) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    counted = f"{len(noise)} cells, {freedom} degrees of freedom"
    return f"Seeds move a loss by {pooled:.2%} [{lo:.1%}, {hi:.1%}] (sd, {counted})."


def forecast(results: Path) -> str:
    """The registered forecast of a larger budget, and what was measured."""
    found = score(results / "quick_holdout_prediction.json", read_table(results / "quick_holdout.parquet"))
    inside = ", ".join(f"{level:.0%} {'yes' if hit else 'no'}" for level, hit in found.covered.items())
    size = ""
    if found.n_predicted and found.n_measured:
        size = f"; the best size was forecast {found.n_predicted / found.n_measured:.2f} times too large"
    return (
        f"And blind: `isoflop predict experiments/results/quick.parquet --flops 3e12 --register ...` forecast "
        f"{found.predicted:.4f} before anything of that size was trained; `experiment=quick_holdout` then measured "
        f"{found.measured:.4f} (error {found.error:+.1%}, {found.z:+.1f} sd; inside the interval: {inside})"
        f"{size}."
    )


def arms(results: Path) -> str:
    """The multiplier of two architectures, and whether their lines cross in the data."""
    table = read_table(results / "transformer_vs_lstm.parquet")
    (pair,) = multiplier(table, by="arm", baseline="transformer", level=LEVEL).pairs
    at, crossing = pair.at_loss, pair.crossover
    said = [
        f"{r.multiplier:.2f} [{r.lo:.2f}, {r.hi:.2f}] times less compute at {r.loss:.2f} nats"
        for r in at.iloc[[0, -1]].itertuples()
    ]
    warned = ", ".join(f.code for f in pair.findings if f.severity != "info")
    lo, hi = (f"{crossing[end]:.1e}" if crossing[end] else word for end, word in (("lo", "below"), ("hi", "beyond")))
    where = f"near {crossing['flops']:.1e} FLOPs, 90% {lo} to {hi}" if crossing["flops"] else f"if at all, {lo} to {hi}"
    return (
        f"Two architectures, from {table['run_id'].nunique()} committed runs: `isoflop multiplier "
        f"experiments/results/transformer_vs_lstm.parquet --by arm` finds that an LSTM needs {said[0]}, "
        f"{said[1]}. The probability that the lines cross inside the data is {crossing['probability_in_data']:.2f} "
        f"({where}). Its warnings: {warned or 'none'}."
    )


BLOCKS: dict[str, Callable[[Evidence], str]] = {"laws": laws, "notes": notes}
FURTHER: dict[str, Callable[[Path], str]] = {"forecast": forecast, "arms": arms}


def rewrite(text: str, e: Evidence, results: Path) -> str:
    """`text` with every block made anew; `results` is the folder of the tables."""
    made = {name: write(e) for name, write in BLOCKS.items()} | {
        name: write(results) for name, write in FURTHER.items()
    }
    for name, block in made.items():
        found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
        if not found:
            raise ValueError(f"no block <!-- {name} --> ... <!-- /{name} --> to write into")
        text = text[: found.start(1)] + block + "\n" + text[found.end(1) :]
    return text


def _value(row: dict, name: str) -> str:
    if not np.isfinite(row.get(name, np.nan)):
        return ""
    if name in row["at_bound"]:
        return f"{row[name]:.3g} (bound)"
    free = name in row["free"] or name == "a" or (name == "beta" and row["alpha"] == row["beta"])
    if not free:
        return f"{row[name]:.3g}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" + (f" [{low:.2f}, {high:.2f}]" if high - low > NARROW else " (by its form)")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m isoflop.analysis.readme TABLE README.md")
    readme = Path(sys.argv[2])
    readme.write_text(rewrite(readme.read_text(), Evidence(read_table(sys.argv[1])), Path(sys.argv[1]).parent))
