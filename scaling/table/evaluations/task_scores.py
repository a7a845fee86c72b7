"""Scores of trained models on tasks: in each run's folder, a row per task and metric, and the score of each item.

    cells/<run_id>/downstream.parquet         SCORES
    cells/<run_id>/downstream_items.parquet   ITEMS; only of metrics that are a mean over items

Two runs that answered the same items are compared item by item.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from isoflop.scaling.table.columns import TableError, hint
from isoflop.scaling.table.evaluations.evaluation import Paired, paired
from isoflop.scaling.table.formats.run_columns import Column
from isoflop.scaling.table.runs import read_parquet, write_parquet

SCORES_FILE, ITEMS_FILE = "downstream.parquet", "downstream_items.parquet"
REMEDY = "delete it and score the run again"
SCORES: tuple[Column, ...] = (
    Column("run_id", "string", "", "the run"),
    Column("task", "string", "", "task"),
    Column("metric", "string", "", "what lm-eval calls the score"),
    Column("value", "float64", "", "the score"),
    Column("stderr", "float64", "", "its standard error over items"),
    Column("items", "int64", "", "number of questions"),
    Column("chance", "float64", "", "what guessing scores; NaN where answers are not chosen from a list"),
    Column("items_id", "string", "", "hash of the questions"),
    Column("higher_is_better", "bool_", "", "whether a larger value is the better one"),
    Column("lm_eval_version", "string", "", "version of lm-eval"),
    Column("created_at", "string", "ISO 8601", "when it was scored, UTC"),
)
ITEMS: tuple[Column, ...] = (
    Column("run_id", "string", "", "the run"),
    Column("task", "string", "", "task"),
    Column("metric", "string", "", "what lm-eval calls the score"),
    Column("item", "int64", "", "number of the question"),
    Column("value", "float64", "", "its score"),
)


def write_scores(folder: Path, scores: pd.DataFrame, items: pd.DataFrame) -> None:
    """Write a run's scores and items to its folder; those of other tasks that are there already are kept."""
    for name, columns, new in ((SCORES_FILE, SCORES, scores), (ITEMS_FILE, ITEMS, items)):
        path, scored = folder / name, set(scores["task"])
        if path.exists():
            old = read_parquet(path, _schema(columns), REMEDY).to_pandas()
            new = pd.concat([old[~old["task"].isin(scored)], new], ignore_index=True)
        write_parquet(path, _arrow(new, columns))


def read_scores(root: Path) -> pd.DataFrame:
    """The scores of every run in a store, with the columns of SCORES; no rows where nothing was scored."""
    files = sorted(Path(root).glob(f"cells/*/{SCORES_FILE}"))
    frames = [read_parquet(path, _schema(SCORES), REMEDY).to_pandas() for path in files]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[c.name for c in SCORES])


def read_items(folder: Path) -> pd.DataFrame:
    """The scores of one run by item, with the columns of ITEMS."""
    return read_parquet(folder / ITEMS_FILE, _schema(ITEMS), REMEDY).to_pandas()


def paired_score(a: pd.DataFrame, b: pd.DataFrame, task: str, metric: str) -> Paired | None:
    """Score of a less that of b over the items of a task; None where the score is not a mean over the same items."""
    values = [
        frame[(frame["task"] == task) & (frame["metric"] == metric)].set_index("item")["value"] for frame in (a, b)
    ]
    if not len(values[0]) or not values[0].index.equals(values[1].index):
        return None
    return paired((values[0] - values[1]).to_numpy(), np.ones(len(values[0])), unit="item")


def with_score(table: pd.DataFrame, root: Path, task: str, metric: str | None = None) -> pd.DataFrame:
    """The rows of a run table whose run has a score on `task`, with columns accuracy, accuracy_se and chance.

    The metric is the task's first unless named. Raises TableError when no run has it, or the runs answered different
    questions; `attrs["notes"]` counts the runs that are left out.
    """
    scores = read_scores(root)
    known = scores["task"].unique()
    if task not in known:
        remedy = hint(task, map(str, known)) or f"; isoflop evaluate RUN_ID --tasks {task} makes them"
        raise TableError(f"--task {task[:100]}: {root}: no run has a score on task {task[:100]!r}{remedy[:200]}")
    scores = scores[scores["task"] == task]
    metric = metric or str(scores["metric"].iloc[0])
    scores = scores[scores["metric"] == metric].set_index("run_id")
    if scores.empty:
        raise TableError(f"{root}: task {task!r} has no metric {metric!r}")
    kept = table[table["run_id"].isin(scores.index)].reset_index(drop=True)
    if kept.empty:
        raise TableError(f"{root}: none of the {table['run_id'].nunique()} runs of the table has a score on {task!r}")
    _refuse_several(scores.loc[kept["run_id"].unique()], task, str(root))
    columns = {"accuracy": "value", "accuracy_se": "stderr", "chance": "chance"}
    kept = kept.assign(**{ours: scores[name].loc[kept["run_id"]].to_numpy() for ours, name in columns.items()})
    left_out = table["run_id"].nunique() - kept["run_id"].nunique()
    notes = [
        f"accuracy is {metric} on task {task}",
        *([f"{left_out} runs without it are left out"] if left_out else []),
    ]
    kept.attrs = {**table.attrs, "notes": (*table.attrs.get("notes", ()), *notes)}
    return kept


def _refuse_several(scores: pd.DataFrame, task: str, root: str) -> None:
    """Raise TableError where the scores of a task, a row a run, are over several sets of questions."""
    sets = scores.groupby("items_id")["items"].agg(["first", "size"])
    if len(sets) > 1:
        counts = ", ".join(
            f"{size} runs {items} questions (items_id {name})" for name, items, size in sets.itertuples()
        )
        raise TableError(
            f"{root}: the runs answered {len(sets)} sets of questions of task {task!r}: {counts}; score them alike "
            f"(isoflop evaluate RUN_ID --tasks {task} --items N), or keep those of one set with --where"
        )


def _arrow(frame: pd.DataFrame, columns: tuple[Column, ...]) -> pa.Table:
    return pa.Table.from_pandas(frame[[c.name for c in columns]], schema=_schema(columns), preserve_index=False)


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([(column.name, getattr(pa, column.dtype)()) for column in columns])
