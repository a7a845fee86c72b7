"""`isoflop.read_table`: any source of runs as a table.

The readers of other programs' files are loaded for a source that may be one: what compiles their patterns takes longer
than the reading of a CSV.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.table.bundle.manifest import is_bundle
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.read import as_table
from isoflop.scaling.table.read import read_table as read_plain
from isoflop.scaling.table.runs import DamagedRunsError, RunTableError
from isoflop.scaling.table.where import ConditionError

_FOREIGN = ("", ".log", ".out", ".txt", ".json", ".jsonl")  # suffixes of files that may be another program's


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
    """The table at `path` with its columns renamed by `mapping` (ours -> yours) and its rows kept by `where`.

    A runs folder, a bundle that `isoflop share` wrote (also as hf://datasets/USER/NAME), a CSV, parquet or JSON of runs
    or of their curves, or whatever `import_source` reads as it is: a log,
    a folder of histories. `study` keeps the runs that one study of a runs folder lists, `sheet` names one of a
    spreadsheet, `labels` are more columns of names, `inputs` further columns that a law reads, which `mapping` may name
    (`isoflop.laws.columns_read` lists those of a law), `outcome` the column that the table is about. Runs that did not
    finish are left out, unless `keep_unfinished`; those at the budgets of study.hold_out stay, unless `keep_held_out`
    is False. `attrs` carries
    "source", "notes" (what was renamed, assumed and filtered; "guessed" of them what the user did not ask for),
    "mapping", "loss_unit", and "study" where one was named.
    Raises TableError naming the file and the remedy, RunTableError for a runs folder that is not one, or TypeError for
    what is no path.

    >>> from pathlib import Path
    >>> import isoflop
    >>> _ = Path("runs.csv").write_text("params,tokens,val_loss\\n1e7,2e8,3.91\\n2e7,4e8,3.62\\n")
    >>> table = isoflop.read_table("runs.csv", mapping={"n_params": "params", "loss": "val_loss"})
    >>> table["loss"].tolist()
    [3.91, 3.62]
    """
    path = _as_path(path)
    read = partial(
        read_plain, path, mapping=mapping, where=where, study=study, sheet=sheet, labels=labels, inputs=inputs,
        outcome=outcome, keep_unfinished=keep_unfinished, keep_held_out=keep_held_out,
    )  # fmt: skip
    if study or sheet or not path.exists() or (path / "cells").is_dir() or is_bundle(path):
        return read()
    if _is_foreign(path):
        try:
            return _imported_table(path, mapping, where, keep_unfinished)
        except SourceError as error:
            raise TableError(f"{error} (options of `isoflop import`, which writes a table)") from error
    try:
        return read()
    except (DamagedRunsError, ConditionError):
        raise  # its columns have their own names already: another reader would take them for something else
    except (TableError, RunTableError) as error:
        try:
            return _imported_table(path, mapping, where, keep_unfinished)
        except ConditionError:
            raise  # of columns that the importer found
        except (SourceError, TableError):
            raise error from None


def _as_path(path: object) -> Path:
    """A path as one. Raises TypeError for anything else, an open file among it, and TableError for an empty one."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"read_table reads a file or folder by its path, and not a {type(path).__name__}; of an open file "
            "or a text in memory pandas.read_csv makes a table, which every function takes"
        )
    if not str(path):
        raise TableError("the path is empty; '.' is this folder")
    found = Path(path)
    return found if found.exists() else Path(os.path.expanduser(found))  # which leaves the home of nobody


def _imported_table(
    path: Path, mapping: Mapping[str, str] | None, where: str | None, keep_unfinished: bool
) -> pd.DataFrame:
    from isoflop.scaling.imports.assemble import ImportOptions
    from isoflop.scaling.imports.read import import_source

    found = import_source(path, "auto", ImportOptions(keep_unfinished=keep_unfinished), mapping or {})
    notes = [*found.notes, *(f"left out: {one}" for one in found.left_out)]
    table = as_table(
        found.table, path, {}, where, notes, is_study=found.kind == "run table", keep_unfinished=keep_unfinished
    )
    table.attrs["guessed"] = tuple(notes)
    return table


def _is_foreign(path: Path) -> bool:
    """Whether only an importer can read a source: a folder that is no store, a log, a file of another program."""
    if path.is_dir():
        return any(file.is_file() for file in path.rglob("*"))
    if path.suffix.lower() not in _FOREIGN and "tfevents" not in path.name:
        return False
    from isoflop.scaling.imports.read import is_foreign

    return is_foreign(path)
