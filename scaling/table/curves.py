"""Training curves in a table of others: several rows of one run, at rising tokens (or FLOPs, or steps)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.table.columns import TableError, is_numbers
from isoflop.scaling.table.meaning import words
from isoflop.scaling.table.where import keeping

RUN_NAMES = ("run_id", "run", "run_name", "runid")  # as `words` writes them: columns whose values are runs
OTHER_NAMES = ("name", "model", "model_name", "experiment", "experiment_name", "exp", "trial", "config")  # or of sizes
# Columns of training steps, the first that is there counts; of W&B's own see `step_columns`.
STEPS = (
    "step", "global_step", "train_global_step", "trainer_global_step", "trainer_step", "iter", "iteration",
)  # fmt: skip
CALLS = "_step"  # of W&B: how often the program logged, unless it names a step itself
EVEN, MOST = 0.01, 0.7  # relative difference of even gaps, and the share of gaps that are even
MANY = 10  # rows of one name without steps, from which they are a curve and not runs of one size
KEYS = ("split", "subset", "set", "metric", "metric_name", "key", "variable", "tag", "partition", "mode", "phase")
SPLITS = frozenset((
    "train", "training", "val", "valid", "validation", "eval", "test", "heldout", "held_out",
))  # fmt: skip
CURVES = "rows are training curves of"  # in the note of a table that is reduced to the ends of its runs
AXES = ("tokens", "flops", "step")
_CONSTANT = ("n_params", "arm", "seed", "trunk_id")
MOST_NAMED = 4  # runs in a message
ROUNDED = 1e-6  # relative: tokens that are written with few digits may fall by so much
MOST_RESTARTED = 0.1  # of the rows of runs: so many lie at a step that a restart logged again
MOST_REPEATED = 0.01  # of the rows: more rows of a run at one place are not written twice, they are other runs


@dataclass(frozen=True)
class Curves:
    """The rows of a table that are training curves, by run and along `axis`; NaN losses are left out.

    `frame` has a column run_id, named `column` in the file; `repeated` counts rows that a later one at the same place
    replaced, `empty` those without a loss. `diverged` are runs that are left out, their last loss is not a positive
    number; `wrong` counts such rows of other runs.
    """

    frame: pd.DataFrame
    column: str
    axis: str
    repeated: int
    empty: int
    diverged: tuple[str, ...] = ()
    wrong: int = 0

    @property
    def ends(self) -> pd.DataFrame:
        """The last row of each run, in the order of the table."""
        return self.frame[~self.frame["run_id"].duplicated(keep="last")].sort_index()

    @property
    def changing(self) -> list[str]:
        """The columns with several values in one run: how far it is and what it brings out, and no setting of it."""
        most = self.frame.groupby("run_id", sort=False).nunique().max()
        return [str(name) for name in most.index[most > 1]]

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
        counts = {
            "written twice": self.repeated,
            "without a loss": self.empty,
            "whose loss is no positive number": self.wrong,
        }
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        rest = f" ({found})" if found else ""
        out = ""
        if self.diverged:
            more = f" and {len(self.diverged) - MOST_NAMED} more" if len(self.diverged) > MOST_NAMED else ""
            named = ", ".join(self.diverged[:MOST_NAMED]) + more
            out = f"; {len(self.diverged)} runs are left out, their last loss is not a positive number ({named})"
        return (
            f"{rows} {CURVES} {self.frame['run_id'].nunique()} runs{rest}: "
            f"the last row of each is used (column {self.column}, along {self.axis}){self._either}{out}"
        )

    @property
    def _either(self) -> str:
        """What is said of few rows under a name that may be of sizes: that they may be runs, and how to say so."""
        few = self.frame["run_id"].value_counts().median() < MANY
        if not few or words(self.column) not in OTHER_NAMES:
            return ""
        return "; where each row is a run of its own, leave out the column of steps, or name rows by a column run_id"


def _refuse_keyed(frame: pd.DataFrame, twice: np.ndarray, source: str) -> None:
    """Raise TableError where rows of one run at one place differ by a column of splits or metrics."""
    k = int(np.argmax(twice))
    pair = frame.iloc[k : k + 2]
    for name in frame:
        if (words(str(name)) in KEYS or is_split(pair[name])) and pair[name].nunique() > 1:
            one, other = pair[name].tolist()
            raise TableError(
                f"{source}: rows of one run at one place differ by column {name} ({one}, {other}): "
                f"keep one with {keeping({str(name): one})}"
            )


def is_split(column: pd.Series) -> bool:
    """Whether a column, of any name, says of which split a row is: several words that are all names of splits."""
    held: set[str] = set()
    for value in column.dropna() if not is_numbers(column) else ():
        if str(value).lower() not in SPLITS:
            return False
        held.add(str(value).lower())
    return len(held) > 1


def refuse_splits(table: pd.DataFrame, *, source: str) -> None:
    """Raise TableError where rows are losses of several splits, named in a column: train, val."""
    for name in table:
        if is_split(table[name]):
            values = sorted(map(str, table[name].dropna().unique()), key=str.lower)
            one = next((value for value in values if not value.lower().startswith("train")), values[0])
            raise TableError(
                f"{source}: the rows are losses of several splits (column {name}: {', '.join(values)}): "
                f"keep one with {keeping({str(name): one})}"
            )


def step_columns(table: pd.DataFrame) -> list[str]:
    """The columns of training steps, the one to take first: W&B's `_step`, which counts calls of wandb.log, is last."""
    by_words = {words(c): c for c in reversed(table.columns) if isinstance(c, str) and c != CALLS}
    return [by_words[name] for name in STEPS if name in by_words] + [CALLS] * (CALLS in table)


