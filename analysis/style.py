"""How every figure looks: one context, one colour scale, one way to write numbers on an axis.

Colour is compute (or size), darker for more. Solid lines lie in the fitted range, dashed ones outside it; bands are
90%. Nothing here touches global state: `with style():` restores what it found, and draws alike whatever that was.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from threading import RLock
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator

from isoflop.scaling.table.meaning import NATS_PER_TOKEN

Color = Any  # whatever matplotlib takes for one: a name, a tuple, an array of 3 or 4
Look = tuple[Any, str]  # line style and marker of an arm
End = tuple[float, float, str, Color]  # where a curve ends, x and y, and its label there

LEVEL = 0.9  # of every interval and band
WIDEST = 10.0  # times its lower end: the upper end of an interval of an exponent that is known
MANY_DOTS = 2000  # from here on dots are pixels also in svg and pdf
# Line and mark of each arm, by name; colour is kept for compute and size.
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
MARKS = ("o", "s", "^", "v", "P", "X", "p", "*", "<", ">", "h", "d")
MOST_ARMS = len(MARKS)  # in a legend: dots have no dashes to tell them apart
INK, MUTED, FAINT = "#22262b", "#6b7178", "#b9bec4"
ACCENT = "#c8442b"  # what was predicted, against the dark-to-light scale of what was measured
# Lightness falls evenly from the lightest tone that reads on white to near black: the order survives in greyscale.
TONES = ("#97c7a4", "#62aa9c", "#3c8a95", "#2c688a", "#2a4676", "#231f4d", "#140f2b")
REMARK: dict[str, Any] = {"fontsize": 7.5, "color": MUTED, "fontweight": "normal"}  # at the right of a title
COMPUTE_MAP = LinearSegmentedColormap.from_list("isoflop", TONES)
LOSS_MAP = LinearSegmentedColormap.from_list("isoflop-loss", mpl.colormaps["magma_r"](np.linspace(0.02, 0.92, 64)))
# Characters, not formulas of matplotlib: those must be read, and set.
_RAISED = str.maketrans("0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b")
_RC: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titley": 1.0,  # where it is put without asking the labels of both axes, which no title of ours meets
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "text.hinting": "none",  # edges are not moved at 200 dots to an inch, but fonts are studied for it
    "svg.hashsalt": "isoflop",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


# Settings of a session that are no look: where windows are drawn, and what a window does.
_OF_A_SESSION = ("backend", "interactive", "toolbar", "webagg", "tk.", "keymap", "savefig.directory", "figure.hooks",
                 "figure.raise_window", "figure.max_open_warning", "macosx", "animation.", "docstring")  # fmt: skip
_ONE_AT_A_TIME = RLock()  # settings are the process', not a thread's


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures, inside a `with` block only: matplotlib's own defaults, whatever the session has set, and
    ours. Figures must be drawn and saved inside it; threads wait for one another.
    """
    with _ONE_AT_A_TIME:
        names = [name for name in mpl.rcParamsDefault if not name.startswith(_OF_A_SESSION)]
        changed = {name: mpl.rcParamsDefault[name] for name in names if mpl.rcParams[name] != mpl.rcParamsDefault[name]}
        with mpl.rc_context({**changed, **_RC}):
            yield


class Drawing(Figure):
    """A figure that a notebook shows where it is the last value of a cell, also without %matplotlib inline."""

    def _repr_png_(self) -> bytes:
        with style(), BytesIO() as written:
            self.savefig(written, format="png")
            return written.getvalue()


