"""The training curves of a table with the learning rate of every step: `read_curves`.

Of a run of ours the schedule is known by its name, and the column of rates at its rows tells its cooldown. Of other
runs the rates are those of a column, between rows as its values go and also in rows without a loss, or of a schedule
that the user names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from isoflop.scaling.table.columns import TableError, is_numbers
from isoflop.scaling.table.conventions import count_params
from isoflop.scaling.table.curves import curves, run_column, step_columns
from isoflop.scaling.table.meaning import words
from isoflop.scaling.table.runs import is_forecast, is_runs
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.schedule import COOLDOWNS, SCHEDULES, Schedule, learning_rate

RATES = ("learning_rate", "lr", "train_learning_rate", "train_lr", "eta")  # as `words` writes them
HORIZONS = ("horizon_steps", "total_steps", "max_steps", "num_training_steps")
READ = (
    "run_id", "trunk_id", "arm", "n_params", "tokens", "loss", "step", "final", "phase", "schedule", "learning_rate",
    "peak_learning_rate", "batch_tokens", "warmup_tokens", "horizon_tokens",
)  # fmt: skip
FRACTIONS = (0.2, 0.1, 0.15, 0.25, 0.3, 0.05, 0.4, 0.5, 1.0)  # of a cooldown, tried in this order
FINALS = (0.0, 0.1, 0.01, 0.05, 0.2)
NAMED = 4  # runs in a note
BY_NAME = (
    "or for a run that is forecast by isoflop predict --run: --schedule NAME, which all without a rate then follow"
)
BY_COLUMN = "by its column"  # the schedule of a run whose rates are those of a column
SAME = 0.01  # of the peak: rates of two runs that are the same schedule
ALIKE = 5  # first rows: runs of one size that have the same losses there are one until they part
AGREES = 1e-6  # relative to the peak: a schedule that gives the column's rates


@dataclass(frozen=True)
class CurveTable:
    """The curves of a table in its order, `notes` on what was assumed, and the runs without a row for a law."""

    runs: tuple[CurveRun, ...]
    notes: tuple[str, ...]
    empty: tuple[str, ...] = ()


def read_curves(table: pd.DataFrame, *, otherwise: Schedule | None = None, params: str = "matrices") -> CurveTable:
    """Every run of a table as a `CurveRun`; rows of the warm-up are left out, forecasts of runs that were stopped, and
    rows without a positive loss or a step, which `notes` count.

    `otherwise` is the schedule of other programs' runs of which the table tells no rate, over their own steps. Raises
    TableError where the table has no curves, or learning rates are neither there nor named.
    """
    notes: list[str] = []
    if is_runs(table):
        table = table[~is_forecast(table)]
    rows = _own(table, params, notes) if is_runs(table) and not table["final"].all() else _foreign(table, notes)
    names = {words(c): c for c in reversed(rows.columns) if isinstance(c, str)}
    if (at := next(iter(step_columns(rows)), None)) is None:
        raise TableError("no column of steps: a law of whole curves needs one (--map step=NAME)")
    rate = next((names[n] for n in RATES if n in names and is_numbers(rows[names[n]])), None)
    horizon = next((names[n] for n in HORIZONS if n in names), None)
    ours = is_runs(table)
    if rate is None and otherwise is None:
        raise TableError(
            f"no column of learning rates: a law of whole curves needs them (a column learning_rate, {BY_NAME})"
        )
    rows = rows if ours or rate is None else _with_rates(rows, table, at, rate)
    read = {*READ, at, rate, horizon}
    rows = _placed(rows[[c for c in rows.columns if c in read]], at, notes)
    rows.attrs = {}  # each part of a frame copies them
    found, empty = [], []
    groups = [(str(name), one.sort_values(at, kind="stable")) for name, one in rows.groupby("run_id", sort=False)]
    peak = (
        1.0 if ours or rate is None else float(rows.groupby("run_id")[rate].max().median())
    )  # of the runs that tell one
    reported = [_reported(one) if ours else None for _, one in groups]
    # A run that cools down already tells the schedule of those that do not yet.
    known = next((s for s in reported if s is not None and s.name == "wsd"), None)
    for (name, one), its in zip(groups, reported, strict=True):
        run = _ours(name, one, its, known, notes) if ours else None
        if run is None:
            run = _other(name, one, at, rate, horizon, otherwise, peak)
        if len(run.loss):
            found.append(run)
        else:
            empty.append(name)
    if not found:
        raise TableError("no run has a row after its warm-up: nothing that a law of whole curves can be fitted to")
    if empty:
        more = ", ..." if len(empty) > NAMED else ""
        notes.append(f"{len(empty)} runs have no row after their warm-up: {', '.join(empty[:NAMED])}{more}")
    found = _branches([_to_come(run, found, notes) for run in found], notes)
    return CurveTable(tuple(found), tuple(dict.fromkeys(notes)), tuple(empty))


def _own(table: pd.DataFrame, params: str, notes: list[str]) -> pd.DataFrame:
    again = table.duplicated(["run_id", "step"])
    if again.any():
        notes.append(f"{again.sum()} rows written twice are left out")
        table = table[~again]
    return table.assign(n_params=count_params(table, params).astype(float))


def _foreign(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    found = curves(table)
    if found is None:
        raise TableError("no training curves: the table has one row per run (curves are several rows of a run)")
    counts = {
        "written twice": found.repeated,
        "without a loss": found.empty,
        "whose loss is no positive number": found.wrong,
    }
    notes += [f"{count} rows {what} are left out" for what, count in counts.items() if count]
    if found.diverged:
        notes.append(f"runs whose last loss is no positive number are left out: {', '.join(found.diverged)}")
    if "tokens" not in found.frame:  # a law of steps and rates reads none
        found = replace(found, frame=found.frame.assign(tokens=np.nan))
    return found.rows().sort_values("run_id", kind="stable")


def _placed(rows: pd.DataFrame, at: str, notes: list[str]) -> pd.DataFrame:
    """The rows with a step and a positive loss, the others counted. Raises TableError for steps that are not whole."""
    step, loss = rows[at].to_numpy(float), rows["loss"].to_numpy(float)
    kept = np.isfinite(step) & np.isfinite(loss) & (loss > 0)
    if not kept.all():
        notes.append(f"{(~kept).sum()} of {len(rows)} rows have no step or no positive loss: they are left out")
    wrong = step[kept & ((step < 0) | (step != np.round(step)))]
    if len(wrong):
        raise TableError(f"column {at!r}: {wrong[0]:g} is no step, a whole number of 0 or more")
    return rows[kept].astype({at: int})


def _reported(one: pd.DataFrame) -> Schedule | None:
    """The schedule that gives the rates at a run's rows, where they tell: a part of it that depends on its end."""
    first = one.iloc[0]
    if first["schedule"] not in SCHEDULES or not first["batch_tokens"] > 0 or not first["peak_learning_rate"] > 0:
        return None
    warmup, horizon = _whole(first["warmup_tokens"], first), _whole(first["horizon_tokens"], first)
    name = str(first["schedule"])
    base = Schedule(name, warmup)
    if name == "constant":
        return base
    if {"cooldown", "decay"}.isdisjoint(one["phase"]):
        return None
    at, rate = one["step"].to_numpy(int) - 1, one["learning_rate"].to_numpy(float) / float(first["peak_learning_rate"])
    for final in FINALS:
        for fraction, shape in (
            ((f, s) for f in FRACTIONS for s in ("1-sqrt", *COOLDOWNS)) if name == "wsd" else [(0.2, "1-sqrt")]
        ):
            tried = replace(base, cooldown_fraction=fraction, cooldown_shape=shape, final_fraction=final)
            if np.abs(_at(tried, at, horizon) - rate).max() < AGREES:
                return tried
    return None


