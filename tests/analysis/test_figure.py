"""A figure is saved as matplotlib saves it, laid out once for all formats and with no look at labels for the title."""

from zlib import Z_RLE

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from isoflop.analysis.figure import save
from isoflop.analysis.style import style


def drawn(seed: int) -> Figure:
    """Ticks with powers, text with a formula, dots that are pixels in every format."""
    figure = Figure(figsize=(3, 2), layout="constrained")
    ax = figure.subplots()
    x, y = np.exp(np.random.default_rng(seed).normal(size=(2, 9)) * 5)
    ax.loglog(x, y, "o", label=f"$10^{{{seed}}}$ FLOPs", rasterized=True)
    ax.set(title="Runs", xlabel="compute $C$", ylabel="loss")
    ax.legend()
    return figure


@pytest.mark.slow
@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_files_are_those_of_matplotlib(form, tmp_path):
    runs = {"pil_kwargs": {"compress_type": Z_RLE}}  # another encoding of the same pixels, at half the time
    how = {"png": {"metadata": {"Software": None}, **runs}, "svg": {"metadata": {"Date": None, "Creator": None}}}[form]
    for seed in (1, 2):
        with style():
            save(drawn(seed).axes[0], tmp_path / f"ours.{form}")
            with mpl.rc_context({"axes.titley": None}):
                figure = drawn(seed)
            FigureCanvasAgg(figure)
            figure.dpi = mpl.rcParams["savefig.dpi"]
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine("none")
            figure.savefig(tmp_path / f"theirs.{form}", **how)
        assert (tmp_path / f"ours.{form}").read_bytes() == (tmp_path / f"theirs.{form}").read_bytes()
