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

from isoflop.analysis.evidence import Evidence as Evidence
from isoflop.analysis.figures import FIGURES, get_figure
from isoflop.analysis.style import style
from isoflop.scaling.laws import Law, law_name


def draw(
    name: str,
    table: pd.DataFrame | Evidence,
    ax: Axes | None = None,
    *,
    law: type[Law] | str | None = None,
    params: str | None = None,
    compute: str | None = None,
) -> Axes:
    """Draw the figure called `name` on `ax`, or on a new figure, and return the Axes.

    `law` None: the one chosen by hold-out; `params` and `compute` None: matrices and exact. An `Evidence` has all three
    already. Raises ValueError for an unknown name, for another law or convention than the Evidence has, and with the
    reason where the table cannot support the figure.
    """
    if not isinstance(ax, Axes | None):
        raise TypeError(
            f"ax is one matplotlib Axes, and this is a {type(ax).__name__}: give figure.subplots() of a figure, one "
            "element of an array"
        )
    named = None if law is None else law_name(law)
    evidence = table
    if not isinstance(evidence, Evidence):
        evidence = Evidence(evidence, law=named, params=params or "matrices", compute=compute or "exact")
    for option, value in {"law": named, "params": params, "compute": compute}.items():
        if value not in (None, own := getattr(evidence, option)):
            raise ValueError(
                f"{option}={value!r}: this Evidence is of {option}={own!r}; give its table in its place, or "
                f"Evidence(table, {option}={value!r})"
            )
    with style():
        return get_figure(name).draw(evidence, ax)


def __getattr__(name: str) -> Callable[..., Axes]:
    if name not in FIGURES:
        raise AttributeError(f"isoflop.plot has no figure {name!r}; there are {', '.join(FIGURES)}")
    return partial(draw, name)


def __dir__() -> list[str]:
    return sorted([*FIGURES, "draw"])
