"""The figures of the report, a module each (or a module for a few of one kind).

FIGURES is derived: every module of this folder and of the rooms in it ends with its own `FIGURES`, and they are put
together here.
"""

from importlib import import_module
from pkgutil import walk_packages

from isoflop.analysis.figure import Figure


def _found() -> list[Figure]:
    found = walk_packages(__path__, f"{__name__}.")
    modules = [import_module(module.name) for module in found if not module.ispkg]
    return sorted((f for module in modules for f in module.FIGURES), key=lambda f: (f.place, f.name))


FIGURES: dict[str, Figure] = {figure.name: figure for figure in _found()}


def get_figure(name: str) -> Figure:
    """The figure of that name. Raises ValueError listing the figures there are."""
    if name not in FIGURES:
        known = ", ".join(FIGURES)
        raise ValueError(f"--figure {name[:100]}: figure {name[:100]!r} is not known; choose one of {known}")
    return FIGURES[name]
