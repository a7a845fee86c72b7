"""Reads any table: a runs folder, a bundle, a parquet or a CSV becomes a DataFrame with this package's column names.

A table needs `loss`, and `n_params` and `tokens` or `flops`. What was renamed or filtered is written to
`frame.attrs["notes"]`; values that no law can take are an error that names the rows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.table.bundle.hub import address, fetch, on_hub
from isoflop.scaling.table.bundle.manifest import is_bundle, read_manifest, table_of
from isoflop.scaling.table.columns import (
    OPTIONAL,
    Resolved,
    TableError,
    absent,
    floats,
    hint,
    refuse_words,
    resolve,
    row_names,
)
from isoflop.scaling.table.curves import refuse_splits
from isoflop.scaling.table.ended.unfinished import leave_out_unfinished, short_of_plan, unfinished
from isoflop.scaling.table.formats.loss_unit import with_unit
from isoflop.scaling.table.formats.names import LABELS
from isoflop.scaling.table.formats.read_file import read_file
from isoflop.scaling.table.formats.run_rows import as_runs
from isoflop.scaling.table.law_inputs import components, sizeless, unlike
from isoflop.scaling.table.meaning import NATS_PER_TOKEN, QUANTITIES, words
from isoflop.scaling.table.runs import DamagedRunsError, RunTableError, is_run_table, is_runs, no_file, read_runs
from isoflop.scaling.table.studies.listing import BUDGET, all_runs, chosen_runs, without_held_out
from isoflop.scaling.table.where import ConditionError, matching_rows

# The compute of a dense Transformer without attention and head, C = 6 N D, solved for each (Kaplan et al. 2020).
THIRD = {"n_params": "flops / (6 x tokens)", "tokens": "flops / (6 x n_params)", "flops": "6 x n_params x tokens"}
SHOWN = 200  # characters of a --where in a message
TRAINER_FLOPS = "total_flos"
MAX_POINTS = 200_000  # runs of one fit


def read_table(
    path: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    where: str | None = None,
    study: str | None = None,
    sheet: str | None = None,
    labels: Iterable[str] = (),
    inputs: Sequence[Column] = (),
    outcome: str = "loss",
    keep_unfinished: bool = False,
    keep_held_out: bool = True,
) -> pd.DataFrame:
    """A runs folder or a file of rows, its columns renamed by `mapping` (ours -> yours), its rows kept by `where`.

    The part of `isoflop.read_table` that needs no importer. `path` may be hf://datasets/USER/NAME. `study` keeps the
    runs that one study of a runs folder lists, under their arms in it, `sheet` names one of a spreadsheet. `labels` are
    more columns of names, whose text is never taken for a missing value. `inputs` are the columns that a law reads:
    `mapping` may name them, and the table may lack size, tokens and compute where it reads none of these. `outcome` is
    the column that the table is about. A column under a usual alias, with its unit in its name, is taken and noted
    (`columns.resolve`); runs that did not finish are left out and counted, unless `keep_unfinished`: a curve of one is
    a curve. Without `keep_held_out` so are those at the budgets of study.hold_out, of the study named or the only one
    of the folder, unless `where` is about budgets.

    `attrs` carries "source", "notes" (what was renamed and filtered; "guessed" of them what the user did not ask for),
    "loss_unit", "mapping", "states_chosen" (whether runs that did not finish were to stay), and "study" and "held_out"
    (the runs at the budgets of study.hold_out) where there are such. The index counts the rows of the file from 0, also
    after filtering. Raises TableError, or RunTableError for a runs folder that is not one, or runs that cannot be used.
    """
    mapping = dict(mapping or {})
    notes: list[str] = []
    source = address(path) if on_hub(path) else str(path)
    path = fetch(path, notes) if on_hub(path) else Path(path)
    frame, is_study = _read(path, mapping, notes, sheet, labels)
    shared = read_manifest(path)["study"] if is_bundle(path) else ""
    if study and study != shared:
        frame = chosen_runs(frame, path, study, notes, shared=shared)
    elif path.is_dir() and not is_bundle(path):
        frame = all_runs(frame, path, notes)
    held = () if BUDGET in str(where) else frame.attrs.get("held_out", ())
    try:
        table = as_table(
            frame, path, mapping, where, notes, is_study=is_study, inputs=inputs, outcome=outcome,
            keep_unfinished=keep_unfinished,
        )  # fmt: skip
    except (TableError, RunTableError) as error:
        if is_study or is_runs(frame):
            raise DamagedRunsError(str(error)) from error
        raise
    if study or shared:
        table.attrs["study"] = study or shared
    table.attrs |= {"source": source} | ({"held_out": held} if held else {})
    return table if keep_held_out else without_held_out(table)


def as_table(
    frame: pd.DataFrame,
    path: Path,
    mapping: dict[str, str],
    where: str | None,
    notes: list[str],
    *,
    is_study: bool,
    inputs: Sequence[Column] = (),
    outcome: str = "loss",
    keep_unfinished: bool = False,
) -> pd.DataFrame:
    """The rows of a file, or of what was imported from it, as `read_table` returns them; `notes` are said before."""
    if frame.empty:
        raise TableError(f"{path}: the table has no rows")
    _check_mapping(frame, mapping, inputs, source=str(path))
    needs: tuple[tuple[str, ...], ...] = (("loss" if is_study else outcome,),)  # runs have what they have
    if outcome == "loss" and not sizeless(inputs):
        needs = (*needs, ("n_params", "flops", "position"))
    found = resolve(frame, mapping, notes, source=str(path), needs=needs)
    frame = found.frame
    chosen = keep_unfinished or _chosen_by_state(frame, where)
    if not is_study and not chosen:
        frame = leave_out_unfinished(frame, notes, source=str(path))
    requested = tuple(f"{name} is the column" for name in mapping)
    guessed = () if is_study else tuple(note for note in notes if not note.startswith(requested))
    if where:
        frame = _filter(frame, where, notes, source=str(path))
    refuse_words(found, frame, source=str(path))
    if not is_study and is_runs(frame):
        frame = as_runs(frame, source=str(path))
    refuse_splits(frame, source=str(path))
    if without_embeddings(found, mapping) and "n_params" in frame and "tokens" not in frame:
        raise TableError(
            f"{path}: no column 'tokens', and {found.columns['flops']} does not tell them: it is 6 x parameters "
            "without embeddings x tokens (Hugging Face's Trainer); add a column of tokens, or, where n_params is "
            f"without embeddings too, say --map flops={found.columns['flops']}"
        )
    stated: list[str] = []
    frame, unit = with_unit(found, frame, stated, source=str(path))
    if "loss" in frame and ("loss_unit" in frame or unit != NATS_PER_TOKEN):
        frame = frame.assign(loss_unit=unit)  # which stays where attrs are lost, as by concat, merge and to_csv
    frame.attrs = {
        "source": str(path), "notes": (*notes, *stated), "guessed": (*guessed, *stated), "mapping": mapping,
        "loss_unit": unit, "states_chosen": chosen,
    }  # fmt: skip
    return frame


def without_embeddings(found: Resolved, mapping: Mapping[str, str]) -> bool:
    """Whether the FLOPs are those that Hugging Face's Trainer counts, of parameters that n_params need not be."""
    return "flops" not in mapping and words(found.columns.get("flops", "")) == TRAINER_FLOPS


