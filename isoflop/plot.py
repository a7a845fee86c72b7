"""Figures of a table, by name: `isoflop.plot.isoflop(table)`, `.n_star`, `.prediction`, `.surface`, ...

Every figure of the report is here, and nothing else: `dir(isoflop.plot)` lists them. Each takes a table (or the
`Evidence` of one, which keeps fits between figures) and returns the matplotlib Axes it drew on.

    >>> import isoflop
    >>> axes = isoflop.plot.isoflop(isoflop.example("quick"))
    >>> axes.get_xlabel() != ""
    True
"""

from collections.abc import Callable
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures import FIGURES, get_figure
from isoflop.analysis.style import style


def draw(
    name: str,
    table: pd.DataFrame | Evidence,
    ax: Axes | None = None,
    *,
    law: str | None = None,
    params: str = "matrices",
    compute: str = "exact",
) -> Axes:
    """Draw the figure called `name` on `ax`, or on a new figure, and return the Axes.

    `law` None: the one chosen by hold-out. Raises ValueError for an unknown name, and with the reason where the table
    cannot support the figure.
    """
    evidence = table if isinstance(table, Evidence) else Evidence(table, law=law, params=params, compute=compute)
    with style():
        return get_figure(name).draw(evidence, ax)


def __getattr__(name: str) -> Callable[..., Axes]:
    if name not in FIGURES:
        raise AttributeError(f"isoflop.plot has no figure {name!r}; there are {', '.join(FIGURES)}")
    return partial(draw, name)


def __dir__() -> list[str]:
    return sorted([*FIGURES, "draw"])
