"""The look: numbers on axes, colours by compute, labels that do not cover each other, no global state."""

from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from isoflop.analysis.style import (
    COMPUTE_MAP,
    ColorScale,
    LogTicks,
    LossTicks,
    count,
    flops,
    label_ends,
    log_axis,
    new_axes,
    readable,
    style,
)  # fmt: skip


def luminance(color) -> float:
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (950, "950"),
        (3712, "3.71k"),
        (100_000_000, "100M"),
        (1e9, "1B"),
        (999_900, "1M"),
        (2.5e12, "2.5T"),
        (3.5e15, "3500T"),
        (0.5, "0.5"),
    ],
)
def test_counts_read_as_people_say_them(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e12, "10\u00b9\u00b2"),
        (3e10, "3\u00d710\u00b9\u2070"),
        (9.9999e10, "10\u00b9\u00b9"),
        (1.2e-6, "1.2\u00d710\u207b\u2076"),
    ],
)
def test_flops_are_powers_of_ten(value, text):
    assert flops(value) == text


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path):
    with style():
        ax = new_axes(None)
        ax.plot([1, 2], [1, 2], label=r"$\nothing$")
        ax.legend(title="$5 and $6")
        ax.figure.savefig(tmp_path / "names.png")


@pytest.mark.parametrize("span", [(1.3, 2.4), (1.9, 2.1), (2.0, 12.0), (0.8, 0.801)])
def test_loss_ticks_are_plain_and_few(span):
    ticks = LossTicks().tick_values(*span)
    assert 2 <= len(ticks) <= 8
    assert all("e" not in f"{t:.4g}" for t in ticks)


@pytest.mark.parametrize("span", [(3e3, 5e5), (1e10, 1e12), (1e18, 1e26), (9e3, 2e4)])
def test_log_ticks_lie_inside_and_are_few(span):
    ticks = LogTicks().tick_values(*span)
    assert 2 <= len(ticks) <= 6
    assert all(span[0] <= tick <= span[1] for tick in ticks)


def test_no_minor_labels_on_a_log_axis():
    with style():
        ax = new_axes(None)
        ax.plot([1, 10], [1.3, 2.2])
        log_axis(ax.yaxis, "loss")
        ax.figure.canvas.draw()
    assert not [t for t in ax.yaxis.get_minorticklabels() if t.get_text()]
    assert all("10^" not in t.get_text() for t in ax.yaxis.get_majorticklabels())
    assert ax.get_ylabel() == "loss (nats/token)"


def test_more_compute_is_darker_in_colour_and_in_grey():
    shades = [luminance(COMPUTE_MAP(x)) for x in np.linspace(0, 1, 30)]
    assert (np.diff(shades) < 0).all()
    scale = ColorScale([1e10, 1e12])
    assert luminance(scale(1e10)) > luminance(scale(1e11)) > luminance(scale(1e12))
    assert luminance(ColorScale([1e12])(1e12)) == luminance(scale(1e12)), "a single value is not faint"


def test_label_colours_have_the_contrast_of_text():
    for x in np.linspace(0, 1, 9):
        assert 1.05 / (luminance(readable(COMPUTE_MAP(x))) + 0.05) >= 4.5


def test_labels_at_one_place_are_moved_apart():
    figure = Figure(figsize=(4, 3))
    ax = figure.subplots()
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    label_ends(ax, [(0.5, 0.5 + 0.001 * i, f"curve {i}", COMPUTE_MAP(0.5)) for i in range(6)])
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.texts]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


LOOKS = {
    "none": {},
    "dark": {"axes.facecolor": "black", "figure.facecolor": "black", "axes.prop_cycle": "cycler('color', ['r'])"},
    "tex": {"text.usetex": True, "scatter.marker": "x", "lines.dashed_pattern": [1, 9], "image.cmap": "gray"},
    "large": {"figure.autolayout": True, "savefig.bbox": "tight", "savefig.transparent": True, "hatch.linewidth": 9},
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKS)
def test_a_figure_looks_alike_whatever_the_session_has_set(name, tmp_path):
    def drawn(path):
        with style():
            ax = new_axes(None)
            ax.scatter([1, 2, 3], [1, 4, 9])
            ax.plot([1, 2, 3], [2, 3, 4], "--")
            ax.set_title("a title")
            ax.figure.savefig(path)
        return path.read_bytes()

    plain = drawn(tmp_path / "plain.png")
    with mpl.rc_context(LOOKS[name]):
        assert drawn(tmp_path / "again.png") == plain


def test_threads_that_draw_leave_the_settings_as_they_were():
    before = dict(mpl.rcParams)

    def draw(number):
        with style():
            new_axes(None).plot([0, number])
            assert mpl.rcParams["font.size"] == 9

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(draw, range(40)))
    assert dict(mpl.rcParams) == before


def test_a_figure_shows_itself():
    figure = new_axes(None).figure
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_style_leaves_the_global_settings_alone():
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["axes.spines.top"] is False
    assert dict(mpl.rcParams) == before
