"""Tables of metrics: histories and run lists of Weights & Biases, OLMo's metrics, any CSV or parquet.

Which rows are one run's, and what each column reports of it (`lookup` finds the columns).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from isoflop.scaling.imports.clean import check_places, refuse_texts
from isoflop.scaling.imports.kept import kept_columns, setting_columns
from isoflop.scaling.imports.lookup import COUNTS_CALLS, NAMES, Columns
from isoflop.scaling.imports.panels import laid_out, panel
from isoflop.scaling.imports.records.settings_file import settings_of, with_settings
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError
from isoflop.scaling.table.columns import Resolved, TableError, floats, is_numbers, row_names
from isoflop.scaling.table.curves import OTHER_NAMES, blocks, evenly, run_column
from isoflop.scaling.table.ended.unfinished import reasons
from isoflop.scaling.table.formats.names import LABELS
from isoflop.scaling.table.formats.read_file import OTHER_SHEETS, SUFFIXES, is_table_file, read_file
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.meaning import meaning, words
from isoflop.scaling.table.read import without_embeddings

_SCORE = re.compile(r"(^|_)(acc|accuracy|acc_norm|exact_match|f1|mc1|mc2)(_|$)")
_TRAINED = re.compile(r"train(ing)?_")
_BY_CONVENTION = {"n_params_matrices": "matrices", "n_params_total": "total"}
_ALIASES = frozenset(alias for aliases in NAMES.values() for alias in aliases)
_IDS = ("id", "run_id", "run id", "run")  # of run lists whose names repeat
EVENLY = 1e-6  # relative: slopes of what rises evenly with the steps
_LENGTHS = {"samples": "context_length", "epoch": "epoch_tokens"}  # the tokens of one of each
SAME_SIZE = 0.02  # relative: FLOPs per token along a run
FEW = 3  # rows along tokens, samples, epochs or FLOPs: so many, rising, are one run


def read_frame(path: Path, notes: list[str], mapping: Mapping[str, str], sheet: str | None = None) -> pd.DataFrame:
    """A file of rows as it stands. Raises SourceError for anything unreadable."""
    try:
        return read_file(path, notes, (*LABELS, *(mapping[name] for name in LABELS if name in mapping)), sheet)
    except TableError as error:
        raise SourceError(str(error)) from error


def runs_of_table(
    name: str,
    source: str,
    frame: pd.DataFrame,
    mapping: Mapping[str, str],
    notes: list[str],
    *,
    keep_unfinished: bool = False,
) -> tuple[list[ForeignRun], list[LeftOut]]:
    """The runs of one table of metrics: a history (of one or many runs), a panel exported by W&B, or a row per run.

    `name` is the run's where the table names none. Runs that by a state or a plan did not finish are left out, unless
    `keep_unfinished`. Raises SourceError for an empty table or ambiguous columns.
    """
    columns = Columns(mapping, notes, source)
    if frame.empty:
        raise SourceError(f"{source}: the table has no rows")
    frame = laid_out(frame, mapping, notes, source)
    if wide := panel(frame):
        if "Step" in frame:
            columns.note(f"steps: column Step, {COUNTS_CALLS}")
        held = {run: columns.resolve(history) for run, history in wide.items()}
        return [_runs(source, found, {run: np.arange(len(found.frame))}, columns)[0] for run, found in held.items()], []
    run = columns.find(frame, "run_id") or run_column(frame, columns.find(frame, "step"))
    if run is not None and (empty := frame[run].isna().to_numpy()).any():
        rows = row_names(frame.drop(columns="run_id", errors="ignore"), empty)
        raise SourceError(f"{source}: the column of runs {run!r} is empty in {empty.sum()} rows ({rows}); fill it")
    left_out: list[LeftOut] = []
    if not keep_unfinished:
        frame, left_out = _finished(name, frame, run, columns.find(frame, "step") if "step" in mapping else None)
    if frame.empty:
        return [], left_out
    found = columns.counted_on(columns.resolve(frame), run)
    return _runs(source, found, _groups(name, found, run, columns), columns, run), left_out


def _groups(name: str, found: Resolved, run: str | None, columns: Columns) -> dict[str, np.ndarray]:
    """The positions of the rows of each run: histories where those of a name lie along an axis, else a row each."""
    frame = found.frame
    alone = np.arange(len(frame)).reshape(-1, 1)
    axis = columns.axis(found)
    listed = {"Name", "State"} <= set(frame)  # the list of runs that W&B exports
    if run is None:
        by_step = axis is not None and axis == columns.find(frame, "step")
        if by_step and not listed and (parted := blocks(frame, str(axis))) and parted[1].nunique() > 1:
            by, labels = parted
            keyed = "" if by == axis else f"by column {by}, and "
            columns.note(f"runs are distinguished {keyed}where {axis} begins again")
            return _rows_by(f"{name} " + labels if keyed else name + labels.str.removeprefix("run"))
        if axis and not listed and _of_one_size(frame) and (by_step or _rises(frame, axis)):
            if not by_step:
                columns.note(f"{len(frame)} rows along {axis} are one run, the last its end")
            return {name: np.arange(len(frame))}
        return {f"{name}#{k}" if len(frame) > 1 else name: row for k, row in enumerate(alone, 1)}
    labels = frame[run].astype(str)
    if labels.is_unique:
        return dict(zip(labels, alone, strict=True))
    if axis and not listed and _are_histories(frame, labels, axis, columns.find(frame, "step")):
        return _rows_by(labels)
    ids = next((c for c in frame if str(c).lower() in _IDS and c != run and frame[c].astype(str).is_unique), None)
    if ids is not None:
        columns.note(f"names in column {run} repeat: runs are named by column {ids}")
        return dict(zip(frame[ids].astype(str), alone, strict=True))
    refuse_texts(frame, labels, columns.find(frame, "step"), columns.source)
    count = labels.groupby(labels).cumcount() + 1
    numbered = labels.where(~labels.duplicated(keep=False), labels + "#" + count.astype(str))
    if not numbered.is_unique:
        twice = numbered[numbered.duplicated()].iloc[0]
        raise SourceError(f"{columns.source}: names in column {run} repeat and cannot be numbered; rename {twice}")
    columns.note(f"names in column {run} repeat, each row is a run: they are numbered in the order of the table")
    return dict(zip(numbered, alone, strict=True))


def _are_named(frame: pd.DataFrame, groups: Mapping[str, np.ndarray], run: str | None) -> bool:
    """Whether runs have names of their table: not rows of a table without any, or of one name, which were numbered."""
    if len(groups) < max(len(frame), 2) or {"Name", "State"} <= set(frame):
        return True
    columns = [name for name in frame if name == run or str(name).lower() in _IDS]
    return any(frame[name].astype(str).tolist() == [*groups] for name in columns)


def _of_one_size(frame: pd.DataFrame) -> bool:
    """Whether the rows may be one run's: of one number of parameters, or of one compute per token."""
    if "n_params" in frame:
        return bool(frame["n_params"].nunique() < 2)
    if not {"tokens", "flops"} <= set(frame):
        return True
    each = (frame["flops"] / frame["tokens"])[frame["tokens"] > 0].dropna()
    return len(each) < 2 or bool(each.max() - each.min() < SAME_SIZE * each.max())


