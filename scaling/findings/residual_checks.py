"""Checks of the residuals of a fit: departures from the law, outliers, runs that are not independent, lack of fit.

Each check states its level, the share of studies without a fault in which it objects (Chinchilla's law true, 35 to 43
runs; noise of .5, 1 or 2.6%, falling with size, shared by trunks, or of heavy tails). docs/calibration.md has the
measured shares, and the power against faults.
"""

from collections.abc import Iterator

import numpy as np

from isoflop.scaling.findings.departures import FREEDOM, Departures, Tested, departures
from isoflop.scaling.findings.finding import Case, Check, Finding, likelihood_ratio, variant
from isoflop.scaling.findings.settings import replicate_keys
from isoflop.scaling.fitting.fit import FitError, predict_loss, robust_scale
from isoflop.scaling.fitting.noise_model import FAR, NoiseModel, orthonormal
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import fdtrc, gammaln, stdtr, stdtrit

BITS = float(-np.log(np.log(2.0)))  # ln(bits / nats)
BITS_WINDOW = (0.02, 0.05)  # in ln: how near to a factor 1/ln 2 a loss in bits lies, however large the noise
NAMED = 0.1  # level at which runs are named as far off, of normal noise
MOST_FAR = 20  # runs that are named, at most
HIGH = 0.8  # the part of it for losses that are too high: spikes, restarts and short runs raise one
TAIL = 0.008  # level at which runs are warned of as farther off than the tails of the others reach
TAILS = np.array([2.0, 3.0, 4.0, 6.0, 10.0, 30.0, 1e6])  # degrees of freedom of t that these may have, as likely each
SCALES = np.linspace(-5.0, 5.0, 41)  # standard errors at which their scale is tried
LACK = 0.005  # level of lack_of_fit
ONE_RUN = 0.02  # level of rows_not_runs
DRAWS = 399  # of the correlation within sizes of rows that have none
MOST_DRAWN = 2_000_000  # rows times draws


def residuals(case: Case) -> Iterator[Finding]:
    """Every check of the residuals; none where they are rounding errors."""
    if case.fit.noise < 1e-9:
        return
    found = departures(case)
    yield from outliers(case, found)
    yield from form(case, found)
    yield from one_run(case, found)
    yield from lack_of_fit(case, found)


def outliers(case: Case, found: Departures) -> Iterator[Finding]:
    """Runs far off the law, and losses in bits among nats.

    Runs beyond what normal noise has (`far_off`, level NAMED) are named: an info, as no test tells one run 5 standard
    deviations off from noise of heavy tails, which does no harm to a fit. A warning are those over FAR robust standard
    deviations off that the tails of the others do not reach (`beyond_tails`, level TAIL): in .04 of studies of 43 runs
    with noise of t(3), in none with normal noise. One run that is 5 / 7 / 10 / 20 standard deviations high is named in
    .9 / 1 / 1 / 1 of studies and warned of in .05 / .2 / .5 / .9; two or four that are 10 high are in .8.
    """
    r, noise = case.fit.residuals, found.noise
    scaled = np.abs(r) / noise.sd
    scale = robust_scale(scaled, len(case.fit.free))
    far = beyond_tails(scaled, FAR * scale)
    bits = _in_bits(r, scale, scaled > FAR * scale)
    if bits.any():
        yield Finding(
            "mixed_units", "fail",
            f"{bits.sum()} points lie a factor 1/ln 2 = 1.443 off the law: some losses seem to be in bits",
            "convert every loss to nats per token",
        )  # fmt: skip
    far |= bits
    if far.any():
        yield Finding(
            "outliers", "warn",
            f"{far.sum()} of {len(r)} points lie over {FAR:g} robust standard deviations off: {_rows(case, far)}",
            "check those runs; refit without them (--where) and quote both",
        )  # fmt: skip
        return
    named = far_off(found.design[:, : len(case.fit.free)] / noise.sd[:, None], r / noise.sd)
    if len(named):
        far[named] = True
        yield Finding(
            "outliers", "info",
            f"{far.sum()} of {len(r)} points lie farther off than normal noise has them: {_rows(case, far)}",
            "look at those runs; noise of heavy tails has such runs, too",
        )  # fmt: skip


