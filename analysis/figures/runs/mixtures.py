"""Mixtures of data: the shares tried and their losses, the best ones, and how well a law ranks what it has not seen."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import LOSS_MAP, MANY_DOTS, loss_label, new_axes, note
from isoflop.scaling.laws.mixtures.means import SHARES

if TYPE_CHECKING:
    from isoflop.scaling.mixtures.answer import Mix

FEW = 4  # names beside one another under the axis


def mixture_frame(found: "Mix") -> pd.DataFrame:
    """Every run with its weights, loss and held-out prediction; then a row for the best mixture and the natural one."""
    names = [f"weight_{name}" for name in found.domains]
    answers = pd.DataFrame([found.weights, found.natural], columns=names).assign(
        predicted=[found.loss, found.natural_loss], kind=["best", "natural"]
    )
    return pd.concat([found.tried.assign(kind="run"), answers], ignore_index=True)


def plot_mixtures(found: "Mix", *, ax: Axes | None = None) -> Axes:
    """A line a run through its share of each domain, coloured by its loss; the best mixture with what is flat about it.

    The natural proportions are dashed.
    """
    ax = new_axes(ax)
    names, place = [f"weight_{name}" for name in found.domains], np.arange(len(found.domains))
    runs = found.tried.sort_values("loss", ascending=False)
    norm = Normalize(runs["loss"].min(), runs["loss"].quantile(0.9))
    for shares, loss in zip(runs[names].to_numpy(float), runs["loss"], strict=True):
        ax.plot(place, shares, color=LOSS_MAP(norm(loss)), lw=0.9, alpha=0.7, zorder=1)
    ax.plot(place, found.natural, color="black", lw=1.2, ls="--", label="natural", zorder=3)
    below, above = found.weights - found.flatness[:, 0], found.flatness[:, 1] - found.weights
    reach = np.clip(np.stack([below, above]), 0.0, None)
    ax.errorbar(place, found.weights, reach, color="black", lw=1.8, marker="o", ms=5, capsize=3, label="best", zorder=4)
    slant = len(place) > FEW
    ax.set_xticks(place, found.domains, rotation=60 if slant else 0, ha="right" if slant else "center")
    ax.set_ylabel("share of the training tokens")
    ax.set_ylim(-0.02, 1.02)
    bar = ax.figure.colorbar(ScalarMappable(norm, LOSS_MAP), ax=ax, pad=0.02, aspect=28)
    bar.outline.set_visible(False)
    bar.set_label(loss_label())
    ax.legend(loc="upper right")
    ax.set_title("Mixtures tried, and the best one")
    return ax


def plot_ranks(found: "Mix", *, ax: Axes | None = None) -> Axes:
    """Predicted against measured loss, each run by a law fitted without its mixture."""
    ax = new_axes(ax)
    tried = found.tried
    ax.scatter(tried["predicted"], tried["loss"], s=16, edgecolor="white", linewidth=0.4, zorder=3,
               rasterized=len(tried) > MANY_DOTS)  # fmt: skip
    ends = [min(tried["predicted"].min(), tried["loss"].min()), max(tried["predicted"].max(), tried["loss"].max())]
    ax.plot(ends, ends, color="black", lw=0.8, zorder=1)
    rho = tried["predicted"].rank().corr(tried["loss"].rank())
    error = np.sqrt(np.mean(np.log(tried["predicted"] / tried["loss"]) ** 2))
    note(ax, f"Spearman {rho:.3f}\nrms {error:.2%}", where="lower right")
    ax.set_xlabel(f"predicted, {loss_label()}")
    ax.set_ylabel(loss_label())
    ax.set_title("Mixtures left out")
    return ax


FIGURES = (
    Figure(
        "mixtures",
        "Runs by their shares of each domain, lighter where the loss is lower; black: the best mixture, with how far a "
        "share may move within the noise of one run; dashed: natural proportions.",
        needs=lambda e: e.mix,
        frame=mixture_frame,
        plot=plot_mixtures,
        place=145,
        reads=(SHARES,),
    ),
    Figure(
        "mixture_ranks",
        "Loss predicted by a law of the other mixtures against the loss measured.",
        needs=lambda e: e.mix,
        frame=mixture_frame,
        plot=plot_ranks,
        place=146,
        reads=(SHARES,),
    ),
)
