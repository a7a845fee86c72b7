"""Checks of a fit: whether it converged, whether its parameters are identified, what it depends on."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from isoflop.printable import counted
from isoflop.scaling.findings.finding import Case, Check, Finding, Severity, likelihood_ratio, variant
from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.fitting.profile_likelihood import profile
from isoflop.scaling.laws.law import Law
from isoflop.scaling.laws.special_functions import stdtrit

VOCABULARY = "n_params_embedding"


def converged(case: Case) -> Iterator[Finding]:
    """Whether the fit, its starts and its refits reached one optimum."""
    fit = case.fit
    if fit.status == "not_converged":
        yield Finding(
            "not_converged", "fail", fit.message, "fix a parameter (--fix E=0), or add runs that separate them"
        )
    if fit.share_at_best < 0.2:
        yield Finding(
            "few_starts_agree", "warn",
            f"only {fit.share_at_best:.0%} of {len(fit.starts)} starts ended at the best optimum",
            "treat the parameters as one of several descriptions; compare laws on held-out budgets",
        )  # fmt: skip
    if case.draws is not None and case.draws.share_converged < 0.98:
        yield Finding(
            "refits_not_converged", "warn",
            f"{1 - case.draws.share_converged:.1%} of {len(case.draws)} {case.draws.kind} refits did not converge",
            "the intervals are too narrow or too wide; add runs or free fewer parameters",
        )  # fmt: skip


def at_bound(case: Case) -> Iterator[Finding]:
    """Parameters at the bound of their search box, and an irreducible loss that some run is below."""
    law = case.fit.law
    for name in case.fit.bounds_hit:
        value = getattr(law, name)
        yield Finding(
            "at_bound", "warn" if name == law.floor_name else "fail",
            f"{name} = {value:.4g} lies at the bound of its search box",
            f"fix {name} on purpose or choose a law without it; an interval of {name} is one-sided",
        )  # fmt: skip
    lowest, floor = float(case.frame["loss"].min()), law.irreducible
    if floor is not None and floor >= lowest:
        yield Finding(
            "floor_above_data", "fail",
            f"{law.floor_name} = {floor:.4g} is not below the lowest loss {lowest:.4g}",
            f"look for an outlying low loss, or fix {law.floor_name}",
        )  # fmt: skip


def unnamed_floor(case: Case) -> Iterator[Finding]:
    """A parameter that is added to every loss, in a law of one's own that names no irreducible loss."""
    law, problem = case.fit.law, case.fit.problem
    if law.floor_name is not None:
        return
    slopes = problem.residuals(case.fit.theta[None])[1][0] * (case.fit.predicted if problem.log else 1.0)
    for name, slope in zip(case.fit.free, slopes, strict=True):
        box = law.box[name]
        if box.lo >= 0 and np.allclose(slope, getattr(law, name) if box.log else 1.0, rtol=1e-6, atol=0):
            yield Finding(
                "unnamed_floor", "warn",
                f"{name} is added to every loss, and {law.name} names no irreducible loss: the interval of {name} may "
                "go beyond the lowest loss, and whether the runs identify it is not looked at",
                f'write floor_name = "{name}" into the class of the law',
            )  # fmt: skip


def counted_twice(case: Case) -> Iterator[Finding]:
    """A law that has the parameters of the vocabulary apart, fitted to a size that counts them too."""
    counted, read = case.points.conventions["params"], case.fit.law.reads().values()
    if counted in ("matrices", "total") and any(column.name == VOCABULARY for column in read):
        yield Finding(
            "counted_twice", "fail",
            f"{case.fit.law.name} has the parameters of the vocabulary apart ({VOCABULARY}), and the size counts them "
            f"too ({counted})",
            "count the size without them: --params no-embedding",
        )  # fmt: skip


def conditioning(case: Case) -> Iterator[Finding]:
    """Whether N and D were varied apart, and whether some combination of parameters is not identified."""
    _, jacobian, _ = case.fit.problem.residuals(case.fit.theta[None])
    columns = jacobian[0].T
    norms = np.linalg.norm(columns, axis=0)
    condition = float(np.linalg.cond(columns / np.where(norms > 0, norms, 1.0)))
    if case.joint:
        log_n, log_d = np.log(case.frame["n_params"]), np.log(case.frame["tokens"])
        spread = float(np.exp(np.ptp(log_d - log_n)))
        correlation = abs(float(np.corrcoef(log_n, log_d)[0, 1])) if min(np.ptp(log_n), np.ptp(log_d)) > 0 else 1.0
        if correlation > 0.995 or spread < 1.5:
            yield Finding(
                "collinear", "fail",
                f"tokens per parameter vary by a factor {spread:.3g} only (correlation of ln n_params and ln tokens "
                f"{correlation:.4f}): alpha, beta and the optimal size cannot be separated, and are refused",
                "add runs at the same sizes with 4 times fewer and 4 times more tokens",
            )  # fmt: skip
            return
        if correlation > 0.9 or spread < 16:
            yield Finding(
                "narrow_tokens_per_param", "warn",
                f"tokens per parameter span a factor {spread:.3g}, correlation of ln n_params and ln tokens "
                f"{correlation:.3f}",
                "add cells off the diagonal: the smallest size at the largest budget and the reverse",
            )  # fmt: skip
    if condition > 1e4:
        yield Finding(
            "ill_conditioned", "fail" if condition > 1e6 else "warn",
            f"the scaled Jacobian has condition {condition:.2g}: some combination of parameters is not identified",
            "quote predictions instead of parameters, or fix one parameter",
        )  # fmt: skip