def _at(schedule: Schedule, steps: np.ndarray, horizon: int) -> np.ndarray:
    return np.array([learning_rate(schedule, int(step), horizon)[0] for step in steps])


def _whole(tokens: float, row: pd.Series) -> int:
    return round(float(tokens) / float(row["batch_tokens"]))


def _ours(
    name: str, one: pd.DataFrame, reported: Schedule | None, known: Schedule | None, notes: list[str]
) -> CurveRun | None:
    """A run of ours by the schedule that its rows or the user reported, else by `known`, that of others.

    None where its row says too little, as one that was imported with its shape may.
    """
    first = one.iloc[0]
    if not first["batch_tokens"] > 0 or not first["peak_learning_rate"] > 0:
        return None
    warmup, horizon = _whole(first["warmup_tokens"], first), _whole(first["horizon_tokens"], first)
    if reported is None:
        if first["schedule"] not in SCHEDULES:
            return None
        reported = replace(known or Schedule(), name=str(first["schedule"]), warmup_steps=warmup)
        if known is None:
            notes.append(f"no run cools down yet: the schedule is taken as {reported}")
    reported = replace(reported, warmup_steps=warmup)
    step, loss, final = one["step"].to_numpy(int), one["loss"].to_numpy(float), one["final"].to_numpy(bool)
    after = step > warmup
    return CurveRun(
        name, float(first["n_params"]), step[after] - 1, loss[after],
        reported.rates(horizon, float(first["peak_learning_rate"])), bool(final[after].any()), str(reported),
        str(first["trunk_id"]), final[after], float(first["horizon_tokens"]), str(first["arm"]),
    )  # fmt: skip


def by_name(schedule: Schedule) -> str:
    """The schedule of a run whose rates are those of a name, in words."""
    return f"by name, {schedule}"


def _with_rates(rows: pd.DataFrame, table: pd.DataFrame, at: str, rate: str) -> pd.DataFrame:
    """The rows of curves with rates that rows without a loss report, as the lines of training of most programs do."""
    run = run_column(table, at) if rate in table and rows[rate].isna().any() else None
    if run is None:
        return rows
    known = table[table[rate].notna() & table[at].notna()].drop_duplicates([run, at], keep="last").sort_values(at)
    filled = rows[rate].astype(float).copy()
    for name, one in known.groupby(known[run].astype(str)):
        lacks = (rows["run_id"].astype(str) == name) & filled.isna()
        filled[lacks] = np.interp(rows.loc[lacks, at].astype(float), one[at].astype(float), one[rate].astype(float))
    return rows.assign(**{rate: filled})


