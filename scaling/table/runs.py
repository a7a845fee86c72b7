"""The run table: one row per (run, evaluation), run constants repeated.

`COLUMNS` (`formats.run_columns`) defines what the runner writes and the fits and figures read. A run is one parquet
file, written to a temporary name and renamed, so that a reader sees a whole run or none; the schema metadata holds its
resolved configuration. Anything that reads parquet (pandas, DuckDB, polars) reads a store with a glob.
"""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Container, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from isoflop.package_version import package_version
from isoflop.read_json import JsonError, parse_json, require_regular
from isoflop.scaling.table.cells import FAULTS, Form, keep_shard, read_cells
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.evaluations.domains import with_domains
from isoflop.scaling.table.formats.run_columns import COLUMNS, NAMES, OF_ONE_RUN, PARAM_GROUPS, VOLATILE
from isoflop.scaling.table.migrate import ADDED, complete

SCHEMA_VERSION = 1  # raised when an older isoflop could not read a new table; added columns do not raise it
RUN_FILE = "run.parquet"
_METADATA_KEY = b"isoflop"
FEW_ROWS = 64  # so few are as small when they are written plainly, and read in a third of the time
_FEW: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
_MANY: dict[str, Any] = {"compression": "zstd"}


class Metadata(TypedDict):
    """What the metadata of a run file hold: the version of the table, and the configuration of its run."""

    schema_version: int
    config: dict[str, Any]


class RunTableError(ValueError):
    """A file or folder is not a run table that this version can read."""


class DamagedRunsError(RunTableError, TableError):
    """A table of runs that cannot be used as it is, and is nothing else either."""


_PANDAS_DTYPE = {"string": "str", "int64": "int64", "float64": "float64", "bool": "bool"}
_ARROW_SCHEMA = pa.schema([(c.name, {"bool": pa.bool_()}.get(c.dtype) or getattr(pa, c.dtype)()) for c in COLUMNS])


def write_run(path: Path, rows: Iterable[Mapping], config: Mapping) -> None:
    """Write one run's rows and its resolved configuration to `path` atomically.

    Raises RunTableError if the rows are not exactly the columns of the run table or break its rules.
    """
    frame = pd.DataFrame(list(rows))
    missing, extra = [n for n in NAMES if n not in frame], [n for n in frame if n not in NAMES]
    if missing or extra:
        raise RunTableError(f"run table rows: missing columns {missing}, unknown columns {extra}")
    validate(frame, source=str(path))
    _write(path, _to_arrow(frame), {"schema_version": SCHEMA_VERSION, "config": config})


def validate(frame: pd.DataFrame, *, source: str) -> None:
    """Raise RunTableError unless the parameter groups sum to the total and every final row of a done run has a loss."""
    groups = frame[[f"n_params_{g}" for g in PARAM_GROUPS]].sum(axis=1)
    wrong = frame.loc[groups != frame["n_params_total"], "run_id"].unique()
    if len(wrong):
        raise RunTableError(f"{source}: parameter groups do not sum to n_params_total in runs {list(wrong)}")
    done = frame["final"] & (frame["state"] == "done")
    bad = frame.loc[done & ~(np.isfinite(frame["loss"]) & (frame["loss"] > 0)), "run_id"].unique()
    if len(bad):
        raise RunTableError(f"{source}: state is done but the final loss is not a positive number in runs {list(bad)}")


def read_config(path: Path) -> dict[str, Any]:
    """The resolved configuration in a run file. Raises RunTableError where it is none."""
    return _metadata(_schema(path), path)["config"]


def no_file(path: Path) -> str:
    """What to say of a path where nothing is: of the address of a web server or store that it is not read."""
    scheme, place = re.match(r"(?:(\w{2,}):/+)?(.*)", str(path), re.DOTALL).groups()  # type: ignore[union-attr]
    if scheme is None:
        return f"{path}: no such file or folder"
    return f"{scheme}://{place}: only files and folders are read; download it first"


def read_runs(path: str | Path) -> pd.DataFrame:
    """All rows of a runs folder, a run file or a compacted table, in the order of `run_id` and `step`.

    Raises RunTableError naming the file if it is truncated, of a newer schema, or no run table at all.
    """
    path = Path(path)
    if not path.exists():
        raise RunTableError(no_file(path))
    table = _read_folder(path) if path.is_dir() else _read(path)
    frame = complete(table.to_pandas())
    frame = frame[list(NAMES)].astype({c.name: _PANDAS_DTYPE[c.dtype] for c in COLUMNS})
    frame = frame.sort_values(["run_id", "step"], kind="stable", ignore_index=True)
    return with_domains(frame, error=partial(_no_mixture, path))


