"""A fit with its intervals as plain text."""

import numpy as np

from isoflop.scaling.fitting.draws import Draws, intervals
from isoflop.scaling.fitting.fit import Fit, noise_text, number


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
