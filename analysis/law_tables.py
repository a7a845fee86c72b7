"""Tables of the laws fitted to all points: what they have in common, and every parameter of the report's law."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.markdown import end, is_wide, pair, table
from isoflop.analysis.style import LEVEL
from isoflop.scaling.findings.diagnose import refused

UNKNOWN = "not known"
SPLIT = ("a", "b")  # how compute is split between size and tokens


def laws(e: Evidence) -> str:
    """The candidates fitted to all points."""
    rows, lost = [], refused(e.findings)
    for r in e.candidates.to_dict("records"):
        cells = [f"**{r['law']}**" if r["law"] == e.law_name else r["law"]]
        for name in ("E", "alpha", "beta", "kappa", "a"):
            if not np.isfinite(r.get(name, np.nan)):  # the law has no such parameter
                cells.append("-")
                continue
            unknown = name in lost or (name == "a" and r["no_optimum"])
            cells.append(UNKNOWN if unknown else _estimate(r, name))
        rows.append([*cells, f"{r['noise']:.2%}"])
    return table(["law", "E", "alpha", "beta", "kappa", "a (N* ~ C^a)", "robust sd"], rows)


def _estimate(row: Mapping[str, Any], name: str) -> str:
    """A parameter of a candidate with its interval. At a bound the interval has one side, or none."""
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if name in row["at_bound"]:
        far = max(low, high, key=lambda side: abs(side - value))
        side = "up" if far > value else "down"
        return f"{value:.4g} (bound)" + (f", {side} to {end(far, high - low)}" if is_wide(low, high) else "")
    if not (name in row["free"] or name == "a" or (name == "beta" and row["alpha"] == row["beta"])):
        return f"{value:.4g} fixed"
    return f"{value:.4g} {pair(low, high)}"


def parameters(e: Evidence) -> str:
    """Every parameter of the report's law and every exponent that follows from it, with its interval."""
    row, lost = e.candidate(e.law_name), refused(e.findings)
    if row is None:
        raise UnsupportedError(f"no refit of {e.law_name} knows its parameters")
    problem, rows = e.fit.problem, []
    for name in (*e.fit.law.parameters(), *e.fit.exponents()):
        between = f"[{row[f'{name}_low']:.4g}, {row[f'{name}_high']:.4g}]"
        if name in problem.pinned:
            between = "fixed"
        elif name == problem.follower and e.fit.law.ties:
            between = f"tied to {e.fit.law.ties[0]}"
        elif problem.tied and name in SPLIT:
            between = "by its form"
        elif name in row["at_bound"]:
            between += ", at its bound"
        unknown = name in lost or (name in SPLIT and row["no_optimum"])
        rows.append([name, *([UNKNOWN, ""] if unknown else [f"{row[name]:.5g}", between])])
    return f"`{e.law_name}`: `{e.fit.law.formula}`\n\n" + table(["parameter", "value", f"{LEVEL:.0%} interval"], rows)