def enough(case: Case) -> Iterator[Finding]:
    """Whether points, clusters and inliers are enough for the number of free parameters."""
    n, parameters, clusters = len(case.frame), len(case.fit.free), case.fit.n_clusters
    if n < parameters + 3:
        yield Finding(
            "few_points", "fail" if n <= parameters else "warn",
            f"{n} points for {parameters} parameters leave {n - parameters} to judge the law by",
            f"add at least {counted(parameters + 3 - n, 'run')} or fix a parameter",
        )  # fmt: skip
    if clusters < 3 * parameters:
        yield Finding(
            "few_clusters", "fail" if clusters <= parameters else "warn",
            f"{clusters} independent clusters (by {case.points.cluster}) for {parameters} parameters",
            f"train {counted(3 * parameters - clusters, 'more independent run')}: other sizes or other seeds",
        )  # fmt: skip
    inliers = case.fit.inliers
    if inliers < 3 * parameters and inliers < n:
        yield Finding(
            "few_inliers", "warn",
            f"{inliers} of {n} residuals lie within delta = {case.fit.delta:.2g}: nearly an absolute-error fit",
            "use --delta auto; trust jackknife and bootstrap intervals only",
        )  # fmt: skip


def second_basin(case: Case) -> Iterator[Finding]:
    """Another optimum that is nearly as good, with other parameters."""
    best, starts = case.fit.value, case.fit.starts
    rivals = starts[(starts["value"] > best * (1 + 1e-6)) & (starts["value"] < best * 1.01) & starts["converged"]]
    law = case.fit.law
    for _, start in rivals.iterrows():
        moved = {p: (getattr(law, p), start[p]) for p in case.fit.free}
        apart = {p: v for p, v in moved.items() if abs(v[0] - v[1]) > 0.05 * max(abs(v[0]), abs(v[1]))}
        if apart:
            where = ", ".join(f"{p} {a:.4g} or {b:.4g}" for p, (a, b) in apart.items())
            yield Finding(
                "second_basin", "warn", f"another optimum is {start['value'] / best - 1:.2%} worse: {where}",
                "report both, or add runs where their predictions differ",
            )  # fmt: skip
            return


def identified(case: Case) -> Iterator[Finding]:
    """Whether the data bound the irreducible loss and the other parameters that few data do.

    A warning where the floor ends at its bound, a note where the level does not reject 0: that is a matter of how much
    was measured, at 2.6% noise true of one study of four in which nothing is wrong, and the interval says it.
    """
    fit = case.fit
    yield from _open_profiles(case)
    floor = fit.law.floor_name
    if floor is None or floor not in fit.free:
        return
    if floor in fit.bounds_hit:
        value, box = float(fit.law.irreducible or 0.0), fit.law.box[floor]
        if value > (box.lo + box.hi) / 2:
            yield Finding(
                "unidentified", "warn", f"{floor} is not identified: it ends at its upper bound {value:.4g}",
                f"let the box of {floor} hold the losses, or divide them by a constant",
            )  # fmt: skip
        else:
            yield _floor_unidentified(floor, f"{floor} = {value:.4g}, and it ends at its bound {box.lo:g}", "warn")
        return
    critical = _critical(case)
    ratio = likelihood_ratio(fit, variant(fit, fixed={floor: 0.0}))
    lo = case.draws.interval(floor, case.level, positive=False)[0] if case.draws else np.inf
    if ratio < critical or lo <= 0:
        why = "its interval meets 0"
        if ratio < critical:
            why = f"{floor} = 0 fits nearly as well (likelihood ratio {ratio:.2f}, below {critical:.2f})"
        yield _floor_unidentified(floor, f"{floor} = {fit.law.irreducible:.4g}, and {why}", "info")


