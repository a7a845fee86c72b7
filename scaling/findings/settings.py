"""Runs that are not alike: what every answer says of a table before any law is fitted to it.

Rows given twice, columns that one answer has one value of, and settings: columns that are neither what a law reads nor
what a run brings out, nor its seed.
"""

import shlex
from collections.abc import Collection, Iterator, Sequence
from typing import cast

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Case, Check, Finding, Severity, rows_of
from isoflop.scaling.laws import columns_read, law_names
from isoflop.scaling.laws.inputs import STANDARD, Column
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.mixtures.means import SHARES
from isoflop.scaling.laws.special_functions import fdtrc
from isoflop.scaling.table.columns import row_names
from isoflop.scaling.table.conventions import FORECAST_ERROR, Points
from isoflop.scaling.table.formats.run_columns import NAMES, with_roles
from isoflop.scaling.table.law_inputs import components
from isoflop.scaling.table.meaning import NATS_PER_TOKEN, VAGUE
from isoflop.scaling.table.runs import is_runs
from isoflop.scaling.table.where import keeping

POOLED = 0.005  # level of pooled_settings, shared by the columns of a table
MIXTURES = "pooled_mixtures"  # the code of its Finding
SUM = 1e-3  # that the shares of a mixture may miss 1 by
MOST_VALUES = 12  # of a setting that are tested one by one; more are put into as many groups
WITHIN = 0.1  # least share of the spread of many numbers within cells, where they are a setting: outcomes follow size
CELL = ("n_params", "tokens", "unique_tokens")
EXACT = 1e-9  # standard deviation within cells below which losses differ by rounding alone
OUTCOMES = frozenset((*with_roles("outcome"), "flops_6nd", "weight", "loss_unit", FORECAST_ERROR))
LAST_RATE = "learning_rate"  # of a run table: that of its last step, which its schedule decides
PROGRESS = frozenset((  # how far a run is, which at equal tokens tells its batch
    "step", "_step", "steps", "iter", "iters", "iteration", "iterations", "global_step", "samples", "sequences",
))  # fmt: skip
SHAPE = ("d_model", "n_layer")  # of which --best-of takes the lowest run at each value
TUNED = frozenset(  # settings by their names, also where every run has its own value
    name for setting in with_roles("setting") for name in (setting, *VAGUE.get(setting, ()))
)
IDENTITIES = frozenset((*with_roles("identity"), "cluster", "device", "corpus_id", "name", "id"))
NAMES_OF_RUNS = ("run_id", "trunk_id", "cluster")


def settings(case: Case) -> pd.DataFrame:
    """The settings of the rows fitted, aligned with them; no column where the table is not known."""
    return _settings(case.rows, case.frame)


def _settings(rows: pd.DataFrame | None, frame: pd.DataFrame) -> pd.DataFrame:
    if rows is None:
        return pd.DataFrame(index=frame.index)
    shares = components(map(str, rows.columns), SHARES)  # of which `_mixtures` speaks
    own = [str(c) for c in rows.columns if not (c == LAST_RATE and is_runs(rows)) and c not in shares]
    return rows[[name for name in own if _is_setting(name, rows[name])]]


