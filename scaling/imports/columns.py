"""Tables of metrics: histories and run lists of Weights & Biases, OLMo's metrics, any CSV or parquet.

A column is found by `--map`, else by a name with one meaning; with two candidates the error asks for `--map`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.runs import first_line

# Names of each quantity, lower case, in the order of preference where several are there.
NAMES: dict[str, tuple[str, ...]] = {
    "step": ("step", "_step", "iter", "iteration", "global_step", "train/global_step", "trainer/global_step"),
    "tokens": (
        "tokens", "train/tokens", "throughput/total_tokens", "throughput/total tokens", "total_tokens", "tokens_seen",
        "n_tokens", "num_tokens", "train/total_tokens", "train_tokens",
    ),
    "flops": (
        "flops", "total_flops", "train_flops", "total_training_flops", "throughput/total_training_gflops",
        "throughput/total petaflops",
    ),
    "train_loss": ("train_loss", "train/loss", "train/crossentropyloss", "train/ce loss", "loss/train"),
    "learning_rate": ("learning_rate", "lr", "train/learning_rate", "train/lr", "optim/learning_rate_group0"),
    "batch_tokens": ("batch_tokens", "batch_size_in_tokens", "tokens_per_step", "tokens_per_iter"),
    "n_params": ("n_params", "num_params", "n_parameters", "num_parameters", "parameters", "params", "total_params"),
    "run_id": ("run_id", "run", "run_name", "name", "id"),
    "seed": ("seed",),
    "arm": ("arm",),
}  # fmt: skip
_VALIDATION = re.compile(
    r"^((val|valid|validation|eval|test|heldout|held_out)[/_. ](.*[/_. ])?(loss|crossentropyloss|ce loss|cross_entropy)"
    r"|loss[/_. ](val|valid|validation|eval|test))$"
)
_TRAINING = re.compile(r"^(train[/_. ])?(loss|crossentropyloss|ce loss)$")
_UNIT = {"throughput/total_training_gflops": 1e9, "throughput/total petaflops": 1e15}
_BY_CONVENTION = {"n_params_matrices": "matrices", "n_params_total": "total"}
_WIDE = re.compile(r"^(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?$")


@dataclass
class Columns:
    """The column of each quantity: by `mapping` (ours -> theirs), else by NAMES. `notes` collects what was found."""

    mapping: Mapping[str, str]
    notes: list[str]
    source: str

    def find(self, frame: pd.DataFrame, quantity: str) -> str | None:
        """The column of a quantity, None without one. Raises SourceError for a --map to a column that is not there."""
        if quantity in self.mapping:
            wanted = self.mapping[quantity]
            if wanted not in frame:
                near = hint(wanted, map(str, frame))
                raise SourceError(f"{self.source}: --map {quantity}={wanted}: no column {wanted!r}{near}")
            return wanted
        lowered = {str(name).lower(): name for name in frame}
        return next((lowered[name] for name in NAMES[quantity] if name in lowered), None)

    def loss(self, frame: pd.DataFrame) -> str:
        """The column of the validation loss. Raises SourceError where there are several, or training losses alone."""
        if "loss" in self.mapping:
            return self.find(frame, "loss")  # type: ignore[return-value]
        found = [str(name) for name in frame if _VALIDATION.match(str(name).lower())]
        if not found and "loss" in frame and self.find(frame, "train_loss"):
            found = ["loss"]  # next to a training loss it is the validation loss
        if len(found) == 1:
            self._note(f"loss is the column {found[0]}")
            return found[0]
        if found:
            listed = ", ".join(found[:6])
            raise SourceError(
                f"{self.source}: {len(found)} validation losses ({listed}); name one with --map loss=COLUMN"
            )
        training = [str(name) for name in frame if _TRAINING.match(str(name).lower())]
        only = (
            f"only a training loss: use it with --map loss={training[0]}"
            if training
            else (f"name it with --map loss=COLUMN (columns: {', '.join(map(str, frame))})")
        )
        raise SourceError(f"{self.source}: no validation loss; {only}")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def read_frame(path: Path) -> pd.DataFrame:
    """A CSV, TSV, JSON lines, JSON list or parquet file as it stands. Raises SourceError for anything unreadable."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".jsonl", ".ndjson", ".json"):
            return pd.read_json(path, lines=path.suffix != ".json")
        return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    except (ValueError, pa.ArrowInvalid, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as {path.suffix[1:]} ({first_line(error)})") from error


def runs_of_table(
    name: str, source: str, frame: pd.DataFrame, mapping: Mapping[str, str], notes: list[str]
) -> tuple[list[ForeignRun], list[LeftOut]]:
    """The runs of one table of metrics: a history (of one or many runs), a panel exported by W&B, or a row per run.

    `name` is the run's where the table names none. Raises SourceError for an empty table or ambiguous columns.
    """
    columns = Columns(mapping, notes, source)
    if frame.empty:
        raise SourceError(f"{source}: the table has no rows")
    if wide := _wide(frame):
        return [_run(run, source, history, columns) for run, history in wide.items()], []
    left_out = []
    if {"Name", "State"} <= set(frame):  # the list of runs that W&B exports
        over = frame["State"].eq("finished")
        left_out = [
            LeftOut(str(row["Name"]), 1, f"its state is {row['State']}", whole=True)
            for _, row in frame[~over].iterrows()
        ]
        frame = frame[over]
    run = columns.find(frame, "run_id")
    if run is not None and frame[run].nunique() < len(frame) and columns.find(frame, "step"):
        groups = {str(key): group for key, group in frame.groupby(run, sort=False)}
    elif columns.find(frame, "step") and not {"Name", "State"} <= set(frame) and run is None:
        groups = {name: frame}
    else:
        names = frame[run].astype(str) if run is not None else [f"{name}#{k}" for k in range(1, len(frame) + 1)]
        groups = {key: frame.iloc[[k]] for k, key in enumerate(names)}
        if len(groups) < len(frame):
            raise SourceError(
                f"{source}: a name in column {run!r} stands for several rows, and there is no step column"
            )
    return [_run(key, source, group, columns) for key, group in groups.items()], left_out


def _wide(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of a panel exported by W&B: an x column, then `run - metric` with its __MIN and __MAX."""
    names = [str(name) for name in frame]
    if not any(name.endswith("__MIN") for name in names):
        return {}
    runs: dict[str, dict[str, pd.Series]] = {}
    for name in names[1:]:
        if (match := _WIDE.match(name)) and not match["range"]:
            runs.setdefault(match["run"], {})[match["metric"]] = frame[name]
    return {run: pd.DataFrame({names[0]: frame[names[0]], **metrics}) for run, metrics in runs.items()}


def _run(name: str, source: str, frame: pd.DataFrame, columns: Columns) -> ForeignRun:
    """One run of a table: its columns under our names, its constants as settings."""
    loss = columns.loss(frame)
    curve = pd.DataFrame({"loss": _numbers(frame, loss)})
    for quantity in ("step", "tokens", "flops", "train_loss", "learning_rate"):
        if (column := columns.find(frame, quantity)) is not None:
            curve[quantity] = _numbers(frame, column) * _UNIT.get(str(column).lower(), 1.0)
    if "step" not in curve:
        curve["step"] = np.arange(1, len(curve) + 1)
    for quantity in ("tokens", "flops"):  # where reported at other steps than the loss: the last value before
        if quantity in curve:
            curve[quantity] = curve.sort_values("step")[quantity].ffill()
    counts = {kind: _constant(frame, column) for column, kind in _BY_CONVENTION.items() if column in frame}
    if (column := columns.find(frame, "n_params")) is not None:
        counts = {f"the column {column}": _constant(frame, column)} | counts
    settings = {key: _constant(frame, found) for key in ("seed", "arm") if (found := columns.find(frame, key))}
    if "learning_rate" in curve and curve["learning_rate"].notna().any():
        settings["learning_rate"] = float(curve["learning_rate"].max())
    batch = columns.find(frame, "batch_tokens")
    flops = columns.find(frame, "flops")
    return ForeignRun(
        name=name, source=source, curve=curve.reset_index(drop=True), settings=settings,
        n_params={kind: count for kind, count in counts.items() if count is not None},  # type: ignore[misc]
        batch_tokens=_constant(frame, batch) if batch else None,  # type: ignore[arg-type]
        compute_convention=f"the column {flops}" if flops else "",
        loss_unit="bits/byte" if re.search("bpb|bits_per_byte", loss.lower()) else "nats/token",
    )  # fmt: skip


def _numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers, NaN where it holds none."""
    return pd.to_numeric(frame[column], errors="coerce").astype(float)


def _constant(frame: pd.DataFrame, column: str) -> object:
    """The one value of a column in a run, None if it is empty or varies."""
    values = frame[column].dropna().unique()
    return plain(values[0]) if len(values) == 1 else None


class TableReader:
    """Reads tables of metrics: W&B exports and histories, OLMo's metrics, any CSV, TSV, JSON or parquet."""

    kinds = ("wandb", "olmo", "table")
    suffixes = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")

    def recognises(self, path: Path) -> bool:
        """Whether a file has the suffix of a table."""
        return path.is_file() and path.suffix in self.suffixes

    def read(self, path: Path, mapping: Mapping[str, str], notes: list[str]) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs of one file. Raises SourceError for one that cannot be read, or without a validation loss."""
        return runs_of_table(path.stem, str(path), read_frame(path), mapping, notes)


TABLES = TableReader()