def _no_mixture(path: Path, message: str) -> RunTableError:
    return RunTableError(f"{path}: {message}; delete its folder and run the study again to train it anew")


def _read_folder(path: Path) -> pa.Table:
    files = run_files(path)
    if not files:
        raise RunTableError(f"{path}: no finished run here (looked for cells/*/{RUN_FILE})")
    table = read_cells(path, files, _form())
    lacking = [name for name in ADDED if table.num_rows and table.column(name).null_count == table.num_rows]
    return table.drop_columns(lacking)


def run_files(path: Path) -> list[Path]:
    """The run files of a runs folder, in the order of their cells' names."""
    return sorted(path.glob(f"cells/*/{RUN_FILE}"))


def keep_together(path: Path) -> None:
    """Bring what a runs folder keeps of its cells in one file up to date; one that cannot be is left as it is."""
    with contextlib.suppress(OSError, RunTableError):
        keep_shard(path, run_files(path), _form())


def _form() -> Form:
    return Form(_ARROW_SCHEMA, ADDED, _check_version, _read)


def compact(source: str | Path, target: str | Path) -> pd.DataFrame:
    """Merge every run under `source` into the single file `target`; returns the table."""
    frame = read_runs(source)
    write_table(frame, target)
    return frame


def write_table(table: pd.DataFrame, target: str | Path) -> None:
    """Write a run table as the single file `target`, atomically."""
    _write(Path(target), _to_arrow(table), {"schema_version": SCHEMA_VERSION, "config": {}})


def is_runs(table: pd.DataFrame) -> bool:
    """Whether a table has the columns of a run table: parameters by group, state, final."""
    return {"final", "state", "n_params_total", *(f"n_params_{g}" for g in PARAM_GROUPS)} <= set(table.columns)


def final_rows(table: pd.DataFrame) -> pd.DataFrame:
    """One row per finished run: its evaluation at its own horizon."""
    return table[table["final"] & (table["state"] == "done")].reset_index(drop=True)


def forecast_rows(table: pd.DataFrame) -> pd.DataFrame:
    """One row per run that was stopped on the way: the forecast of its loss at its horizon; `loss_se` is its error."""
    return table[is_forecast(table)].reset_index(drop=True)


def is_forecast(table: pd.DataFrame) -> pd.Series:
    """Which rows (bool) were not measured but forecast."""
    return table["final"] & (table["state"] == "stopped")


def replicate_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a run table that runs must be equal in to be repeats of each other: all that a seed leaves alone.

    With the weights of domains, where the runs read mixtures.
    """
    return [c for c in table if (c in NAMES and c not in OF_ONE_RUN) or str(c).startswith("weight_")]


class Listed(Protocol):
    """What a study has of a run: a cell of the study, or an entry of its listing. None: not known."""

    @property
    def arm(self) -> str | None:
        """The arm that the run is in."""

    @property
    def budget_flops(self) -> float | None:
        """The budget that it met; NaN where that was of tokens."""


def of_study(table: pd.DataFrame, listed: Mapping[str, Listed]) -> pd.DataFrame:
    """The rows of the runs in `listed`, with the arm and the budget that it gives each, the table's own where it gives
    none.

    Studies that overlap share runs. A run file names arm and budget of the study that trained it, another study may
    have the run in another arm, or by another budget of as many steps.
    """
    kept = table[table["run_id"].isin(listed)].reset_index(drop=True)
    arms = {run_id: one.arm for run_id, one in listed.items() if one.arm is not None}
    budgets = {run_id: one.budget_flops for run_id, one in listed.items() if one.budget_flops is not None}
    named = kept["run_id"].map(arms)
    own = kept["budget_flops"].where(~kept["run_id"].isin(budgets), kept["run_id"].map(budgets).astype(float))
    return kept.assign(arm=named.where(named.notna(), kept["arm"]).astype(kept["arm"].dtype), budget_flops=own)


def same_runs(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two tables hold the same runs, bit for bit, leaving out clocks and machines."""

    def key(t: pd.DataFrame) -> pd.DataFrame:
        return t.drop(columns=list(VOLATILE)).sort_values(["run_id", "step"], ignore_index=True)

    return key(a).equals(key(b))


def _schema(path: Path, remedy: str = "") -> pa.Schema:
    """The schema of a parquet file. Raises RunTableError for any other file."""
    try:
        require_regular(path)
        with arrow_file(path) as file:
            return pq.read_schema(file)
    except FAULTS as error:
        after = f"; {remedy}" if remedy else ""
        raise RunTableError(f"{path}: cannot be read as parquet ({first_line(error)}){after}") from error


