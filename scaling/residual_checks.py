"""Checks of what a fit leaves over: outliers, trends, and the scatter around the law against the seed noise."""

from collections.abc import Iterator

import numpy as np
from scipy.special import fdtrc, stdtr

from scaling.finding import Case, Check, Finding
from scaling.fit import COLUMN

BITS = float(-np.log(np.log(2.0)))  # ln(bits / nats)


def residuals(case: Case) -> Iterator[Finding]:
    """Trends (slope or bend) of the residuals of ln loss in each axis, and single outliers."""
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
    coefficients, *_ = np.linalg.lstsq(design, r, rcond=None)
    noise = np.sum((r - design @ coefficients) ** 2) / (len(r) - 3)
    t = coefficients / np.sqrt(noise * np.diag(np.linalg.inv(design.T @ design)) + 1e-300)
    for what, value, size in (("slope", t[1], coefficients[1]), ("bend", t[2], coefficients[2])):
        p = 2 * stdtr(len(r) - 3, -abs(value))
        if p < 0.01:
            yield Finding(
                "residual_trend", "warn",
                f"the residuals have a {what} of {size:+.2%} per standard deviation of ln {name} (t = {value:.1f}, "
                f"p = {p:.2g})",
                "the law is wrong along that axis: try another one (kappa free), or fewer of the smallest budgets",
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


def _by_cell(case: Case, keys: list[str]) -> np.ndarray:
    return case.frame.assign(residual=case.fit.residuals).groupby(keys)["residual"].mean().to_numpy()


def _label(case: Case, i: int) -> str:
    return str(case.frame["run_id"].iloc[i]) if "run_id" in case.frame else f"row {i + 1}"


RESIDUAL_CHECKS: tuple[Check, ...] = (residuals, lack_of_fit)
