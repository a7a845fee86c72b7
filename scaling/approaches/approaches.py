"""The three approaches of Hoffmann et al. 2022 side by side, and whether they agree.

Approach 1 is the envelope over whole curves; 2 the isoFLOP profiles, with three kinds of curve; 3 a law fitted to every
point. They answer one question, how n_opt and tokens_opt grow with compute, so a disagreement beyond their intervals is
a Finding.
"""

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.scaling.approaches.allocation import LEVEL, NoAllocationError, PowerFit, allocation
from isoflop.scaling.approaches.envelope import Envelope, envelope, has_curves
from isoflop.scaling.approaches.isoflop_profiles import (
    METHODS,
    MIN_SIZES,
    IsoflopProfile,
    isoflop_profiles,
    parabola_bias,
)
from isoflop.scaling.approaches.left_out import BudgetLeftOut, most_moved, without_budgets
from isoflop.scaling.fitting.fit import Fit, FitError, Huber, fit
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws import Laws, law_names, with_role
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain

__all__ = [
    "METHODS", "Approaches", "Envelope", "IsoflopProfile", "NoAllocationError", "PowerFit", "Row", "allocation",
    "approaches", "envelope", "isoflop_profiles", "parabola_bias",
]  # fmt: skip

PARAMETRIC = with_role("approach 3")


@dataclass(frozen=True)
class Row:
    """One approach's answer, or the reason why it has none; `without` are its exponents without each budget."""

    approach: int
    method: str
    power: PowerFit | None
    reason: str = ""
    without: tuple[BudgetLeftOut, ...] = ()


@dataclass(frozen=True, repr=False, eq=False)
class Approaches(Answer):
    """A row per approach and method, the isoFLOP profiles of approach 2 by method, the fits of approach 3 by law."""

    rows: tuple[Row, ...]
    profiles: dict[str, list[IsoflopProfile]]
    envelope: Envelope | None
    fits: dict[str, Fit]
    points: Points

    @property
    def disagreements(self) -> tuple[str, ...]:
        """Pairs of rows of different approaches whose exponents of n_opt do not agree.

        Of studies in which all approaches are right at most a share 1 - LEVEL has any: each of the pairs is held
        against that over their number (Bonferroni).
        """
        answered = [(r, r.power) for r in self.rows if r.power is not None]
        pairs = [(*r, *s) for r, s in combinations(answered, 2) if r[0].approach != s[0].approach]
        level = 1 - (1 - LEVEL) / max(len(pairs), 1)
        return tuple(f"{_name(r)} and {_name(s)}" for r, one, s, other in pairs if not _agree(one, other, level))

    @property
    def answered(self) -> tuple[int, ...]:
        """The approaches whose exponent of n_opt is known to within some interval, which may agree."""
        known = {r.approach for r in self.rows if r.power is not None and np.isfinite(r.power.n_interval).all()}
        return tuple(sorted(known))

    @property
    def agree(self) -> bool | None:
        """Whether no pair of rows disagrees; None where fewer than two approaches have an answer."""
        return not self.disagreements if len(self.answered) > 1 else None

    @property
    def verdict(self) -> str:
        """Whether the approaches agree, as a sentence without its end."""
        if self.agree is None:
            alone = f"Only approach {self.answered[0]} has" if self.answered else "No approach has"
            return f"{alone} an answer with an interval: there is nothing to agree"
        if self.agree:
            return "The approaches agree within their intervals"
        return f"The approaches DISAGREE: {'; '.join(self.disagreements)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: rows, budgets with every method's optimum, agreement."""
        return {
            "params": self.points.params,
            "compute": self.points.compute,
            "loss_unit": self.points.loss_unit,
            "n_points": len(self.points),
            "level": LEVEL,
            "approaches": [_row_dict(r) for r in self.rows],
            "budgets": [_budget_dict(self, i) for i in range(len(self.profiles["exact"]))],
            "agree": self.agree,
            "disagreements": list(self.disagreements),
            "notes": [*self.points.notes, *(self.envelope.notes if self.envelope else ())],
        }

    def __str__(self) -> str:
        lines = [f"{'approach':<30} {'n_opt ~ flops^a':<24} {'tokens_opt ~ flops^b':<24} budgets  a moves most"]
        for r in self.rows:
            if r.power is None:
                lines.append(f"{_name(r):<30} none: {r.reason}")
                continue
            a = f"{r.power.n_exponent:.3f} {_span(r.power.n_interval)}"
            b = f"{r.power.tokens_exponent:.3f} {_span(r.power.tokens_interval)}"
            lines.append(f"{_name(r):<30} {a:<24} {b:<24} {r.power.n_budgets or '-':>7}  {_moved(r)}".rstrip())
        lines += ["", *_profile_lines(self), ""]
        lines.append(f"{self.verdict} ({LEVEL:.0%}; N: {self.points.params}, C: {self.points.compute}).")
        if any(r.without for r in self.rows):
            lines.append("a moves most: without that budget, in standard errors of a with all budgets.")
        return "\n".join([*lines, *(f"note: {n}" for n in self.to_dict()["notes"])])


