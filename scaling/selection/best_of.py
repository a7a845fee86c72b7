"""`--best-of`: of runs that differ in a setting, such as a learning rate, only those of its best value in each cell."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from isoflop.scaling.table.columns import TableError, hint
from isoflop.scaling.table.curves import curves
from isoflop.scaling.table.runs import final_rows, forecast_rows, is_runs

CELL = ("n_params", "n_params_total", "tokens", "flops", "horizon_tokens", "budget_flops", "d_model", "n_layer")
APART = ("arm", "family", "dataset", "corpus_id", "unique_tokens", "tokenizer_id", "eval_id")
EDGE_FROM = 3  # values tried in a cell: fewer have no inside
LISTED = 4


def best_of(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of the best runs, with notes of how many were left out, of ties and of optima at an edge.

    Columns that say where a run stands (CELL) name the cell itself: the lowest run of each is kept. Other columns are
    settings: in each cell of equal size and tokens (and of equal arm, data and evaluation) the value with the lowest
    mean loss is kept, with all its seeds. Runs are compared by their ends, of training curves too, and those kept have
    all their rows. Raises TableError for an unknown column, one that changes within a run, or never varies in a cell.
    """
    source = table.attrs.get("source", "table")
    columns = list(dict.fromkeys(columns))
    for name in columns:
        if name == "loss":
            raise TableError(f"{source}: --best-of loss: the lowest loss is what is kept; name a setting or a cell")
        if name not in table:
            names = [str(column) for column in table.columns]
            raise TableError(
                f"{source}: --best-of {name}: no such column{hint(name, names)} (columns: {', '.join(names)})"
            )
    found = None if is_runs(table) else curves(table, source=source)
    if found and (moving := [c for c in columns if c in found.changing and c not in CELL]):
        raise TableError(
            f"{source}: --best-of {moving[0]}: it changes along the curve of a run (column {found.column}); name "
            "a setting that a run keeps to its end"
        )
    rows = found.ends if found else pd.concat([final_rows(table), forecast_rows(table)]) if is_runs(table) else table
    rows = rows[np.isfinite(pd.to_numeric(rows["loss"], errors="coerce"))]
    settings = [c for c in columns if c not in CELL]
    if settings and len(settings) < len(columns):
        raise TableError(
            f"{source}: --best-of {','.join(columns)}: name either what makes a cell ({', '.join(CELL[:4])}) or what "
            "is chosen within one, not both"
        )
    kept, notes = _lowest(rows, list(columns)) if not settings else _best_values(rows, settings, source)
    whole = found.frame.sort_index() if found else table
    chosen = whole[whole["run_id"].isin(kept["run_id"])] if found or is_runs(table) else kept
    chosen = chosen.reset_index(drop=True)
    chosen.attrs = {**table.attrs, "notes": (*table.attrs.get("notes", ()), *notes)}
    return chosen


def _lowest(rows: pd.DataFrame, cell: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The lowest run of each cell."""
    groups = rows.groupby(cell, dropna=False, sort=False)["loss"]
    lowest = groups.transform("min") == rows["loss"]
    kept = rows[lowest].groupby(cell, dropna=False, sort=False).head(1)
    tied = int(lowest.sum()) - len(kept)
    notes = [f"best of each {' x '.join(cell)}: {len(kept)} of {len(rows)} runs kept"]
    return kept, notes + ([f"{tied} runs tied with one that was kept"] if tied else [])


def _best_values(rows: pd.DataFrame, settings: list[str], source: str) -> tuple[pd.DataFrame, list[str]]:
    """The runs at the best combination of the settings in each cell."""
    size = next((c for c in ("n_params", "n_params_total") if c in rows), None)
    length = next((c for c in ("horizon_tokens", "tokens", "flops") if c in rows), None)
    cell = [c for c in (size, length, *APART) if c and c in rows and c not in settings]
    name = ", ".join(settings)
    means = rows.groupby([*cell, *settings], dropna=False)["loss"].mean().reset_index()
    groups = means.groupby(cell, dropna=False) if cell else [((), means)]
    best, ties, edges, varied = [], 0, [], 0
    for _, tried in groups:
        lowest = tried["loss"].idxmin()
        best.append(lowest)
        varied += len(tried) > 1
        ties += int((tried["loss"] == tried.loc[lowest, "loss"]).sum()) - 1
        edges += [f"{c} {tried.loc[lowest, c]:g}" for c in settings if _at_edge(tried, c, lowest)]
    if not varied:
        raise TableError(f"{source}: --best-of {name}: it never varies among runs of one size and tokens")
    kept = rows.merge(means.loc[best, [*cell, *settings]], on=[*cell, *settings], how="inner")
    notes = [f"best {name} of each cell: {len(kept)} of {len(rows)} runs kept, of {len(best)} cells"]
    if ties:
        notes.append(f"{ties} values of {name} tied with one that was kept")
    if edges:
        listed = ", ".join(edges[:LISTED]) + (f" and {len(edges) - LISTED} more" if len(edges) > LISTED else "")
        notes.append(f"the best {name} is at an edge of those tried in {len(edges)} of {len(best)} cells ({listed})")
    return kept, notes


def _at_edge(tried: pd.DataFrame, column: str, lowest: int) -> bool:
    """Whether the best value is the smallest or largest of at least EDGE_FROM numbers."""
    values = tried[column]
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() < EDGE_FROM:
        return False
    return bool(values[lowest] in (values.min(), values.max()))
