"""The figure on the README's first screen: python -m isoflop.analysis.hero TABLE OUT.png"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figure import save
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.style import style
from isoflop.scaling.table.read import read_table

PANELS = ("isoflop", "n_star", "surface", "prediction")
SIZE = (13.5, 3.3)  # inches


def draw_hero(table: pd.DataFrame, out: str | Path) -> Path:
    """Four panels in a row: profiles, N*(C), the law over its runs, the held-out prediction.

    Raises UnsupportedError naming the panel that the table cannot support.
    """
    evidence = Evidence(table)
    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots(1, len(PANELS), width_ratios=[1, 1, 1.12, 1])
        for name, ax in zip(PANELS, axes, strict=True):
            try:
                FIGURES[name].draw(evidence, ax)
            except ValueError as error:
                raise UnsupportedError(f"panel {name}: {error}") from error
        save(axes[0], Path(out))
    return Path(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m isoflop.analysis.hero TABLE OUT.png")
    print(draw_hero(read_table(sys.argv[1]), sys.argv[2]))