def run_column(table: pd.DataFrame, step: str | None) -> str | None:
    """The column whose values are runs; one that may name sizes only where its rows lie along steps, or are many."""
    by_words = {words(c): c for c in reversed(table.columns) if isinstance(c, str)}
    if (named := next((by_words[name] for name in RUN_NAMES if name in by_words), None)) is not None:
        return named
    axis = next((name for name in AXES if name in table and is_numbers(table[name])), None)
    for name in OTHER_NAMES:
        if name in by_words and (step is not None or (axis is not None and evenly(table[by_words[name]], table[axis]))):
            return by_words[name] if table[by_words[name]].duplicated().any() else None
    return None


def evenly(labels: pd.Series, along: pd.Series) -> bool:
    """Whether the rows of most labels are many and lie evenly along an axis, as a program logs them."""
    if labels.value_counts().median() < MANY:
        return False
    frame = (
        pd.DataFrame({"label": labels.to_numpy(), "at": along.to_numpy(float)}).dropna().sort_values(["label", "at"])
    )
    gaps = frame.groupby("label", sort=False)["at"].diff()
    usual = gaps.groupby(frame["label"], sort=False).transform("median")
    return bool(((gaps - usual).abs() <= EVEN * usual)[gaps.notna()].mean() > MOST)


def blocks(table: pd.DataFrame, step: str) -> tuple[str, pd.Series] | None:
    """The columns that tell runs apart, and a name for the run of each row, where rows lie in blocks of rising steps.

    A block ends where of its rows with a loss the step does not rise, or its size or a text changes. Rows without a
    loss, such as those of training between evaluations, are of the block around them. None where most blocks have few
    rows.
    """
    measured = np.flatnonzero(pd.to_numeric(table["loss"], errors="coerce").notna())
    if not len(measured) or not is_numbers(table[step]) or table[step].iloc[measured].isna().any():
        return None
    texts = [
        c for c in table if not is_numbers(table[c]) and table[c].notna().all() and table[c].nunique() < len(table)
    ]
    keys = [c for c in ("n_params", "seed") if c in table] + texts
    begins = _begins(table[step].to_numpy(float), [pd.factorize(table[name])[0] for name in keys], measured)
    number = begins.cumsum()
    if np.median(np.bincount(number)[1:]) < MANY:
        return None
    keys = [name for name in keys if table[name].nunique() > 1]
    shown = table.loc[begins, keys].map(lambda value: f"{value:.10g}" if isinstance(value, float) else str(value))
    heads = shown.agg(" ".join, axis=1) if keys else pd.Series("run", index=shown.index)
    if heads.duplicated().any():
        heads = heads + "#" + (heads.groupby(heads).cumcount() + 1).astype(str)
    names = pd.Series(heads.to_numpy(object)[number - 1], index=table.index)
    return ", ".join(map(str, keys)) or step, names


