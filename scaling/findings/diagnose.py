"""All checks together: `diagnose` lists the Findings about a fit, `diagnose_approaches` those about its exponents."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from isoflop.arguments import POSITIVE, SHARE, check
from isoflop.scaling.findings.finding import Case, Finding
from isoflop.scaling.findings.fit_checks import FIT_CHECKS
from isoflop.scaling.findings.input_checks import INPUT_CHECKS
from isoflop.scaling.findings.residual_checks import RESIDUAL_CHECKS
from isoflop.scaling.findings.settings import SETTING_CHECKS, table_findings
from isoflop.scaling.findings.table_checks import TABLE_CHECKS
from isoflop.scaling.findings.units import unit_findings, units
from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.table.formats.data_frame import as_frame

if TYPE_CHECKING:
    from isoflop.scaling.approaches.approaches import Approaches

__all__ = ["Finding", "diagnose", "diagnose_approaches", "refused"]

_ORDER = {"fail": 0, "warn": 1, "info": 2}


def diagnose(
    fit: Fit,
    draws: Draws | None = None,
    table: pd.DataFrame | None = None,
    *,
    target_flops: float | None = None,
    level: float = 0.9,
) -> list[Finding]:
    """Every objection to the fit, worst first.

    `draws` are its uncertainty, `table` is what was fitted (a run table allows the most checks), `target_flops` the
    compute that the law will be used at.

    >>> import isoflop
    >>> table = isoflop.example("quick")
    >>> fitted = isoflop.fit("chinchilla", table)
    >>> found = isoflop.diagnose(fitted, isoflop.jackknife(fitted), table)
    >>> "hold_out_missed" in {finding.code for finding in found}
    True
    """
    check(POSITIVE, target_flops=target_flops)
    check(SHARE, level=level)
    table = None if table is None else as_frame(table)
    case = Case(fit, draws, table, target_flops, level)
    checks = (*FIT_CHECKS, *RESIDUAL_CHECKS, *SETTING_CHECKS, *INPUT_CHECKS, *TABLE_CHECKS, units)
    found = [finding for look in checks for finding in look(case)]
    return sorted(found, key=lambda f: _ORDER[f.severity])


def diagnose_approaches(result: "Approaches", table: pd.DataFrame | None = None) -> list[Finding]:
    """Objections to the exponents of the three approaches taken together, and to the table that they are of."""
    found = list(unit_findings(result.points))
    if table is not None:
        found += table_findings(table, result.points)
    if result.agree is False:
        found.append(
            Finding(
                "approaches_disagree", "warn",
                f"exponents of n_opt differ by more than their intervals: {'; '.join(result.disagreements)}",
                "look at residual trends and at refused profiles; quote the range",
            )
        )  # fmt: skip
    accepted = sum(p.accepted for p in result.profiles["exact"])
    if accepted < 3:
        found.append(
            Finding(
                "few_minima", "warn", f"{accepted} budgets have a usable minimum: an exponent from them has no check",
                "add sizes at the refused budgets, or a budget",
            )
        )  # fmt: skip
    return found


def refused(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Quantities that must not be quoted given the findings: collinear data say nothing about the optimal size."""
    return ("alpha", "beta", "a", "b") if any(f.code == "collinear" for f in findings) else ()
