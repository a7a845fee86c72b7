"""`isoflop tune TABLE`: the best learning rate, batch and weight decay of a run, and what another setting would lose.

A law of tuning (`scaling.laws.axes.tuning`) is fitted to the runs of a table over rates, with a power of, and a move of
the best rate along, each of size, tokens and batch that the table varies.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from isoflop.arguments import POSITIVE, SHARE, check
from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.axes.tuning import RateBowl
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.tuning.answer import Question, Tuned, TunedArm
from isoflop.scaling.tuning.best import Scale, Setting, best_rate_with, best_setting, loss_at, lost
from isoflop.scaling.tuning.choice import Choice, fit_bowl
from isoflop.scaling.tuning.objections import objections
from isoflop.scaling.tuning.sweep import CLIFF, KEYS, NoOptimumError, Sweep, levels, sweep_of

PARTS = {"learning_rate": "r", "batch_tokens": "T", "weight_decay": "W"}


def tune(
    table: pd.DataFrame,
    at: Mapping[str, float] | None = None,
    *,
    tokens: float | None = None,
    batch: float | None = None,
    setting: Mapping[str, float] | None = None,
    by: str = "arm",
    arm: str | None = None,
    params: str = "matrices",
    compute: str = "exact",
    level: float = 0.9,
) -> Tuned:
    """The best learning rate, batch and weight decay of a run, from a table of runs over rates.

    `at` gives n_params and tokens of the run (`tokens` too): the largest of the table where left out; `batch` its
    tokens a step, the best where left out. `setting` is one whose loss over the best is requested. Runs with other
    values in the column `by` are fitted apart, or those of one `arm` alone.
    Raises NoOptimumError where the table shows no optimum, TableError for a table without rates, ValueError for values
    that mean nothing.

    >>> import isoflop
    >>> found = isoflop.tune(isoflop.example("lr_transfer"), arm="mup")
    >>> lo, hi = found.best.intervals["learning_rate"]
    >>> bool(lo < found.best.optimum.learning_rate < hi)
    True
    """
    check(POSITIVE, tokens=tokens, batch=batch)
    check(SHARE, level=level)
    table = as_frame(table)
    wanted, requested = _wanted(at, tokens, batch), _requested(setting)
    arms, failed = [], {}
    for name, rows in _by_arm(table, by, arm).items():
        try:
            arms.append(_tuned(name, sweep_of(rows, params=params, compute=compute), wanted, requested, level))
        except (NoOptimumError, FitError) as error:
            failed[name] = str(error)
    if not arms:
        raise NoOptimumError("; ".join(f"{name}: {why}" if name else why for name, why in failed.items()))
    return Tuned(tuple(sorted(arms, key=lambda one: one.loss)), failed)


def _wanted(at: Mapping[str, float] | None, tokens: float | None, batch: float | None) -> dict[str, float]:
    """The scale that is requested, by the names of the table's columns."""
    given = dict(at or {})
    for name, value, option in (("tokens", tokens, "--tokens"), ("batch_tokens", batch, "--batch")):
        if value is not None and name in given:
            raise ValueError(f"--at {name}={given[name]:g} and {option} {value:g}: keep one of them")
        given |= {name: value} if value is not None else {}
    return _positive(given, "--at", KEYS[:3])


def _requested(setting: Mapping[str, float] | None) -> dict[str, float]:
    """A setting, by the names of `Setting`."""
    names = {"learning_rate": "learning_rate", "peak_learning_rate": "learning_rate"}
    known = ("peak_learning_rate", *names, "batch_tokens", "weight_decay")
    return {names.get(k, k): v for k, v in _positive(dict(setting or {}), "--setting", known).items()}


def _positive(values: dict[str, float], option: str, known: tuple[str, ...]) -> dict[str, float]:
    for name, value in values.items():
        if name not in known:
            listed = ", ".join(dict.fromkeys(known))
            raise ValueError(f"{option} {name}={value:g}: not one of {listed}{hint(name, known)}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{option} {name}={value:g}: it must be positive and finite")
    return values


def _by_arm(table: pd.DataFrame, by: str, arm: str | None) -> dict[str, pd.DataFrame]:
    """The rows of each arm, or of the one that is named."""
    source = str(table.attrs.get("source", "table"))
    if by not in table:
        if by == "arm" and arm is None:
            return {"": table}
        raise ValueError(f"--by {by}: {source} has no such column{hint(by, map(str, table.columns))}")
    found = {}
    for value, rows in table.groupby(by, dropna=False, sort=False):
        name = "" if pd.isna(value) else str(value)
        found[name] = rows.reset_index(drop=True)
        found[name].attrs = table.attrs
    if arm is not None and arm not in found:
        raise ValueError(f"--arm {arm}: column {by} of {source} has {', '.join(map(repr, found))}{hint(arm, found)}")
    return found if arm is None else {arm: found[arm]}


