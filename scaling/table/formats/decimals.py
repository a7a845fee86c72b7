"""Numbers with a decimal comma: which mark of a column parts its decimals, and which its thousands."""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.meaning import MISSING, meaning, number

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?|[+-]?\d{1,3}(\.\d{3})+,\d+", re.I)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_DOTTED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_DECIMAL_DOT = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?|[+-]?\d+\.", re.I)
_SURELY_THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+|[+-]?[1-9]\d{0,2}(\.\d{3}){2,}")  # 1.238,5 or 1.238.144


def read_decimals(
    frame: pd.DataFrame,
    written: pd.DataFrame,
    words: list[str],
    path: Path,
    notes: list[str],
    *,
    guess: bool,
    decimals: Collection[str] = (),
) -> None:
    """Make columns of numbers with a decimal comma numbers, in place.

    `written` has the cells as text, NaN where empty, `words` are the columns with texts among them, `decimals` cells
    that a file holds as numbers, whose dot parts decimals whatever it looks like. A loss has no thousands. Where no
    column tells which, commas part thousands if `guess`. Raises TableError for a comma that may part either, and for a
    column of both marks that does not tell which parts decimals.
    """
    decimal, either, parted = _commas(written, words)
    losses = [name for name in either if _is_loss(name)]
    if not parted and losses == either and not decimal:
        decimal, either = losses, []
    if guess and not decimal and not losses:
        return
    if either and not decimal:
        shown = next(cell for cell in written[either[0]].dropna() if "," in cell)
        raise TableError(
            f"{path}: the comma in {either[0]} ({shown}) may part thousands or decimals; write the number without it"
        )
    if not decimal:
        return
    shown = any(_cells(written[name]).str.fullmatch(_SURELY_THOUSANDS).any() for name in words)
    for name in decimal + either:
        _refuse_both_marks(name, _cells(written[name]), path, decimals, thousands=shown and not _is_loss(name))
    others = [name for name in written if name not in decimal + either]
    dotted = [name for name in others if _parted_by_dots(_cells(written[name]), decimals) and not _is_loss(name)]
    points = [name for name in set(others) - {*dotted, *words} if _has_decimal_dot(_cells(written[name]))]
    if points and dotted and not shown:
        notes.append(f"dots part decimals in {', '.join(map(str.strip, sorted(points) + dotted))}")
        dotted = []
    for name in decimal + either + dotted:
        cells = written[name].str.strip().str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        frame[name] = pd.to_numeric(cells.mask(cells.str.lower().isin(MISSING)))
    notes.append(f"numbers are written with a decimal comma in {', '.join(map(str.strip, decimal + either))}")
    if dotted:
        notes.append(f"dots part the thousands in {', '.join(map(str.strip, dotted))}")


def _commas(written: pd.DataFrame, words: list[str]) -> tuple[list[str], list[str], bool]:
    """Columns with commas that part decimals, and with some that may part either; whether another's part thousands."""
    decimal: list[str] = []
    either: list[str] = []
    parted = False
    for name in words:
        cells = _cells(written[name])
        with_comma = cells.str.contains(",", regex=False)
        commas, others = cells[with_comma], cells[~with_comma]
        if commas.empty:
            continue
        thousands = commas.str.fullmatch(_THOUSANDS)
        known = thousands | commas.str.fullmatch(_DECIMAL_COMMA)
        if not known.all() or others.map(lambda cell: number(cell.replace(".", "")) is None).any():
            continue
        if not (thousands & (commas.str.count(",") > 1)).any():  # 1,238,144 can only part thousands
            (either if thousands.all() else decimal).append(name)
        else:
            parted = True
    return decimal, either, parted


def _cells(written: pd.Series) -> pd.Series:
    """The texts of a column that say something."""
    cells = written.dropna().str.strip()
    return cells[~cells.str.lower().isin(MISSING)]


def _is_loss(name: object) -> bool:
    """Whether a column holds losses, which have no thousands; a perplexity may have them."""
    meant = meaning(str(name))
    return meant is not None and meant.quantity == "loss" and meant.transform != "perplexity"


def _refuse_both_marks(name: str, cells: pd.Series, path: Path, decimals: Collection[str], *, thousands: bool) -> None:
    """Raise TableError where dots stand beside decimal commas and may part decimals too: `thousands` says they cannot.

    Then still a dot that no thousands have is one of decimals.
    """
    dots = cells[cells.str.contains(".", regex=False) & ~cells.str.contains(",", regex=False)]
    sure = dots.str.fullmatch(_DOTTED) & ~dots.isin(list(decimals)) & thousands
    if dots.empty or sure.all():
        return
    comma = cells[cells.str.contains(",", regex=False)]
    raise TableError(
        f"{path}: {name} has a comma in row {int(comma.index[0]) + 1} ({comma.iloc[0]}) and a dot in row "
        f"{int(dots.index[np.argmin(sure)]) + 1} ({dots[~sure].iloc[0]}), and either may part decimals; write all of "
        "its numbers with one decimal mark and none between thousands"
    )


def _parted_by_dots(cells: pd.Series, decimals: Collection[str]) -> bool:
    """Whether every number of a column that has a dot may have it between thousands, and some has one."""
    dots = cells.str.contains(".", regex=False)
    return bool(
        dots.any()
        and cells[dots].str.fullmatch(_DOTTED).all()
        and not cells[dots].isin(list(decimals)).any()
        and cells[~dots].str.fullmatch(r"[+-]?\d+").all()
    )


def _has_decimal_dot(cells: pd.Series) -> bool:
    """Whether some number of a column has a dot that parts decimals."""
    return bool((cells.str.fullmatch(_DECIMAL_DOT) & ~cells.str.fullmatch(_DOTTED)).any())
