"""Compute multiplier between arms: the factor by which an arm needs less compute for the loss of the baseline.

m(loss) = C_baseline(loss) / C_arm(loss), on frontiers fitted jointly (`joint_fit`), averaged over claims of what the
arms share other than their exponents. With it come the ranking at one matched budget and Findings on the comparison
(`matched`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import POSITIVE, SHARE, check
from isoflop.printable import loss_text
from isoflop.scaling.arms.joint_fit import ArmsFit, Frontier, Quantity, fit_arms
from isoflop.scaling.arms.matched import Matched, comparison_findings, matched_ranking
from isoflop.scaling.arms.pairs import by_lot, cluster_labels
from isoflop.scaling.arms.split import MultiplierError, split_arms, unlike_arms
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Array
from isoflop.scaling.selection.averaging import ForecastAverage, average, softmax
from isoflop.scaling.table.conventions import Points
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain

GRID = 161


@dataclass(frozen=True)
class Pair:
    """One arm against the baseline.

    `at_loss` has columns loss, flops_arm, flops_baseline, multiplier, lo, hi; `at_compute` flops of the arm, loss,
    multiplier, lo, hi, p_better. `crossover` has flops (None without one), lo and hi (None: open), possible, and
    probability_in_data. `sharing` holds the weight of each claim of what the arms share, `fits` those under which the
    multiplier may change with compute, which it is averaged over. `paired` says whether the cells match one to one.
    """

    arm: str
    baseline: str
    at_loss: pd.DataFrame
    at_compute: pd.DataFrame
    crossover: dict[str, Any]
    sharing: dict[str, float]
    form: str
    paired: bool
    matched: Matched | None
    findings: tuple[Finding, ...]
    fits: tuple[ArmsFit, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "arm": self.arm, "baseline": self.baseline, "form": self.form, "paired": self.paired,
            "at_loss": plain(self.at_loss), "at_compute": plain(self.at_compute),
            "crossover": plain(self.crossover), "sharing": self.sharing,
            "matched": self.matched.to_dict() if self.matched else None,
            "findings": [f.to_dict() for f in self.findings],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [
            f"{self.arm} against {self.baseline}: {self.form}, {'paired' if self.paired else 'unpaired'} cells; "
            + "shared by AICc: "
            + ", ".join(f"{name} {w:.0%}" for name, w in self.sharing.items()),
            f"  {'loss':>8} {'C arm':>12} {'C baseline':>12} {'multiplier':>10}  interval",
        ]
        for r in self.at_loss.itertuples():
            lines.append(
                f"  {loss_text(r.loss):>8} {r.flops_arm:>12.4g} {r.flops_baseline:>12.4g} {r.multiplier:>10.3f}  "
                f"{r.lo:.3f} to {r.hi:.3f}"
            )
        lines.append(f"  {'compute':>8} {'loss':>8} {'multiplier':>10}  interval          P({self.arm} better)")
        for r in self.at_compute.itertuples():
            between = f"{r.lo:.3f} to {r.hi:.3f}"
            reached = f"{r.flops:>8.3g} {loss_text(r.loss):>8}"
            lines.append(f"  {reached} {r.multiplier:>10.3f}  {between:<16}  {r.p_better:.3f}")
        lines.append(f"  {_crossing(self.crossover)}")
        lines.append(f"  {self.matched}" if self.matched else "  no budget that both arms have")
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])


@dataclass(frozen=True, repr=False, eq=False)
class Multipliers(Answer):
    """Every arm against the baseline. `failed` names the arms without a multiplier, with the reason and the ranking.

    `notes` say which rows were filtered, unfinished or of no arm, `findings` what all arms may have wrong.
    """

    pairs: tuple[Pair, ...]
    failed: dict[str, str]
    level: float
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        pairs = [p.to_dict() for p in self.pairs]
        return {
            "level": self.level, "pairs": pairs, "failed": self.failed, "conventions": dict(self.conventions),
            "findings": [f.to_dict() for f in self.findings], "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"compute multiplier C_baseline / C_arm at equal loss, {self.level:.0%} intervals"]
        lines += [str(pair) for pair in self.pairs]
        lines += [f"{arm}: {why}" for arm, why in self.failed.items()]
        lines += map(str, self.findings)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def multiplier(
    table: pd.DataFrame,
    *,
    by: str = "arm",
    baseline: str | None = None,
    target: float | None = None,
    params: str = "matrices",
    compute: str = "exact",
    level: float = 0.9,
) -> Multipliers:
    """Compare the arms in column `by` of a table. `target` adds a compute, in FLOPs, to those reported.

    Raises MultiplierError for one arm only, an unknown baseline, or when no arm can be compared, ValueError for a wrong
    number.

    >>> import isoflop
    >>> found = isoflop.multiplier(isoflop.example("transformer_vs_lstm"), by="arm")
    >>> [pair.arm for pair in found.pairs]
    ['lstm']
    """
    check(POSITIVE, target=target)
    check(SHARE, level=level)
    table = as_frame(table)
    baseline, rows, data, failed = split_arms(table, by, baseline, params, compute)
    pairs = []
    for arm in data:
        if arm == baseline:
            continue
        try:
            pairs.append(_pair(arm, baseline, data, rows, target, level))
        except (FitError, MultiplierError) as error:
            matched = matched_ranking(arm, data[arm].frame, baseline, data[baseline].frame, level)
            failed[arm] = f"{error}; {matched}" if matched else str(error)
    if not pairs:
        raise MultiplierError("; ".join(f"{arm} against {baseline}: {why}" for arm, why in failed.items()))
    notes = list(dict.fromkeys(note for d in data.values() for note in d.notes))
    notes += dict.fromkeys(note for pair in pairs for note in _cost_notes(pair, data))
    notes += dict.fromkeys(note for arm in data for note in by_lot(data[arm].frame, data[baseline].frame))
    if table[by].isna().any():
        notes.append(f"{table[by].isna().sum()} rows without a value in column {by!r} are in no arm")
    unlike = [found for of_arm in unlike_arms(rows, data, by).values() for found in of_arm]
    every = replace(data[baseline], frame=pd.concat([d.frame for d in data.values()], ignore_index=True))
    return Multipliers(tuple(pairs), failed, level, tuple(notes), (*unit_findings(every), *unlike), every.conventions)


def _pair(
    arm: str, baseline: str, data: Mapping[str, Points], rows: Mapping[str, pd.DataFrame], target: float | None,
    level: float,
) -> Pair:  # fmt: skip
    ours, theirs = data[arm], data[baseline]
    labels, paired = cluster_labels(ours.frame, theirs.frame)
    fits = fit_arms([ours, theirs], labels)
    weights = _weights(fits)
    sharing = {f.sharing: float(w) for f, w in zip(fits, weights, strict=True)}
    fits, weights = _averaged(fits)
    losses = _common_losses(fits, weights, ours, theirs)
    span = _common_compute(ours, theirs)
    at_loss = _at_losses(fits, weights, losses, level)
    at_compute = _at_computes(fits, weights, np.array([*span, *([target] if target else [])]), level)
    matched = matched_ranking(arm, ours.frame, baseline, theirs.frame, level)
    varies = _varies(fits, weights, losses, level)
    found = comparison_findings(arm, baseline, rows, data, matched, at_compute, varies, fits[0].constant, level)
    crossover = _crossover(fits, weights, span, target, level)
    form = type(fits[0].laws[0]).name
    return Pair(arm, baseline, at_loss, at_compute, crossover, sharing, form, paired, matched, found, tuple(fits))


def _cost_notes(pair: Pair, data: Mapping[str, Points]) -> Iterator[str]:
    """What to say of what training costs each arm at the largest compute that the answer names."""
    named = max(float(pair.at_compute["flops"].max()), pair.crossover["flops"] or 0.0)
    for arm, law in zip((pair.arm, pair.baseline), pair.fits[0].laws, strict=True):
        if isinstance(law, Chinchilla):
            yield from (f"{arm}: {note}" for note in data[arm].cost_notes(float(law.optimal(named, data[arm].cost).N)))


def _averaged(fits: Sequence[ArmsFit]) -> tuple[list[ArmsFit], Array]:
    """The claims that a multiplier is averaged over, and their weights: those under which it may change with compute,
    unless the clusters are too few for their AICc."""
    kept = [f for f in fits if not f.constant and np.isfinite(f.aicc)] or [f for f in fits if f.constant]
    return kept, _weights(kept)


def _weights(fits: Sequence[ArmsFit]) -> Array:
    """The weights of claims by AICc; all of it to a constant multiplier where clusters are too few for any AICc."""
    scores = np.array([-0.5 * f.aicc for f in fits])
    return softmax(scores) if np.isfinite(scores).any() else np.array([float(f.constant) for f in fits])


def _average(fits: Sequence[ArmsFit], weights: Array, quantity: Quantity) -> ForecastAverage:
    """A quantity averaged over claims by weight, without the claims under which some refit has no value."""
    forecasts = [f.forecast(quantity) for f in fits]
    finite = np.array([np.isfinite(s.mean).all() and np.isfinite(s.sd).all() for s in forecasts])
    if not finite.any():
        raise MultiplierError("the loss lies at or below the floor of an arm in every fit: no compute reaches it")
    weights = np.where(finite, weights, 0.0)
    if not weights.any():
        weights = finite.astype(float)
    return average([s for s, ok in zip(forecasts, finite, strict=True) if ok], weights[finite])


def _common_compute(ours: Points, theirs: Points) -> tuple[float, float, float]:
    lo = max(p.frame["flops"].min() for p in (ours, theirs))
    hi = min(p.frame["flops"].max() for p in (ours, theirs))
    if lo >= hi:  # no common compute: the ends of both
        lo, hi = (f(p.frame["flops"].max() for p in (ours, theirs)) for f in (min, max))
    return float(lo), float(np.sqrt(lo * hi)), float(hi)


def _common_losses(fits: Sequence[ArmsFit], weights: Array, ours: Points, theirs: Points) -> Array:
    """Three losses that both arms' frontiers pass inside their data, even in ln compute of the baseline."""
    best = fits[int(np.argmax(weights))]
    ends = [(f.loss(np.array(p.frame["flops"].max())), f.loss(np.array(p.frame["flops"].min())))
            for f, p in zip(best.fronts, (ours, theirs), strict=True)]  # fmt: skip
    low, high = max(float(e[0]) for e in ends), min(float(e[1]) for e in ends)
    if low >= high:
        raise MultiplierError(
            f"no loss that both arms reach inside their data (they span {ends[0][0]:.4g} to {ends[0][1]:.4g} and "
            f"{ends[1][0]:.4g} to {ends[1][1]:.4g}): give them budgets that overlap"
        )
    base = best.fronts[1]
    start, stop = base.compute(np.array([high, low])).tolist()
    return base.loss(np.geomspace(start, stop, 3))