def _tuned(
    name: str,
    sweep: Sweep,
    wanted: Mapping[str, float],
    requested: Mapping[str, float],
    level: float,
) -> TunedArm:
    whole = sweep
    sweep, choice, fitted = fit_bowl(whole)
    near = sweep is not whole
    law = fitted.law
    assert isinstance(law, RateBowl)
    at, notes = _scale(sweep, wanted, choice, law)
    if "s" in law.parameters():
        notes.append(
            "the loss rises faster above the best rate than below it: a skewed bowl"
            + (f", of runs whose rate is within a factor {math.exp(CLIFF):.2g} of the lowest loss of their cell" * near)
        )
    optimum = best_setting(law, at)
    read = [part for part, k in PARTS.items() if k in law.inputs]
    read = [part for part in read if part != "batch_tokens" or math.isnan(at.batch_tokens)]
    draws = jackknife(fitted)
    spans = {part: draws.interval(_part(part, at), level) for part in read}
    inside = {part: (_at_end(law, at, part, lo), _at_end(law, at, part, hi)) for part, (lo, hi) in spans.items()}
    if "W" not in law.inputs:
        optimum = replace(optimum, weight_decay=_only(sweep, "weight_decay"))
    question = None
    if requested:
        given = _given(law, optimum, requested)
        lo, hi = draws.interval(_lost(at, given), level, positive=False)
        question = Question(given, lost(law, at, given), (max(lo, 0.0), max(hi, 0.0)))
    found = TunedArm(
        arm=name, at=at, sweep=sweep, fit=fitted, level=level, optimum=optimum, intervals=spans, inside=inside,
        loss=loss_at(law, at, optimum), requested=question, cells=_distances(sweep, law, choice), findings=(),
        notes=(*sweep.notes, *notes),
    )  # fmt: skip
    return replace(found, findings=tuple(objections(found, choice, wanted)))


def _part(part: str, at: Scale) -> Callable[[Any], float]:
    return lambda law: getattr(best_setting(law, at), part)


def _lost(at: Scale, given: Setting) -> Callable[[Any], float]:
    return lambda law: lost(law, at, given)


def _only(sweep: Sweep, column: str) -> float:
    """The value of a column that is the same in every run; NaN where there is none."""
    values = sweep.values(column)
    return float(values[0]) if len(values) == 1 else math.nan


def _scale(sweep: Sweep, wanted: Mapping[str, float], choice: Choice, law: RateBowl) -> tuple[Scale, list[str]]:
    """The scale that is requested; what it leaves out is the largest of the table, and its batch the best if any."""
    notes = []
    made = {}
    for column in ("n_params", "tokens"):
        values = sweep.values(column)
        made[column] = wanted.get(column, float(values[-1]) if len(values) else math.nan)
        if column not in wanted and len(values) > 1:
            notes.append(
                f"{column} is that of the largest run, {made[column]:.4g}; --at {column}=VALUE asks for another"
            )
    batch = wanted.get("batch_tokens", _only(sweep, "batch_tokens"))
    at = Scale(made["n_params"], made["tokens"], batch)
    if "T" in law.inputs and math.isnan(batch):
        nearest, why = unreported_batch(sweep, law, choice, at)
        if why:
            notes.append(f"{why}: the best rate is at {nearest:.4g} tokens a batch, --batch asks for another")
            at = replace(at, batch_tokens=nearest)
    return at, notes


def unreported_batch(sweep: Sweep, law: RateBowl, choice: Choice, at: Scale) -> tuple[float, str]:
    """The batch tried that is best at a scale and why the table tells no best batch; NaN and "" where it tells one."""
    tried = sweep.values("batch_tokens")
    losses = [loss_at(law, one, best_setting(law, one)) for one in (replace(at, batch_tokens=float(t)) for t in tried)]
    best = float(tried[losses.index(min(losses))])
    if not choice.several_batches:
        return best, f"{len(tried)} batches ({', '.join(f'{t:.4g}' for t in tried)}) tell no best one"
    rows = sweep.rows
    tokens = rows["tokens"] if "D" in law.inputs else pd.Series(1.0, index=rows.index)
    for _, run in rows.groupby(levels(tokens.to_numpy(float))):
        held = float(law.best_batch(float(run["tokens"].mean()) if "D" in law.inputs else math.nan))
        if run["batch_tokens"].min() <= held <= run["batch_tokens"].max():
            return math.nan, ""
    end = "largest" if best == tried[-1] else "smallest"
    return best, f"the loss falls to the {end} batch tried and the best one lies beyond it"


def _at_end(law: RateBowl, at: Scale, part: str, end: float) -> float:
    """Loss given away where one part of the setting is at `end` and the others are their best with it, nats/token."""
    best = best_setting(law, at)
    if part == "batch_tokens":
        return loss_at(law, at, best_setting(law, replace(at, batch_tokens=end))) - loss_at(law, at, best)
    if part == "weight_decay":
        return lost(law, at, replace(best, weight_decay=end))
    moved = replace(best, learning_rate=end)
    decay = float(law.best_decay(end, at.tokens, best.batch_tokens)) if "W" in law.inputs else math.nan
    return lost(law, at, replace(moved, weight_decay=decay))


def _given(law: RateBowl, optimum: Setting, requested: Mapping[str, float]) -> Setting:
    """The setting that is asked about: what it leaves out is as in the optimum.

    Raises ValueError for a part that the table does not vary, so that nothing is known of it.
    """
    for part in requested:
        if PARTS[part] not in law.inputs:
            raise ValueError(
                f"--setting {part}={requested[part]:g}: the table does not vary it: nothing tells its loss"
            )
    return replace(optimum, **requested)


def _distances(sweep: Sweep, law: RateBowl, choice: Choice) -> pd.DataFrame:
    """The cells with the best rate of each, and what its lowest measured rate loses against the best setting there."""
    best, off = [], []
    for cell in sweep.cells.to_dict("records"):
        whole = Scale(*(cell[key] for key in KEYS[:3]))
        setting = Setting(cell["lowest_rate"], cell["batch_tokens"], cell["weight_decay"])
        best.append(best_rate_with(law, whole, setting))
        free = replace(whole, batch_tokens=math.nan) if choice.several_batches and "T" in law.inputs else whole
        if "T" in law.inputs and math.isnan(free.batch_tokens):
            free = replace(free, batch_tokens=unreported_batch(sweep, law, choice, free)[0])
        off.append(loss_at(law, whole, setting) - loss_at(law, free, best_setting(law, free)))
    return sweep.cells.assign(best_rate=best, off_frontier=off)
