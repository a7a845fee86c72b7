"""Tables in another layout as a row per run and step: W&B panels and API exports, MLflow, long tables."""

import ast
import json
import re
from collections.abc import Mapping

import pandas as pd

from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import floats
from isoflop.scaling.table.curves import is_split
from isoflop.scaling.table.ended.diverged import is_measure
from isoflop.scaling.table.formats.json_rows import NESTED, flat
from isoflop.scaling.table.meaning import words

_WIDE = re.compile(r"^(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?$")
_AXES = ("step", "_step", "global_step", "train/global_step", "trainer/global_step", "relative time (process)",
         "relative time (wall)", "wall time", "tokens", "iteration", "iter", "epoch", "samples")  # fmt: skip
_KEYS = ("metric", "metric_name", "key", "tag", "variable", "name")
_VALUES = ("value", "metric_value", "val")
_MLFLOW = re.compile(r"^(metrics|params|tags)\.(.+)$")
_CLOCKS = ("timestamp", "time", "wall_time", "date", "created_at")
MOST_SHOWN = 6  # columns in a message


def laid_out(frame: pd.DataFrame, mapping: Mapping[str, str], notes: list[str], source: str) -> pd.DataFrame:
    """The table with a column per quantity. Raises SourceError for a long table with several values of one key."""
    frame = _hashable(_expanded(frame, notes))
    frame = _mlflow(frame)
    frame = _litgpt(frame, mapping, notes)
    return _by_split(_from_long(frame, mapping, notes, source), mapping, notes)


