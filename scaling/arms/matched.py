"""Comparison of arms without a law: the difference of matched cells at one budget, and Findings on the comparison."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.printable import loss_text
from isoflop.scaling.arms.pairs import SAME_BUDGET, pair_cells
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.tuning_checks import tuning_findings
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import stdtr, stdtrit
from isoflop.scaling.table.conventions import Points
from isoflop.scaling.table.meaning import NATS_PER_TOKEN

RULERS = ("eval_id", "tokenizer_id")
UNEQUAL_ENDS = 2.0
WORTH_SAYING = 1.1  # change of the multiplier inside the data, below which a single number does
LEANS = 0.8  # probability from which an unsure verdict counts as leaning to an arm


@dataclass(frozen=True)
class Matched:
    """Two arms at the largest budget that both have.

    The best loss of each; over `n_pairs` pairs of cells of one size the mean `difference` of ln loss (arm less
    baseline) with its `interval` at `level` (Student's t over the pairs; infinite below two), and the probability that
    the arm is better. `unmatched` counts the runs of each arm there that stand in no pair.
    """

    arm: str
    baseline: str
    flops: float
    loss_arm: float
    loss_baseline: float
    n_pairs: int
    difference: float
    interval: tuple[float, float]
    p_better: float
    unmatched: tuple[int, int]
    level: float

    @property
    def winner(self) -> str | None:
        """The arm whose pairs have the lower loss beyond doubt at the level; None where the interval holds 0."""
        lo, hi = self.interval
        return self.arm if hi < 0 else self.baseline if lo > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "flops": self.flops, "winner": self.winner, "n_pairs": self.n_pairs,
            "loss": {self.arm: self.loss_arm, self.baseline: self.loss_baseline},
            "difference": self.difference if self.n_pairs else None,
            "interval": list(self.interval) if self.n_pairs > 1 else None,
            "p_better": self.p_better if self.n_pairs > 1 else None,
            "unmatched": dict(zip((self.arm, self.baseline), self.unmatched, strict=True)),
        }  # fmt: skip

    def __str__(self) -> str:
        ahead = f"{self.winner} is ahead" if self.winner else "neither is ahead beyond doubt"
        text = (
            f"at {self.flops:.3g} FLOPs, the largest budget of both, {ahead}: best loss "
            f"{loss_text(self.loss_arm)} {self.arm}, {loss_text(self.loss_baseline)} {self.baseline}"
        )
        if self.n_pairs > 1:
            mean, lo, hi = np.expm1([self.difference, *self.interval])
            text += (
                f"; {self.n_pairs} pairs differ by {mean:+.2%} [{lo:+.2%}, {hi:+.2%}], "
                f"P({self.arm} better) {self.p_better:.3f}"
            )
        else:
            text += f"; {self.n_pairs} pairs of one size, too few for a test"
        if any(self.unmatched):
            text += f"; without a pair: {self.unmatched[0]} of {self.arm}, {self.unmatched[1]} of {self.baseline}"
        return text


def matched_ranking(
    arm: str, ours: pd.DataFrame, baseline: str, theirs: pd.DataFrame, level: float = 0.9
) -> Matched | None:
    """The comparison at the largest compute that both arms have, None when they have none in common."""
    shared = [c for c in sorted(ours["flops"].unique()) if np.abs(np.log(theirs["flops"] / c)).min() < SAME_BUDGET / 2]
    if not shared:
        return None
    flops = float(shared[-1])
    left, right = (f[np.abs(np.log(f["flops"] / flops)) < SAME_BUDGET] for f in (ours, theirs))
    pairs = pair_cells(left, right)
    ends = [np.log(f["loss"].to_numpy(float)) for f in (left, right)]
    weights = [f["weight"].to_numpy(float) if "weight" in f else np.ones(len(f)) for f in (left, right)]
    mean, error = _mean(ends[0][pairs.left] - ends[1][pairs.right], weights[0][pairs.left], weights[1][pairs.right])
    n = len(pairs)
    half = float(stdtrit(max(n - 1, 1), 0.5 + level / 2)) * error if n > 1 else np.inf
    p = float(stdtr(n - 1, -mean / error)) if n > 1 else np.nan
    return Matched(
        arm, baseline, flops, float(left["loss"].min()), float(right["loss"].min()), n, mean,
        (mean - half, mean + half), p, (len(left) - n, len(right) - n), level,
    )  # fmt: skip


def _mean(differences: Array, first: Array, second: Array) -> tuple[float, float]:
    """Mean of paired differences and its standard error; a pair weighs as the harmonic mean of its runs' weights."""
    if not len(differences):
        return float("nan"), float("nan")
    weight = 2 / (1 / first + 1 / second)
    mean = float(np.average(differences, weights=weight))
    freedom = max(len(differences) - 1, 1)
    variance = float(weight @ (differences - mean) ** 2) / freedom / float(weight.sum())
    return mean, max(float(np.sqrt(variance)), 1e-12)


def comparison_findings(
    arm: str,
    baseline: str,
    rows: Mapping[str, pd.DataFrame],
    data: Mapping[str, Points],
    matched: Matched | None,
    at_compute: pd.DataFrame,
    varies: tuple[float, float] | None,
    constant: bool,
    level: float,
) -> tuple[Finding, ...]:
    """Findings on a comparison of two arms, worst first: what can void or qualify the multiplier."""
    found = [
        *ruler_findings(rows[arm], rows[baseline], data[arm].loss_unit),
        *tuning_findings({arm: rows[arm], baseline: rows[baseline]}),
        *_ends(arm, baseline, data[arm], data[baseline]),
        *_verdicts(arm, baseline, matched, at_compute, level),
    ]
    if constant:
        found.append(Finding(
            "multiplier_assumed_constant", "warn",
            "E and the exponents are taken to be the same in both arms, so that the multiplier changes with compute "
            "only as the costs of training do: these runs are too few to tell how it changes",
            "more sizes or budgets in each arm, before it is used at another compute",
        ))  # fmt: skip
    if varies and (min(varies) > WORTH_SAYING or max(varies) < 1 / WORTH_SAYING):
        found.append(Finding(
            "multiplier_varies", "warn",
            f"from the highest loss to the lowest the multiplier changes by {varies[0]:.3g} to {varies[1]:.3g} times",
            "quote it with its loss; a single number would be wrong",
        ))  # fmt: skip
    return tuple(sorted(found, key=lambda f: f.severity != "fail"))


def ruler_findings(ours: pd.DataFrame, theirs: pd.DataFrame, unit: str) -> Iterator[Finding]:
    """Objections to arms that were evaluated on different texts, or by different tokenizers.

    Losses in a `unit` of the text, such as nats/byte, are on one scale for all tokenizers. Whether they are of one text
    cannot be known then: the windows of each tokenizer have a hash of their own.
    """
    differ = [c for c in RULERS if c in ours and set(ours[c].dropna()) != set(theirs[c].dropna())]
    if unit != NATS_PER_TOKEN and "tokenizer_id" in differ:
        yield Finding(
            "different_ruler", "warn",
            f"the arms have different tokenizers: that their losses in {unit} are of the same text is taken on trust",
            "hold out the same files for both, all of them (data.eval_tokens above what is held out)",
        )  # fmt: skip
        return
    for column in differ:
        yield Finding(
            "different_ruler", "fail", f"the arms differ in {column}: their losses are not on one scale",
            "evaluate both on the same text, in bits per byte if the tokenizers differ",
        )  # fmt: skip


def _ends(arm: str, baseline: str, ours: Points, theirs: Points) -> Iterator[Finding]:
    a, b = (float(p.frame["flops"].max()) for p in (ours, theirs))
    if max(a / b, b / a) > UNEQUAL_ENDS:
        yield Finding(
            "unequal_ends", "warn", f"the largest compute is {a:.3g} FLOPs for {arm} and {b:.3g} for {baseline}",
            "beyond the shorter arm the comparison extrapolates it: train it as far",
        )  # fmt: skip


def _verdicts(
    arm: str, baseline: str, matched: Matched | None, at_compute: pd.DataFrame, level: float
) -> Iterator[Finding]:
    """The law's verdict at the budget of the matched runs against theirs: one is sure, the other leans the other way.

    Fires in at most .03 of comparisons of equal arms.
    """
    if matched is None or matched.n_pairs < 2:
        return
    nearest = at_compute.iloc[int(np.argmin(np.abs(np.log(at_compute["flops"] / matched.flops))))]
    chances = float(nearest["p_better"]), matched.p_better
    law, runs = (max(p, 1 - p) for p in chances)
    if (chances[0] > 0.5) != (chances[1] > 0.5) and min(law, runs) > LEANS and max(law, runs) > 0.5 + level / 2:
        ahead = (arm, baseline) if chances[0] > 0.5 else (baseline, arm)
        yield Finding(
            "verdicts_disagree", "warn",
            f"the laws put {ahead[0]} ahead at {nearest['flops']:.3g} FLOPs (probability {law:.2f}), the matched runs "
            f"at {matched.flops:.3g} put {ahead[1]} ahead (probability {runs:.2f})",
            "trust neither before another budget or more seeds",
        )  # fmt: skip