def _rises(frame: pd.DataFrame, axis: str) -> bool:
    """Whether the rows of a table without a column of runs are one history: of one size, rising along the axis."""
    if "n_params" in frame and frame["n_params"].nunique() > 1:
        return False
    along = floats(frame.loc[frame["loss"].notna(), axis]).dropna()
    return len(along) >= FEW and bool((np.diff(along) > 0).all())


def _are_histories(frame: pd.DataFrame, labels: pd.Series, axis: str, step: str | None) -> bool:
    """Whether the rows of each name are of one size and mostly at places of their own along the axis."""
    rows = frame[frame["loss"].notna()]
    by = rows.groupby(labels[rows.index], sort=False)
    if "n_params" in frame and (by["n_params"].nunique() > 1).any():
        return False
    several = by.size()[lambda size: size > 1]
    if words(str(labels.name)) in OTHER_NAMES and step is None and len(several) and not evenly(labels, frame[axis]):
        return False  # runs of one size, called by it
    return bool((by[axis].nunique()[several.index] > several / 2).all()) and bool(
        len(several) or len(rows) < len(frame)
    )


def _finished(name: str, frame: pd.DataFrame, run: str | None, step: str | None) -> tuple[pd.DataFrame, list[LeftOut]]:
    """The rows of runs that finished near their plan, and what is left out by run and reason."""
    why = reasons(frame, run, step)
    names = frame[run].astype(str) if run is not None else pd.Series(name, index=frame.index)
    counts = names[why != ""].groupby([names, why], sort=False).size()
    return frame[why == ""], [LeftOut(key, int(n), reason, whole=True) for (key, reason), n in counts.items()]


def _rows_by(labels: pd.Series) -> dict[str, np.ndarray]:
    """The positions of the rows of each label, in the order in which they come."""
    codes, names = pd.factorize(labels)
    order = np.argsort(codes, kind="stable")
    return dict(zip(map(str, names), np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True))


