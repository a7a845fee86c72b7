"""Everything that bears on which law to use on a table: scores, likelihood-ratio tests, sensitivity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import POSITIVE, SHARE, check
from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.sensitivity import FAR, chinchilla_sensitivity
from isoflop.scaling.findings.settings import table_findings
from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.fitting.search.kept_searches import keep_searches
from isoflop.scaling.laws import Laws, columns_read, get_law, law_names
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.likelihood_ratio import LikelihoodRatioTest, likelihood_ratio_tests
from isoflop.scaling.selection.scoreboard import Scoreboard, compare, inputs_of
from isoflop.scaling.table.columns import hint, is_numbers
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.meaning import QUANTITIES

NOT_OF_CHINCHILLA = "no likelihood-ratio tests and no choices behind a fit: none of these laws has chinchilla's form"


@dataclass(frozen=True, repr=False, eq=False)
class Comparison(Answer):
    """The scoreboard of laws, the likelihood-ratio tests, and the sensitivity table (None where no fit succeeds).

    Tests and sensitivity are of Chinchilla's form, and there unless laws are named of which none has it. `findings` say
    what the table may have wrong.
    """

    board: Scoreboard
    tests: tuple[LikelihoodRatioTest, ...]
    moved: pd.DataFrame | None
    notes: tuple[str, ...]
    points: Points
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: those of the scoreboard, with keys nested, sensitivity and notes."""
        moved = plain(self.moved.reset_index(names="choice")) if self.moved is not None else None
        tests = [t.to_dict() for t in self.tests]
        return self.board.to_dict() | {"nested": tests, "sensitivity": moved, "notes": list(self.notes),
                "findings": [f.to_dict() for f in self.findings], "conventions": self.points.conventions}  # fmt: skip

    def __str__(self) -> str:
        lines = [str(self.board)]
        if self.tests:
            lines += [
                "",
                f"likelihood-ratio tests, p-values by {self.tests[0].resamples} refits simulated under the hypothesis:",
                *map(str, self.tests),
            ]
        if self.moved is not None:
            lines += [
                "",
                f"choices behind a chinchilla fit, with the loss at {FAR:g} times the largest compute; how far each "
                "moves it, in half-widths of the 90% interval:",
            ]
            for name, r in self.moved.iterrows():
                values = (
                    f"a {r['a']:.4f} ({r['a_moved']:+.2f})  E {loss_text(r['E'])}  loss {loss_text(r['loss'])} "
                    f"({r['loss_moved']:+.2f})"
                )
                lines.append(f"  {name:<24} {values if np.isfinite(r['a']) else r['why']}")
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])


@keep_searches()
def comparison(
    table: pd.DataFrame,
    laws: Laws | None = None,
    *,
    by: str = "flops",
    above: float | None = None,
    params: str = "matrices",
    compute: str = "exact",
    level: float = 0.9,
    on_step: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare laws on a table: `isoflop compare`.

    `laws`, `by` and `above` are those of `compare`. `on_step` is called with the name of what is fitted next. Raises
    ValueError for a column `by` that the table lacks or a wrong number, HoldOutError or CompareError when no law can be
    scored.

    >>> import isoflop
    >>> found = isoflop.compare(isoflop.example("quick"), ["chinchilla", "chinchilla-no-floor"])
    >>> sorted(found.to_dict()["refused"])
    []
    """
    check(POSITIVE, above=above)
    check(SHARE, level=level)
    table, laws = as_frame(table), law_names(laws) if laws else None
    _check_scale(table, by)
    found = points(table, params=params, compute=compute, inputs=inputs_of(laws, by, table))
    settings = table_findings(table, found, columns_read(laws) if laws else ())
    findings, data = (*unit_findings(found), *settings), found.in_order()
    board = compare(data, laws, by=by, above=above, level=level, on_law=on_step)
    if laws is not None and not any(issubclass(get_law(name)[0], Chinchilla) for name in laws):
        return Comparison(board, (), None, (*data.notes, NOT_OF_CHINCHILLA), data, findings)
    if on_step:
        on_step("likelihood-ratio tests")
    try:
        tests = tuple(likelihood_ratio_tests(data))
        moved = chinchilla_sensitivity(table, params=params, compute=compute)
        return Comparison(board, tests, moved, data.notes, data, findings)
    except FitError as error:
        return Comparison(board, (), None, (*data.notes, f"no likelihood-ratio tests: {error}"), data, findings)


def _check_scale(table: pd.DataFrame, by: str) -> None:
    """Raise ValueError for a column to hold out by that the table lacks, or that holds no numbers."""
    if by in QUANTITIES or (by in table and is_numbers(table[by])):
        return
    known = [str(name) for name in table.columns]
    what = "not a column of numbers" if by in table else f"no such column{hint(by, known)}"
    raise ValueError(f"--holdout-by {by}: {what}; choose flops, n_params or tokens, or another column")