def _at_losses(fits: Sequence[ArmsFit], weights: Array, losses: Array, level: float) -> pd.DataFrame:
    pooled = _average(fits, weights, lambda a, b: np.log(b.compute(losses) / a.compute(losses)))
    spent = _average(fits, weights, lambda a, b: np.log(np.concatenate([a.compute(losses), b.compute(losses)])))
    flops = _factor(spent.quantile(0.5)).reshape(2, -1)
    lo, hi = pooled.interval(level)
    return pd.DataFrame({
        "loss": losses, "flops_arm": flops[0], "flops_baseline": flops[1],
        "multiplier": _factor(pooled.quantile(0.5)), "lo": _factor(lo), "hi": _factor(hi),
    })  # fmt: skip


def _at_computes(fits: Sequence[ArmsFit], weights: Array, flops: Array, level: float) -> pd.DataFrame:
    """m(C) = compute the baseline needs for the arm's loss at C, over C; P(arm better) from the losses at C."""
    pooled = _average(fits, weights, lambda a, b: np.log(b.compute(a.loss(flops)) / flops))
    ahead = _average(fits, weights, lambda a, b: np.log(a.loss(flops) / b.loss(flops)))
    loss = _average(fits, weights, lambda a, b: np.log(a.loss(flops)))
    lo, hi = pooled.interval(level)
    return pd.DataFrame({
        "flops": flops, "loss": np.exp(loss.quantile(0.5)), "multiplier": _factor(pooled.quantile(0.5)),
        "lo": _factor(lo), "hi": _factor(hi), "p_better": ahead.cdf(np.zeros(len(flops))),
    })  # fmt: skip


