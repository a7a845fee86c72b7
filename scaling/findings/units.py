"""Magnitudes that say that a column of a plain table is in another unit than its name says."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Case, Finding
from isoflop.scaling.table.columns import MOST
from isoflop.scaling.table.conventions import AS_GIVEN, Points

LEAST = 1e3  # parameters and tokens: fewer are written in thousands, millions or billions
MOST_NATS = 12.0  # per token: ln of 160,000, above the uniform guess of common vocabularies
MOST_EPOCHS = 1e5
COUNT_REMEDY = "write the unit into the name of the column, as in 'unique_tokens (B)' or 'steps_to_target (k)'"
_COUNTS = ("n_params", "tokens", "batch_tokens", "steps_to_target", "unique_tokens", "n_params_total")
REMEDY = "write the unit into the name of the column, as in 'params (M)', 'tokens (B)' or 'gflops', or convert it"


def units(case: Case) -> Iterator[Finding]:
    """Magnitudes that no parameters, tokens, FLOPs or losses have."""
    yield from unit_findings(case.points)


def unit_findings(points: Points) -> tuple[Finding, ...]:
    """Objections to the magnitudes of a plain table; none for a run table, whose counts are the program's own.

    Under LEAST or over MOST parameters or tokens, compute that is off 6 N D by a power of ten, losses that may be
    perplexities, and what `count_findings` says.
    """
    if points.params != AS_GIVEN:
        return ()
    found = [_size(points, name, what) for name, what in (("n_params", "parameters"), ("tokens", "tokens"))]
    found += [_compute(points), _loss(points), *count_findings(points.frame)]
    return tuple(f for f in found if f is not None)


def count_findings(frame: pd.DataFrame) -> Iterator[Finding]:
    """Counts that cannot be single tokens, steps or parameters: a batch or a number of steps below one, a text read
    MOST_EPOCHS times, fewer parameters in all than a token meets."""
    known = {name: pd.to_numeric(frame[name], errors="coerce").to_numpy(float) for name in _COUNTS if name in frame}
    for name, least, why in (
        ("batch_tokens", 1.0, "a batch has at least one"),
        ("steps_to_target", 1.0, "a run takes at least one"),
        (
            "unique_tokens",
            known.get("tokens", np.nan) / MOST_EPOCHS,
            "the tokens of these runs repeat it 100,000 times and more",
        ),
        ("n_params_total", known.get("n_params", np.nan) * (1 - 1e-6), "fewer than n_params, those that a token meets"),
    ):
        out = known[name] < least if name in known else np.zeros(1, dtype=bool)
        if out.any():
            values = known[name][out]
            yield Finding(
                "units", "fail",
                f"{name} is {values.min():.3g} to {values.max():.3g} in {out.sum()} of {len(out)} rows: {why}",
                COUNT_REMEDY, (name,),
            )  # fmt: skip


def _size(points: Points, name: str, what: str) -> Finding | None:
    values = points.frame[name].to_numpy(float)
    for out, how in ((values < LEAST, "few to be single"), (values > MOST[name], "many to be")):
        if out.any():
            return Finding(
                "units", "fail",
                f"{name} is {values[out].min():.3g} to {values[out].max():.3g} in {out.sum()} of {len(values)} rows, "
                f"too {how} {what}", REMEDY,
            )  # fmt: skip
    return None


def _compute(points: Points) -> Finding | None:
    frame = points.frame[["n_params", "tokens", "flops"]].astype(float)
    if not np.isfinite(frame).to_numpy().all():
        return None
    middle = float(np.median(np.log10(frame["flops"] / (6.0 * frame["n_params"] * frame["tokens"]))))
    if abs(middle) < 0.9:  # a short model with attention and head may cost several times 6 N D
        return None
    return Finding(
        "units", "fail" if abs(middle) > 1.5 else "warn",
        f"flops are {10.0**middle:.2g} times 6 x n_params x tokens: one of the three seems to be in another unit",
        REMEDY,
    )  # fmt: skip


def _loss(points: Points) -> Finding | None:
    least = float(points.frame["loss"].min())
    if points.loss_unit != "nats/token" or not least > MOST_NATS:
        return None
    return Finding(
        "units", "warn", f"every loss is above {least:.3g} nats/token, more than a uniform guess: perplexities?",
        "name the column for what it holds (perplexity, bits_per_byte), or take the logarithm",
    )  # fmt: skip