def approaches(
    table: pd.DataFrame,
    *,
    laws: Laws = PARAMETRIC,
    params: str = "matrices",
    compute: str = "exact",
    objective: Objective = Huber("auto"),  # noqa: B008
) -> Approaches:
    """All approaches on a run table or plain table; what cannot be answered is a row with its reason.

    >>> import isoflop
    >>> found = isoflop.approaches(isoflop.example("quick"))
    >>> found.to_dict()["agree"]
    True
    """
    table = as_frame(table)
    data = points(table, params=params, compute=compute)
    rows: list[Row] = []
    curves = None
    try:
        if not has_curves(table):
            raise NoAllocationError("the table has no training curves")
        curves = envelope(table, params=params, compute=compute)
        rows.append(Row(1, "envelope", curves.allocation))
    except NoAllocationError as error:
        rows.append(Row(1, "envelope", None, str(error)))
    profiles = {m: isoflop_profiles(data, method=m) for m in METHODS}
    for method, found in profiles.items():
        try:
            power = allocation(found)
            rows.append(Row(2, method, power, without=without_budgets(found, data, power.n_exponent, power.n_error)))
        except NoAllocationError as error:
            rows.append(Row(2, method, None, str(error)))
    fits: dict[str, Fit] = {}
    for law in law_names(laws):
        try:
            fits[law] = fit(law, data, objective=objective)
            power = _power_of(fits[law])
            rows.append(Row(3, law, power, without=without_budgets(fits[law], data, power.n_exponent, power.n_error)))
        except (FitError, NoAllocationError) as error:
            rows.append(Row(3, law, None, str(error)))
    return Approaches(tuple(rows), profiles, curves, fits, data)


def _power_of(fitted: Fit) -> PowerFit:
    """The allocation that a law implies, with jackknife intervals. Raises NoAllocationError if it is no power law."""
    exponent = fitted.exponents()
    if not {"a", "b"} <= set(exponent):
        raise NoAllocationError(f"the optimum of {fitted.law.name} is no power law of compute")
    draws, best = jackknife(fitted), fitted.law.optimal(1.0, fitted.cost.power)
    return PowerFit(
        n_exponent=exponent["a"],
        n_coef=float(best.N),
        n_interval=draws.interval("a", LEVEL),
        tokens_exponent=exponent["b"],
        tokens_coef=float(best.D),
        tokens_interval=draws.interval("b", LEVEL),
        n_budgets=0,
        n_error=float(draws.standard_error("a")),
        freedom=float(draws.freedom_of(draws.evaluate("a"))),
    )


def _agree(one: PowerFit, other: PowerFit, level: float) -> bool:
    """Whether the difference of the n_opt exponents is within the two half-widths at a level, combined as independent
    errors."""
    apart = abs(one.n_exponent - other.n_exponent)
    return bool(apart <= np.hypot(one.n_half_width(level), other.n_half_width(level)))


def _name(row: Row) -> str:
    return f"{row.approach} {'profiles, ' if row.approach == 2 else ''}{row.method}"


def _moved(row: Row) -> str:
    most = most_moved(row.without)
    if most is None or row.power is None:
        return "-"
    return f"{most.n_exponent - row.power.n_exponent:+.3f} without {most.flops:.3g} ({most.moved:+.1f})"


def _span(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _row_dict(row: Row) -> dict[str, Any]:
    power = plain(asdict(row.power)) if row.power else None
    most = most_moved(row.without)
    return {
        "approach": row.approach, "method": row.method, "reason": row.reason, "allocation": power,
        "without_budget": [plain(asdict(one)) for one in row.without],
        "most_moved": plain(asdict(most)) if most else None,
    }  # fmt: skip


def _budget_dict(result: Approaches, i: int) -> dict[str, Any]:
    exact = result.profiles["exact"][i]
    methods = {
        m: {
            "n_opt": plain(p.n_opt), "tokens_opt": plain(p.tokens_opt), "loss_opt": plain(p.loss_opt),
            "accepted": p.accepted, "reason": p.reason,
        }
        for m, p in ((m, result.profiles[m][i]) for m in METHODS)
    }  # fmt: skip
    bias = parabola_bias(exact) if exact.accepted else float("nan")
    return {"flops": exact.flops, "n_sizes": int(exact.frame["n_params"].nunique()), "parabola_bias": plain(bias)} | (
        methods
    )


def _profile_lines(result: Approaches) -> list[str]:
    lines = [
        f"{'budget':>10} {'sizes':>5}" + "".join(f" {m + ' n_opt':>15}" for m in METHODS) + f" {'bias':>7}  remarks"
    ]
    few = 0
    for i in range(len(result.profiles["exact"])):
        row = _budget_dict(result, i)
        if row["n_sizes"] < MIN_SIZES:
            few += 1
            continue
        cells = "".join(f" {_optimum(row[m]):>15}" for m in METHODS)
        bias = "" if row["parabola_bias"] is None else f"{np.expm1(row['parabola_bias']):+.1%}"
        lines.append(f"{row['flops']:>10.3g} {row['n_sizes']:>5}{cells} {bias:>7}  {_remarks(row)}".rstrip())
    lines.append(
        "( ): refused, not used. bias: how far a parabola misses the optimum of noise-free points at these sizes."
    )
    return lines + ([f"{few} budgets have fewer than {MIN_SIZES} sizes and no profile."] if few else [])


def _remarks(row: dict[str, Any]) -> str:
    """Each distinct reason once, with the methods that give it."""
    reasons: dict[str, list[str]] = {}
    for method in METHODS:
        if row[method]["reason"]:
            reasons.setdefault(row[method]["reason"], []).append(method)
    return "; ".join(f"{'all' if len(m) == len(METHODS) else ', '.join(m)}: {r}" for r, m in reasons.items())


def _optimum(cell: dict[str, Any]) -> str:
    if cell["n_opt"] is None:
        return "refused"
    return f"{cell['n_opt']:.4g}" if cell["accepted"] else f"({cell['n_opt']:.4g})"
