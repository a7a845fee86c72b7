"""N*(C) and D*(C): how compute is best split between model size and tokens."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.figure import Figure, if_supported
from isoflop.analysis.style import (
    COMPUTE_MAP,
    INK,
    LEVEL,
    MUTED,
    ColorScale,
    End,
    interval,
    is_known,
    label_ends,
    log_axis,
    looks_of,
    new_axes,
    note,
    readable,
)  # fmt: skip
from isoflop.scaling.approaches.isoflop_profiles import IsoflopProfile
from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.laws.law import Law
from isoflop.scaling.laws.published import PUBLISHED, Published

REFERENCE = 20  # tokens per parameter, the rule of thumb from Hoffmann et al. 2022
OVERLAID = ("kaplan-2020", "hoffmann-2022", "porian-2024")
REACH = 10  # how far beyond the largest compute a law is drawn
_AXIS = {"n_params": "optimal model size N* (parameters)", "tokens": "optimal training tokens D*"}
_LETTER = {"n_params": ("N", "a"), "tokens": ("D", "b")}
_POWER = {"a": "C\u1d43", "b": "C\u1d47"}  # the letter raised


def allocation_frame(
    fit: Fit, draws: Draws | None = None, *, quantity: str = "n_params", reach: float = REACH
) -> pd.DataFrame:
    """The law's optimum from the smallest compute fitted to `reach` times the largest.

    Columns flops, optimum, low, high (the 90% band; NaN without draws) and inside (within the fitted range).
    """
    letter = _LETTER[quantity][0]
    smallest, largest = fit.points.frame["flops"].min(), fit.points.frame["flops"].max()
    compute = np.geomspace(smallest, largest * reach, 80)

    def optimum(law: Law) -> np.ndarray:
        return np.asarray(getattr(law.optimal(compute, fit.cost), letter), float)

    low, high = (np.full_like(compute, np.nan),) * 2
    if draws is not None:
        low, high = draws.band(optimum, LEVEL, values=getattr(draws.optimal(compute), letter))
    return pd.DataFrame(
        {"flops": compute, "optimum": optimum(fit.law), "low": low, "high": high,
         "inside": compute <= largest * (1 + 1e-9)}
    )  # fmt: skip


def plot_allocation(
    fit: Fit,
    draws: Draws | None = None,
    profiles: Sequence[IsoflopProfile] = (),
    published: Mapping[str, Published] | None = None,
    *,
    quantity: str = "n_params",
    ax: Axes | None = None,
) -> Axes:
    """The law's optimum (n_params or tokens) against compute with its 90% band, the profile optima as points.

    `published` frontiers are drawn thin for comparison, by name. Raises ValueError for a law without an optimum.
    """
    ax = new_axes(ax)
    frame = allocation_frame(fit, draws, quantity=quantity)
    letter, exponent = _LETTER[quantity]
    ax.fill_between(frame["flops"], frame["low"], frame["high"], color=COMPUTE_MAP(0.35), alpha=0.25, lw=0)
    inside = frame[frame["inside"]]
    ax.plot(frame["flops"], frame["optimum"], color=INK, lw=1.2, ls=(0, (4, 2)))
    ax.plot(inside["flops"], inside["optimum"], color=INK, lw=1.8)
    ends = _published(ax, frame, letter, published or {})
    _profile_optima(ax, profiles, quantity)
    log_axis(ax.xaxis, "flops")
    log_axis(ax.yaxis, quantity, label=_AXIS[quantity])
    label_ends(ax, [*ends, *_reference(ax, fit, frame, quantity, at_end=bool(ends))], size=7)
    note(ax, _exponent_text(fit, draws, letter, exponent), where="upper left", color=INK)
    ax.set_title(f"Compute-optimal {'model size' if letter == 'N' else 'tokens'}")
    return ax


def _exponent_text(fit: Fit, draws: Draws | None, letter: str, exponent: str) -> str:
    value = fit.law.exponents(fit.cost).get(exponent)
    if value is None:
        return ""
    text = f"{letter}* \u221d {_POWER[exponent]}, {exponent} = {value:.3f}"
    if fit.problem.tied:
        text += "\nby the form of the law: its exponents are tied"
    if draws is None or fit.problem.tied:
        return text
    low, high = draws.interval(exponent, level=LEVEL)
    by = f"{LEVEL:.0%} {draws.kind} by {draws.by}"
    if not is_known(low, high):
        return f"{letter}* \u221d {_POWER[exponent]}, {exponent} is not known:\n{low:.2g} to {high:.2g}, {by}"
    return f"{text} {interval(low, high)}\n{by}"


def _profile_optima(ax: Axes, profiles: Sequence[IsoflopProfile], quantity: str) -> None:
    """Diamonds in the colour of their compute, hollow where the profile was refused; of all arms, which is said."""
    shown = [p for p in profiles if np.isfinite(p.n_opt) and np.isfinite(p.tokens_opt)]
    if not shown:
        return
    if (arms := len(looks_of(pd.concat([p.frame for p in profiles])))) > 1:
        note(ax, f"law and diamonds: {arms} arms together", where="lower right")
    color = ColorScale([p.flops for p in profiles])
    for profile in shown:
        y = profile.n_opt if quantity == "n_params" else profile.tokens_opt
        shade = readable(color(profile.flops))
        face = shade if profile.accepted else "none"
        ax.plot(profile.flops, y, "D", ms=6, mfc=face, mec="white" if profile.accepted else shade, zorder=4)


def _reference(ax: Axes, fit: Fit, frame: pd.DataFrame, quantity: str, *, at_end: bool) -> list[End]:
    """The line of 20 tokens per parameter under the fitted cost of training; its label for the end, if wanted.

    Otherwise the label is written along the line, on the side away from the law.
    """
    size = fit.cost.size(frame["flops"], ratio=REFERENCE)
    value = size if quantity == "n_params" else REFERENCE * size
    ax.plot(frame["flops"], value, color=MUTED, lw=0.9, ls=":")
    text = f"{REFERENCE} tokens/param"
    if at_end:
        return [(frame["flops"].iloc[-1], value.iloc[-1], text, MUTED)]
    at = int(0.62 * len(frame))
    above = value.iloc[at] > frame["optimum"].iloc[at]
    ax.annotate(
        text, (frame["flops"].iloc[at], value.iloc[at]), xytext=(-5, 5) if above else (5, -4),
        textcoords="offset points", ha="right" if above else "left", va="bottom" if above else "top",
        fontsize=7, color=MUTED,
    )  # fmt: skip
    return []


def comparable(frame: pd.DataFrame) -> dict[str, Published]:
    """The published frontiers whose fitted range shares at least a decade of compute with the points in `frame`."""
    low, high = frame["flops"].min(), frame["flops"].max()
    shared = {n: min(high, PUBLISHED[n].flops[1]) / max(low, PUBLISHED[n].flops[0]) for n in OVERLAID}
    return {n: PUBLISHED[n] for n, overlap in shared.items() if overlap >= 10}


def _published(ax: Axes, frame: pd.DataFrame, letter: str, published: Mapping[str, Published]) -> list[End]:
    """Thin lines, solid inside the range each was fitted on; under their own conventions, not those of the points."""
    ends = []
    compute = frame["flops"].to_numpy()
    for name, other in published.items():
        value = np.asarray(getattr(other.law.optimal(compute), letter), float)
        inside = (compute >= other.flops[0]) & (compute <= other.flops[1])
        ax.plot(compute, value, color=MUTED, lw=0.8, ls=(0, (4, 2)), zorder=1.5)
        ax.plot(compute[inside], value[inside], color=MUTED, lw=1.1, zorder=1.5)
        ends.append((compute[-1], value[-1], name, MUTED))
    return ends


def _figure(name: str, quantity: str, caption: str, place: float) -> Figure:
    return Figure(
        name,
        caption,
        needs=lambda e: (
            e.optimum,
            if_supported(lambda: e.draws),
            if_supported(lambda: e.profiles, ()),
            comparable(e.points.frame),
        ),
        frame=lambda fit, draws, *_: allocation_frame(fit, draws, quantity=quantity),
        plot=partial(plot_allocation, quantity=quantity),
        place=place,
    )


FIGURES = (
    _figure("n_star", "n_params", "The model size that spends compute best, with the law's 90% band.", 20),
    _figure("d_star", "tokens", "The tokens that spend compute best, with the law's 90% band.", 30),
)