def new_axes(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure that no pyplot state knows."""
    if ax is not None:
        return ax
    ax = Drawing(figsize=(5.2, 3.8), layout="constrained").subplots()
    ax.spines[:].set_in_layout(False)  # nearer than the labels of their ticks
    return ax


class ColorScale:
    """Positive values to colours by their logarithm; the smallest is the lightest."""

    def __init__(self, values: Sequence[float]):
        low, high = float(np.min(values)), float(np.max(values))
        if high <= low * (1 + 1e-9):  # a single value, to rounding, is drawn dark, not faint
            low = high / 10
        self.norm = LogNorm(low, high, clip=True)

    def __call__(self, value: float | np.ndarray) -> Color:
        """A colour, or an array (n, 4) of them."""
        return COMPUTE_MAP(self.norm(value))


def arm_looks(arms: Iterable[str]) -> dict[str, Look]:
    """(line style, marker) of each arm, in the order of their names."""
    return {arm: (DASHES[k % len(DASHES)], MARKS[k % len(MARKS)]) for k, arm in enumerate(sorted(set(arms)))}


def arm_keys(looks: Mapping[str, Look], *, lines: bool = True) -> list[Line2D]:
    """What a legend says of arms, by line and mark or by mark alone; nothing where there is one arm, or too many."""
    if not 1 < len(looks) <= MOST_ARMS:
        return []
    return [Line2D([], [], color=INK, ls=dash if lines else "none", marker=mark, ms=3.5, label=arm)
            for arm, (dash, mark) in looks.items()]  # fmt: skip


def arm_legend(ax: Axes, looks: Mapping[str, Look]) -> None:
    """Which line is which arm, where there is more than one."""
    if keys := arm_keys(looks):
        ax.legend(handles=keys, loc="upper right", handlelength=2.6)


def arm_marks(ax: Axes, looks: Mapping[str, Look]) -> None:
    """Which mark is which arm, between the title and the panel, where no curve is. Call it when the title is set."""
    if not (keys := arm_keys(looks, lines=False)):
        return
    size = mpl.rcParams["legend.fontsize"]
    each = size * 0.6 * (max(map(len, looks)) + 4)
    columns = max(1, int(ax.get_window_extent().width * 72 / ax.figure.dpi / each))
    ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.0,
              borderpad=0.2, handletextpad=0.2, columnspacing=1.0)  # fmt: skip
    ax.set_title(ax.get_title("left"), pad=6 + 1.5 * size * -(-len(keys) // columns))


def arm_dots(ax: Axes, frame: pd.DataFrame, x: str, y: str, *, looks: Mapping[str, Look], c: Any, **more: Any) -> None:
    """Runs as dots of the colours or values `c` (n,), each with the mark of its arm where there is more than one."""
    if len(looks) < 2:
        ax.scatter(frame[x], frame[y], c=c, **more)
        return
    arms, tones = frame["arm"].astype(str).to_numpy(), np.asarray(c)
    for arm, (_, mark) in looks.items():
        if (own := arms == arm).any():
            ax.scatter(frame.loc[own, x], frame.loc[own, y], c=tones[own], marker=mark, **more)


def looks_of(frame: pd.DataFrame) -> dict[str, Look]:
    """The looks of the arms in a frame of runs; empty where it names none."""
    return arm_looks(frame["arm"].astype(str)) if "arm" in frame else {}


def compute_bar(ax: Axes, color: "ColorScale") -> None:
    """The scale of compute as a colour bar, for curves too close together to be labelled."""
    bar = ax.figure.colorbar(ScalarMappable(color.norm, COMPUTE_MAP), ax=ax, pad=0.02, aspect=28)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    log_axis(bar.ax.yaxis, "flops", label="compute budget C (FLOPs)")


def readable(color: Color) -> tuple[float, float, float]:
    """`color` darkened until text in it has a contrast of 4.5 : 1 on white."""
    rgb = np.array(to_rgb(color))
    while 1.05 / (_luminance(rgb) + 0.05) < 4.5:
        rgb = rgb * 0.94
    red, green, blue = rgb.tolist()
    return red, green, blue


def _luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def count(value: float, digits: int = 3) -> str:
    """A count of parameters or tokens as people say it: 950, 59.4k, 1B."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * (1 - 0.5 * 10**-digits):
            return f"{float(f'{value / limit:.{digits}g}'):g}" + unit  # 3500, not 3.5e+03
    return f"{value:.{digits}g}"


def flops(value: float) -> str:
    """A FLOP count as a power of ten with raised digits: 10\u00b9\u00b2, 3\u00d710\u00b9\u2070."""
    mantissa, exponent = f"{value:.1e}".split("e")
    power = f"10{str(int(exponent)).translate(_RAISED)}"
    return power if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}\u00d7{power}"