def panel(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of a panel exported by W&B: an x column, then `run - metric`, mostly with its __MIN and __MAX."""
    names = [str(name) for name in frame]
    matches = {name: match for name in names[1:] if (match := _WIDE.match(name))}
    ranges = any(match["range"] for match in matches.values())
    alone = names[0].lower() in _AXES or bool(re.search(r"step|tokens|epoch|time|flops", names[0].lower()))
    if not matches or not (ranges or (alone and len(matches) == len(names) - 1)):
        return {}
    runs: dict[str, dict[str, pd.Series]] = {}
    for name, match in matches.items():
        if not match["range"]:
            runs.setdefault(match["run"], {})[match["metric"]] = frame[name]
    return {run: pd.DataFrame({names[0]: frame[names[0]], **metrics}) for run, metrics in runs.items()}


def _expanded(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Columns of dictionaries (W&B's API: summary, config) as a column per key; a summary goes before a config."""
    nested = [c for c in frame if isinstance(c, str) and c.lower() in NESTED]
    for column in nested:
        rows = [_dictionary(value) for value in frame[column]]
        if not any(rows):
            frame = frame.drop(columns=column) if any(isinstance(value, dict) for value in frame[column]) else frame
            continue
        inner = pd.DataFrame([flat(row) for row in rows], index=frame.index)
        frame = frame.drop(columns=column)
        frame = frame.join(inner[[name for name in inner if name not in frame]])
        notes.append(f"the keys of {column} are columns")
    return frame


def _hashable(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with lists and dictionaries as text: rows are compared and grouped by what their cells hold."""
    objects = frame.columns[
        frame.dtypes.map(pd.api.types.is_object_dtype).to_numpy() & ~frame.columns.duplicated(keep=False)
    ]
    held = {name: frame[name].map(lambda cell: isinstance(cell, list | dict)).astype(bool) for name in objects}
    texts = {name: frame[name].where(~mask, frame[name].map(str)) for name, mask in held.items() if mask.any()}
    return frame.assign(**texts) if texts else frame


def _dictionary(value: object) -> dict:
    """A dictionary as it is, or written as JSON or as Python does; empty for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return {}
    for read in (json.loads, _python):
        try:
            found = read(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _python(text: str) -> object:
    """A dictionary as Python writes it; nan and inf, which are no literals, are missing values."""
    return ast.literal_eval(re.sub(r"(?<=[\s:\[,])-?(nan|inf)(?=[\s,}\]])", "None", text))


def _mlflow(frame: pd.DataFrame) -> pd.DataFrame:
    """MLflow's columns metrics.x, params.x and tags.mlflow.runName by their own names."""
    matches = {name: match for name in frame if (match := _MLFLOW.match(str(name)))}
    if not matches:
        return frame
    renamed = {name: match[2] for name, match in matches.items() if match[1] != "tags" and match[2] not in frame}
    if "tags.mlflow.runName" in frame:
        named = frame["tags.mlflow.runName"].where(frame["tags.mlflow.runName"].notna(), frame.get("run_id"))
        frame = frame.rename(columns={"run_id": "id"}).assign(run_name=named)
    return frame.rename(columns=renamed)


def _litgpt(frame: pd.DataFrame, mapping: Mapping[str, str], notes: list[str]) -> pd.DataFrame:
    """litgpt's metrics: `tokens` are those of one device, `total_tokens` of all."""
    if "tokens" in mapping or not {"iter_time", "tokens", "total_tokens"} <= set(frame):
        return frame
    notes.append("tokens: column total_tokens (of all devices; litgpt's tokens are those of one)")
    return frame.assign(tokens=frame["total_tokens"]).drop(columns="total_tokens")


def _from_long(frame: pd.DataFrame, mapping: Mapping[str, str], notes: list[str], source: str) -> pd.DataFrame:
    """A long table (a row per metric and step) with a column per metric. Raises SourceError where values clash."""
    found = _key_and_value(frame)
    if found is None or set(found) & set(mapping.values()):
        return frame
    key, value = found
    rest = [name for name in frame if name not in found and words(str(name)) not in _CLOCKS]
    place = frame.groupby(rest, dropna=False, sort=False).ngroup() if rest else pd.Series(0, index=frame.index)
    held = pd.DataFrame({"place": place, "key": frame[key].astype(str), "value": floats(frame[value])})
    several = held.groupby(["place", "key"], sort=False)["value"].nunique()
    if (several > 1).any():
        at, name = several.idxmax()  # type: ignore[misc]  # a pair, of two levels
        where = ", ".join(f"{column} {frame.loc[place == at, column].iloc[0]}" for column in rest)
        raise SourceError(
            f"{source}: a long table (columns {key}, {value}) with {several.max()} values of {name} at {where}; "
            "add a column that tells the runs apart"
        )
    held = held.drop_duplicates(["place", "key"], keep="last")
    wide = held.pivot(index="place", columns="key", values="value")
    columns = [*map(str, rest), *map(str, wide.columns)]
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise SourceError(f"{source}: a long table (columns {key}, {value}) that has {twice!r} twice; rename one")
    notes.append(f"a long table, a column for each {key}: {', '.join(list(wide)[:MOST_SHOWN])}")
    return frame[rest].groupby(place, sort=False).head(1).set_axis(pd.unique(place)).join(wide).reset_index(drop=True)


def _key_and_value(frame: pd.DataFrame) -> tuple[str, str] | None:
    """The column of keys and that of values of a long table, None for a table with a column per metric."""
    columns = {words(str(name)): name for name in frame}
    texts = {
        name: set(map(str, pd.unique(frame[name].dropna())))
        for name in columns.values()
        if frame[name].dtype.kind in "OTU"
    }
    value = next((columns[name] for name in _VALUES if name in columns), None)
    for name in _KEYS:
        if value is not None and columns.get(name) in texts and any(map(is_measure, texts[columns[name]])):
            return columns[name], value
    return None


def _by_split(frame: pd.DataFrame, mapping: Mapping[str, str], notes: list[str]) -> pd.DataFrame:
    """A table whose rows are losses of several splits, named in a column, with a column for the loss of each.

    Rows that differ by their split alone become one, those of a step that was logged again stay.
    """
    measures = sorted((name for name in frame if is_measure(str(name))), key=lambda name: words(str(name)) != "loss")
    if not measures:
        return frame
    loss = measures[0]
    measured = frame[frame[loss].notna()]
    split = next((name for name in measured if is_split(measured[name]) and name not in mapping.values()), None)
    if split is None:
        return frame
    names = measured[split].dropna().astype(str).str.lower().reindex(frame.index)
    made = {f"{name}_loss": frame[loss].where(names == name) for name in names.dropna().unique()}
    notes.append(f"a long table, a column for each {split}: {', '.join(made)}")
    wide = frame.drop(columns=[loss, split]).assign(**made)
    rest = [name for name in wide if name not in made and words(str(name)) not in _CLOCKS]
    rows = wide.groupby(rest, dropna=False, sort=False)
    if not rest or (rows[list(made)].count() > 1).any(axis=None):
        return wide
    return rows.first().reset_index()[list(wide)]
