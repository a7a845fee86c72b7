"""A fit with its intervals as plain text and as JSON."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit, noise_text, number
from isoflop.scaling.fitting.uncertainty import intervals
from isoflop.scaling.table.json_plain import plain


class _Finding(Protocol):
    code: str
    severity: str
    message: str


def fit_dict(
    fit: Fit, draws: Draws | None = None, *, level: float = 0.9, findings: Iterable[_Finding] = ()
) -> dict[str, Any]:
    """JSON-ready summary with stable keys; numbers keep full precision, infinities become null.

    `intervals` are those of the draws at `level`, empty without draws.
    """
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "params": dict(zip(fit.law.parameters(), fit.law.values().tolist(), strict=True)),
        "fixed": {k: float(v) for k, v in fit.problem.pinned.items()},
        "tied": fit.problem.tied,
        "objective": str(fit.objective),
        "residual": fit.objective.residual,
        "delta": plain(fit.delta),
        "value": fit.value,
        "n_points": len(fit.points.frame),
        "n_clusters": fit.n_clusters,
        "cluster": fit.points.cluster,
        "conventions": fit.points.conventions,
        "cost": {"k": fit.cost.k, "slope": fit.cost.slope, "limit": fit.cost.limit} if "D" in fit.law.inputs else None,
        "status": fit.status,
        "message": fit.message,
        "bounds_hit": list(fit.bounds_hit),
        "starts": {"n": len(fit.starts), "share_at_best": fit.share_at_best},
        "noise": plain(fit.noise),
        "noise_falls": fit.falls,
        "noise_of_weight": fit.typical,
        "derived": fit.exponents(),
        "interval_kind": draws.kind if draws else None,
        "intervals": plain(intervals(draws, level=level)) if draws else {},
        "level": level,
        "findings": [{"code": f.code, "severity": f.severity, "message": f.message} for f in findings],
        "notes": list(fit.points.notes),
    }


def fit_text(fit: Fit, draws: Draws | None = None, level: float = 0.9) -> str:
    """What `isoflop fit` prints of a fit: objective, points, status, and a line per parameter with its interval."""
    between = intervals(draws, level=level) if draws else {}
    delta = "" if np.isinf(fit.delta) else f", delta {fit.delta:.3g}"
    lines = [
        f"{fit.law.name}: {fit.law.formula}".removesuffix(": "),
        f"  {fit.objective}{delta}; value {fit.value:.6g}; noise of ln loss {fit.noise:.2g}{noise_text(fit)}",
        f"  {len(fit.points.frame)} points in {fit.n_clusters} clusters by {fit.points.cluster}; "
        f"N: {fit.points.params}, C: {fit.points.compute}; loss in {fit.points.loss_unit}",
        f"  {fit.status}: {fit.message}",
        f"  {fit.share_at_best:.0%} of {len(fit.starts)} starts ended at this optimum",
    ]
    if draws:
        lines.append(f"  {level:.0%} intervals: {draws.kind} by {draws.by}, {len(draws)} refits")
    for name, value in zip(fit.law.parameters(), fit.law.values(), strict=True):
        lines.append(f"  {name:>9} {number(value):>12}  {_remark(fit, name, between)}".rstrip())
    for name, value in fit.exponents().items():
        lines.append(f"  {name:>9} {value:>12.4f}  {_range(between.get(name))}".rstrip())
    return "\n".join(lines)


def _remark(fit: Fit, name: str, between: dict[str, tuple[float, float]]) -> str:
    if name in fit.problem.pinned:
        return "fixed"
    if name == fit.problem.follower and fit.law.ties:
        return f"tied to {fit.law.ties[0]}"
    bound = "  at its bound" if name in fit.bounds_hit else ""
    if bound and name == fit.law.floor_name and fit.law.irreducible == 0:
        bound += ", the interval is one-sided"
    return _range(between.get(name)) + bound


def _range(pair: tuple[float, float] | None) -> str:
    return f"[{number(pair[0])}, {number(pair[1])}]" if pair else ""