def _factor(log: Array) -> Array:
    """e to a power; infinite beyond floating point, where an interval is open."""
    with np.errstate(over="ignore"):
        return np.exp(log)


def _varies(fits: Sequence[ArmsFit], weights: Array, losses: Array, level: float) -> tuple[float, float] | None:
    """Interval of the ratio of the multipliers at the lowest and the highest loss, if it excludes 1."""
    ends = losses[[0, -1]]

    def ratio(a: Frontier, b: Frontier) -> Array:
        m = np.log(b.compute(ends) / a.compute(ends))
        return m[1] - m[0]

    lo, hi = _average(fits, weights, ratio).interval(level)
    return (float(_factor(lo)[0]), float(_factor(hi)[0])) if lo[0] > 0 or hi[0] < 0 else None


def _crossover(
    fits: Sequence[ArmsFit], weights: Array, span: tuple[float, ...], target: float | None, level: float
) -> dict[str, Any]:
    """Where the frontiers cross: the compute whose losses may be equal, and the chance of a crossing in the data."""
    top = max(span[-1], target or 0.0) * 100
    flops = np.geomspace(span[0] / 10, top, GRID)
    ahead = _average(fits, weights, lambda a, b: np.log(a.loss(flops) / b.loss(flops)))
    middle, (lo, hi) = ahead.quantile(0.5), ahead.interval(level)
    signs = np.flatnonzero(np.diff(np.sign(middle)) != 0)
    at = None
    if len(signs):
        i = signs[np.argmin(np.abs(np.log(flops[signs] / span[1])))]
        share = middle[i] / (middle[i] - middle[i + 1])
        at = float(flops[i] * (flops[i + 1] / flops[i]) ** share)
    open_ = np.flatnonzero((lo <= 0) & (hi >= 0))
    low = float(flops[open_[0]]) if len(open_) and open_[0] > 0 else None
    high = float(flops[open_[-1]]) if len(open_) and open_[-1] < GRID - 1 else None
    inside = float(np.dot(weights, [_chance(f, np.array([span[0], span[-1]])) for f in fits]))
    return {"flops": at, "lo": low, "hi": high, "possible": bool(len(open_)), "probability_in_data": inside}