def _chosen_by_state(frame: pd.DataFrame, where: str | None) -> bool:
    """Whether the user's own filter reads the column that says how runs ended, or what was planned."""
    return any(found is not None and found[0] in str(where) for found in (unfinished(frame), short_of_plan(frame)))


def require(frame: pd.DataFrame, columns: Iterable[str], *, source: str = "table") -> None:
    """Raise TableError naming every absent column and the column that was probably meant."""
    names = [str(c) for c in frame.columns]
    lines = [absent(name, names) for name in columns if name not in frame]
    if lines:
        raise TableError(f"{source}: {'; '.join(lines)} (columns: {', '.join(names)})")


def check_values(frame: pd.DataFrame, columns: Iterable[str], *, source: str = "table") -> None:
    """Raise TableError unless every value of `columns` is a finite positive number, and there are not too many rows."""
    if len(frame) > MAX_POINTS:
        raise TableError(
            f"{source}: {len(frame)} rows, and a fit takes at most {MAX_POINTS} runs; keep some with --where, or name "
            "the column of the runs with --map run_id=COLUMN where rows are curves: the last row of each is then used"
        )
    for name in columns:
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
        no_number = np.isnan(values) & frame[name].notna().to_numpy()
        for wrong, what, keep in (
            (no_number, "not a number", None),
            (np.isnan(values), "NaN or empty", f"{name} > 0"),
            (np.isinf(values), "infinite", f"{name} < 1e300"),
            (values <= 0, "zero or negative", f"{name} > 0"),
        ):
            if wrong.any():
                remedy = f'; correct them, or leave them out with --where "{keep}"' if keep else "; correct them"
                where = f"{wrong.sum()} of {len(frame)} rows ({row_names(frame, wrong)})"
                raise TableError(f"{source}: {name} is {what} in {where}{remedy}")