def _runs(
    source: str, found: Resolved, groups: Mapping[str, np.ndarray], columns: Columns, run: str | None = None
) -> list[ForeignRun]:
    """The runs of a table, their rows by `groups`: columns under our names, constants as settings."""
    frame = found.frame
    axis, step = columns.axis(found), columns.find(frame, "step")
    curves = pd.DataFrame({q: frame[q].astype(float) for q in ("loss", "tokens", "flops") if q in found.columns})
    for quantity in ("step", "train_loss", "learning_rate", "samples", "epoch", "wall_seconds"):
        if (column := columns.find(frame, quantity)) not in (None, "peak_learning_rate"):
            curves[quantity] = floats(frame[column])
    if step is not None:
        columns.say_steps(frame, step)
    kept = kept_columns(found.written, columns.mapping)
    curves = curves.assign(**{ours: frame[ours if ours in found.columns else theirs] for ours, theirs in kept.items()})
    curves = curves.reset_index(drop=True)
    along = floats(frame[axis]).to_numpy() if axis else np.full(len(frame), np.nan)
    counts = {kind: column for column, kind in _BY_CONVENTION.items() if column in frame}
    if "n_params" in found.columns:
        counts = {f"the column {found.columns['n_params']}": "n_params"} | counts
    named = {key: column for key in ("seed", "arm", "batch_tokens") if (column := columns.find(frame, key))}
    lengths = {q: column for q, key in _LENGTHS.items() if q in curves and (column := columns.find(frame, key))}
    scores = _scores(frame, columns)
    are_named = _are_named(frame, groups, run)
    used = {*kept.values(), *counts.values(), *lengths.values(), *scores}
    others = {name for name in frame if str(name).lower() in _ALIASES} - ({run} if not are_named else set())
    settled = setting_columns(found.written, groups.values(), {*used, *others, *found.columns.values()})
    stated = [name for name in ("params_convention", "compute_convention", "peak_learning_rate") if name in frame]
    held = {column: frame[column].to_numpy(object) for column in {*named.values(), *stated, *settled}}
    counted = {*counts.values(), *lengths.values(), *(column for key, column in named.items() if key == "batch_tokens")}
    held |= {column: columns.numbers(frame, column) for column in counted}
    columns.say_unused(found, {*used, *settled})
    lacking = columns.lacking(found)
    flops = found.columns.get("flops")
    runs = []
    for name, rows in groups.items():
        if axis and axis != step and len(rows) > 1:
            rows = rows[np.argsort(along[rows], kind="stable")]
        constants = {column: _constant(values[rows]) for column, values in held.items()}
        curve, unit = curves.iloc[rows].reset_index(drop=True), found.loss_unit
        if "loss_unit" in frame:
            curve["loss"], unit = columns.in_unit(found, frame.iloc[rows])
        if step is None:
            curve = curve.assign(step=_places(along[rows]))
        elif len(rows) > 1:
            check_places(frame.iloc[rows], curve, columns.source)
        curve = _with_tokens(_filled(curve), lengths, constants, columns)
        settings: dict[str, object] = {key: constants[named[key]] for key in ("seed", "arm") if key in named}
        if isinstance(peak := constants.get("peak_learning_rate"), float | int):
            settings["learning_rate"] = float(peak)
        elif "learning_rate" in curve and curve["learning_rate"].notna().any():
            settings["learning_rate"] = float(curve["learning_rate"].max())
        made = {kind: constants[column] for kind, column in counts.items() if constants[column] is not None}
        made = {_convention("n_params", kind, constants): count for kind, count in made.items()}
        runs.append(ForeignRun(
            name=name, source=source, curve=curve, settings=settings, n_params=made,  # type: ignore[arg-type]
            batch_tokens=constants[named["batch_tokens"]] if "batch_tokens" in named else None,  # type: ignore[arg-type]
            compute_convention=_convention("flops", f"the column {flops}", constants) if flops else "",
            loss_unit=unit, reported_steps=step is not None,
            without_embeddings=without_embeddings(found, columns.mapping),
            constants={column: constants[column] for column in settled}, named=are_named,
            lacking=lacking,
            scores={score: known[-1] for score, values in scores.items() if len(known := _known(values[rows]))},
        ))  # fmt: skip
    return runs


def _convention(quantity: str, named: str, constants: Mapping[str, object]) -> str:
    """What a count is by: as an imported table states of the column of that name, else `named`."""
    stated = constants.get({"n_params": "params_convention", "flops": "compute_convention"}[quantity])
    return str(stated) if stated and named == f"the column {quantity}" else named


def _scores(frame: pd.DataFrame, columns: Columns) -> dict[str, np.ndarray]:
    """The columns of scores on tasks, by their name in the table: accuracies and the like, which a run keeps."""
    found = [c for c in frame if isinstance(c, str) and is_numbers(frame[c]) and _SCORE.search(words(c))
             and not _TRAINED.match(words(c)) and meaning(c) is None and c not in columns.mapping.values()]  # fmt: skip
    if found:
        columns.note(
            f"scores are kept: {', '.join(found[:4])}{f' and {len(found) - 4} more' if len(found) > 4 else ''}"
        )
    return {name: frame[name].to_numpy(float) for name in found}