def _other(
    name: str,
    one: pd.DataFrame,
    at: str,
    rate: str | None,
    horizon: str | None,
    otherwise: Schedule | None,
    peak: float,
) -> CurveRun:
    """A run of another program: rates by its column, else by a named schedule from the usual peak."""
    step = one[at].to_numpy(int)
    index = step if step.min() == 0 else step - 1
    length = int(index[-1]) + 1
    reported = one[horizon].max() if horizon is not None else np.nan
    length = max(length, int(reported) if np.isfinite(reported) else 0)
    column = np.full(len(one), np.nan) if rate is None else one[rate].to_numpy(float)
    kept = np.isfinite(column) & (column >= 0)
    if not kept.any() or not column[kept].max() > 0:
        if otherwise is None:
            raise TableError(f"run {name}: no learning rate in column {rate!r}; add it, {BY_NAME}")
        rates, words_ = otherwise.rates(length, peak), by_name(otherwise)
        keep = index >= otherwise.warmup_steps
    else:
        rates, words_ = between(index[kept], column[kept], length), BY_COLUMN
        keep = index >= int(np.argmax(rates >= 0.999 * rates[: index[-1] + 1].max()))
    return CurveRun(
        name, float(one["n_params"].iloc[0]), index[keep], one["loss"].to_numpy(float)[keep], rates,
        bool(index[-1] + 1 >= length), words_, name,
        tokens=float(one["tokens"].iloc[-1]) if index[-1] + 1 >= length else float("nan"),
        arm=str(one["arm"].iloc[0]) if "arm" in one else "",
    )  # fmt: skip


def _to_come(run: CurveRun, runs: Sequence[CurveRun], notes: list[str]) -> CurveRun:
    """A run whose column of rates ends before the run does, with those of a finished run that had the same so far."""
    last = int(run.steps[-1]) + 1
    if run.schedule != BY_COLUMN or last >= run.horizon:
        return run
    for other in runs:
        if other.done and other.schedule == BY_COLUMN and other.horizon == run.horizon:
            rates = other.rates * (run.rates[last - 1] / other.rates[last - 1] if other.rates[last - 1] > 0 else 1.0)
            if np.abs(rates[:last] - run.rates[:last]).max() <= SAME * run.rates.max():
                notes.append(f"run {run.run_id}: its rates after step {last:,} are taken to be those of {other.run_id}")
                return replace(run, rates=rates)
    notes.append(
        f"run {run.run_id}: its rate is taken to stay at {run.rates[last - 1]:.3g} after step {last:,}, where the "
        "column ends; --schedule NAME says how it goes on"
    )
    return run


def _branches(runs: list[CurveRun], notes: list[str]) -> list[CurveRun]:
    """Runs of other programs whose rows begin alike to the digit, as branches of a trunk do, under one trunk's name."""
    out: list[CurveRun] = []
    first: dict[tuple[object, ...], str] = {}
    for run in runs:
        if run.ends is None and len(run.loss) >= ALIKE:
            begins = (run.n_params, *run.steps[:ALIKE].tolist(), *run.loss[:ALIKE].tolist())
            run = replace(run, trunk_id=first.setdefault(begins, run.run_id))
        out.append(run)
    branches = [run.run_id for run in out if run.trunk_id != run.run_id and run.ends is None]
    if branches:
        more = ", ..." if len(branches) > NAMED else ""
        notes.append(
            f"{len(branches)} runs begin with the rows of another one: taken as its branches, not as seeds of their "
            f"own: {', '.join(branches[:NAMED])}{more}"
        )
    return out


def between(steps: np.ndarray, rates: np.ndarray, length: int) -> np.ndarray:
    """The rate of every update, (length,), from that of some (n,): as a line between them, or a jump at the later one
    where the rate is constant before and after; the first before the first, the last after the last."""
    out = np.interp(np.arange(length), steps, rates)
    same = np.isclose(rates[1:], rates[:-1], rtol=1e-9)
    for i in np.flatnonzero(~same):
        flat_before = i == 0 or same[i - 1]
        flat_after = i + 1 >= len(same) or same[i + 1]
        if flat_before and flat_after and 0 < i < len(same) - 1:
            out[steps[i] : steps[i + 1]] = rates[i]
    return out


def without_repeats(runs: Sequence[CurveRun]) -> tuple[CurveRun, ...]:
    """The runs, each row of a shared trunk once: in the first run that has it."""
    seen: set[tuple[str, int, float]] = set()
    out = []
    for run in runs:
        keys = [(run.trunk_id or run.run_id, int(s), float(x)) for s, x in zip(run.steps, run.loss, strict=True)]
        new = np.array([key not in seen for key in keys], dtype=bool)
        seen |= set(keys)
        ends = None if run.ends is None else run.ends[new]
        out.append(run if new.all() else replace(run, steps=run.steps[new], loss=run.loss[new], ends=ends))
    return tuple(out)
