"""The README's numbers, from the committed results: python -m isoflop.analysis.readme TABLE README.md

Each block between `<!-- name -->` and `<!-- /name -->` is written anew; a test compares it with the table.
"""

import re
import sys
from pathlib import Path

import numpy as np

from isoflop.analysis import sections as summary
from isoflop.analysis.evidence import Evidence
from isoflop.scaling.table.read import read_table


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
    noise = e.seed_noise
    pooled = float(np.sqrt(np.average(noise["sd"] ** 2, weights=noise["seeds"] - 1)))
    fitted, largest = e.held_out.threshold, e.profiles[-1].flops
    return (
        f"{len(e.points)} runs, {e.fit.n_clusters} trunks, 90% intervals by trunk. Held out: fitted up to "
        f"{fitted:.0e} FLOPs, compared with the largest budget, {largest / fitted:.1f}x further. In **bold** the law "
        f"that `isoflop compare` prefers. {summary.irreducible(e)} "
        f"Seeds move a loss by {pooled:.2%} (sd, {len(noise)} cells)."
    )


BLOCKS = {"laws": laws, "notes": notes}


def rewrite(text: str, e: Evidence) -> str:
    """`text` with every block made anew."""
    for name, write in BLOCKS.items():
        found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
        if not found:
            raise ValueError(f"no block <!-- {name} --> ... <!-- /{name} --> to write into")
        text = text[: found.start(1)] + write(e) + "\n" + text[found.end(1) :]
    return text


def _value(row: dict, name: str) -> str:
    if not np.isfinite(row.get(name, np.nan)):
        return ""
    if name in row["at_bound"]:
        return f"{row[name]:.3g} (bound)"
    free = name in row["free"] or name == "a" or (name == "beta" and row["alpha"] == row["beta"])
    if not free:
        return f"{row[name]:.3g}"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m isoflop.analysis.readme TABLE README.md")
    readme = Path(sys.argv[2])
    readme.write_text(rewrite(readme.read_text(), Evidence(read_table(sys.argv[1]))))
