"""Whether arms were tuned alike, and whether the learning rate of each lies at its optimum, as far as a table shows."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.table.curves import curves

RATE = "peak_learning_rate"
EDGE_FROM = 3  # rates at one size and budget: fewer have no inside
SAME_RANGE = 2.0  # grids whose ranges differ by less were one search
_SIZE, _BUDGET = ("n_params_total", "n_params", "d_model"), ("horizon_tokens", "tokens", "flops")


def tuning_findings(arms: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    """Objections to a comparison of these arms, rows of each by name: searches unequal, or ended at an edge."""
    if any(RATE not in rows for rows in arms.values()):
        yield Finding(
            "tuning_unknown", "info", "the table does not say how much either arm was tuned",
            f"say so next to the result, or add the column {RATE}",
        )  # fmt: skip
        return
    ends = {arm: _ends(rows) for arm, rows in arms.items()}
    counts = {arm: int(rows[RATE].nunique()) for arm, rows in ends.items()}
    ranges = {arm: float(rows[RATE].max() / rows[RATE].min()) for arm, rows in ends.items()}
    tried = ", ".join(f"{_tried(counts[arm], ranges[arm])} for {arm}" for arm in arms)
    if len(set(counts.values())) > 1 or max(ranges.values()) > SAME_RANGE * min(ranges.values()):
        yield Finding(
            "unequal_tuning", "warn", f"learning rates tried: {tried}",
            "give every arm the same tuning budget and range: the gain may be the tuning's",
        )  # fmt: skip
    elif max(counts.values()) == 1:
        yield Finding(
            "rate_not_tuned", "info", "one learning rate an arm: nothing here shows that it is near the optimum of any",
            "show an interior optimum at two sizes, for example with isoflop tune",
        )  # fmt: skip
    for arm, rows in ends.items():
        yield from rates_at_edge(arm, rows)


def rates_at_edge(arm: str, rows: pd.DataFrame) -> Iterator[Finding]:
    """A warning where the lowest loss of a size and budget is at the lowest or the highest rate tried for it."""
    keys = [next((c for c in names if c in rows), None) for names in (_SIZE, _BUDGET)]
    if None in keys:
        return
    bowls = [b for _, b in rows.groupby(keys) if b[RATE].nunique() >= EDGE_FROM]
    at_edge: list[str] = []
    for bowl in bowls:
        means = bowl.groupby(RATE)["loss"].mean()
        best = means.idxmin()
        if best in (means.index[0], means.index[-1]):
            at_edge.append(f"{best:g} at {keys[0]} {bowl[keys[0]].iloc[0]:,.0f}")
    if at_edge:
        listed = ", ".join(list(dict.fromkeys(at_edge))[:4])
        yield Finding(
            "rate_at_edge", "warn",
            f"{arm}: the best rate is at an edge of the grid in {len(at_edge)} of {len(bowls)} cells ({listed})",
            "try rates beyond the edge: where the optimum is outside, the arm is not at its best",
        )  # fmt: skip


def _tried(count: int, spread: float) -> str:
    return f"{count}" if count == 1 else f"{count} over a factor {spread:.3g}"


def _ends(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run, of training curves the last; a run that diverged has lost to every other rate."""
    if not {"final", "state", "run_id", "step"} <= set(rows):
        found = curves(rows)
        return found.ends if found else rows
    last = rows.sort_values("step").groupby("run_id", as_index=False).tail(1)
    return last.assign(loss=last["loss"].where(last["state"] != "diverged", np.inf))
