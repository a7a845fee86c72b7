"""What a module of `isoflop.analysis.figures` ends with: a name, a caption, and where the numbers come from."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import Z_RLE

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.style import losses_in
from isoflop.scaling.laws.inputs import Column

FORMATS = ("png", "svg", "pdf")
# Without dates and versions in their metadata the files of two equal reports are equal.
_METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
# Drawings are runs of equal bytes: this takes half the time.
_ENCODED: dict[str, dict[str, Any]] = {"png": {"pil_kwargs": {"compress_type": Z_RLE}}}
LAST = 1000


def first_of(frame: pd.DataFrame, *_: object) -> pd.DataFrame:
    """What a figure needs first, where that is the data behind it already."""
    return frame


@dataclass(frozen=True)
class Figure:
    """A figure of the report, and of `isoflop plot --figure NAME`.

    `needs` takes from the evidence what the figure shows: one value, or a tuple of several. `frame` and `plot` get
    these as their arguments; `frame` returns the data behind the figure (by default the first of them), `plot` draws it
    and is also given `ax`. Each raises ValueError with the reason where the table does not support the figure. Figures
    stand in the report in the order of `place`, then of their names. `reads` are columns beside the usual ones that it
    shows: of a table read for these alone, neither size nor tokens are asked.
    """

    name: str
    caption: str
    needs: Callable[[Evidence], Any]
    plot: Callable[..., Axes]
    frame: Callable[..., pd.DataFrame] = first_of
    place: float = LAST
    reads: tuple[Column, ...] = ()

    def data(self, evidence: Evidence) -> pd.DataFrame:
        """The numbers behind the figure, which the report writes to NAME.csv."""
        return self.frame(*self._arguments(evidence))

    def draw(self, evidence: Evidence, ax: Axes | None = None) -> Axes:
        """Draw on `ax`, or on the axes of a new figure."""
        with losses_in(evidence.loss_unit):
            return self.plot(*self._arguments(evidence), ax=ax)

    def _arguments(self, evidence: Evidence) -> tuple[Any, ...]:
        needed = self.needs(evidence)
        return needed if isinstance(needed, tuple) else (needed,)


def if_supported(get: Callable[[], Any], otherwise: Any = None) -> Any:
    """A part of the evidence that a figure can do without: `otherwise` where the table does not support it."""
    try:
        return get()
    except UnsupportedError:
        return otherwise


def save(ax: Axes, path: Path) -> None:
    """Write the figure of `ax`, inside the style it was drawn in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = ax.get_figure(root=True)
    assert figure is not None
    with mpl.rc_context({"figure.constrained_layout.use": False}), _letters_said_once():  # saving would set it again
        _lay_out(figure)
        form = path.suffix[1:]
        figure.savefig(path, metadata=_METADATA[form], **_ENCODED.get(form, {}))


@contextmanager
def _letters_said_once() -> Iterator[None]:
    """One warning in the place of one for each letter that no font has; others stay as they are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    others = [one for one in caught if "missing from font" not in str(one.message)]
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if len(others) < len(caught):
        warnings.warn(
            "names in figures have letters that no font here has, drawn as boxes: install a font that has them, as "
            "Noto Sans CJK", stacklevel=3,
        )  # fmt: skip


def _lay_out(figure: Drawing) -> None:
    """Lay a figure out once, at the resolution of its pixels: all of its formats keep the places."""
    engine = figure.get_layout_engine()
    if engine is None:
        return
    FigureCanvasAgg(figure)
    before, figure.dpi = figure.dpi, mpl.rcParams["savefig.dpi"]
    engine.execute(figure)
    figure.dpi = before
    figure.set_layout_engine(None)
