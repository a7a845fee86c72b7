"""Training curves in a table of others: several rows of one run, at rising tokens (or FLOPs, or steps)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.meaning import words

RUN_NAMES = ("run_id", "run", "run_name", "runid")  # as `words` writes them: columns whose values are runs
KEYS = ("split", "subset", "set", "metric", "metric_name", "key", "variable", "tag", "partition", "mode")
AXES = ("tokens", "flops", "step")
_CONSTANT = ("n_params", "arm", "seed", "trunk_id")
MOST_REPEATED = 0.01  # of the rows: more rows of a run at one place are not written twice, they are other runs


@dataclass(frozen=True)
class Curves:
    """The rows of a table that are training curves, by run and along `axis`; NaN losses are left out.

    `frame` has a column run_id, named `column` in the file; `repeated` counts rows that a later one at the same place
    replaced, `empty` those without a loss.
    """

    frame: pd.DataFrame
    column: str
    axis: str
    repeated: int
    empty: int

    @property
    def ends(self) -> pd.DataFrame:
        """The last row of each run, in the order of the table."""
        return self.frame[~self.frame["run_id"].duplicated(keep="last")].sort_index()

    def rows(self) -> pd.DataFrame:
        """The curves in the columns of a run table: trunk_id is the run, phase is not known, flops are 6 N D if absent.

        Raises TableError where n_params or tokens are missing.
        """
        frame = self.frame.drop(columns=[c for c in self.frame if c == self.column != "run_id"])
        for name in ("n_params", "tokens"):
            if name not in frame:
                raise TableError(f"no column {name!r}: a curve needs n_params, tokens and loss")
        made = {"arm": "", "flops": 6.0 * frame["n_params"].astype(float) * frame["tokens"]}
        frame = frame.assign(**{name: value for name, value in made.items() if name not in frame})
        last = ~frame["run_id"].duplicated(keep="last")
        return frame.assign(trunk_id=frame["run_id"], phase="", state="done", final=last).reset_index(drop=True)

    def note(self, rows: int) -> str:
        """What is said where the curves of a table of `rows` rows are reduced to their ends."""
        counts = {"written twice": self.repeated, "without a loss": self.empty}
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        rest = f" ({found})" if found else ""
        return (
            f"{rows} rows are training curves of {self.frame['run_id'].nunique()} runs{rest}: "
            f"the last row of each is used (column {self.column}, along {self.axis})"
        )


def _refuse_keyed(frame: pd.DataFrame, twice: np.ndarray, source: str) -> None:
    """Raise TableError where rows of one run at one place differ by a column of splits or metrics."""
    k = int(np.argmax(twice))
    pair = frame.iloc[k : k + 2]
    for name in frame:
        if words(str(name)) in KEYS and pair[name].nunique() > 1:
            one, other = map(str, pair[name])
            raise TableError(
                f"{source}: rows of one run at one place differ by column {name} ({one}, {other}): "
                f"keep one with --where \"{name} == '{one}'\""
            )


def curves(table: pd.DataFrame, *, source: str = "table") -> Curves | None:
    """The training curves of a plain table; None where a row is a run.

    A table holds curves where a column of runs repeats, the size (and arm and seed) of a run is one, and tokens (else
    FLOPs, else steps) differ between its rows. Raises TableError for a long table (a row per metric and place).
    """
    column = next((str(c) for name in RUN_NAMES for c in table if isinstance(c, str) and words(c) == name), None)
    axis = next((name for name in AXES if name in table and pd.api.types.is_numeric_dtype(table[name])), None)
    if column is None or axis is None or "loss" not in table or not table[column].duplicated().any():
        return None
    frame = table if column == "run_id" else table.assign(run_id=table[column])
    full = frame[pd.to_numeric(frame["loss"], errors="coerce").notna()]
    if full.empty or full[[axis, "run_id"]].isna().any(axis=None):
        return None
    codes = pd.factorize(full["run_id"])[0]
    order = np.lexsort((np.arange(len(full)), full[axis].to_numpy(), codes))
    same_run = codes[order][1:] == codes[order][:-1]
    for name in (name for name in _CONSTANT if name in full):
        values = pd.factorize(full[name])[0][order]
        if (values[1:] != values[:-1])[same_run].any():
            return None
    along = full[axis].to_numpy()[order]
    twice = np.append(same_run & (along[1:] == along[:-1]), False)
    if twice.sum() > MOST_REPEATED * len(full):
        _refuse_keyed(full.iloc[order], twice, source)
        return None
    kept = full.iloc[order[~twice]]
    if not kept["run_id"].duplicated().any():
        return None
    return Curves(kept, column, axis, int(twice.sum()), len(frame) - len(full))
