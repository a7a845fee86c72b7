"""A table of runs over learning rates as a sweep: its columns under our names, its cells, and where each has its best.

A cell is what stays the same while the rate varies: size, tokens, batch, weight decay. A cell whose lowest loss is at
the lowest or the highest rate tried shows where to try next, not where its optimum is. Runs that diverged bound it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Finding, rows_of
from isoflop.scaling.findings.settings import given_twice, unlike_runs
from isoflop.scaling.laws.axes.tuning import BATCH, DECAY, RATE
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Array
from isoflop.scaling.table.columns import TableError, map_option, parse
from isoflop.scaling.table.conventions import Points, count_params, points
from isoflop.scaling.table.meaning import VAGUE, words
from isoflop.scaling.table.runs import is_runs

CONTEXT = Column("context_length")
INPUTS = (RATE, BATCH, replace(DECAY, transform="linear"), CONTEXT)
SEQUENCES = ("batch_size", "global_batch_size", "batch_sequences", "train_batch_size")  # a batch in sequences
LENGTHS = ("seq_len", "seq_length", "sequence_length", "block_size", "max_seq_len", "context")
KEYS = ("n_params", "tokens", "batch_tokens", "weight_decay")
SAME = 1.02  # values of a column within this factor of the next are one
FEWEST = 3  # rates of a cell
NEAR = math.log(10) * 0.65  # of the lowest, in ln rate: beyond, a loss is no parabola
CLIFF = math.log(2.3)  # the same where losses rise faster above the best rate than below it
NEAR_DECAY = math.log(10)  # the same in ln weight decay


class NoOptimumError(ValueError):
    """A table shows no optimum of the learning rate."""

    exit_code = 1


@dataclass(frozen=True)
class Sweep:
    """The runs of one arm that a law of tuning is fitted to, and the cells that they are of.

    `points` holds the rows fitted: of cells with enough rates, those near the lowest loss. `cells` has a row per cell:
    its KEYS (NaN where the table lacks one), rates tried, the one with the lowest mean loss, that loss, `edge` ("low",
    "high" or ""), and whether it is fitted. `context` is the number of tokens of a sequence, NaN where it is not known.
    `findings` are of runs that differ in more.
    """

    points: Points
    cells: pd.DataFrame
    context: float
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def rows(self) -> pd.DataFrame:
        """The rows fitted."""
        return self.points.frame

    def within(self, near: float) -> "Sweep":
        """The sweep with no runs but those within `near` of the lowest loss of their cell, in ln rate."""
        kept = self.rows[_near(self.rows, self.cells, near)].reset_index(drop=True)
        return replace(self, points=replace(self.points, frame=kept))

    def values(self, name: str) -> Array:
        """The distinct values of a column among the rows fitted, those within SAME of one another once; in order."""
        if name not in self.rows or self.rows[name].isna().any():
            return np.zeros(0)
        held = self.rows[name].to_numpy(float)
        label = levels(held)
        return np.array([np.median(held[label == k]) for k in range(label.max() + 1)])


def levels(values: Array) -> Array:
    """The number (n,) of each value's level, in order: values within SAME of the next are one level; NaN is one."""
    order = np.argsort(values, kind="stable")
    ahead, behind = values[order][1:], values[order][:-1]
    apart = (np.abs(ahead) > SAME * np.abs(behind)) | (np.isnan(ahead) & ~np.isnan(behind))
    label = np.empty(len(values), dtype=int)
    label[order] = np.concatenate([[0], np.cumsum(apart)])
    return label


def sweep_of(table: pd.DataFrame, *, params: str = "matrices", compute: str = "exact") -> Sweep:
    """The sweep of the runs in a table, all of one arm.

    Raises NoOptimumError where the rate does not vary, no cell has FEWEST rates, or every cell has its lowest loss at
    an edge; TableError for a table without rates, or a batch in sequences of unknown length.
    """
    source = str(table.attrs.get("source", "table"))
    named, taken = with_names(table, source)
    data = points(named, params=params, compute=compute, inputs=INPUTS)
    if RATE.name in data.lacking:
        raise TableError(data.lacking[RATE.name])
    frame = data.frame.assign(**{key: np.nan for key in KEYS if key not in data.frame})
    found = (*given_twice(data.frame), *_unlike(named, data, frame))
    frame, of_decay = _decays(frame)
    rates = np.unique(levels(frame[RATE.name].to_numpy(float)))
    if len(rates) < 2:
        value = frame[RATE.name].iloc[0]
        raise NoOptimumError(
            f"{source}: every run has the learning rate {value:g}: an optimum needs others to be tried"
        )
    frame = frame.assign(cell=_cell_of(frame))
    lost = _diverged(named, params) if is_runs(named) else _without_loss(named, params, compute)
    cells = _cells(frame, lost)
    kept = cells["fitted"].to_numpy()
    if not kept.any():
        raise NoOptimumError(
            f"{source}: no cell of equal size, tokens and batch has {FEWEST} learning rates or more; the most is "
            f"{int(cells['rates'].max())}"
        )
    if (cells["edge"][kept] != "").all():
        raise NoOptimumError(f"{source}: {_all_at_edge(cells[kept])}")
    near = _near(frame, cells)
    rows = frame[near].drop(columns=[key for key in KEYS if frame[key].isna().all()]).reset_index(drop=True)
    notes = [*data.notes, *taken, *of_decay]
    if len(lost) and not is_runs(named):
        notes.append(f"{len(lost)} rows have a learning rate and no loss that is a number: they count as diverged")
    of_fitted = frame["cell"].map(cells["fitted"]).to_numpy(bool)
    if few := int((~kept).sum()):
        without = int((~of_fitted).sum())
        notes.append(f"{few} of {len(cells)} cells have fewer than {FEWEST} rates: their {without} runs are not fitted")
    if far := int((of_fitted & ~near).sum()):
        notes.append(
            f"{far} runs whose rate is more than a factor {math.exp(NEAR):.2g} from that of the lowest loss of their "
            "cell are not fitted"
        )
    lengths = frame["context_length"] if "context_length" in frame else pd.Series(dtype=float)
    context = float(lengths.iloc[0]) if lengths.nunique() == 1 else math.nan
    return Sweep(replace(data, frame=rows), cells, context, tuple(notes), found)