def arrow_file(path: Path, mode: str = "rb") -> pa.OSFile:
    """An open file for Arrow, which itself takes no name that is not UTF-8."""
    return pa.OSFile(os.fsencode(path), mode)


def is_run_table(path: str | Path) -> bool:
    """Whether `path` is a parquet file written by this module."""
    try:
        return _METADATA_KEY in (_schema(Path(path)).metadata or {})
    except RunTableError:
        return False


def _to_arrow(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame[list(NAMES)], schema=_ARROW_SCHEMA, preserve_index=False)


def _write(path: Path, table: pa.Table, metadata: Mapping) -> None:
    encoded = json.dumps(metadata, sort_keys=True).encode()
    write_parquet(path, table.replace_schema_metadata({_METADATA_KEY: encoded}))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically: to a temporary name in the folder of `path`, which is made, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with arrow_file(temporary, "wb") as file:
            pq.write_table(table, file, write_page_checksum=True, **(_FEW if table.num_rows <= FEW_ROWS else _MANY))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> pa.Table:
    remedy = "delete its folder and run the study again to train it anew"
    _check_version(_schema(path, remedy), path)
    return read_parquet(path, _ARROW_SCHEMA, remedy, may_lack=ADDED)


def _check_version(schema: pa.Schema, path: Path) -> None:
    """Raise RunTableError unless the metadata are those of a run table of this version or an earlier one."""
    written = _metadata(schema, path)["schema_version"]
    if written > SCHEMA_VERSION:
        raise RunTableError(
            f"{path}: written with run-table schema {written}, this isoflop reads up to "
            f"{SCHEMA_VERSION}; upgrade isoflop"
        )


def read_parquet(path: Path, schema: pa.Schema, remedy: str, *, may_lack: Container[str] = ()) -> pa.Table:
    """The columns of `schema` in a parquet file, with its types; those in `may_lack` where the file has them.

    Raises RunTableError naming the file, the column, and the first row without a whole number, truth or text where one
    must be, with `remedy` at its end.
    """
    names = _schema(path, remedy).names
    chosen = [field for field in schema if field.name in names or field.name not in may_lack]
    for field in chosen:
        if names.count(field.name) != 1:
            raise RunTableError(f"{path}: {names.count(field.name)} columns {field.name!r}; {remedy}")
    try:
        with arrow_file(path) as file:
            whole = pq.ParquetFile(file, page_checksum_verification=True)
            table = whole.read(columns=[field.name for field in chosen])
        table.validate(full=True)
    except FAULTS as error:
        raise RunTableError(f"{path}: cannot be read as parquet ({first_line(error)}); {remedy}") from error
    for field in chosen:
        values = table.column(field.name)
        try:
            values = values.cast(field.type)
        except (pa.ArrowException, ValueError) as error:
            raise RunTableError(
                f"{path}: column {field.name!r} is not {field.type} ({first_line(error)}); {remedy}"
            ) from error
        if values.null_count and not pa.types.is_floating(field.type):
            row = values.is_null().to_pylist().index(True)
            raise RunTableError(f"{path}: column {field.name!r} is empty in row {row + 1}; {remedy}")
        table = table.set_column(table.column_names.index(field.name), field, values)
    return table.select([field.name for field in chosen]).replace_schema_metadata(None)


def _metadata(schema: pa.Schema, path: Path) -> Metadata:
    raw = (schema.metadata or {}).get(_METADATA_KEY)
    if raw is None:
        raise RunTableError(
            f"{path}: not a run table (no isoflop metadata); for your own data use --map on a CSV "
            "or parquet with columns n_params, tokens, loss"
        )
    try:
        return parse_json(raw, Metadata, source=f"{path}: its metadata", nan=True)
    except JsonError as error:
        raise RunTableError(f"{error}; delete its folder and run the study again to train it anew") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@cache
def code_version() -> str:
    """The version of isoflop and, in a checkout of it, the commit: "0.1.0+0123456789ab".

    An installation inside a repository of somebody else has no commit.
    """
    folder, installed = Path(__file__).resolve().parent, package_version()
    command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "--short=12", "HEAD"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        root, commit = output.splitlines()
        own = (Path(root) / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, ValueError, subprocess.SubprocessError):
        return installed
    if folder != Path(root).resolve() / "scaling" / "table" or '\nname = "isoflop"\n' not in own:
        return installed
    return f"{installed}+{commit}"
