"""Magnitudes that say that a column of a plain table is in another unit than its name says."""

from collections.abc import Iterator

import numpy as np

from isoflop.scaling.findings.finding import Case, Finding
from isoflop.scaling.table.columns import MOST
from isoflop.scaling.table.conventions import AS_GIVEN, Points

LEAST = 1e3  # parameters and tokens: fewer are written in thousands, millions or billions
MOST_NATS = 12.0  # per token: ln of 160,000, above the uniform guess of common vocabularies
REMEDY = "write the unit into the name of the column, as in 'params (M)', 'tokens (B)' or 'gflops', or convert it"


def units(case: Case) -> Iterator[Finding]:
    """Magnitudes that no parameters, tokens, FLOPs or losses have."""
    yield from unit_findings(case.points)


def unit_findings(points: Points) -> tuple[Finding, ...]:
    """Objections to the magnitudes of a plain table; none for a run table, whose counts are the program's own.

    Under LEAST or over MOST parameters or tokens, compute that is off 6 N D by a power of ten, and losses that may be
    perplexities.
    """
    if points.params != AS_GIVEN:
        return ()
    found = [_size(points, name, what) for name, what in (("n_params", "parameters"), ("tokens", "tokens"))]
    return tuple(f for f in (*found, _compute(points), _loss(points)) if f is not None)


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