def _unlike(table: pd.DataFrame, data: Points, frame: pd.DataFrame) -> Iterator[Finding]:
    """Runs that differ in more than what a law of tuning reads; `frame` has the KEYS of the points `data`."""
    may_vary = [column.name for column in INPUTS if column is not CONTEXT]
    yield from unlike_runs(rows_of(table, data.frame), unit=data.loss_unit, may_vary=may_vary, cell=_cell_of(frame))


def _cell_of(frame: pd.DataFrame) -> Array:
    """The number (n,) of the cell that each row is of."""
    labels = np.column_stack([levels(frame[key].to_numpy(float)) for key in KEYS])
    return np.unique(labels, axis=0, return_inverse=True)[1].ravel()


def with_names(table: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """The table with rate, batch and weight decay under our names where it has them under a usual one, and what of it
    to say. Columns without any value are left out."""
    notes: list[str] = []
    empty = [c.name for c in INPUTS if c.name in table and table[c.name].isna().all()]
    named = table.drop(columns=empty)
    for column, aliases in ((RATE, VAGUE[RATE.name]), (DECAY, VAGUE[DECAY.name]), (CONTEXT, LENGTHS),
                            (BATCH, [a for a in VAGUE[BATCH.name] if a not in SEQUENCES])):  # fmt: skip
        if (found := _alias(named, column.name, aliases, source)) is not None:
            named = named.assign(**{column.name: named[found]})
            notes.append(f"{column.name}: column {found}" + (", as the peak of a run" if column is RATE else ""))
    if (found := _alias(named, BATCH.name, SEQUENCES, source)) is not None:
        batch, wrong = parse(named[found])
        if CONTEXT.name in named:
            named = named.assign(**{BATCH.name: batch * parse(named[CONTEXT.name])[0]})
            notes.append(f"{BATCH.name}: column {found}, in sequences, times context_length")
        elif batch.nunique() > 1 or wrong.any():
            raise TableError(
                f"{source}: column {found} counts sequences, and their length is not known: add the column "
                f"context_length, or {map_option(BATCH.name, found)} where it counts tokens"
            )
    named.attrs = table.attrs
    return named, notes


def _alias(table: pd.DataFrame, name: str, aliases: Sequence[str], source: str) -> str | None:
    """The column that has one of the aliases of a name, None where there is none, or one of the name itself."""
    if name in table:
        return None
    found = [str(c) for c in table if words(str(c)) in aliases and table[c].notna().any()]
    if len(found) > 1:
        choice = map_option(name, found[0])
        raise TableError(f"{source}: {name} may be column {' or '.join(found)}: choose with {choice}")
    return found[0] if found else None


def _decays(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows whose weight decays a law can tell apart: FEWEST or more near the best of their size, tokens and batch,
    none of them 0; else those of the one that is best."""
    decay = frame["weight_decay"].to_numpy(float)
    if np.isnan(decay).any() or (label := levels(decay)).max() == 0:
        return frame, []
    names = [f"{np.median(decay[label == k]):g}" for k in range(label.max() + 1)]
    place = np.unique(np.column_stack([levels(frame[key].to_numpy(float)) for key in KEYS[:3]]), axis=0,
                      return_inverse=True)[1].ravel()  # fmt: skip
    lowest = frame.assign(place=place, label=label).groupby(["place", "label"])["loss"].min().unstack()
    if (np.unique(label[decay > 0])).size < FEWEST:
        best = int((lowest.sub(lowest.min(axis=1), axis=0)).mean().idxmin())
        note = f"weight decays {', '.join(names)}: too few for an optimum, the runs at {names[best]} alone are fitted"
        return frame[label == best].reset_index(drop=True), [note]
    ahead = lowest.drop(columns=sorted(set(label[decay <= 0]))).idxmin(axis=1)
    best_of = np.array([np.median(decay[label == k]) for k in range(label.max() + 1)])[ahead.loc[place].to_numpy()]
    with np.errstate(divide="ignore"):
        near = np.abs(np.log(decay / best_of)) <= NEAR_DECAY
    out = int((~near).sum())
    note = f"{out} runs whose weight decay is 0 or more than a factor 10 from the best of their size are not fitted"
    return frame[near].reset_index(drop=True), [note] if out else []


def _diverged(table: pd.DataFrame, params: str) -> pd.DataFrame:
    """KEYS and rate of the runs of a run table that diverged: tried, and worse than all others."""
    if not (table["state"] == "diverged").any():
        return pd.DataFrame(columns=[*KEYS, RATE.name], dtype=float)
    last = table[table["state"] == "diverged"].sort_values("step").groupby("run_id", as_index=False).tail(1)
    made = last.assign(n_params=count_params(last, params), tokens=last["horizon_tokens"])
    return made.reindex(columns=[*KEYS, RATE.name]).astype(float)


def _without_loss(table: pd.DataFrame, params: str, compute: str) -> pd.DataFrame:
    """The same of rows of another table that have a rate, and a loss that is empty, NaN or infinite."""
    none = pd.DataFrame(columns=[*KEYS, RATE.name], dtype=float)
    if not {"loss", RATE.name} <= set(table):
        return none
    lost = ~np.isfinite(pd.to_numeric(table["loss"], errors="coerce")) & table[RATE.name].notna()
    try:
        made = points(table[lost].assign(loss=1.0), params=params, compute=compute, inputs=INPUTS).frame
    except ValueError:  # rows that hold nothing else either
        return none
    return made.reindex(columns=[*KEYS, RATE.name]).astype(float)


def _cells(frame: pd.DataFrame, diverged: pd.DataFrame) -> pd.DataFrame:
    made: list[dict[str, Any]] = []
    for _, runs in frame.groupby("cell"):
        place = {key: float(runs[key].median()) for key in KEYS}
        lost = diverged[np.all([_same(diverged[key], value) for key, value in place.items()], axis=0)]
        rates = np.concatenate([runs[RATE.name].to_numpy(float), lost[RATE.name].to_numpy(float)])
        losses = np.concatenate([runs["loss"].to_numpy(float), np.full(len(lost), np.inf)])
        label = levels(rates)
        means = np.array([losses[label == k].mean() for k in range(label.max() + 1)])
        tried = np.array([np.median(rates[label == k]) for k in range(label.max() + 1)])
        low = int(np.argmin(means))
        edge = "low" if low == 0 else "high" if low == len(means) - 1 else ""
        made.append(place | {
            "runs": len(runs), "rates": len(means), "lowest_rate": float(tried[low]), "lowest_loss": float(means[low]),
            "edge": edge if len(means) >= FEWEST else "", "fitted": np.isfinite(means).sum() >= FEWEST,
        })  # fmt: skip
    return pd.DataFrame(made)


def _same(values: pd.Series, value: float) -> Array:
    if math.isnan(value):
        return np.ones(len(values), dtype=bool)
    return np.abs(values.to_numpy(float) - value) <= (SAME - 1) * abs(value)


def _near(frame: pd.DataFrame, cells: pd.DataFrame, near: float = NEAR) -> Array:
    """Which rows (n,) are fitted: of the cells that are, those within `near` of the lowest loss, or its three rates."""
    away = np.abs(np.log(frame[RATE.name].to_numpy(float) / frame["cell"].map(cells["lowest_rate"]).to_numpy(float)))
    keep = np.zeros(len(frame), dtype=bool)
    for cell, rows in frame.groupby("cell").indices.items():
        if cells.loc[cell, "fitted"]:
            label = levels(frame[RATE.name].to_numpy(float)[rows])
            nearest = np.sort([away[rows][label == k].min() for k in range(label.max() + 1)])
            keep[rows] = away[rows] <= max(near, nearest[FEWEST - 1]) + 1e-6
    return keep


def _all_at_edge(cells: pd.DataFrame) -> str:
    low = int((cells["edge"] == "low").sum())
    sides = [f"the lowest in {low}"] * (low > 0) + [f"the highest in {len(cells) - low}"] * (low < len(cells))
    more = "lower" if low == len(cells) else "higher" if not low else "lower and higher"
    tried = f"{cells['lowest_rate'].min():g} to {cells['lowest_rate'].max():g}"
    return (
        f"no optimum of the learning rate: in all {len(cells)} cells the lowest loss is at an edge of the rates tried "
        f"({' and '.join(sides)}, at {tried}); try {more} rates"
    )
