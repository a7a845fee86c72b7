"""The run tables that come with the package: studies that its own runner trained."""

import difflib
from importlib.resources import files
from pathlib import Path

import pandas as pd

from isoflop.scaling.table.read import read_table


def example(name: str = "quick") -> pd.DataFrame:
    """One of the run tables that come with isoflop, as `read_table` gives it; an unknown name lists them.

    >>> import isoflop
    >>> table = isoflop.example("quick")
    >>> table["run_id"].nunique()
    44
    """
    folder = Path(str(files("isoflop.experiments") / "results"))
    names = sorted(path.stem for path in folder.glob("*.parquet"))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no example table {name!r}{hint} There are: {', '.join(names)}")
    return read_table(folder / f"{name}.parquet")
