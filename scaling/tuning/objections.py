"""Objections to a tuning: optima at edges, scales and settings beyond what was tried, runs that differ in more."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.fitting.fit import FitError, fit
from isoflop.scaling.laws.axes.tuning import RateBowl
from isoflop.scaling.tuning.answer import TunedArm
from isoflop.scaling.tuning.best import best_setting
from isoflop.scaling.tuning.choice import Choice, choose, skewed
from isoflop.scaling.tuning.sweep import FEWEST

BEYOND = 1.001  # times the range of what was tried: what rounding leaves is inside
FAR_OFF = 0.005  # of the loss: a cell whose lowest rate loses more is not tuned
NAMES = {"learning_rate": "peak_learning_rate", "batch_tokens": "batch_tokens", "weight_decay": "weight_decay"}


def objections(found: TunedArm, choice: Choice, wanted: Mapping[str, float]) -> Iterator[Finding]:
    """Findings on a tuning, for a scale with these columns given."""
    yield from found.sweep.findings
    yield from _status(found)
    yield from _edges(found)
    yield from _few(found)
    yield from _scale(found, choice, wanted)
    yield from _beyond(found)
    yield from _untuned(found)


def _status(found: TunedArm) -> Iterator[Finding]:
    bowl = ("q", "s", "best", "h", "tau", "m_N", "m_D", "m_T")
    if found.fit.status == "not_converged":
        yield Finding(
            "not_converged", "warn", f"the law of tuning: {found.fit.message}", "add sizes, rates or seeds",
        )  # fmt: skip
    if at_bound := [name for name in found.fit.bounds_hit if name in bowl]:
        yield Finding(
            "at_bound", "warn", f"{', '.join(at_bound)} of the law of tuning at the bound of the search box",
            "the runs do not tell where the optimum lies: add rates around the lowest losses",
        )  # fmt: skip


def _edges(found: TunedArm) -> Iterator[Finding]:
    edges, of = found.edges, int(found.cells["fitted"].sum())
    edges = edges[edges["fitted"]]
    if edges.empty:
        return
    side = {"low": "lowest", "high": "highest"}
    listed = ", ".join(
        f"{row['lowest_rate']:g}, the {side[row['edge']]} tried at n_params {row['n_params']:.4g}"
        for row in edges.head(3).to_dict("records")
    )
    other = without_edges(found)
    moved = f"; without them the best rate is {other:.4g}" if math.isfinite(other) else ""
    yield Finding(
        "rate_at_edge", "warn",
        f"the lowest loss is at an edge of the rates tried in {len(edges)} of {of} cells ({listed}){moved}",
        "try rates beyond the edge: the law bends to where no run was",
    )  # fmt: skip


def without_edges(found: TunedArm) -> float:
    """The best rate of the same law fitted to the cells with an optimum inside; NaN where they do not tell it."""
    inside = found.cells[found.cells["fitted"] & (found.cells["edge"] == "")]
    rows = found.sweep.rows[found.sweep.rows["cell"].isin(inside.index)].reset_index(drop=True)
    part = replace(found.sweep, points=replace(found.sweep.points, frame=rows))
    try:
        choice = choose(part)
        if choice.form.inputs != found.law.inputs:
            return math.nan
        if "s" in found.law.parameters():
            choice = skewed(choice)
        law = fit(choice.form, part.points, fixed=choice.held).law
    except FitError:
        return math.nan
    assert isinstance(law, RateBowl)
    at = replace(found.at, batch_tokens=found.optimum.batch_tokens)
    return best_setting(law, at).learning_rate


def _few(found: TunedArm) -> Iterator[Finding]:
    few = found.cells[~found.cells["fitted"]]
    if len(few):
        rates = f"{int(few['rates'].min())} to {int(few['rates'].max())}"
        yield Finding(
            "few_values", "info",
            f"{len(few)} of {len(found.cells)} cells have {rates} learning rates and are not fitted",
            f"try {FEWEST} rates or more at each size, tokens and batch",
        )  # fmt: skip
    inside = int((found.cells["fitted"] & (found.cells["edge"] == "")).sum())
    moves = len(found.law.moves)
    if inside <= moves:
        yield Finding(
            "few_optima", "warn",
            f"an optimum inside the rates tried in {inside} cells, and the best rate moves along {moves} columns",
            "add cells, or rates to those at an edge",
        )  # fmt: skip


def _scale(found: TunedArm, choice: Choice, wanted: Mapping[str, float]) -> Iterator[Finding]:
    """The scale against those of the runs: columns that do not vary, or not on their own, and extrapolations."""
    symbols = {"n_params": "N", "tokens": "D", "batch_tokens": "T"}
    for name, value in wanted.items():
        tried = found.sweep.values(name)
        if symbols[name] in found.law.inputs:
            continue
        if name in choice.along:
            yield Finding(
                "collinear_inputs", "warn",
                f"{name} moves with {choice.along[name]} in these runs: the optimum is that of their line, and not of "
                f"{name} {value:.4g} apart from it",
                f"vary {name} at equal {choice.along[name]}",
            )  # fmt: skip
        elif not len(tried) or not tried[0] / BEYOND <= value <= tried[-1] * BEYOND:
            has = f"{tried[0]:.4g} in every run" if len(tried) else "not in the table"
            yield Finding(
                "input_never_varies", "warn",
                f"{name} is {has}: whether the optimum moves on to {name} {value:.4g} is not known, and it is given as "
                "if it did not",
                f"add runs at another {name}",
            )  # fmt: skip
    for name in ("n_params", "tokens"):
        tried, value = found.sweep.values(name), getattr(found.at, name)
        if len(tried) > 1 and value > tried[-1] * BEYOND:
            yield Finding(
                "extrapolates", "warn" if value > 30 * tried[-1] else "info",
                f"{name} {value:.4g} is {value / tried[-1]:.3g} times the largest of the sweep ({tried[-1]:.4g})",
                "the interval holds if the best rate goes on along a straight line in logarithms",
            )  # fmt: skip
        elif len(tried) > 1 and value < tried[0] / BEYOND:
            yield Finding(
                "extrapolates", "info",
                f"{name} {value:.4g} is {tried[0] / value:.3g} times below the least of the sweep ({tried[0]:.4g})",
                "the interval holds if the best rate goes on along a straight line in logarithms",
            )  # fmt: skip


def _beyond(found: TunedArm) -> Iterator[Finding]:
    """Parts of the optimum outside what was tried."""
    for part, value in asdict(found.optimum).items():
        if part not in found.intervals:
            continue
        name = NAMES[part]
        tried = found.sweep.values(name)
        low, high = float(tried[0]), float(tried[-1])
        if low / BEYOND <= value <= high * BEYOND:
            continue
        factor, side = (low / value, "below") if value < low else (value / high, "above")
        yield Finding(
            "outside_data", "warn",
            f"the best {name} {value:.4g} is a factor {factor:.3g} {side} all that were tried ({low:.4g} to "
            f"{high:.4g})",
            f"add runs near {name} {value:.4g}, or at sizes nearer to the one requested",
        )  # fmt: skip


def _untuned(found: TunedArm) -> Iterator[Finding]:
    cells = found.cells[found.cells["fitted"]]
    share = cells["off_frontier"] / cells["lowest_loss"]
    far = cells[share > FAR_OFF]
    if len(far):
        yield Finding(
            "off_frontier", "info",
            f"in {len(far)} of {len(cells)} cells even the lowest loss measured is {FAR_OFF:.1%} or more above the "
            f"best setting of its size and tokens, up to {share.max():.1%}",
            "a law of size and tokens holds for runs at their best setting alone: leave these cells out of it",
        )  # fmt: skip