def _begins(step: np.ndarray, keys: list[np.ndarray], measured: np.ndarray) -> np.ndarray:
    """The first rows (bool, n) of blocks whose `measured` rows (positions) have rising steps and equal keys.

    Of rows between two blocks the next begins where a key changes, else where the step falls most.
    """
    rise = np.diff(step, prepend=-np.inf)
    for codes in keys:
        rise[1:][codes[1:] != codes[:-1]] = -np.inf
    ends = np.diff(step[measured]) <= 0
    for codes in keys:
        ends |= np.diff(codes[measured]) != 0
    begins = np.arange(len(step)) == 0
    for last, first in zip(measured[:-1][ends], measured[1:][ends], strict=True):
        begins[last + 1 + np.argmin(np.nan_to_num(rise[last + 1 : first + 1], nan=0.0))] = True
    return begins


def curves(table: pd.DataFrame, *, source: str = "table") -> Curves | None:
    """The training curves of a plain table; None where a row is a run.

    A table holds curves where a column of runs repeats, the size (and arm and seed) of a run is one, and tokens (else
    FLOPs, else steps) differ between its rows. Raises TableError for a long table (a row per metric and place).
    """
    if "loss" not in table:
        return None
    step = next((name for name in step_columns(table) if is_numbers(table[name])), None)
    axis = next((name for name in AXES if name in table and is_numbers(table[name])), step)
    column = run_column(table, step)
    if axis is None or (column is None and step is None):
        return None
    if column is None:
        if (found := blocks(table, str(step))) is None:
            return None
        column, names = found
        frame = table.assign(run_id=names)
    else:
        frame = table if column == "run_id" else table.assign(run_id=table[column])
    if not frame["run_id"].duplicated().any():
        return None
    full = frame[pd.to_numeric(frame["loss"], errors="coerce").notna()]
    if full.empty or full[[axis, "run_id"]].isna().any(axis=None):
        return None
    if step is not None and axis != step and words(column) in RUN_NAMES:
        _refuse_unlike_steps(full, axis, step, source)
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
    wrong = not_positive(kept["loss"])
    over = wrong & ~kept["run_id"].duplicated(keep="last").to_numpy()
    diverged = tuple(map(str, kept["run_id"][over]))
    out = kept["run_id"].isin(kept["run_id"][over]).to_numpy()
    if out.all():
        raise TableError(f"{source}: the last loss of every run is not a positive number ({', '.join(diverged[:4])})")
    counted = int((wrong & ~out).sum())
    return Curves(kept[~(wrong | out)], column, axis, int(twice.sum()), len(frame) - len(full), diverged, counted)


def _refuse_unlike_steps(frame: pd.DataFrame, axis: str, step: str, source: str) -> None:
    """Raise TableError where runs, most of whose rows have steps of their own, fall or stand still along the axis."""
    if frame.duplicated(["run_id", step]).mean() > MOST_RESTARTED:
        return
    for run, rows in frame.groupby("run_id", sort=False):
        if found := unlike_steps(rows[axis], rows[step]):
            raise TableError(
                f"{source}: run {run}: {found}; correct the column, or count by steps with "
                "`isoflop import --batch-tokens VALUE`"
            )


def unlike_steps(along: pd.Series, step: pd.Series) -> str:
    """Between which steps what a run has seen (`along`) falls, or that it is the same at all; empty where it rises.

    Of rows of one step the last counts.
    """
    rows = pd.DataFrame({"step": step.astype(float), "seen": along.astype(float)}).dropna()
    rows = rows.drop_duplicates("step", keep="last").sort_values("step")
    at, seen = rows.to_numpy().T
    falls = np.diff(seen) < -ROUNDED * seen[:-1]
    if falls.any():
        k = int(np.argmax(falls))
        fall = f"from {seen[k]:g} at step {at[k]:g} to {seen[k + 1]:g} at step {at[k + 1]:g}"
        return f"{along.name} fall {fall} (did a counter begin again?)"
    if len(seen) > 1 and seen[0] == seen[-1]:
        return f"{along.name} are {seen[0]:g} at step {at[0]:g} and at step {at[-1]:g} (are they those of one step?)"
    return ""


def not_positive(losses: pd.Series) -> np.ndarray:
    """The rows (bool) with a loss that no law can take though it is there: infinite, 0 or negative, of a run that
    diverged.
    """
    values = pd.to_numeric(losses, errors="coerce").to_numpy(float)
    return ~np.isnan(values) & ~(np.isfinite(values) & (values > 0))
