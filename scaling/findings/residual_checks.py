"""Checks of the residuals of a fit: outliers, trends, and the scatter around the law against the seed noise."""

from collections.abc import Iterator

import numpy as np
from scipy.special import fdtrc, stdtr

from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.findings.finding import Case, Check, Finding, variant
from isoflop.scaling.fitting.fit import COLUMN
from isoflop.scaling.fitting.uncertainty import jackknife, predict

TWO_SIGMA = 0.9545
BITS = float(-np.log(np.log(2.0)))  # ln(bits / nats)


def residuals(case: Case) -> Iterator[Finding]:
    """Trends (slope or curvature) of the residuals of ln loss along each axis, and single outliers."""
    r = case.fit.residuals
    if case.fit.noise < 1e-9:
        return
    scale = 1.4826 * np.median(np.abs(r - np.median(r)))
    far = np.abs(r) > max(4 * scale, 4 * case.fit.delta / 1.345 if np.isfinite(case.fit.delta) else 0.0)
    if far.any():
        rows = ", ".join(f"{_label(case, i)} ({r[i]:+.1%})" for i in np.flatnonzero(far)[:5])
        yield Finding(
            "outliers", "warn", f"{far.sum()} of {len(r)} points lie over 4 robust standard deviations off: {rows}",
            "check those runs; refit without them (--where) and quote both",
        )  # fmt: skip
    shifted = np.abs(np.abs(r - np.median(r)) - BITS) < max(4 * scale, 0.02)
    if shifted.sum() >= 2 and far[shifted].all():
        yield Finding(
            "mixed_units", "fail",
            f"{shifted.sum()} points lie a factor 1/ln 2 = 1.443 off the law: some losses seem to be in bits",
            "convert every loss to nats per token",
        )  # fmt: skip
    for name in ("n_params", "tokens", "flops"):
        x = np.log(case.frame[name].to_numpy(float))
        if len(r) >= 8 and np.isfinite(x).all() and np.ptp(x) > 0 and len(np.unique(x.round(6))) > 2:
            yield from _trend(name, x, r)


def _trend(name: str, x: np.ndarray, r: np.ndarray) -> Iterator[Finding]:
    x = (x - x.mean()) / x.std()
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    for what, column in (("slope", 1), ("curvature", 2)):
        size, t, p = _term(design, r, column)
        if p < 0.01:
            yield Finding(
                "residual_trend", "warn",
                f"the residuals have a {what} of {size:+.2%} per standard deviation of ln {name} (t = {t:.1f}, "
                f"p = {p:.2g})",
                "the law is wrong along that axis: try another one (kappa free), or fewer of the smallest budgets",
            )  # fmt: skip


def interaction(case: Case) -> Iterator[Finding]:
    """Whether the exponent of one axis moves along the other: residuals that follow ln N x ln D."""
    if not case.joint or len(case.frame) < 8 or case.fit.noise < 1e-9:
        return
    u, v = (np.log(case.frame[name].to_numpy(float)) for name in ("n_params", "tokens"))
    if np.ptp(u) == 0 or np.ptp(v) == 0:
        return
    u, v = (u - u.mean()) / u.std(), (v - v.mean()) / v.std()
    design = np.stack([np.ones_like(u), u, v, u**2, v**2, u * v], axis=1)
    if np.linalg.cond(design) > 1e6:
        return
    size, t, p = _term(design, case.fit.residuals, 5)
    if p < 0.01:
        yield Finding(
            "exponents_drift", "warn",
            f"the residuals follow ln n_params x ln tokens ({size:+.2%} per standard deviation of each, t = {t:.1f}, "
            f"p = {p:.2g}): the data exponent depends on the size",
            "try kappa free or farseer, and compare them on a held-out budget",
        )  # fmt: skip


def hold_out_missed(case: Case) -> Iterator[Finding]:
    """Whether the law, fitted without the largest budget, misses the best run there by two standard errors."""
    groups = budget_groups(case.points) if case.joint else []
    if len(groups) < 3 or groups[-1]["n_params"].nunique() < 3:
        return
    known = case.frame["flops"].to_numpy() < groups[-1]["flops"].min()
    best = groups[-1].loc[groups[-1]["loss"].idxmin()]
    try:
        fitted = variant(case.fit, rows=known)
        forecast = predict(fitted, jackknife(fitted), [best["n_params"]], [best["tokens"]], TWO_SIGMA)
    except ValueError:
        return  # too few points remain for this law, which few_points reports
    lo, hi, loss = float(forecast.lo[0]), float(forecast.hi[0]), float(best["loss"])
    if not lo <= loss <= hi:
        yield Finding(
            "hold_out_missed", "warn",
            f"fitted without the largest budget, the law puts its best run at {float(forecast.loss[0]):.4f} "
            f"[{lo:.4f}, {hi:.4f}], and it reached {loss:.4f}",
            "do not extrapolate the loss with this law: isoflop compare shows which one would have held",
        )  # fmt: skip


def lack_of_fit(case: Case) -> Iterator[Finding]:
    """Seed noise against the scatter around the law, from runs that differ in nothing but the seed."""
    keys = [COLUMN[letter] for letter in case.fit.law.inputs]
    log_loss = np.log(case.frame["loss"])
    groups = log_loss.groupby([case.frame[k] for k in keys])
    n_cells, n = groups.ngroups, len(log_loss)
    if n_cells == n or float(groups.var().max()) == 0.0:
        yield Finding(
            "no_replicates", "info", "no cell was trained with a second seed: the noise is only seen around the law",
            "repeat the cheapest cells with two more seeds",
        )  # fmt: skip
        return
    pure = float(((log_loss - groups.transform("mean")) ** 2).sum())
    freedom_pure, freedom_lack = n - n_cells, n_cells - len(case.fit.free)
    if freedom_lack <= 0:
        return
    lack = float(np.sum(groups.size() * (_by_cell(case, keys)) ** 2))
    f = (lack / freedom_lack) / (pure / freedom_pure)
    p = float(fdtrc(freedom_lack, freedom_pure, f))
    if p < 0.01:
        yield Finding(
            "lack_of_fit", "warn",
            f"the law misses the cells by {np.sqrt(f):.1f} times the seed noise {np.sqrt(pure / freedom_pure):.2%} "
            f"(F = {f:.1f} on {freedom_lack} and {freedom_pure}, p = {p:.2g})",
            "intervals do not cover a wrong form: compare laws on a held-out budget",
        )  # fmt: skip


def _term(design: np.ndarray, r: np.ndarray, column: int) -> tuple[float, float, float]:
    """Size, t and p of one coefficient of the regression of `r` on `design`."""
    coefficients, *_ = np.linalg.lstsq(design, r, rcond=None)
    freedom = len(r) - design.shape[1]
    noise = np.sum((r - design @ coefficients) ** 2) / freedom
    t = coefficients[column] / np.sqrt(noise * np.linalg.inv(design.T @ design)[column, column] + 1e-300)
    return float(coefficients[column]), float(t), float(2 * stdtr(freedom, -abs(t)))


def _by_cell(case: Case, keys: list[str]) -> np.ndarray:
    return case.frame.assign(residual=case.fit.residuals).groupby(keys)["residual"].mean().to_numpy()


def _label(case: Case, i: int) -> str:
    return str(case.frame["run_id"].iloc[i]) if "run_id" in case.frame else f"row {i + 1}"


RESIDUAL_CHECKS: tuple[Check, ...] = (residuals, interaction, hold_out_missed, lack_of_fit)
