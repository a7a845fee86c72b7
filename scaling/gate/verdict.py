"""What a gate says of one candidate: promote, reject or undecided, and why."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.gate.estimate import Estimate
from isoflop.scaling.gate.next_pair import NextPair
from isoflop.scaling.table.json_plain import plain

Decision = Literal["promote", "reject", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """One candidate against the baseline at the target.

    `p` is the probability of a multiplier above 1 there, `multiplier` its estimate with bounds `interval` that hold at
    every look, `time_multiplier` the same with the ratio of tokens per second. NaN stands for what the pairs do not
    show. `drift` is the factor by which the multiplier changes per factor 10 of compute, with its interval.
    `by_compute` has columns flops, pairs, multiplier, lo, hi, `sequence` pairs, flops, multiplier, lo, hi.
    """

    arm: str
    decision: Decision
    why: str
    p: float
    multiplier: float
    interval: tuple[float, float]
    time_multiplier: float
    time_interval: tuple[float, float]
    drift: float
    drift_interval: tuple[float, float]
    pairs: int
    flops: float
    next: NextPair | None
    by_compute: pd.DataFrame
    sequence: pd.DataFrame
    estimate: Estimate
    findings: tuple[Finding, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; null for what the pairs do not show; an open interval is 0 to null."""
        return {
            "arm": self.arm, "decision": self.decision, "why": self.why, "p": plain(self.p),
            "multiplier": plain(self.multiplier), "multiplier_interval": plain(self.interval),
            "time_multiplier": plain(self.time_multiplier), "time_multiplier_interval": plain(self.time_interval),
            "drift": {"per_decade": plain(self.drift), "interval": plain(self.drift_interval)},
            "pairs": self.pairs, "flops": self.flops, "next": self.next.to_dict() if self.next else None,
            "by_compute": plain(self.by_compute), "sequence": plain(self.sequence),
            "findings": [f.to_dict() for f in self.findings],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.arm}: {self.decision.upper()}: {self.why}"]
        if np.isfinite(self.multiplier):
            p = f", P(above 1) {self.p:.3f}" if np.isfinite(self.p) else ""
            lines.append(f"  multiplier at the target {self.multiplier:.3f}, {_span(self.interval)}{p}")
        if np.isfinite(self.time_multiplier):
            lines.append(f"  in time {self.time_multiplier:.3f}, {_span(self.time_interval)}")
        if np.isfinite(self.drift):
            lines.append(f"  drift: x {self.drift:.3f} per decade of compute, {_span(self.drift_interval)}")
        lines.append(f"  from {self.pairs} pairs, {self.flops:.3g} FLOPs")
        for row in self.by_compute.itertuples():
            lines.append(
                f"    at {row.flops:.3g} FLOPs: {row.multiplier:.3f}, {_span((row.lo, row.hi))}, {row.pairs} pairs"
            )
        lines += [f"  next: {self._next()}"] if self.next else []
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])

    def _next(self) -> str:
        assert self.next
        cell = self.next.cell
        size = f"{cell['n_params']:.4g} parameters, {cell['tokens']:.4g} tokens, " if "n_params" in cell else ""
        more = (
            f"about {self.next.pairs} pairs chosen so, {self.next.flops:.3g} FLOPs, decide if the estimate holds"
            if self.next.pairs
            else "no number of pairs decides if the estimate holds"
        )
        return f"a pair of {size}{cell['flops']:.3g} FLOPs a run with a seed not used so far; {more}"


def _span(interval: tuple[float, float]) -> str:
    lo, hi = interval
    below, above = (f"{v:.3f}" if 0 < v < np.inf else "open" for v in (lo, hi))
    return f"{below} to {above}"


def decide(
    found: Estimate, error: float, least: float, findings: list[Finding], reachable: bool, fall: float = 0.0
) -> tuple[Decision, str]:
    """The decision and its reason, from bounds of ln m that are each wrong with probability `error` at most.

    `fall` is what ln m is expected to lose beyond the pairs: promoted is what would survive twice as much.
    """
    blocked = next((f for f in findings if f.severity == "fail"), None)
    if blocked:
        return "undecided", blocked.message
    lo, hi = found.bounds(error)
    if not reachable:
        return "undecided", "the target is out of reach of the pairs"
    if not (np.isfinite(lo) or np.isfinite(hi)):
        return "undecided", "too few pairs"
    if hi < np.log(least):
        return "reject", f"a multiplier of {least:g} or more at the target is excluded"
    if lo > 0 and lo <= fall:
        return "undecided", "a gain that shrinks, and would be gone if it shrank twice as fast beyond the pairs"
    if lo > 0 and found.mean >= np.log(least):
        more = f"the best estimate of the multiplier is {least:g} or more"
        return "promote", f"at the target the arm needs less compute than the baseline; {more}"
    if lo > 0:
        return "undecided", f"a gain, and not clear whether of {least:g} or more"
    return "undecided", f"the data fit both no gain and a gain of {least:g}"


def objections(found: Estimate, pairs: int, repeated: int, same_seed: bool, learnt: bool) -> Iterator[Finding]:
    """What limits a verdict on these pairs."""
    if not np.isfinite(found.mean) and not learnt:
        yield Finding(
            "drift_unknown", "warn", "all pairs are of one compute: nothing shows how the gain changes with scale",
            "add pairs at another compute, or --learn TABLE from past changes at two",
        )  # fmt: skip
    elif found.error == np.inf:
        yield Finding(
            "few_pairs", "warn", f"{pairs} pairs, or runs of so few seeds, do not show their own noise",
            "add pairs with other seeds",
        )  # fmt: skip
    if repeated:
        yield Finding(
            "several_runs_a_cell", "warn", f"{repeated} pairs are of a size, compute and seed that another pair has: "
            "runs that differ in a setting are paired by chance", "keep one with --best-of SETTING or --where",
        )  # fmt: skip
    if not same_seed:
        yield Finding(
            "other_seeds", "info", "some pairs are of two seeds: their noise does not cancel",
            "run both arms with the same seeds",
        )  # fmt: skip
