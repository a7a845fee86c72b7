"""The gate: does a change survive scale? Pairs of runs decide whether its compute multiplier at a target exceeds 1.

Promoted is what needs less compute beyond doubt, and by the estimate at most 1/`least` of it; rejected is what cannot
reach `least`. Each is wrong with probability `error` at most, however often the gate is asked as pairs come in
(`sequence`), over all candidates together (Bonferroni).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import AT_LEAST_ONE, POSITIVE, SHARE, check
from isoflop.scaling.arms.matched import ruler_findings
from isoflop.scaling.arms.pairs import SAME_BUDGET, by_lot
from isoflop.scaling.arms.split import MultiplierError, split_arms, unlike_arms
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.tuning_checks import tuning_findings
from isoflop.scaling.gate.discrepancy import Discrepancy, LearnError, learn
from isoflop.scaling.gate.estimate import Estimate, Observations, estimate
from isoflop.scaling.gate.next_pair import NextPair, Planner
from isoflop.scaling.gate.observations import PairTable, Slope, baseline_slope, pair_table
from isoflop.scaling.gate.verdict import Verdict, decide, objections
from isoflop.scaling.laws.special_functions import stdtrit
from isoflop.scaling.table.formats.data_frame import as_frame

REACH = 1.0  # times the span of the pairs in ln compute: how far beyond it a drift is continued
LEAST = 1.03
LARGEST = 700.0  # exp of more is no number
ORDER = ("promote", "undecided", "reject")


class GateError(ValueError):
    """A table holds no pair of runs to judge a change by."""

    exit_code = 1


@dataclass(frozen=True, repr=False, eq=False)
class Gate(Answer):
    """The verdicts on all candidates, the leading one first. `failed` says why an arm has none."""

    verdicts: tuple[Verdict, ...]
    baseline: str
    target: float
    error: float
    least: float
    slope: str
    learnt: Discrepancy | None
    failed: dict[str, str]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: what is said of the leading candidate, and `verdicts` of all."""
        return {
            **self.verdicts[0].to_dict(), "baseline": self.baseline, "target_flops": self.target, "error": self.error,
            "least": self.least, "slope": self.slope, "learnt": self.learnt.to_dict() if self.learnt else None,
            "verdicts": [v.to_dict() for v in self.verdicts], "failed": self.failed, "notes": list(self.notes),
            "conventions": dict(self.conventions),
            "findings": [f.to_dict() for f in (*self.verdicts[0].findings, *self.findings)],
        }  # fmt: skip

    def __str__(self) -> str:
        share = f", {self.error / self._count:.3g} a candidate" if self._count > 1 else ""
        lines = [
            f"against {self.baseline} at {self.target:.3g} FLOPs: error {self.error:g} at every look{share}; "
            f"slope of ln loss: {self.slope}",
            *([str(self.learnt)] if self.learnt else []),
            *map(str, self.verdicts),
            *(f"{arm}: {why}" for arm, why in self.failed.items()),
            *map(str, self.findings),
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def _count(self) -> int:
        return len(self.verdicts) + len(self.failed)


def gate(
    table: pd.DataFrame,
    *,
    target: float,
    by: str = "arm",
    baseline: str | None = None,
    error: float = 0.05,
    least: float = LEAST,
    learned: pd.DataFrame | Discrepancy | None = None,
    params: str = "matrices",
    compute: str = "exact",
) -> Gate:
    """Judge every arm in column `by` against the baseline (None: the first) at a `target` compute in FLOPs.

    `error` is the probability of any wrong promotion, and of any wrong rejection; `least` the multiplier worth having.
    `learned` is a table of past arms in column `by`, trained at two or more computes, which shows how gains change with
    scale, or what was learnt of one. Raises ValueError for a wrong number, MultiplierError for one arm or an unknown
    baseline, GateError where no arm has a pair, LearnError for a table to learn from that shows nothing, FitError where
    the loss of the baseline does not fall with compute.

    >>> import isoflop
    >>> found = isoflop.gate(isoflop.example("transformer_vs_lstm"), target=1e12, baseline="transformer")
    >>> found.verdicts[0].decision
    'undecided'
    """
    check(POSITIVE, target=target)
    check(SHARE, error=error)
    check(AT_LEAST_ONE, least=least)
    table = as_frame(table)
    learnt = learn_from(learned, by, params, compute)
    baseline, rows, data, failed = split_arms(table, by, baseline, params, compute)
    share = error / (len(rows) - 1)
    slope = baseline_slope(data[baseline], learnt)
    unlike, verdicts = unlike_arms(rows, data, by), []
    for arm in data:
        if arm == baseline:
            continue
        made = pair_table(data[arm], data[baseline], (rows[arm], rows[baseline]), slope, target)
        if not len(made.flops):
            failed[arm] = (
                f"no pair: no run of it has the compute (within {SAME_BUDGET:.0%}) and size of one of {baseline}"
            )
            continue
        found = [*ruler_findings(rows[arm], rows[baseline], data[arm].loss_unit), *unlike[arm], *unlike[baseline]]
        found += [f for f in tuning_findings({arm: rows[arm], baseline: rows[baseline]}) if f.severity == "warn"]
        verdicts.append(_verdict(arm, made, found, slope, target, share, least, learnt))
    if not verdicts:
        raise GateError("; ".join(f"{arm} against {baseline}: {why}" for arm, why in failed.items()))
    notes = list(dict.fromkeys(note for d in data.values() for note in d.notes))
    notes += dict.fromkeys(note for arm in data for note in by_lot(data[arm].frame, data[baseline].frame))
    if table[by].isna().any():
        notes.append(f"{table[by].isna().sum()} rows without a value in column {by!r} are in no arm")
    verdicts.sort(key=lambda v: (ORDER.index(v.decision), -np.nan_to_num(v.p), v.arm))
    return Gate(
        tuple(verdicts), baseline, target, error, least, slope.source, learnt, failed, tuple(notes),
        tuple(_assumed(slope)), data[baseline].conventions,
    )  # fmt: skip


def learn_from(
    table: pd.DataFrame | Discrepancy | None, by: str, params: str = "matrices", compute: str = "exact"
) -> Discrepancy | None:
    """What a table of past arms shows; what was learnt already, or None, as it is. Raises LearnError with the table."""
    if table is None or isinstance(table, Discrepancy):
        return table
    past = as_frame(table)
    source = past.attrs.get("source", "the table to learn from")
    try:
        return learn(split_arms(past, by, None, params, compute)[2])
    except (LearnError, MultiplierError) as error:
        raise LearnError(f"--learn {source}: {error}") from error


def _assumed(slope: Slope) -> list[Finding]:
    if not slope.assumed:
        return []
    return [
        Finding(
            "slope_assumed", "warn",
            f"the baseline was trained at one compute: the slope of ln loss is {slope.source}, not measured, and every "
            "multiplier with it", "add runs of the baseline at another compute",
        )
    ]  # fmt: skip


def _verdict(
    arm: str, made: PairTable, found: list[Finding], slope: Slope, target: float, error: float, least: float,
    learnt: Discrepancy | None,
) -> Verdict:  # fmt: skip
    pairs = made.observations
    value = estimate(pairs, learnt)
    reachable, beyond = _reach(pairs, target, learnt)
    findings = [*found, *objections(value, len(pairs.gain), made.repeated, made.same_seed, learnt is not None), *beyond]
    fall = max(0.0, value.drift * float(pairs.x.max())) if learnt is None and value.needs_drift else 0.0
    decision, why = decide(value, error, least, findings, reachable, fall)
    lo, hi = value.bounds(error)
    half = float(stdtrit(max(value.freedom, 1.0), 1 - error)) * value.drift_error
    drift = np.log(10) * np.array([value.drift, value.drift - half, value.drift + half])
    time, time_lo, time_hi = _time(made.speed, value.mean, (lo, hi), error)
    return Verdict(
        arm, decision, why, value.above(), _exp(value.mean), (_exp(lo), _exp(hi)),
        _exp(time), (_exp(time_lo), _exp(time_hi)), _exp(drift[0]), (_exp(drift[1]), _exp(drift[2])),
        len(pairs.gain), float(made.spent.sum()),
        _next(made, value, slope, target, error, least, learnt) if decision == "undecided" else None,
        _by_compute(made, error), _sequence(made, error, learnt), value, tuple(findings),
    )  # fmt: skip


def _exp(value: float) -> float:
    """exp; an open end stays open: 0, or infinite. NaN stays NaN."""
    return float(np.exp(value)) if not value > LARGEST else float("inf")


def reach(x: np.ndarray, learnt: Discrepancy | None) -> float:
    """How far beyond the largest compute, in ln, pairs at x = ln compute say anything: a drift that they show is
    continued no further than REACH times their span. With a discrepancy that was learnt, its own span counts too.
    """
    span = REACH * float(np.ptp(x))
    return span if learnt is None else max(span, (1 + REACH) * learnt.span)


def _reach(pairs: Observations, target: float, learnt: Discrepancy | None) -> tuple[bool, list[Finding]]:
    """Whether the pairs reach the target."""
    beyond, span = -float(pairs.x.max()), reach(pairs.x, learnt)
    if beyond <= span + SAME_BUDGET:
        return True, []
    if learnt is None and span <= SAME_BUDGET:
        return False, []  # one compute: `objections` says so
    return False, [
        Finding(
            "out_of_reach", "warn",
            f"the target is {np.exp(beyond):.3g} times the largest compute of the pairs, which with what was learnt "
            f"reach {np.exp(span):.3g} times beyond it",
            f"add pairs at {target / np.exp(max(span, SAME_BUDGET)):.2g} FLOPs or more",
        )
    ]  # fmt: skip


def _time(speed: np.ndarray, mean: float, bounds: tuple[float, float], error: float) -> tuple[float, float, float]:
    """ln of the time multiplier and its bounds: ln m and the mean of ln of the ratio of tokens per second."""
    known = speed[np.isfinite(speed)]
    if not len(known) or not np.isfinite(mean):
        return float("nan"), float("nan"), float("nan")
    centre = mean + float(known.mean())
    if len(known) < 2:
        return centre, -np.inf, np.inf
    half = float(stdtrit(len(known) - 1, 1 - error) * known.std(ddof=1) / np.sqrt(len(known)))
    below, above = (float(np.hypot(end - mean, half)) for end in bounds)
    return centre, centre - below, centre + above


def _by_compute(made: PairTable, error: float) -> pd.DataFrame:
    """The multiplier at each compute by the pairs there alone."""
    order = np.argsort(made.flops, kind="stable")
    steps = np.diff(np.log(made.flops[order]), prepend=np.log(made.flops[order[0]])) > SAME_BUDGET
    rows = []
    for own in np.split(order, np.flatnonzero(steps)):
        pairs = made.observations
        here = Observations(pairs.gain[own], pairs.slope[own], np.zeros(len(own)), pairs.cluster[own])
        value = estimate(here)
        lo, hi = value.bounds(error)
        rows.append((float(made.flops[own].mean()), len(own), _exp(value.mean), _exp(lo), _exp(hi)))
    return pd.DataFrame(rows, columns=["flops", "pairs", "multiplier", "lo", "hi"])


def _sequence(made: PairTable, error: float, learnt: Discrepancy | None) -> pd.DataFrame:
    """The multiplier at the target and its bounds after each pair."""
    rows = []
    for n in range(1, len(made.flops) + 1):
        value = estimate(made.observations.first(n), learnt)
        lo, hi = value.bounds(error)
        rows.append((n, float(made.spent[:n].sum()), _exp(value.mean), _exp(lo), _exp(hi)))
    return pd.DataFrame(rows, columns=["pairs", "flops", "multiplier", "lo", "hi"])


def _next(
    made: PairTable, value: Estimate, slope: Slope, target: float, error: float, least: float,
    learnt: Discrepancy | None,
) -> NextPair:  # fmt: skip
    flops = made.cells["flops"].to_numpy(float)
    planner = Planner(flops, np.asarray(slope.at(flops), float), target, learnt)
    at = planner.first(made.observations, value)
    chosen = {name: float(v) for name, v in made.cells.iloc[at].items() if np.isfinite(v)}
    pairs, spent = planner.until_decided(made.observations, value, error, least)
    return NextPair(chosen, 2 * float(flops[at]), pairs, spent)
