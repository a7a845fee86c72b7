"""IsoFLOP profiles: loss against model size, a curve per compute budget, its minimum marked."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import (
    MANY_DOTS,
    MUTED,
    Color,
    ColorScale,
    arm_dots,
    arm_marks,
    compute_bar,
    crowded,
    flops,
    label_ends,
    log_axis,
    looks_of,
    new_axes,
    note,
    readable,
)
from isoflop.scaling.approaches.isoflop_profiles import IsoflopProfile

MOST_CURVES = 12


def isoflop_frame(profiles: Sequence[IsoflopProfile]) -> pd.DataFrame:
    """The points of every profile, each row with its budget and the profile's optimum and verdict."""
    return pd.concat(
        [
            p.frame[[c for c in ("arm", "n_params", "tokens", "flops", "loss") if c in p.frame]].assign(
                budget=p.flops, n_opt=p.n_opt, tokens_opt=p.tokens_opt, loss_opt=p.loss_opt,
                accepted=p.accepted, reason=p.reason, method=p.method,
            )
            for p in profiles
        ],
        ignore_index=True,
    )  # fmt: skip


def plot_isoflop(profiles: Sequence[IsoflopProfile], *, ax: Axes | None = None) -> Axes:
    """A curve per budget through its runs; a filled diamond at an accepted optimum, a hollow one at a refused one.

    Where a table has several arms the runs of each have a mark, and curves and optima are of all together.
    """
    if not profiles:
        raise ValueError("no isoFLOP profile: no two runs of different size share a budget")
    ax = new_axes(ax)
    profiles, left_out = _fullest(profiles)
    color = ColorScale([p.flops for p in profiles])
    flat = sum(len(p.frame) for p in profiles) > MANY_DOTS
    looks = looks_of(pd.concat([p.frame for p in profiles]))
    ends, curves = [], []
    for profile in profiles:
        shade = color(profile.flops)
        frame = profile.frame.sort_values("n_params")
        arm_dots(ax, frame, "n_params", "loss", looks=looks, c=[shade] * len(frame), s=14, edgecolor="white",
                 linewidth=0.4, zorder=3, rasterized=flat)  # fmt: skip
        sizes = np.geomspace(frame["n_params"].min(), frame["n_params"].max(), 120)
        drawn = _curve(profile, sizes)
        if drawn is not None:
            ax.plot(sizes, drawn, color=shade)
        _mark_optimum(ax, profile, shade)
        last = frame.iloc[-1]
        y = drawn[-1] if drawn is not None and np.isfinite(drawn[-1]) else last["loss"]
        ends.append((last["n_params"], max(y, last["loss"]), flops(profile.flops), shade))
        curves.append(frame[["n_params", "loss"]].to_numpy(float) if drawn is None else np.column_stack([sizes, drawn]))
    log_axis(ax.xaxis, "n_params")
    log_axis(ax.yaxis, "loss")
    _frame_losses(ax, profiles)
    _explain(ax, profiles, left_out, arms=len(looks))
    if crowded(ax, ends, curves):
        compute_bar(ax, color)
    else:
        x, y, text, shade = ends.pop()
        label_ends(ax, [*ends, (x, y, f"{text} FLOPs", shade)])
    ax.set_title("IsoFLOP profiles")
    arm_marks(ax, looks)
    return ax


def _curve(profile: IsoflopProfile, sizes: np.ndarray) -> np.ndarray | None:
    if profile.curve is None or len(sizes) == 0 or sizes[0] == sizes[-1]:
        return None
    return np.asarray(profile.curve(sizes), float)


def _mark_optimum(ax: Axes, profile: IsoflopProfile, shade: Color) -> None:
    if not (np.isfinite(profile.n_opt) and np.isfinite(profile.loss_opt)):
        return
    face, edge = (readable(shade), "white") if profile.accepted else ("none", readable(shade))
    ax.plot(
        profile.n_opt, profile.loss_opt, marker="D", ms=7 if profile.accepted else 6, mfc=face, mec=edge, mew=1.0,
        ls="none", zorder=4, label="_optimum" if profile.accepted else "_refused",
    )  # fmt: skip


def _frame_losses(ax: Axes, profiles: Sequence[IsoflopProfile]) -> None:
    """Limits from the data, so that a steep branch of one curve does not flatten the others."""
    losses = pd.concat([p.frame["loss"] for p in profiles])
    low, high = losses.min(), losses.max()
    margin = max(high / low, 1.02) ** 0.07
    ax.set_ylim(low / margin, high * margin)


def _fullest(profiles: Sequence[IsoflopProfile]) -> tuple[list[IsoflopProfile], int]:
    """The profiles with the most sizes, at most MOST_CURVES, in order of compute; and how many that leaves out."""
    ranked = sorted(profiles, key=lambda p: (-p.frame["n_params"].nunique(), p.flops))[:MOST_CURVES]
    return sorted(ranked, key=lambda p: p.flops), len(profiles) - len(ranked)


def _explain(ax: Axes, profiles: Sequence[IsoflopProfile], left_out: int, *, arms: int) -> None:
    """Whose the optima are, why they are hollow, what is not drawn; above the curves, where room is made for it."""
    refused = [p for p in profiles if not p.accepted]
    lines = [f"curves and optima: {arms} arms together"] if arms > 1 else []
    lines += [f"{flops(p.flops)} refused: {p.reason.split(':')[0]}" for p in refused[:3]]
    lines += [f"and {len(refused) - 3} more refused"] if len(refused) > 3 else []
    lines += [f"{left_out} budgets with fewer sizes are only in the csv"] if left_out else []
    if not lines:
        return
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** (0.07 * len(lines)))
    note(ax, "\n".join(lines), where="upper left", color=MUTED)


FIGURES = (
    Figure(
        "isoflop",
        "Loss against model size at equal compute. Diamonds: the optimum of each budget.",
        needs=lambda e: e.profiles,
        frame=isoflop_frame,
        plot=plot_isoflop,
        place=10,
    ),
)
