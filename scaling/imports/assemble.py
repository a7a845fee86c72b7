"""One table of runs that other programs logged, which every command reads.

A reader (see `source.Reader`) turns a source into `ForeignRun`s; `assemble` turns those into one table. Where the shape
of every run is known the result is a run table with parameters by group, so that any convention can be chosen when a
law is fitted; otherwise it has one row per run, with n_params and flops under the conventions that it names. Nothing is
guessed: an error names the option for a missing quantity, and every row left out is counted under a reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import with_third
from isoflop.scaling.table.runs import COLUMNS, NAMES, validate, write_table

PLAIN = (
    "run_id", "arm", "seed", "n_params", "tokens", "flops", "loss", "train_loss", "step", "batch_tokens",
    "peak_learning_rate", "params_convention", "compute_convention", "loss_unit", "source",
)  # fmt: skip
PARAMS = ("matrices", "total", "no-embedding")
_UNKNOWN = {"string": "", "int64": 0, "float64": float("nan"), "bool": False}


@dataclass(frozen=True)
class ImportOptions:
    """What the user states because the source does not. Numbers are by run; the key "" stands for every run."""

    n_params: Mapping[str, float] = field(default_factory=dict)
    batch_tokens: Mapping[str, float] = field(default_factory=dict)
    params: str = "matrices"  # of several parameter counts in a source
    bytes_per_token: float | None = None  # turns bits per byte into nats per token
    arm: str = ""
    keep_unfinished: bool = False


@dataclass(frozen=True)
class Imported:
    """The imported table, the rows that are not in it with the reason, and notes on what was assumed."""

    table: pd.DataFrame
    kind: str  # run table | one row per run
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    def write(self, target: Path) -> None:
        """Write the table to a .parquet or a .csv, a run table atomically. Raises SourceError for another suffix."""
        if target.suffix not in (".parquet", ".csv"):
            raise SourceError(f"--out {target}: write to a .parquet or a .csv")
        if self.kind == "run table" and target.suffix == ".parquet":
            write_table(self.table, target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(target) if target.suffix == ".parquet" else self.table.to_csv(target, index=False)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready values; the table itself is left out."""
        return {
            "kind": self.kind, "runs": int(self.table["run_id"].nunique()), "rows": len(self.table),
            "columns": list(self.table), "left_out": [asdict(one) for one in self.left_out], "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        runs = self.table["run_id"].nunique()
        lines = [f"{runs} runs, {len(self.table)} rows ({self.kind})", *(f"note: {note}" for note in self.notes)]
        whole = [one for one in self.left_out if one.whole]
        rows = sum(one.rows for one in self.left_out)
        if self.left_out:
            lines.append(f"left out: {len(whole)} runs, {rows} rows in all")
        return "\n".join([*lines, *(f"  {one}" for one in self.left_out)])


def assemble(runs: Sequence[ForeignRun], options: ImportOptions, before: Sequence[LeftOut] = ()) -> Imported:
    """One table of these runs; `before` are rows that their readers left out.

    Raises SourceError for bad options, and naming the runs that lack a quantity and the option that gives it.
    """
    notes: list[str] = []
    _check(options, runs)
    left_out = [*before]
    left_out += [LeftOut(run.name, count, why) for run in runs for why, count in run.skipped.items() if count]
    kept = []
    for run in runs:
        cleaned, rows_out = _clean(run, options)
        left_out += rows_out
        if cleaned is not None:
            kept.append(cleaned)
    if not kept:
        reasons = "; ".join(str(one) for one in left_out[:4]) or "the source holds no run"
        raise SourceError(f"no run can be imported ({reasons})")
    _check_names(kept)
    if any(run.horizon_steps is None for run in kept):
        notes.append("horizons are not reported: the last evaluation of a run is taken as its end")
    if all(run.shape for run in kept) and not options.n_params:
        return Imported(_run_table(kept, options, notes), "run table", tuple(left_out), tuple(notes))
    table = _plain(kept, options, notes, left_out)
    return Imported(table, "one row per run", tuple(left_out), tuple(notes))


def _clean(run: ForeignRun, options: ImportOptions) -> tuple[ForeignRun | None, list[LeftOut]]:
    """The run with its usable rows, in nats (None without any, or short of its horizon), and what is left out."""
    out: list[LeftOut] = []

    def drop(frame: pd.DataFrame, wrong: np.ndarray, reason: str) -> pd.DataFrame:
        if wrong.any():
            out.append(LeftOut(run.name, int(wrong.sum()), reason))
        return frame[~wrong]

    frame = run.curve
    frame = drop(frame, frame["loss"].isna().to_numpy(), "no validation loss")
    frame = drop(
        frame, ~(np.isfinite(frame["loss"]) & (frame["loss"] > 0)).to_numpy(), "the loss is not a positive number"
    )
    frame = drop(frame, frame["step"].duplicated(keep="last").to_numpy(), "reported again later, after a restart")
    frame = drop(frame, (frame["step"] <= 0).to_numpy(), "before the first step")
    frame, unit = _in_nats(frame.sort_values("step", ignore_index=True), run, options)
    end = int(frame["step"].max()) if len(frame) else 0
    reason = ""
    if frame.empty:
        reason = "no evaluation with a loss"
    elif run.horizon_steps and end < run.horizon_steps and not options.keep_unfinished:
        reason = f"its last evaluation is at step {end} of {run.horizon_steps}: the schedule had not ended"
    if reason:
        return None, [*out, LeftOut(run.name, len(frame), reason, whole=True)]
    return replace(run, curve=_tokens(frame, run, options), loss_unit=unit), out


def _in_nats(frame: pd.DataFrame, run: ForeignRun, options: ImportOptions) -> tuple[pd.DataFrame, str]:
    """The loss in nats, and its unit: bits per byte become nats per token with bytes per token, else nats per byte."""
    if run.loss_unit not in ("bits/byte", "nats/byte"):
        return frame, run.loss_unit
    per = options.bytes_per_token
    nats = np.log(2) if run.loss_unit == "bits/byte" else 1.0
    return frame.assign(loss=frame["loss"] * nats * (per or 1.0)), "nats/token" if per else "nats/byte"


def _tokens(frame: pd.DataFrame, run: ForeignRun, options: ImportOptions) -> pd.DataFrame:
    if "tokens" in frame and frame["tokens"].notna().all():
        return frame
    batch = _by_run(options.batch_tokens, run.name) or run.batch_tokens
    return frame.assign(tokens=frame["step"] * batch if batch else np.nan)


def _by_run(numbers: Mapping[str, float], name: str) -> float | None:
    return numbers.get(name, numbers.get(""))


def _check(options: ImportOptions, runs: Sequence[ForeignRun]) -> None:
    if options.params not in PARAMS:
        raise SourceError(f"--params {options.params}: not one of {', '.join(PARAMS)}")
    if options.bytes_per_token is not None and not options.bytes_per_token > 0:
        raise SourceError(f"--bytes-per-token {options.bytes_per_token}: not a positive number")
    names = {"", *(run.name for run in runs)}
    for option, numbers in (("--n-params", options.n_params), ("--batch-tokens", options.batch_tokens)):
        for name in set(numbers) - names:
            known = ", ".join(sorted(names - {""})[:6])
            raise SourceError(f"{option} {name}=...: no such run in the source (there are: {known})")


def _check_names(kept: Sequence[ForeignRun]) -> None:
    names = [run.name for run in kept]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(f"two runs are called {twice[0]!r}; rename one, or import them separately")


def _plain(
    kept: Sequence[ForeignRun], options: ImportOptions, notes: list[str], left_out: list[LeftOut]
) -> pd.DataFrame:
    rows = _with_third([_end(run, options) for run in kept], notes)
    for column, option in (("n_params", "--n-params"), ("tokens", "--batch-tokens")):
        lacking = [row["run_id"] for row in rows if not np.isfinite(row[column])]
        remedy = f"give {option} VALUE, or {option} RUN=VALUE for each, or name a column with --map {column}=COLUMN"
        if len(lacking) == len(rows):
            listed = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
            raise SourceError(f"no run reports its {column} ({listed}); {remedy}")
        left_out += [LeftOut(name, 1, f"it does not report its {column}; {remedy}", whole=True) for name in lacking]
        rows = [row for row in rows if row["run_id"] not in lacking]
    table = pd.DataFrame(rows).reindex(columns=list(PLAIN))
    for column in ("flops", "train_loss", "seed", "batch_tokens", "peak_learning_rate"):
        if table[column].isna().all() or (column == "flops" and table[column].isna().any()):
            known = int(table[column].notna().sum())
            if known:
                notes.append(
                    f"{len(table) - known} of {len(table)} runs do not report their flops: the column is left out"
                )
            table = table.drop(columns=column)
    if "flops" not in table:
        table["compute_convention"] = "not reported: a fit takes 6 x n_params x tokens"
    for column in ("params_convention", "compute_convention", "loss_unit"):
        notes += [f"{column}: {value}" for value in sorted(set(table[column].astype(str)))]
    return table


def _with_third(rows: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """The rows with the one of n_params, tokens and flops that no run reports, where every run has the other two."""
    sizes = pd.DataFrame(rows)[["n_params", "tokens", "flops"]].astype(float)
    held = [name for name in sizes if sizes[name].notna().all()]
    if len(held) != 2 or "flops" not in held or sizes.notna().sum().sum() != 2 * len(rows):
        return rows  # without flops a fit takes 6 N D itself
    try:
        sizes = with_third(sizes, notes, source="import")
    except TableError as error:
        raise SourceError(str(error)) from error
    return [row | made for row, made in zip(rows, sizes.to_dict("records"), strict=True)]


def _end(run: ForeignRun, options: ImportOptions) -> dict[str, Any]:
    """The last evaluation of a run as a row of PLAIN."""
    last = run.curve.iloc[-1]
    given = _by_run(options.n_params, run.name)
    convention = options.params if options.params in run.n_params else next(iter(run.n_params), "")
    flops = last.get("flops", np.nan)
    if not np.isfinite(flops) and run.flops_per_token:
        flops = run.flops_per_token * last["tokens"]
    return {
        "run_id": run.name,
        "arm": options.arm or str(run.settings.get("arm", "")),
        "seed": run.settings.get("seed"),
        "n_params": given or run.n_params.get(convention, np.nan),
        "tokens": last["tokens"],
        "flops": flops,
        "loss": last["loss"],
        "train_loss": last.get("train_loss", np.nan),
        "step": int(last["step"]),
        "batch_tokens": _by_run(options.batch_tokens, run.name) or run.batch_tokens,
        "peak_learning_rate": run.settings.get("learning_rate"),
        "params_convention": "--n-params" if given else convention,
        "compute_convention": run.compute_convention,
        "loss_unit": run.loss_unit,
        "source": run.source,
    }


def _run_table(kept: Sequence[ForeignRun], options: ImportOptions, notes: list[str]) -> pd.DataFrame:
    frame = pd.concat([_rows(run, options) for run in kept], ignore_index=True)
    unknown = [c.name for c in COLUMNS if c.name not in frame]
    for column in COLUMNS:
        if column.name in unknown:
            frame[column.name] = _UNKNOWN[column.dtype]
    notes.append("unique_tokens is not reported: every token is taken as new")
    notes.append(
        "not reported, left empty: " + ", ".join(n for n in unknown if n not in ("trunk_id", "state", "final"))
    )
    frame = frame[list(NAMES)].astype({c.name: "str" if c.dtype == "string" else c.dtype for c in COLUMNS})
    validate(frame, source="import")
    return frame


def _rows(run: ForeignRun, options: ImportOptions) -> pd.DataFrame:
    """A run with a known shape in the columns of the run table; its last row is final."""
    assert run.shape is not None
    curve, shape, settings = run.curve, run.shape, run.settings
    frame = curve.reindex(columns=["step", "tokens", "loss", "train_loss", "learning_rate"]).copy()
    per_token = 3 * (shape.flops["blocks"] + shape.flops["attention_scores"] + shape.flops["unembedding"])
    horizon = float(curve["tokens"].iloc[-1])
    corpus = settings.get("corpus", "")
    constants = {
        "run_id": run.name, "trunk_id": run.name, "arm": options.arm, "seed": settings.get("seed", 0), "state": "done",
        **shape.columns(), "corpus_id": corpus, "eval_id": f"validation {corpus}",
        "optimizer": settings.get("optimizer", ""), "schedule": settings.get("schedule", ""),
        "peak_learning_rate": settings.get("learning_rate", np.nan), "dtype": settings.get("dtype", ""),
        "warmup_tokens": float(settings.get("warmup_steps", 0)) * (run.batch_tokens or 0),  # type: ignore[arg-type]
        "horizon_tokens": horizon, "batch_tokens": run.batch_tokens or 0, "unique_tokens": horizon,
        "code_version": f"imported from {run.source}",
    }  # fmt: skip
    frame = frame.assign(**constants)
    frame["final"] = frame["step"] == frame["step"].max()
    frame["flops"], frame["flops_6nd"] = per_token * frame["tokens"], 6.0 * shape.total * frame["tokens"]
    return frame
