"""What a module of `isoflop.analysis.figures` ends with: a name, a caption, and where the numbers come from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.style import losses_in

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
    stand in the report in the order of `place`, then of their names.
    """

    name: str
    caption: str
    needs: Callable[[Evidence], Any]
    plot: Callable[..., Axes]
    frame: Callable[..., pd.DataFrame] = first_of
    place: float = LAST

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