def _is_setting(name: str, values: pd.Series) -> bool:
    lowered = name.lower()
    if (
        lowered in OUTCOMES | IDENTITIES | {column.name for column in STANDARD.values()}
        or "seed" in lowered
        or lowered in ("replicate", "rep")
    ):
        return False
    distinct = values.nunique(dropna=False)
    return distinct > 1 and (lowered in TUNED or distinct <= max(len(values) // 2, 2))


def replicate_keys(case: Case) -> pd.DataFrame:
    """What must be equal for two rows to be replicates: the inputs of the law, and every setting."""
    inputs = _inputs(case)
    extra = settings(case)
    return pd.concat([case.frame[inputs], extra[[c for c in extra if c not in inputs]]], axis=1)


def _inputs(case: Case) -> list[str]:
    """The columns that the law reads, of a vector its components."""
    names = [str(name) for name in case.frame.columns]
    return [name for read in case.fit.law.reads().values() for name in components(names, read)]


def pooled(case: Case) -> Iterator[Finding]:
    """Settings that vary among runs of one size and tokens and explain how their losses differ.

    An F test within cells of equal size, tokens and inputs of the law, the column's values as levels; level POOLED over
    all columns. Seeds are no setting. Power .99 where two settings lie two standard deviations apart in 10 cells.
    """
    inputs = _inputs(case)
    cell = [*(name for name in CELL[:2] if name not in inputs), *inputs]
    yield from _pooled(case.fit.residuals, settings(case), case.frame, cell)


def unread(case: Case) -> Iterator[Finding]:
    """Sizes or tokens that explain losses under a law that reads the other alone, tested as a setting is."""
    inputs = _inputs(case)
    for name, other in (CELL[:2], CELL[1::-1]):
        if name in inputs or other not in inputs or case.frame.groupby(inputs, dropna=False)[name].nunique().max() < 2:
            continue
        tested = _within_cells(case.fit.residuals, case.frame[name], _cells(case.frame, inputs))
        if tested is None or tested[0] >= POOLED:
            continue
        readers = [law for law in law_names() if {*inputs, name} == {c.name for c in columns_read([law])}]
        yield Finding(
            "unread_input", "warn",
            f"{tested[1]} values of {name} stand in one law, which reads {' and '.join(inputs)} alone: within cells of "
            f"these they explain {tested[2]:.0%} of the scatter (p = {tested[0]:.2g})",
            f"fit one value ({keeping(_commonest(case, name))})"
            + (f", or a law that reads it (--law {readers[0]})" if readers else ""), (name,),
        )  # fmt: skip


def _commonest(case: Case, name: str) -> dict[str, object]:
    """The commonest value of sizes or tokens, by the column that a run table has them in."""
    if case.rows is None or not is_runs(case.rows):
        return {name: case.frame[name].mode()[0]}
    name = {"n_params": "n_params_total", "tokens": "horizon_tokens"}[name]
    return {name: case.rows[name].mode()[0]}


def setting_findings(table: "pd.DataFrame | Points", data: Points, read: Sequence[Column] = ()) -> tuple[Finding, ...]:
    """What `pooled` says of a table whose points, in the order of its rows, are `data`, before any law is fitted.

    A law says the same of every run of a cell of equal sizes, tokens, unique tokens and other columns that it `read`s,
    so that the scatter within cells needs none.
    """
    if isinstance(table, Points):
        return ()
    names = [str(name) for name in data.frame]
    inputs = dict.fromkeys((*CELL, *(name for column in read for name in components(names, column))))
    log_loss = np.log(data.frame["loss"].to_numpy(float))
    rows = rows_of(table, data.frame)
    of_settings = _pooled(log_loss, _settings(rows, data.frame), data.frame, [c for c in inputs if c in names])
    return (*_mixtures(rows, read), *of_settings)


def mixed(case: Case) -> Iterator[Finding]:
    """Runs on several mixtures of data under a law that reads no shares of them."""
    yield from _mixtures(case.rows, tuple(case.fit.law.reads().values()))


def _mixtures(rows: pd.DataFrame | None, read: Sequence[Column]) -> Iterator[Finding]:
    if rows is None or SHARES.name in {column.name for column in read}:
        return
    names = components(map(str, rows.columns), SHARES)
    shares = rows[names].apply(pd.to_numeric, errors="coerce").dropna()
    if len(names) < 2 or shares.empty or (shares.sum(axis=1) - 1).abs().max() > SUM:
        return
    mixtures = shares.value_counts(sort=True)
    if (count := len(mixtures)) > 1:
        one = keeping(dict(zip(names, mixtures.index[0], strict=True)))
        yield Finding(
            MIXTURES, "warn",
            f"runs on {count} mixtures of data ({', '.join(names)}) stand in one law that reads none of their shares",
            f"fit one mixture ({one}), or ask isoflop mix for the best one", tuple(names),
        )  # fmt: skip


def _pooled(r: Array, table: pd.DataFrame, frame: pd.DataFrame, inputs: list[str]) -> Iterator[Finding]:
    cell = _cells(frame, inputs)
    if np.bincount(cell).max() < 2:
        return
    table = table.drop(columns=inputs, errors="ignore")
    tested = {str(c): _within_cells(r, table[c], cell) for c in table}
    varied = {name: result for name, result in tested.items() if result is not None}
    batch = next((name for name in varied if "batch" in name.lower()), None)
    reported: dict[str, tuple[float, int, float]] = {}
    for name, (p, values, explained) in varied.items():
        if name.lower() in PROGRESS and batch:  # steps see a batch whose effect changes sign with tokens
            name, values = batch, varied[batch][1]
        if p * len(varied) < POOLED and p < reported.get(name, (1.0,))[0]:
            reported[name] = (p, values, explained)
    *first, last = "size", "tokens", *(column for column in inputs if column not in CELL[:2])
    equal = f"{', '.join(first)} and {last}"
    for name, (p, values, explained) in reported.items():
        best = "" if name in SHAPE else f", the best of each cell (--best-of {shlex.quote(name)})"
        yield Finding(
            "pooled_settings", "warn",
            f"{values} values of {name} stand in one law: within cells of equal {equal} they explain {explained:.0%} "
            f"of the scatter (p = {p:.2g})",
            f"fit one value ({keeping({name: table[name].mode()[0]})}){best}, or compare them "
            f"(isoflop multiplier --by {shlex.quote(name)})", (name,),
        )  # fmt: skip


def _cells(frame: pd.DataFrame, inputs: list[str]) -> Array:
    """The number (n,) of the cell of each row: of equal values in these columns."""
    return frame.groupby(inputs, dropna=False).ngroup().to_numpy()


def _within_cells(r: Array, column: pd.Series, cell: Array) -> tuple[float, int, float] | None:
    """p of the values' effect within cells, their number, the share of the scatter explained; None: not testable."""
    level = pd.factorize(column.astype(str))[0]
    values = int(level.max()) + 1
    if values > MOST_VALUES:
        level = _grouped(column, level, cell)
    if not level.any():
        return None
    both = _centred(np.column_stack([r, np.eye(level.max() + 1)[level]]), cell)
    y, x = both[:, 0], both[:, 1:]
    rank = int(np.linalg.matrix_rank(x)) if np.abs(x).max() > 1e-9 else 0
    freedom = len(y) - len(np.unique(cell)) - rank
    if not rank or freedom < 2:
        return None
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    total, rest = float(y @ y), float(left @ left)
    if total < len(y) * EXACT**2:
        return None
    f = (total - rest) / rank / max(rest / freedom, 1e-300)
    return float(fdtrc(rank, freedom, f)), values, 1 - rest / max(total, 1e-300)


def _centred(values: Array, cell: Array) -> Array:
    """Values (n, k) less their means in each cell."""
    sums = np.zeros((cell.max() + 1, values.shape[1]))
    np.add.at(sums, cell, values)
    return values - (sums / np.bincount(cell)[:, None])[cell]


def _grouped(column: pd.Series, level: Array, cell: Array) -> Array:
    """Many values in MOST_VALUES groups (n,): numbers with their neighbours, of others the rarest in one.

    One group where numbers hardly move within cells: what a run brought out, such as a score, follows its size.
    """
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.isna().any():
        order = np.argsort(-np.bincount(level), kind="stable")
        return np.minimum(np.argsort(order, kind="stable")[level], MOST_VALUES - 1)
    rank = numbers.rank().to_numpy(float)[:, None]
    if (_centred(rank, cell) ** 2).sum() < WITHIN * ((rank - rank.mean()) ** 2).sum():
        return np.zeros(len(level), dtype=int)
    return pd.factorize(pd.cut(rank[:, 0], MOST_VALUES))[0]


def table_findings(table: "pd.DataFrame | Points", data: Points, read: Sequence[Column] = ()) -> tuple[Finding, ...]:
    """Everything that is said of a table whose points, in the order of its rows, are `data`, before any law is fitted.

    Rows given twice, runs that are not alike but for what laws `read`, and what `setting_findings` says.
    """
    rows = None if isinstance(table, Points) else rows_of(table, data.frame)
    names = {column.name for column in read} if read else {"unique_tokens"} & set(data.frame)  # candidates read them
    unlike = unlike_runs(rows, unit=data.loss_unit, may_vary=names)
    return (*given_twice(data.frame), *unlike, *setting_findings(table, data, read))


def given_twice(frame: pd.DataFrame) -> Iterator[Finding]:
    """Rows that repeat another in every quantity, input and seed: they count as runs of their own."""
    names = [str(c) for c in frame if c not in NAMES_OF_RUNS and frame[c].notna().all()]
    twice = frame.duplicated(names, keep=False).to_numpy() & (len(names) > 1)
    if twice.any():
        yield Finding(
            "duplicate_rows", "warn", f"{twice.sum()} rows repeat another row exactly ({row_names(frame, twice)})",
            "remove the copies: they count as independent runs",
        )  # fmt: skip


def unlike_runs(
    rows: pd.DataFrame | None,
    *,
    unit: str = NATS_PER_TOKEN,
    may_vary: Collection[str] = (),
    cell: Array | None = None,
) -> Iterator[Finding]:
    """Runs that one answer is drawn from and that differ in a ruler or an experiment (`run_columns`).

    `rows` has a row for each run, or is None where they are not known; `unit` is that of the losses. An answer reads,
    or keeps apart, the columns that `may_vary`. With `cell`, a number (n,) for each row, settings must not vary among
    the runs of one.
    """
    if rows is None:
        return
    may_vary = {*may_vary, "corpus_id"} if "unique_tokens" in may_vary else {*may_vary}
    free = _of_tokenizers(rows, unit)
    one = "keep one at a time"
    ruler, experiment = set(with_roles("ruler")) - {*free}, {*with_roles("experiment"), *free}
    setting = {*with_roles("setting")} if cell is not None else set()
    for names, each, code, severity, why, remedy in (
        (ruler, None, "mixed_conventions", "fail", "the losses are not one quantity", one),
        (experiment, None, "mixed_experiment", "warn", "several experiments are pooled", one),
        (setting, cell, "pooled_settings", "warn", "runs of one scale differ in settings", one),
    ):
        varied = [c for c in NAMES if c in names and c in rows and c not in may_vary and _varies(rows[c], each)]
        if varied:
            values = "; ".join(f"{name}: {', '.join(map(str, rows[name].unique()[:4]))}" for name in varied)
            kept = keeping({varied[0]: rows[varied[0]].iloc[0]})
            yield Finding(
                code, cast(Severity, severity), f"{why} ({values})", f"{remedy}, for example {kept}", tuple(varied)
            )


def _varies(values: pd.Series, cell: Array | None) -> bool:
    """Whether a column has several values, all in all or among the rows of one cell."""
    return bool((values.nunique() if cell is None else values.groupby(cell).nunique().max()) > 1)


def _of_tokenizers(rows: pd.DataFrame, unit: str) -> tuple[str, ...]:
    """Columns that tell one tokenizer from another, which losses in a unit of the text, as nats/byte, may differ in.

    The hash of the held-out windows is one of them where each tokenizer has one.
    """
    if unit == NATS_PER_TOKEN or not {"tokenizer_id", "eval_id"} <= set(rows.columns):
        return ()
    one = rows.groupby("tokenizer_id")["eval_id"].nunique().max() <= 1
    return ("tokenizer_id", "vocab_size", "eval_id") if one else ("tokenizer_id", "vocab_size")


def alike(case: Case) -> Iterator[Finding]:
    """What `unlike_runs` says of the runs of a fit."""
    read = {column.name for column in case.fit.law.reads().values()}
    yield from unlike_runs(case.rows, unit=case.points.loss_unit, may_vary=read)


SETTING_CHECKS: tuple[Check, ...] = (pooled, unread, mixed, alike)