def _known(values: np.ndarray) -> list[float]:
    return values[~np.isnan(values)].tolist()


def _places(along: np.ndarray) -> np.ndarray:
    """Steps for the rows of a run that reports none: its places along its axis, else its rows, from 1."""
    if np.isnan(along).any():
        return np.arange(1.0, len(along) + 1)
    return np.unique(along, return_inverse=True)[1] + 1.0


def _filled(curve: pd.DataFrame) -> pd.DataFrame:
    """The curve with tokens and FLOPs between the steps that report them, and after where they rise evenly."""
    for quantity in ("tokens", "flops"):
        if quantity not in curve or not curve[quantity].isna().any() or curve["step"].isna().any():
            continue
        known = curve[curve[quantity].notna()].drop_duplicates("step", keep="last").sort_values("step")
        if known.empty:
            continue
        steps, values, at = known["step"].to_numpy(), known[quantity].to_numpy(), curve["step"].to_numpy()
        made = np.interp(at, steps, values, left=np.nan, right=np.nan)
        slopes = np.diff(values) / np.diff(steps)
        if len(slopes) and np.ptp(slopes) <= EVENLY * abs(slopes[-1]):
            after = at > steps[-1]
            made[after] = values[-1] + slopes[-1] * (at[after] - steps[-1])
        curve = curve.assign(**{quantity: curve[quantity].where(curve[quantity].notna(), made)})
    return _with_rates(curve)


def _with_rates(curve: pd.DataFrame) -> pd.DataFrame:
    """The curve with learning rates between the steps that report them, as rows of training alone do."""
    if "learning_rate" not in curve or curve["step"].isna().any() or not curve["learning_rate"].isna().any():
        return curve
    known = curve[curve["learning_rate"].notna()].drop_duplicates("step", keep="last").sort_values("step")
    if known.empty:
        return curve
    made = np.interp(curve["step"], known["step"], known["learning_rate"])
    return curve.assign(learning_rate=curve["learning_rate"].fillna(pd.Series(made, index=curve.index)))


def _with_tokens(
    curve: pd.DataFrame, lengths: Mapping[str, str], constants: Mapping[str, object], columns: Columns
) -> pd.DataFrame:
    """Tokens from samples and their length, or from epochs and the tokens of one, where the table has both."""
    if "tokens" in curve:
        return curve
    for quantity, column in lengths.items():
        per = constants[column]
        if isinstance(per, int | float):
            columns.note(f"tokens: {quantity} times column {column}")
            return curve.assign(tokens=_passed(curve, quantity) * per)
    return curve


def _passed(curve: pd.DataFrame, quantity: str) -> pd.Series:
    """Samples, or epochs, that are over at each row; whole epochs counted from 0 are over one later."""
    values = curve[quantity]
    held = values.dropna()
    from_zero = quantity == "epoch" and len(held) and held.min() == 0 and bool((held % 1 == 0).all())
    return values + 1 if from_zero else values


def _constant(values: np.ndarray) -> object:
    """The one value of a column in a run, None if it is empty or varies, or is a whole number that no column holds."""
    first, *rest = values
    known = [first] if not rest else list(pd.unique(pd.Series(values).dropna()))
    if len(known) != 1 or pd.isna(known[0]):
        return None
    found = plain(known[0])
    return None if isinstance(found, int) and not -(2**63) <= found < 2**63 else found


@dataclass(frozen=True)
class TableReader:
    """Reads tables of metrics: W&B exports and histories, OLMo's metrics, any CSV, TSV, JSON, parquet or `sheet`."""

    sheet: str | None = None
    settings: Mapping[Path, Path] = field(default_factory=dict, compare=False)  # of the runs in a folder
    keep_unfinished: bool = False
    kinds: ClassVar[tuple[str, ...]] = ("wandb", "olmo", "table")
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def recognises(self, path: Path) -> bool:
        """Whether a file has the suffix of a table."""
        return is_table_file(path)

    def holds_a_table(self, path: Path) -> bool:
        """Whether a file with another suffix (.md, .txt, none) holds rows under names of which one is of a quantity.

        Raises SourceError for a spreadsheet that cannot be read.
        """
        try:
            frame = read_file(path, [])
        except TableError as error:
            if path.suffix.lower() in OTHER_SHEETS:
                raise SourceError(str(error)) from error
            return False
        return any(meaning(str(name)) for name in frame)

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs of one file. Raises SourceError for one that cannot be read, or without a validation loss."""
        frame = read_frame(path, notes, mapping, self.sheet)
        if (beside := self.settings.get(path.parent)) is not None:
            frame = with_settings(frame, settings_of(beside))
            notes.append(f"{beside.name} holds settings of the runs in its folder")
        return runs_of_table(name, str(path), frame, mapping, notes, keep_unfinished=self.keep_unfinished)


TABLES = TableReader()
