"""The rows of a run that count: with a loss in nats, counted in steps from 1, with tokens; and why others do not."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError
from isoflop.scaling.table.curves import RUN_NAMES, not_positive, unlike_steps
from isoflop.scaling.table.ended.unfinished import SHORT
from isoflop.scaling.table.meaning import words

COUNTED_FROM_ZERO = "its steps are counted from 0: one was added"
EVEN = 50  # a single step that is one short of a multiple of this is counted from 0
SAME_LOSS = 1e-6  # relative: losses of rows written twice
UNEVEN = 0.01  # relative: how far tokens and samples of steps of one size lie from even, beyond those of one step
FEWEST_BETWEEN = 5  # steps between evaluations from which the count shows


@dataclass(frozen=True)
class ImportOptions:
    """What the user states because the source does not. Numbers are by run; the key "" stands for every run."""

    n_params: Mapping[str, float] = field(default_factory=dict)
    batch_tokens: Mapping[str, float] = field(default_factory=dict)
    params: str = "matrices"  # of several parameter counts in a source
    bytes_per_token: float | None = None  # turns bits per byte into nats per token
    arm: str = ""
    keep_unfinished: bool = False
    tokens: Mapping[str, float] = field(default_factory=dict)  # at the end of a run


def clean(run: ForeignRun, options: ImportOptions) -> tuple[ForeignRun | None, list[LeftOut]]:
    """The run with its usable rows, in nats (None without any, or short of its horizon), and what is left out.

    Raises SourceError for an option that what the run reports contradicts.
    """
    out: list[LeftOut] = []
    frame = run.curve
    diverged = _diverged(frame)
    if not _is_clean(frame):
        frame = _cleaned(frame, run.name, out)
    frame, unit = _in_nats(frame, run, options)
    if from_zero(run.curve.loc[run.curve["loss"].notna()], run.horizon_steps):
        frame = frame.assign(step=frame["step"] + 1)
        out.append(LeftOut(run.name, 0, COUNTED_FROM_ZERO))
    end = int(frame["step"].max()) if len(frame) else 0
    reason = ""
    if frame.empty:
        reason = "no evaluation with a loss"
    elif diverged:
        reason = "its last loss is not a positive number: it diverged"
    elif run.horizon_steps and end < SHORT * run.horizon_steps and not options.keep_unfinished:
        reason = (
            f"its last evaluation is at step {end} of {run.horizon_steps}, below {SHORT:.0%} of its schedule; "
            "`isoflop import --keep-unfinished` keeps it"
        )
    if reason:
        return None, [*out, LeftOut(run.name, len(frame), reason, whole=True)]
    frame, notes = _rising(frame, run, options)
    if run.horizon_steps and end < run.horizon_steps:
        notes.append(f"{run.name}: its last evaluation, at step {end} of {run.horizon_steps}, is taken as its end")
    return replace(run, curve=_tokens(frame, run, options), loss_unit=unit, notes=[*run.notes, *notes]), out


def _rising(frame: pd.DataFrame, run: ForeignRun, options: ImportOptions) -> tuple[pd.DataFrame, list[str]]:
    """The curve without tokens and seconds that fall, or are the same, along its steps; and what is said of them.

    Raises SourceError for tokens unless those of a step are given.
    """
    found = {name: unlike_steps(frame[name], frame["step"]) for name in ("tokens", "wall_seconds")
             if name in frame and run.reported_steps}  # fmt: skip
    found = {name: f"{run.name}: {wrong}" for name, wrong in found.items() if wrong}
    if "tokens" in found and run.name not in options.batch_tokens:
        raise SourceError(
            f"{found['tokens']}; count them by steps with --batch-tokens {shlex.quote(run.name)}=VALUE, correct the "
            "column, or name another with --map tokens=COLUMN"
        )
    done = {"tokens": "its tokens are steps times --batch-tokens", "wall_seconds": "its seconds are left out"}
    return frame.drop(columns=list(found)), [f"{wrong}; {done[name]}" for name, wrong in found.items()]


def _diverged(frame: pd.DataFrame) -> bool:
    """Whether the last loss of several is infinite, 0 or negative."""
    measured = frame[frame["loss"].notna() & np.isfinite(frame["step"])]
    return len(measured) > 1 and bool(not_positive(measured.sort_values("step", kind="stable")["loss"])[-1])


def _is_clean(frame: pd.DataFrame) -> bool:
    """Whether every row counts, and they are in order."""
    loss, step = frame["loss"].to_numpy(float), frame["step"].to_numpy(float)
    if not (
        np.isfinite(loss).all()
        and np.isfinite(step).all()
        and (loss > 0).all()
        and (step > 0).all()
        and (np.diff(step) > 0).all()
    ):
        return False
    return bool(len(frame)) and frame.index.equals(pd.RangeIndex(len(frame)))


def _cleaned(frame: pd.DataFrame, name: str, out: list[LeftOut]) -> pd.DataFrame:
    """The rows that count, in order; adds to `out` those that do not, by reason."""

    def drop(frame: pd.DataFrame, wrong: np.ndarray, reason: str) -> pd.DataFrame:
        if wrong.any():
            out.append(LeftOut(name, int(wrong.sum()), reason))
        return frame[~wrong]

    frame = drop(frame, frame["loss"].isna().to_numpy(), "no validation loss")
    frame = drop(frame, not_positive(frame["loss"]), "the loss is not a positive number")
    frame = drop(frame, ~np.isfinite(frame["step"]).to_numpy(), "no step")
    frame = drop(frame, frame["step"].duplicated(keep="last").to_numpy(), "reported again later, after a restart")
    frame = drop(frame, (frame["step"] <= 0).to_numpy(), "before the first step")
    return frame.sort_values("step", ignore_index=True)


def _in_nats(frame: pd.DataFrame, run: ForeignRun, options: ImportOptions) -> tuple[pd.DataFrame, str]:
    """The loss in nats, and its unit: bits per byte become nats per token with bytes per token, else nats per byte."""
    if run.loss_unit not in ("bits/byte", "nats/byte"):
        return frame, run.loss_unit
    per = options.bytes_per_token
    nats = np.log(2) if run.loss_unit == "bits/byte" else 1.0
    return frame.assign(loss=frame["loss"] * nats * (per or 1.0)), "nats/token" if per else "nats/byte"


def _tokens(frame: pd.DataFrame, run: ForeignRun, options: ImportOptions) -> pd.DataFrame:
    """The curve with its tokens: as reported, else from those of a step where nothing reported contradicts these, else
    as its share of those that a run ends with."""
    reported = frame["tokens"] if "tokens" in frame else pd.Series(np.nan, index=frame.index)
    if reported.notna().all():
        return frame
    batch = options.batch_tokens.get(run.name, run.batch_tokens)
    if batch and run.reported_steps:
        if _of_one_batch(frame, batch):
            return frame.assign(tokens=reported.fillna(frame["step"] * batch))
        if batch != run.batch_tokens:
            raise SourceError(
                f"--batch-tokens {batch:g}: the steps of {run.name} are of several batches by the samples or tokens "
                f"that it reports; give --tokens {run.name}=VALUE for those at its end"
            )
    end = options.tokens.get(run.name)
    known = [frame[name] for name in ("samples", "epoch", "step") if name in frame and frame[name].notna().all()]
    progress = next(column for column in known if not unlike_steps(column, frame["step"]))
    last = progress.iloc[-1]
    return frame.assign(tokens=reported.fillna(end * progress / last) if end and last > 0 else reported)


def _of_one_batch(frame: pd.DataFrame, batch: float) -> bool:
    """Whether what a run reports of its tokens and samples is that of steps of one size, of `batch` tokens."""
    samples = frame["samples"].iloc[-1] / frame["step"].iloc[-1] if "samples" in frame else np.nan
    each = {name: size for name, size in (("tokens", batch), ("samples", samples)) if name in frame}
    return not any(
        ((frame[name] - frame["step"] * size).abs() > size + UNEVEN * frame[name]).any() for name, size in each.items()
    )


def from_zero(curve: pd.DataFrame, horizon: int | None) -> bool:
    """Whether steps are counted from 0: 999 is the last of 1000.

    Tokens decide where they are reported; else steps that are one short of even ones (99, 199, 999), or of the horizon.
    """
    steps = np.unique(curve["step"].dropna().to_numpy())
    if not len(steps) or (steps % 1).any():
        return False
    if "tokens" in curve and curve["tokens"].notna().any():
        rows = curve[curve["tokens"].notna() & (curve["step"] > 0)]
        if len(rows) > 1:
            return bool(np.ptp(rows["tokens"] / (rows["step"] + 1)) < 1e-9 * np.ptp(rows["tokens"] / rows["step"]))
    last = int(steps[-1])
    if horizon is not None:
        return last + 1 == horizon
    if len(steps) == 1:
        return (last + 1) % EVEN == 0
    between = [int(step) for step in steps]
    if between[0] == 0:  # every so many steps, and the last
        gap = between[1]
        return gap > 1 and all(step % gap == 0 for step in between[:-1]) and (last + 1) % gap == 0
    return math.gcd(*(step + 1 for step in between)) >= FEWEST_BETWEEN and math.gcd(*between) < FEWEST_BETWEEN


def check_places(frame: pd.DataFrame, curve: pd.DataFrame, source: str) -> None:
    """Raise SourceError where neighbouring rows have one step and different losses, as no restart writes them."""
    rows = curve[np.isfinite(curve["loss"])]
    steps, losses = rows["step"].to_numpy(), rows["loss"].to_numpy()
    clash = (np.diff(steps) == 0) & (np.abs(np.diff(losses)) > SAME_LOSS * np.abs(losses[:-1]))
    if clash.sum() <= len(rows) / 10:
        return
    k = int(np.argmax(clash))
    raise _no_restart(frame.iloc[rows.index[k : k + 2]], steps[k], losses[k : k + 2], int(clash.sum()), source)


def refuse_texts(frame: pd.DataFrame, labels: pd.Series, step: str | None, source: str) -> None:
    """Raise SourceError where rows of one size and seed under one name of a run lie several at most of its steps."""
    if step is None or words(str(labels.name)) not in RUN_NAMES:
        return
    rows = frame[frame["loss"].notna()]
    names = labels[rows.index]
    places = rows.groupby([names, *(c for c in ("n_params", "seed") if c in frame), step], sort=False)
    several = rows[places["loss"].transform("nunique") > 1]
    if 2 * len(several) <= len(rows) or several[step].groupby(names).nunique().max() < 2:
        return
    place = places.ngroup()[several.index]
    pair = several[place == place.iloc[0]].iloc[:2]
    raise _no_restart(pair, pair[step].iloc[0], pair["loss"].to_numpy(), place.nunique(), source)


def _no_restart(pair: pd.DataFrame, step: float, losses: np.ndarray, count: int, source: str) -> SourceError:
    """The error for two rows of a run that have one step and two losses, as `count` steps have."""
    texts = [c for c in pair if not pd.api.types.is_numeric_dtype(pair[c])]
    differ = [str(c) for c in texts if pair[c].nunique(dropna=False) > 1][:4]
    by = f" (by column {' or '.join(differ)}?)" if differ else ""
    return SourceError(
        f"{source}: step {step:g} has the losses {losses[0]:g} and {losses[1]:g}, one of {count} such steps: "
        f"several runs or metrics{by}, no restart; keep one, or name the runs with --map run_id=COLUMN"
    )