def beyond_tails(size: Array, least: float) -> Array:
    """Which of the sizes (n,) of residuals exceed `least` and lie beyond the tails of the others; a tenth, or one.

    The others are |t| of some degrees of freedom and scale, both averaged over by how likely they make them (flat
    priors). Of the k farthest nothing is taken but that they lie above the others: they are far where, given the
    others, k draws above these all lie as far off as the nearest of the k with a probability below TAIL, halved for
    each run after the first.
    """
    order = np.argsort(-size, kind="stable")
    far = np.zeros(len(size), bool)
    at_most = min(max(1, len(size) // 10), len(size) - 1, int(np.sum(size > least)))
    if at_most > 0 and np.median(size) > 0:
        counts = np.arange(at_most, 0, -1)
        beyond = np.flatnonzero(_tail_probabilities(size[order], counts) < TAIL * 0.5 ** (counts - 1))
        if beyond.size:
            far[order[: counts[beyond[0]]]] = True
    return far


def _tail_probabilities(size: Array, counts: Array) -> Array:
    """For each count (k,): how probable it is that so many of the sizes (n,), which fall, lie as far above the rest."""
    n = len(size)
    inner, outer = size[counts], size[counts - 1]
    weights, ratios = [], []
    for freedom in TAILS:
        scale = np.median(size) / stdtrit(freedom, 0.75) * np.exp(SCALES * 1.2 / np.sqrt(n))[:, None]
        rest = np.cumsum(np.log1p((size / scale)[:, ::-1] ** 2 / freedom), axis=1)[:, n - counts - 1]
        constant = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - 0.5 * np.log(freedom)
        survival = np.maximum(stdtr(freedom, -inner / scale), 1e-300)
        likelihood = (n - counts) * (constant - np.log(scale)) - (freedom + 1) / 2 * rest
        weights.append(likelihood + counts * np.log(survival))
        ratios.append((stdtr(freedom, -outer / scale) / survival) ** counts)
    weight = np.concatenate(weights)
    weight = np.exp(weight - weight.max(axis=0))
    return np.sum(weight * np.concatenate(ratios), axis=0) / np.sum(weight, axis=0)


def far_off(columns: Array, residual: Array) -> Array:
    """Positions of the rows that lie off a linear fit of columns (n, p): a tenth of them or MOST_FAR at most, or one.

    Rows are taken away one by one, each time the one with the largest studentised residual, and those up to the last
    whose own is beyond what the largest of as many normal ones would be at level NAMED are returned (Rosner 1983).
    """
    n, p = columns.shape
    kept, order, count = np.arange(n), [], 0
    for k in range(min(max(1, n // 10), MOST_FAR, n - p - FREEDOM)):
        basis, _ = orthonormal(columns[kept])
        left = residual[kept] - basis @ (basis.T @ residual[kept])
        spare = np.maximum(1 - np.sum(basis**2, axis=1), 1e-12)
        freedom = len(kept) - basis.shape[1] - 1
        i = int(np.argmax(left**2 / spare))
        others = max(float(left @ left - left[i] ** 2 / spare[i]) / freedom, 1e-300)
        t = float(left[i] / np.sqrt(spare[i] * others))
        order.append(kept[i])
        if len(kept) * float(stdtr(freedom, -abs(t))) < NAMED * (HIGH if t > 0 else 1 - HIGH):
            count = k + 1
        kept = np.delete(kept, i)
    return np.array(order[:count], dtype=int)


def _in_bits(r: Array, scale: float, beyond: Array) -> Array:
    """Residuals within a few percent of a factor 1/ln 2 to one side, at least two, and most of those that are far."""
    window = float(np.clip(2 * scale, *BITS_WINDOW))
    middle = float(np.median(r))
    for side in (1, -1):
        near = np.abs(side * (r - middle) - BITS) < window
        if near.sum() >= 2 and beyond[near].all() and 2 * near.sum() >= beyond.sum():
            return near
    return np.zeros(len(r), bool)


def form(case: Case, found: Departures) -> Iterator[Finding]:
    """Departures from the law: freed parameters, the largest budget, the smallest sizes, bends, drifting exponents.

    Level of all of them together: LEVEL. Power is that of their largest t, bounded by what any test could see.
    """
    for tested in found.found:
        code = tested.departure.code
        seen = f"t = {tested.t:.1f}, p = {tested.p:.2g} corrected for {len(found.tested)} directions"
        if code.endswith("_matters"):
            yield from _freed(case, tested.departure.name, seen)
        elif code == "hold_out_missed":
            yield Finding(
                code, "warn",
                f"the runs of the largest budget lie {_off(case, tested.departure.column > 0)} the law of the others "
                f"({seen})",
                "do not extrapolate the loss with this law: isoflop compare shows which one would have held",
            )  # fmt: skip
        elif code == "exponents_drift":
            yield Finding(
                code, "warn",
                f"the residuals follow ln n_params x ln tokens ({tested.size:+.2%} per unit of each, {seen}): the data "
                "exponent depends on the size",
                "try kappa free or farseer, and compare them on a held-out budget",
            )  # fmt: skip
        else:
            yield _trend(tested, seen)


def _off(case: Case, held: Array) -> str:
    """How far the runs of a mask (n,) lie off the law refitted to the others, in the geometric mean: "-3.5% off"."""
    order = case.points.order  # as rolling origins have them: their searches are kept
    chosen = getattr(case.fit.objective, "delta", None)
    try:
        others = variant(case.fit, rows=order[~held[order]], delta="auto" if chosen == "auto" else None)
    except FitError:
        return "off"
    left = case.frame[held]
    mean = float(np.mean(np.log(left["loss"].to_numpy(float) / predict_loss(others.law, left))))
    return f"{np.expm1(mean):+.2%} off" if np.isfinite(mean) else "off"


def _trend(tested: Tested, seen: str) -> Finding:
    if tested.departure.name == "smallest sizes":
        return Finding(
            "residual_trend", "warn", f"the smallest sizes lie {np.expm1(tested.size):+.2%} above the law ({seen})",
            "tune their learning rate and batch, or leave them out (--where) and quote both",
        )  # fmt: skip
    return Finding(
        "residual_trend", "warn",
        f"the law bends along {tested.departure.name}: its exponent there changes by a share {tested.size:+.2g} of "
        f"itself half-way ({seen})",
        "the law is wrong along that axis: try another one, or fewer of the smallest budgets",
    )  # fmt: skip


def _freed(case: Case, name: str, seen: str) -> Iterator[Finding]:
    """What freeing a parameter from its default changes, as the law that frees it does."""
    law_name = next(law for law, preset in case.fit.law.presets.items() if name in preset.free)
    try:
        freed = variant(case.fit, free=(name,))
    except FitError:
        return
    floor, before, after = case.fit.law.floor_name, case.fit.law.irreducible, freed.law.irreducible
    moved = "" if before is None else f", and {floor} moves from {before:.4g} to {after:.4g}"
    yield Finding(
        f"{name}_matters", "warn",
        f"freeing {name} fits better ({seen}): {name} = {getattr(freed.law, name):.3f}{moved}",
        f"compare --law {law_name} on a held-out budget before extrapolating the loss",
    )  # fmt: skip
    if floor is None or before is None or after is None or floor not in case.fit.free:
        return
    # A floor that hardly moves when the parameter is freed needs no second look: fitting one of 0 takes a second.
    if before > 1.5 * after and likelihood_ratio(freed, variant(freed, fixed={floor: 0.0})) < 1.0:
        default = f"{name} = {case.fit.law.defaults()[name]:g}"
        yield Finding(
            "unidentified", "warn",
            f"{floor} is not identified: {floor} = {before:.4g} rests on {default}; with {name} free {floor} = 0 fits "
            "as well",
            f"do not quote {floor}; runs within 0.1 nats of the floor would fix it, that is a larger budget",
        )  # fmt: skip


def one_run(case: Case, found: Departures) -> Iterator[Finding]:
    """Whether rows of one size, which count as independent, share their noise: rows of one run or trunk.

    The restricted likelihood of a correlation within sizes against none, its null from draws. Level ONE_RUN; power .9
    at 1% noise of which sizes share 70%, 40 runs.
    """
    if not case.joint or case.points.cluster != "row" or found.freedom < 8:
        return
    alike = [c for c in ("n_params", "unique_tokens", "seed", "arm") if c in case.frame]
    label = case.frame.groupby(alike, dropna=False).ngroup().to_numpy()
    if not np.bincount(label).max() > 1 or label.max() + 1 < 4:
        return
    draws = max(19, min(DRAWS, MOST_DRAWN // len(label)))
    noise = np.random.default_rng(0).normal(size=(len(label), draws)) * found.noise.sd[:, None]
    ratios, share = _within(found, np.column_stack([found.residual, noise]), label)
    p = float(1 + np.sum(ratios[1:] >= ratios[0])) / (1 + draws)
    if p < ONE_RUN and ratios[0] > 0:
        yield Finding(
            "rows_not_runs", "warn",
            f"rows of one size count as independent runs and share {share:.0%} of their noise (p = {p:.2g}); every "
            "interval is too narrow",
            "name the run or trunk of each row with --map run_id=COLUMN",
        )  # fmt: skip


def _within(found: Departures, columns: Array, label: Array) -> tuple[Array, float]:
    """Likelihood ratios (k,) of a correlation within labels against none, and the correlation of the first column."""
    values = []
    correlations = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
    for shared in correlations:
        model = NoiseModel(found.noise.sd, shared, label)
        basis, log_size = orthonormal(model.whiten(found.design))
        y = model.whiten(columns)
        freedom = len(y) - basis.shape[1]
        squares = np.maximum(np.sum(y**2, axis=0) - np.sum((basis.T @ y) ** 2, axis=0), 1e-300)
        values.append(-0.5 * (freedom * np.log(squares) + model.log_determinant + 2 * log_size))
    likelihood = np.array(values)
    best = int(np.argmax(likelihood[:, 0]))
    return 2 * (likelihood.max(axis=0) - likelihood[0]), correlations[best]


def lack_of_fit(case: Case, found: Departures) -> Iterator[Finding]:
    """Seed noise against the scatter around the law, from runs that differ in nothing but the seed.

    Level LACK of normal noise, .02 under t(3), whose wild runs are drawn in.
    """
    keys = replicate_keys(case)
    frame = keys.assign(r=found.residual / found.noise.sd)
    groups = frame.groupby(list(keys.columns), dropna=False)["r"]
    n_cells, n = groups.ngroups, len(frame)
    if n_cells == n or float(np.nanmax(groups.var())) == 0.0:
        yield Finding(
            "no_replicates", "info", "no cell was trained with a second seed: the noise is only seen around the law",
            "repeat the cheapest cells with two more seeds",
        )  # fmt: skip
        return
    pure = float(((frame["r"] - groups.transform("mean")) ** 2).sum())
    freedom_pure, freedom_lack = n - n_cells, n_cells - len(case.fit.free)
    if freedom_lack <= 0:
        return
    lack = float(np.sum(groups.size() * groups.mean() ** 2))
    f = (lack / freedom_lack) / (pure / freedom_pure)
    p = float(fdtrc(freedom_lack, freedom_pure, f))
    if p < LACK:
        yield Finding(
            "lack_of_fit", "warn",
            f"the law misses the cells by {np.sqrt(f):.1f} times the seed noise {np.sqrt(pure / freedom_pure):.2%} "
            f"(F = {f:.1f} on {freedom_lack} and {freedom_pure}, p = {p:.2g})",
            "intervals do not cover a wrong form: compare laws on a held-out budget",
        )  # fmt: skip


def _rows(case: Case, far: Array) -> str:
    """The first rows of a mask (n,), with what their losses are above the law's."""
    return ", ".join(f"{_label(case, i)} ({np.expm1(case.fit.residuals[i]):+.1%})" for i in np.flatnonzero(far)[:5])


def _label(case: Case, i: int) -> str:
    return str(case.frame["run_id"].iloc[i]) if "run_id" in case.frame else f"row {i + 1}"


RESIDUAL_CHECKS: tuple[Check, ...] = (residuals,)