class LogTicks(Locator):
    """At most about `most` round values on a log axis: decades, then 1-3, then 1-2-5 as the span shrinks."""

    def __init__(self, most: int = 6):
        self.most = most

    def __call__(self) -> Sequence[float]:
        """The ticks of the axis as it is shown."""
        return self.tick_values(*self.axis.get_view_interval())  # type: ignore[union-attr]  # set before it is called

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """The round values in [vmin, vmax]."""
        low, high = sorted((vmin, vmax))
        if not (low > 0 and np.isfinite(high)):
            return []
        first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
        ticks = np.array([])
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            every = np.array([s * 10.0**e for e in range(first, last + 1) for s in steps])
            ticks = every[(every >= low * (1 - 1e-9)) & (every <= high * (1 + 1e-9))]
            if len(ticks) >= 3:
                break
        return ticks[:: -(-len(ticks) // self.most)].tolist() if len(ticks) else []


class LossTicks(LogTicks):
    """Plain decimals: evenly spaced where the axis spans less than a factor of four, else by `LogTicks`."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """The plain decimals in [vmin, vmax]."""
        if vmin > 0 and vmax / vmin < 4:
            ticks = MaxNLocator(self.most, steps=[1, 2, 2.5, 5, 10]).tick_values(vmin, vmax)
            return [tick for tick in ticks if vmin <= tick <= vmax]
        return super().tick_values(vmin, vmax)


_LABELS = {
    "n_params": "model size N (parameters)",
    "tokens": "training tokens D",
    "flops": "training compute C (FLOPs)",
}
_LOSS_UNIT = ContextVar("loss_unit", default=NATS_PER_TOKEN)


@contextmanager
def losses_in(unit: str) -> Iterator[None]:
    """Inside it, axes state this unit of the loss."""
    before = _LOSS_UNIT.set(unit)
    try:
        yield
    finally:
        _LOSS_UNIT.reset(before)


def loss_label(what: str = "loss") -> str:
    """The label of an axis of losses, with their unit."""
    return f"{what} ({_LOSS_UNIT.get()})"


def log_axis(axis: XAxis | YAxis, quantity: str, *, label: str | None = None, most: int = 6) -> None:
    """Make `axis` (ax.xaxis or ax.yaxis) logarithmic, with the ticks and the label of a column of the run table."""
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_scale("log")
    write = {"flops": flops, "loss": lambda v: f"{v:.4g}"}.get(quantity, count)
    axis.set_major_locator(LossTicks(most) if quantity == "loss" else LogTicks(most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_label_text(label or (loss_label() if quantity == "loss" else _LABELS[quantity]))


def label_ends(ax: Axes, ends: Sequence[End], *, size: float = 7.5) -> None:
    """Write each label just right of its point (x, y, text, colour), moved up or down until none covers another.

    Heights are those of the axes as they stand: call it last, when the limits are set.
    """
    if not ends:
        return
    x, y = np.array([e[0] for e in ends], float), np.array([e[1] for e in ends], float)
    place = ax.transData.transform(np.column_stack([x, y])) * 72 / ax.figure.dpi
    width = size * 0.6 * max(len(e[2]) for e in ends)
    shift = _spread(place, width=width, height=size * 1.25)
    for (px, py, text, color), dy in zip(ends, shift, strict=True):
        ax.annotate(
            text, (px, py), xytext=(4, dy), textcoords="offset points", va="center", ha="left",
            fontsize=size, color=readable(color), annotation_clip=False, zorder=6,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def crowded(ax: Axes, ends: Sequence[End], curves: Sequence[np.ndarray]) -> bool:
    """Whether, of the labels at these ends, more than one in three would cover another of the `curves`, each (n, 2)."""
    size = 7.5
    scale = 72 / ax.figure.dpi
    place = [ax.transData.transform(c[np.isfinite(c).all(axis=1)]) * scale for c in curves]
    covered = 0
    for i, (x, y, text, _) in enumerate(ends):
        left, middle = ax.transData.transform((x, y)) * scale
        width = 4 + 0.6 * size * len(text)
        others = np.concatenate([p for k, p in enumerate(place) if k != i] or [np.empty((0, 2))])
        inside = (
            (others[:, 0] > left + 3) & (others[:, 0] < left + width) & (np.abs(others[:, 1] - middle) < 0.6 * size)
        )
        covered += bool(inside.any())
    return covered > len(ends) / 3


def _spread(place: np.ndarray, *, width: float, height: float) -> np.ndarray:
    """Vertical moves, in points, after which no two labels that overlap sideways are closer than `height`."""
    y = place[:, 1].copy()
    for _ in range(200):
        order = np.argsort(y, kind="stable")
        moved = False
        for a, i in enumerate(order):
            for j in order[a + 1 :]:
                gap = height - (y[j] - y[i])
                if gap > 0.05 and abs(place[j, 0] - place[i, 0]) < width:
                    y[i], y[j], moved = y[i] - gap / 2, y[j] + gap / 2, True
        if not moved:
            break
    return y - place[:, 1]


def note(ax: Axes, text: str, *, where: str = "upper right", color: Color = MUTED) -> None:
    """A remark in a corner of the panel, behind which curves stay readable."""
    vertical, horizontal = where.split()
    ax.text(
        {"left": 0.02, "right": 0.98}[horizontal], {"upper": 0.98, "lower": 0.03}[vertical], text,
        transform=ax.transAxes, va={"upper": "top", "lower": "bottom"}[vertical], ha=horizontal, fontsize=7.5,
        color=color, linespacing=1.35, bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
        zorder=5, in_layout=False,
    )  # fmt: skip


def interval(low: float, high: float, digits: int = 3) -> str:
    """The interval as the figures write it: [0.475, 0.566]."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def is_known(low: float, high: float) -> bool:
    """Whether the interval of an exponent tells it: from 0 or below, or over more than a factor of 10, it does not."""
    return low > 0 and high <= WIDEST * low