def _chance(fitted: ArmsFit, ends: Array) -> float:
    """Probability that the arms change places between two computes, from the jackknife covariance."""
    from scipy.stats import multivariate_normal  # slow to import, and only this needs it

    centre = np.log(fitted.fronts[0].loss(ends) / fitted.fronts[1].loss(ends))
    draws = np.array([np.log(a.loss(ends) / b.loss(ends)) for a, b in fitted.without])
    covariance = (len(draws) - 1) * np.cov(draws.T, bias=True) + 1e-18 * np.eye(2)
    below = float(multivariate_normal(centre, covariance, allow_singular=True).cdf(np.zeros(2)))
    above = float(multivariate_normal(-centre, covariance, allow_singular=True).cdf(np.zeros(2)))
    return float(np.clip(1.0 - below - above, 0.0, 1.0))


def _crossing(crossover: Mapping[str, Any]) -> str:
    chance = f"probability of a crossover inside the common data {crossover['probability_in_data']:.2f}"
    if not crossover["possible"]:
        return f"no crossover is compatible with the data; {chance}"
    lo = f"{crossover['lo']:.3g}" if crossover["lo"] else "below"
    hi = f"{crossover['hi']:.3g}" if crossover["hi"] else "beyond"
    at = f"at {crossover['flops']:.3g} FLOPs" if crossover["flops"] else "not in the middle estimate"
    return f"crossover {at}, interval {lo} to {hi}; {chance}"
