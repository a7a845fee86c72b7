"""One table of runs that other programs logged, which every command reads.

A reader (see `source.Reader`) turns a source into `ForeignRun`s; `assemble` turns those into one table. Where the shape
of every run is known the result is a run table with parameters by group, so that any convention can be chosen when a
law is fitted; otherwise it has a row per evaluation, with n_params and flops under the conventions that it names.
Nothing is guessed: an error names the option for a missing quantity, and every row left out is counted under a reason.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from isoflop.printable import printable
from isoflop.scaling.imports.clean import COUNTED_FROM_ZERO, ImportOptions, clean
from isoflop.scaling.imports.imported import Imported
from isoflop.scaling.imports.kept import UNTOLD, are_few, is_kept
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import with_third
from isoflop.scaling.table.formats.run_columns import COLUMNS, NAMES
from isoflop.scaling.table.migrate import BITS, FULL_BITS
from isoflop.scaling.table.runs import validate
from isoflop.scaling.table.schedules.read_curves import HORIZONS

PLAIN = (
    "run_id", "arm", "seed", "n_params", "tokens", "flops", "loss", "train_loss", "step", "batch_tokens",
    "learning_rate", "peak_learning_rate", "horizon_steps", "params_convention", "compute_convention", "loss_unit",
    "source", "wall_seconds", "final",
)  # fmt: skip
_IF_KNOWN = ("flops", "train_loss", "seed", "batch_tokens", "learning_rate", "peak_learning_rate", "horizon_steps",
             "wall_seconds")  # fmt: skip
PARAMS = ("matrices", "total", "no-embedding")
REMEDIES = {
    "n_params": (
        "give --n-params VALUE, or --n-params RUN=VALUE for each, or name a column with --map n_params=COLUMN"
    ),
    "tokens": (
        "give --batch-tokens VALUE, or --batch-tokens RUN=VALUE for each, or --tokens RUN=VALUE for those at its end, "
        "or name a column with --map tokens=COLUMN"
    ),
}
_UNKNOWN = {"string": "", "int64": 0, "float64": float("nan"), "bool": False}


def assemble(runs: Sequence[ForeignRun], options: ImportOptions, before: Sequence[LeftOut] = ()) -> Imported:
    """One table of these runs; `before` are rows that their readers left out.

    Raises SourceError for bad options, and naming the runs that lack a quantity and the option that gives it.
    """
    notes: list[str] = []
    options = _check(options, runs, notes)
    left_out = [*before]
    left_out += [LeftOut(run.name, count, why) for run in runs for why, count in run.skipped.items() if count]
    kept = []
    for run in runs:
        cleaned, rows_out = clean(run, options)
        left_out += rows_out
        if cleaned is not None:
            kept.append(cleaned)
    counted = [one for one in left_out if one.reason == COUNTED_FROM_ZERO]
    left_out = [one for one in left_out if one.reason != COUNTED_FROM_ZERO]
    if counted:
        notes.append(
            f"{len(counted)} runs count their steps from 0 ({listed([one.run for one in counted])}): one was added"
        )
    if not kept:
        reasons = "; ".join(str(one) for one in left_out[:4]) or "the source holds no run"
        raise SourceError(f"no run can be imported ({reasons})")
    _check_names(kept)
    notes += dict.fromkeys(note for run in kept for note in run.notes)
    if any(run.horizon_steps is None and not set(HORIZONS) & set(run.curve) for run in kept):
        notes.append("horizons are not reported: the last evaluation of a run is taken as its end")
    if all(run.shape for run in kept) and not options.n_params:
        return Imported(_run_table(kept, options, notes), "run table", tuple(left_out), tuple(notes))
    table = _plain(kept, options, notes, left_out)
    kind = "curves" if "final" in table else "one row per run"
    return Imported(table, kind, tuple(left_out), tuple(notes))


def _check(options: ImportOptions, runs: Sequence[ForeignRun], notes: list[str]) -> ImportOptions:
    """The options with their numbers by run; notes the runs whose own number one replaces.

    Raises SourceError for an option that no run takes.
    """
    if options.params not in PARAMS:
        raise SourceError(f"--params {options.params}: not one of {', '.join(PARAMS)}")
    if options.params != PARAMS[0] and not any(options.params in run.n_params for run in runs):
        notes.append(f"--params {options.params} is not used: the source names no such count of parameters")
    if options.bytes_per_token is not None and not options.bytes_per_token > 0:
        raise SourceError(f"--bytes-per-token {options.bytes_per_token}: not a positive number")
    if options.bytes_per_token is not None and not any(run.loss_unit.endswith("/byte") for run in runs):
        units = ", ".join(sorted({run.loss_unit for run in runs}))
        raise SourceError(
            f"--bytes-per-token {options.bytes_per_token:g}: no run has a loss per byte (there are {units})"
        )
    names = [run.name for run in runs]
    own: dict[str, dict[str, object]] = {
        "--n-params": {run.name: _counts(run) for run in runs if run.n_params or run.shape},
        "--batch-tokens": {run.name: run.batch_tokens for run in runs if run.batch_tokens},
        "--tokens": {run.name: None for run in runs if _tells_tokens(run)},
    }
    given = {"--n-params": options.n_params, "--batch-tokens": options.batch_tokens, "--tokens": options.tokens}
    for option, numbers in given.items():
        for name in set(numbers) - {"", *names}:
            known = ", ".join(sorted(names)[:6])
            raise SourceError(f"{option} {name}=...: no such run in the source (there are: {known})")
        if numbers:
            _check_own(option, numbers, own[option], len(runs), notes)
    n_params, batch_tokens, tokens = (_each(numbers, names, own[option]) for option, numbers in given.items())
    return replace(options, n_params=n_params, batch_tokens=batch_tokens, tokens=tokens)


def _each(numbers: Mapping[str, float], names: Collection[str], own: Mapping[str, object]) -> dict[str, float]:
    """The numbers given by run: one for all is for the runs that report none, or for all where all report the same."""
    reported = own if set(own) < set(names) else ()
    every = {name: numbers[""] for name in names if "" in numbers and name not in reported}
    return every | {name: value for name, value in numbers.items() if name}


def _check_own(
    option: str, numbers: Mapping[str, float], own: Mapping[str, object], runs: int, notes: list[str]
) -> None:
    """The same of one option, by what some of so many runs report themselves."""
    replaced = [name for name in own if name in numbers]
    if option == "--tokens":
        if replaced or ("" in numbers and len(own) == runs):
            reported = replaced or list(own)
            raise SourceError(f"{option}: {listed(reported)} report the tokens at their ends; leave it out for these")
        return
    if "" in numbers and len(own) == runs:
        if len(values := set(own.values())) > 1:
            raise SourceError(
                f"{option} {numbers['']:g}: the source reports {len(values)} different ones ({listed(list(own))}); "
                f"leave it out, or give {option} RUN=VALUE for a run whose number is wrong"
            )
        replaced = list(own)
    if replaced:
        notes.append(f"{option} is taken in place of what the source reports of {listed(replaced)}")


def _counts(run: ForeignRun) -> object:
    return run.shape.total if run.shape else tuple(run.n_params.values())


def _tells_tokens(run: ForeignRun) -> bool:
    """Whether a run reports the tokens of its last evaluation."""
    measured = run.curve[run.curve["loss"].notna()]
    return bool(len(measured)) and "tokens" in measured and bool(measured["tokens"].notna().iloc[-1])


def _check_names(kept: Sequence[ForeignRun]) -> None:
    names = [run.name for run in kept]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(f"two runs are called {twice[0]!r}; rename one, or import them separately")


def _plain(
    kept: Sequence[ForeignRun], options: ImportOptions, notes: list[str], left_out: list[LeftOut]
) -> pd.DataFrame:
    rows = [_of_run(run, options) for run in _of_few(kept, notes)]
    names = (*PLAIN, *dict.fromkeys(name for held in rows for name in held if name not in PLAIN))
    table = pd.DataFrame({name: _joined([held[name] if name in held else _repeated(UNTOLD.get(name), len(held["loss"]))
                                         for held in rows]) for name in names})  # fmt: skip
    table = table.assign(arm="") if table["arm"].isna().all() else table
    if "trunk_id" in table:  # a run that is no branch is a trunk of its own
        table["trunk_id"] = table["trunk_id"].where(table["trunk_id"].notna(), table["run_id"])
    table = _third(table, {run.name for run in kept if run.without_embeddings}, notes)
    for column, remedy in REMEDIES.items():
        ends = table[table["final"]]
        lacking = list(ends.loc[~np.isfinite(ends[column]), "run_id"])
        why = {run.name: f" ({run.lacking[column]})" for run in kept if column in run.lacking}
        if len(lacking) == len(ends):
            raise SourceError(f"no run reports its {column} ({listed(lacking)}); {remedy}{why.get(lacking[0], '')}")
        rows = table["run_id"].value_counts()
        left_out += [
            LeftOut(name, int(rows[name]), f"it does not report its {column}; {remedy}{why.get(name, '')}", whole=True)
            for name in lacking
        ]
        table = table[~table["run_id"].isin(lacking)]
    if table["final"].all():
        table = table.drop(columns=["final", "learning_rate"])  # the rate along a curve
    if any(name in table for name in HORIZONS[1:]):  # as the source reports it
        table = table.drop(columns=HORIZONS[0])
    ends = table[~table["run_id"].duplicated(keep="last")]
    for column in (name for name in _IF_KNOWN if name in table):
        if table[column].isna().all() or (column == "flops" and ends[column].isna().any()):
            known = int(ends[column].notna().sum())
            if known:
                notes.append(
                    f"{len(ends) - known} of {len(ends)} runs do not report their flops: the column is left out"
                )
            table = table.drop(columns=column)
    if "flops" not in table:
        table = table.assign(compute_convention="not reported: a fit takes 6 x n_params x tokens")
    if not any(run.named for run in kept):
        notes.append("the source names no runs: each row is taken as one, and no run_id is made up")
        table = table.drop(columns="run_id")
    for column in ("params_convention", "compute_convention", "loss_unit"):
        notes += [f"{column}: {value}" for value in sorted(set(table[column].astype(str)))]
    return table.reset_index(drop=True)


def _third(table: pd.DataFrame, apart: Collection[str], notes: list[str]) -> pd.DataFrame:
    """The table with the one of n_params, tokens and flops that no run reports, of the runs that have the other two.

    Tokens are not derived from the FLOPs of runs `apart`, which are of other parameters.
    """
    sizes = table[["n_params", "tokens", "flops"]].astype(float)
    held = [name for name in sizes if sizes[name].notna().any()]
    whole = sizes[held].notna().all(axis=1)
    if "tokens" not in held:
        whole &= ~table["run_id"].isin(apart)
    if len(held) != 2 or "flops" not in held or not whole.any():
        return table  # without flops a fit takes 6 N D itself
    (absent,) = set(sizes) - set(held)
    try:
        made = with_third(sizes[whole], notes, source="import")[absent].reindex(table.index)
    except TableError as error:
        raise SourceError(str(error)) from error
    table = table.assign(**{absent: made})
    if absent != "n_params":
        return table
    ends = table[table["final"]].set_index("run_id")["n_params"]  # one of a run, as at its end
    return table.assign(n_params=table["run_id"].map(ends), params_convention="flops / (6 x tokens)")


def _of_run(run: ForeignRun, options: ImportOptions) -> dict[str, np.ndarray]:
    """The evaluations of a run as the columns of PLAIN, each (evaluations,); `final` marks the last."""
    curve, count = run.curve, len(run.curve)
    convention = options.params if options.params in run.n_params else next(iter(run.n_params), "")
    own = run.n_params.get(convention)
    n_params = options.n_params.get(run.name, own)
    along = ("tokens", "loss", "flops", "train_loss", "learning_rate", "wall_seconds")
    held = {name: curve[name].to_numpy(float) for name in along if name in curve}
    flops = held.get("flops", np.full(count, np.nan))
    if run.flops_per_token:
        flops = np.where(np.isnan(flops), run.flops_per_token * held["tokens"], flops)
    constants = {
        "run_id": run.name,
        "arm": options.arm or run.settings.get("arm"),
        "seed": run.settings.get("seed"),
        "n_params": np.nan if n_params is None else n_params,
        "batch_tokens": options.batch_tokens.get(run.name, run.batch_tokens),
        "peak_learning_rate": run.settings.get("learning_rate"),
        "params_convention": convention if n_params == own else "--n-params",
        "compute_convention": run.compute_convention,
        "loss_unit": run.loss_unit,
        "source": printable(run.source),
        "horizon_steps": float(run.horizon_steps or np.nan),
        "train_loss": np.nan,
        "learning_rate": np.nan,
        "wall_seconds": np.nan,
    }
    made = held | {"flops": flops, "step": curve["step"].to_numpy(int), "final": np.arange(1, count + 1) == count}
    found = {column: made[column] if column in made else _repeated(constants[column], count) for column in PLAIN}
    found |= {name: _repeated(score, count) for name, score in run.scores.items() if name not in found}
    found |= {name: _repeated(value, count) for name, value in run.constants.items() if name not in found}
    return found | {name: curve[name].to_numpy() for name in curve if is_kept(name)}


def _of_few(kept: Sequence[ForeignRun], notes: list[str]) -> list[ForeignRun]:
    """The runs with the constants of which they have few values; notes those that tell most runs apart."""
    names = dict.fromkeys(name for run in kept for name in run.constants)
    many = [name for name in names if not are_few([run.constants.get(name) for run in kept])]
    if many:
        notes.append(f"columns with a value of their own in most runs are not kept: {listed(many)}")
    return [
        replace(run, constants={name: value for name, value in run.constants.items() if name not in many})
        for run in kept
    ]


def _repeated(value: object, count: int) -> np.ndarray:
    column = np.empty(count, dtype=object if value is None or isinstance(value, str) else np.array(value).dtype)
    column[:] = value
    return column


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray | pd.Series:
    """The columns of all runs as one; numbers beside missing values are numbers, NaN where one is missing, and beside
    words they are words."""
    joined = np.concatenate(parts)
    if joined.dtype != object:
        return joined
    column = pd.Series(joined).infer_objects()
    mixed = pd.api.types.infer_dtype(column, skipna=True).startswith("mixed")
    return column.map(str, na_action="ignore") if mixed else column


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


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
        **shape.columns(), **dict.fromkeys(BITS, FULL_BITS), "corpus_id": corpus, "eval_id": f"validation {corpus}",
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