def _floor_unidentified(floor: str, why: str, severity: Severity) -> Finding:
    return Finding(
        "unidentified", severity, f"{floor} is not identified: {why}",
        f"do not quote {floor}; runs within 0.1 nats of the floor would fix it, that is a larger budget",
    )  # fmt: skip


def _open_profiles(case: Case) -> Iterator[Finding]:
    """Free parameters that few data bound on both sides, where the profile likelihood stays below its cut."""
    remedies = case.fit.law.open_ended
    for name in [p for p in case.fit.free if p in remedies and case.fit.noise > 1e-9]:
        curve = profile(case.fit, name, level=case.level)
        if curve.open_below or curve.open_above:
            side = "above" if curve.open_above else "below"
            yield Finding(
                "unidentified", "warn",
                f"{name} is not identified: {name} = {curve.estimate:.3g}, and its profile is open {side}",
                remedies[name],
            )  # fmt: skip


def sensitive(case: Case) -> Iterator[Finding]:
    """How far the exponent a of the optimal size moves with delta, and with one cluster left out."""
    if not case.joint or "a" not in case.fit.exponents():
        return
    allowed = case.half_width("a") if case.draws else 0.02
    centre = case.fit.exponents()["a"]
    moved = {}
    deltas: dict[str, float | Literal["auto"]] = {"0.001": 1e-3, "auto": "auto", "infinite": np.inf}
    for name, delta in deltas.items():
        try:
            moved[name] = variant(case.fit, delta=delta).exponents()["a"]
        except FitError:
            continue
    worst = max(moved, key=lambda k: abs(moved[k] - centre))
    if abs(moved[worst] - centre) > allowed:
        yield Finding(
            "sensitive_to_delta", "warn",
            f"a moves from {centre:.4f} to {moved[worst]:.4f} with delta {worst}, over its half-width {allowed:.4f}",
            "look at the outliers first; quote the range over delta",
        )  # fmt: skip
    if case.draws is not None and case.draws.kind == "jackknife":
        without = case.draws.evaluate("a")
        i = int(np.argmax(np.abs(without - centre)))
        if abs(without[i] - centre) > allowed / 2:
            yield Finding(
                "sensitive_to_rows", "warn",
                f"leaving out {case.points.cluster} {case.frame['cluster'].unique()[i]} alone moves a "
                f"from {centre:.4f} to {without[i]:.4f} (half-width {allowed:.4f})",
                "repeat that run with another seed, or add a neighbour",
            )  # fmt: skip


def plausible(case: Case) -> Iterator[Finding]:
    """Exponents outside the range of published ones, and amplitudes fixed at rounded values.

    The ranges that every law has are of derived exponents: a parameter has one where its form gives it.
    """
    law = case.fit.law
    known = {p: getattr(law, p) for p in case.fit.free if law.usual.get(p) != Law.usual.get(p)} | case.fit.exponents()
    for name, (lo, hi) in law.usual.items():
        if case.joint and name in known and not lo <= known[name] <= hi:
            yield Finding(
                "unusual_exponent", "info", f"{name} = {known[name]:.3f} lies outside the usual {lo} to {hi}",
                "look at the parameter and compute conventions, warm-up, batch size and learning-rate edges",
            )  # fmt: skip
    rounded = [p for p, v in case.fit.problem.pinned.items() if p in case.fit.law.amplitudes and v and _is_rounded(v)]
    if rounded:
        yield Finding(
            "rounded_constants", "warn",
            f"{', '.join(f'{p} = {case.fit.problem.pinned[p]:g}' for p in rounded)} is fixed at few digits; "
            "rounding published constants moves the loss more than their error bars",
            "fix it at full precision (the published laws of this package carry it)",
        )  # fmt: skip


def extrapolates(case: Case) -> Iterator[Finding]:
    """A target more than 10 times above the largest run."""
    if case.target_flops is None or case.frame["flops"].isna().any():
        return
    factor = case.target_flops / float(case.frame["flops"].max())
    if factor > 10:
        yield Finding(
            "extrapolates", "fail" if factor > 100 else "warn",
            f"{case.target_flops:.3g} FLOPs is {factor:.3g} times the largest run",
            "quote the interval, not the point; add a run in between",
        )  # fmt: skip


def _critical(case: Case) -> float:
    """The likelihood ratio above which a value is rejected at the case's level, from Student's t over the clusters."""
    return float(stdtrit(max(case.fit.n_clusters - 1, 1), 0.5 + case.level / 2) ** 2)


def _is_rounded(value: float) -> bool:
    return float(f"{value:.3g}") == value


FIT_CHECKS: tuple[Check, ...] = (
    converged, at_bound, unnamed_floor, counted_twice, conditioning, enough, second_basin, identified, sensitive,
    plausible, extrapolates,
)  # fmt: skip