def _read(
    path: Path, mapping: Mapping[str, str], notes: list[str], sheet: str | None, labels: Iterable[str]
) -> tuple[pd.DataFrame, bool]:
    """The table in the columns of its file, and whether it is a run table."""
    if not path.exists():
        raise TableError(no_file(path))
    if is_bundle(path):
        file, manifest = table_of(path)
        frame, is_study = _read(file, mapping, notes, sheet, labels)
        notes += manifest["notes"]
        return frame, is_study
    if path.is_dir() or (path.suffix == ".parquet" and is_run_table(path)):
        if sheet is not None:
            what = "folder" if path.is_dir() else "run table"
            raise TableError(f"{path}: --sheet {sheet} is for a spreadsheet, and this is a {what}")
        return read_runs(path), True
    named = tuple(mapping[name] for name in LABELS if name in mapping)
    return read_file(path, notes, (*LABELS, *named, *labels), sheet), False


def _check_mapping(frame: pd.DataFrame, mapping: Mapping[str, str], inputs: Sequence[Column], *, source: str) -> None:
    further = unlike(inputs)
    for ours, yours in mapping.items():
        if ours not in (*QUANTITIES, *OPTIONAL) and not any(components([ours], column) for column in further):
            allowed = (*QUANTITIES, *OPTIONAL, *(column.name for column in further))
            raise TableError(
                f"--map {ours}={yours}: {ours!r} is none of {', '.join(allowed)}{hint(ours, allowed)}; "
                "a law's own columns can be named where --law or --laws names it"
            )
        if yours not in frame:
            names = tuple(map(str, frame))
            raise TableError(
                f"{source}: --map {ours}={yours}: no column {yours!r}{hint(yours, names)} (columns: {', '.join(names)})"
            )


def _with_third(frame: pd.DataFrame, where: str, notes: list[str]) -> pd.DataFrame:
    """The frame with what a condition reads of n_params, tokens and flops and the table lacks, as answers take it."""
    sizes = {name: floats(frame[name]) for name in ("n_params", "tokens", "flops") if name in frame}
    for name, how in THIRD.items():
        others = [sizes[other] for other in THIRD if other != name and other in sizes]
        if len(others) < 2 or not re.search(rf"\b{name}\b", where):
            continue
        if name not in sizes or (name == "flops" and sizes[name].isna().any() and not others[0].isna().any()):
            notes.append(f"{name} in --where: {how}")
            one, other = others
            return frame.assign(**{name: 6.0 * one * other if name == "flops" else other / (6.0 * one)})
    return frame


def _filter(frame: pd.DataFrame, where: str, notes: list[str], *, source: str) -> pd.DataFrame:
    try:
        kept = frame[matching_rows(_with_third(frame, where, notes), where)]
    except TableError as error:
        shown = where if len(where) <= SHOWN else f"{where[:SHOWN]}..."
        raise ConditionError(f'{source}: --where "{shown}" cannot be evaluated: {error}') from error
    if kept.empty:
        raise ConditionError(f'{source}: --where "{where}" keeps none of the {len(frame)} rows')
    notes.append(f'--where "{where}" keeps {len(kept)} of {len(frame)} rows')
    return kept.copy()
