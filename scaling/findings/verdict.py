"""One law on one table with what is needed to judge it: fit, intervals, other conventions, Findings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.scaling.findings.diagnose import Finding, diagnose, refused
from isoflop.scaling.fitting.draws import Draws, intervals
from isoflop.scaling.fitting.fit import Fit, FitError, Huber, fit
from isoflop.scaling.fitting.fit_text import fit_text
from isoflop.scaling.fitting.objective import LeastSquares, Objective
from isoflop.scaling.fitting.search.kept_searches import keep_searches
from isoflop.scaling.fitting.uncertainty import bootstrap, jackknife
from isoflop.scaling.laws import columns_read
from isoflop.scaling.table.columns import near_match
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.runs import is_runs

# The exponents that every report prints: three ways of counting parameters, and the two of counting compute.
CONVENTIONS = (("matrices", "exact"), ("total", "exact"), ("no-embedding", "exact"), ("matrices", "6nd"))
MOST_CLUSTERS = 2_000  # to leave out one by one
MOST_CELLS = 20_000_000  # rows x resamples held at once


@dataclass(frozen=True, repr=False, eq=False)
class Verdict(Answer):
    """A fit with its draws, the exponents under other conventions, and what to object to.

    `draws` is the jackknife over clusters (the default interval), or the bootstrap where there are too many clusters
    or only one; `resamples` is the bootstrap as a cross-check. `conventions` has a row per (params, compute).
    """

    fit: Fit
    draws: Draws | None
    resamples: Draws | None
    conventions: pd.DataFrame
    findings: tuple[Finding, ...]
    level: float

    @property
    def refused(self) -> tuple[str, ...]:
        """Quantities that must not be quoted given the findings."""
        return refused(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the keys of `Fit.to_dict`, findings, conventions, bootstrap; refused quantities are null."""
        summary = self.draws.to_dict(self.level) if self.draws else self.fit.to_dict() | {"level": self.level}
        for part in ("derived", "intervals"):
            summary[part] = {k: None if k in self.refused else v for k, v in summary[part].items()}
        return summary | {
            "findings": [f.to_dict() for f in self.findings],
            "refused": list(self.refused),
            "conventions_compared": self.conventions.to_dict("records"),
            "bootstrap": self._bootstrap_dict(),
        }

    def _bootstrap_dict(self) -> dict[str, Any] | None:
        if self.resamples is None:
            return None
        return {
            "n": len(self.resamples),
            "by": self.resamples.by,
            "seed": self.resamples.seed,
            "share_converged": self.resamples.share_converged,
            "intervals": {k: list(v) for k, v in intervals(self.resamples, level=self.level).items()},
        }

    def __str__(self) -> str:
        lines = [fit_text(self.fit, self.draws, self.level)]
        if self.resamples is not None and self.resamples is not self.draws:
            spans = intervals(self.resamples, level=self.level)
            text = ", ".join(f"{k} [{lo:.4g}, {hi:.4g}]" for k, (lo, hi) in spans.items())
            lines.append(f"  bootstrap by {self.resamples.by} ({len(self.resamples)}): {text}")
        lines += [f"  refused: {', '.join(self.refused)} (see collinear)"] if self.refused else []
        lines += ["", *_convention_lines(self.conventions)] if len(self.conventions) else []
        lines += [f"note: {n}" for n in self.fit.points.notes]
        lines += ["", *map(str, self.findings)] if self.findings else ["", "no findings"]
        return "\n".join(lines)


@keep_searches()
def verdict(
    table: pd.DataFrame,
    law: str = "chinchilla",
    *,
    objective: Objective = Huber("auto"),  # noqa: B008
    params: str = "matrices",
    compute: str = "exact",
    fixed: Mapping[str, float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.9,
    on_step: Callable[[str], None] | None = None,
) -> Verdict:
    """Fit `law` to a table and judge it: what `isoflop fit` answers.

    `params` and `compute` are the conventions of `points`, `fixed` holds parameters at values, `resamples` is the
    number of bootstrap resamples (0 for none), `seed` that of starts and resamples, `level` that of every interval.
    `on_step` is called with the name of what is computed next.
    Raises FitError if the data determine no law, TableError on bad data, ValueError on a wrong name or number.
    """
    if not 0 < level < 1:
        raise ValueError(f"--level {level}: an interval's level lies between 0 and 1, for example 0.9")
    if resamples < 0:
        raise ValueError(f"--bootstrap {resamples}: the number of resamples is at least 0")
    step = on_step or (lambda name: None)
    data = points(table, params=params, compute=compute, inputs=columns_read([law]))
    step(law)
    fitted = fit(law, data, objective=objective, fixed=fixed, seed=seed)
    step(f"{law} to {resamples} resamples")
    drawn = None
    if resamples and fitted.n_clusters > 1:
        drawn = bootstrap(fitted, max(2, min(resamples, MOST_CELLS // len(data))), seed=seed)
    draws = jackknife(fitted) if 1 < fitted.n_clusters <= MOST_CLUSTERS else drawn
    step(f"{law} under other conventions")
    again = fitted if seed == 0 else None  # those under other conventions start from seed 0
    compared = _compare(table, law, objective, fixed, level, again) if is_runs(table) else []
    step(f"what {law} is checked against")
    findings = diagnose(fitted, draws, table, level=level)
    return Verdict(fitted, draws, drawn, pd.DataFrame(compared), tuple(findings), level)


def objective_named(name: str, delta: float | Literal["auto"] = "auto") -> Objective:
    """The objective called huber or least-squares, with -raw for residuals of loss instead of ln loss.

    Raises ValueError for another name.
    """
    known: dict[str, Objective] = {
        "huber": Huber(delta),
        "huber-raw": Huber(delta, "raw"),
        "least-squares": LeastSquares(),
        "least-squares-raw": LeastSquares("raw"),
    }
    if name not in known:
        near = near_match(name, known)
        raise ValueError(f"--objective {name}: not one of {', '.join(known)}" + (f"; {near}?" if near else ""))
    return known[name]


def _compare(
    table: pd.DataFrame,
    law: str,
    objective: Objective,
    fixed: Mapping[str, float] | None,
    level: float,
    known: Fit | None,
) -> list[dict[str, Any]]:
    """Derived exponents with intervals under each convention; one that cannot be fitted has no row.

    `known` is the fit under one of them that was made before.
    """
    rows = []
    for params, compute in CONVENTIONS:
        try:
            if known is not None and (params, compute) == (known.points.params, known.points.compute):
                fitted = known
            else:
                fitted = fit(law, table, params=params, compute=compute, objective=objective, fixed=fixed)
            draws = jackknife(fitted)
        except FitError:
            continue
        row: dict[str, Any] = {"params": params, "compute": compute}
        for name, value in fitted.exponents().items():
            row |= {name: value, f"{name}_interval": list(draws.interval(name, level))}
        rows.append(row)
    return rows if fitted.exponents() else []


def _convention_lines(conventions: pd.DataFrame) -> list[str]:
    names = [c for c in conventions if f"{c}_interval" in conventions]
    lines = ["  exponents by convention: " + "".join(f"{n:>24}" for n in names)]
    for row in conventions.to_dict("records"):
        cells = "".join(f"{row[n]:>8.4f} {_span(row[f'{n}_interval']):>15}" for n in names)
        lines.append(f"  {row['params']:>15}, {row['compute']:<8} {cells}")
    return lines


def _span(pair: list[float]) -> str:
    return f"[{pair[0]:.3f}, {pair[1]:.3f}]" if np.isfinite(pair).all() else "[open]"
