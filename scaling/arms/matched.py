"""Comparison of arms without a law: matched cells, the ranking at one budget, and Findings on the comparison."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr

from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.tuning_checks import tuning_findings
from isoflop.scaling.laws.law import Array
from isoflop.scaling.table.conventions import Points

SAME = 0.02  # in ln: FLOPs or tokens this close are the same cell
SAME_BUDGET = 0.1
RULERS = ("eval_id", "tokenizer_id")
UNEQUAL_ENDS = 2.0


@dataclass(frozen=True)
class Matched:
    """Two arms at the largest budget that both have.

    The best loss of each, and over `n_pairs` pairs of matching cells the mean `difference` of ln loss (arm less
    baseline) with the probability that the arm is better.
    """

    arm: str
    baseline: str
    flops: float
    loss_arm: float
    loss_baseline: float
    n_pairs: int
    difference: float
    p_better: float

    @property
    def winner(self) -> str:
        """The arm with the lower best loss."""
        return self.arm if self.loss_arm < self.loss_baseline else self.baseline

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "flops": self.flops, "winner": self.winner, "n_pairs": self.n_pairs,
            "loss": {self.arm: self.loss_arm, self.baseline: self.loss_baseline},
            "difference": self.difference if self.n_pairs else None,
            "p_better": self.p_better if self.n_pairs > 1 else None,
        }  # fmt: skip

    def __str__(self) -> str:
        text = (
            f"at {self.flops:.3g} FLOPs, the largest budget of both, {self.winner} is ahead: best loss "
            f"{self.loss_arm:.4f} {self.arm}, {self.loss_baseline:.4f} {self.baseline}"
        )
        if self.n_pairs > 1:
            text += f"; {self.n_pairs} pairs differ by {self.difference:+.2%}, P({self.arm} better) {self.p_better:.3f}"
        return text


def match_cells(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[list[Array], bool]:
    """A cluster label for every row of both arms, and whether the cells of the two match one to one.

    Matching cells have the same FLOPs, the same rank of size among the cells of that compute, and the same seed. They
    share a label, so that the jackknife leaves both out together, with what they have in common (data order).
    """
    keys = [_cell_keys(frame) for frame in (ours, theirs)]
    if sorted(keys[0]) == sorted(keys[1]) and len(set(keys[0])) == len(keys[0]):
        first = dict(zip(keys[0], ours["cluster"].astype(str), strict=True))
        return [np.array([first[k] for k in arm], dtype=object) for arm in keys], True
    own = [np.array([f"{i} {c}" for c in frame["cluster"]], dtype=object) for i, frame in enumerate((ours, theirs))]
    return own, False


def _cell_keys(frame: pd.DataFrame) -> list[tuple]:
    seed = frame["seed"] if "seed" in frame else pd.Series(0, index=frame.index)
    level = np.round(np.log(frame["flops"]) / SAME_BUDGET).astype(int)
    rank = frame["n_params"].groupby([level, seed]).rank(method="first") if frame["n_params"].notna().all() else level
    return list(zip(level, rank, seed, strict=True))


def matched_ranking(arm: str, ours: pd.DataFrame, baseline: str, theirs: pd.DataFrame) -> Matched | None:
    """The comparison at the largest compute that both arms have, None when they have none in common."""
    shared = [c for c in sorted(ours["flops"].unique()) if np.abs(np.log(theirs["flops"] / c)).min() < SAME_BUDGET / 2]
    if not shared:
        return None
    flops = float(shared[-1])
    here = [f[np.abs(np.log(f["flops"] / flops)) < SAME_BUDGET] for f in (ours, theirs)]
    differences = _paired(*here)
    n = len(differences)
    error = differences.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    p = float(stdtr(n - 1, -differences.mean() / max(error, 1e-12))) if n > 1 else np.nan
    mean = float(differences.mean()) if n else np.nan
    return Matched(arm, baseline, flops, float(here[0]["loss"].min()), float(here[1]["loss"].min()), n, mean, p)


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> Array:
    """Differences of ln loss between matching cells."""
    left, right = (dict(zip(_cell_keys(f), np.log(f["loss"]), strict=True)) for f in (ours, theirs))
    return np.array([left[k] - right[k] for k in left if k in right])


def comparison_findings(
    arm: str,
    baseline: str,
    rows: Mapping[str, pd.DataFrame],
    data: Mapping[str, Points],
    matched: Matched | None,
    at_compute: pd.DataFrame,
    varies: tuple[float, float] | None,
    level: float,
) -> tuple[Finding, ...]:
    """Findings on a comparison of two arms, worst first: what can void or qualify the multiplier."""
    found = [
        *_ruler(rows[arm], rows[baseline]),
        *tuning_findings({arm: rows[arm], baseline: rows[baseline]}),
        *_ends(arm, baseline, data[arm], data[baseline]),
        *_verdicts(arm, baseline, matched, at_compute, level),
    ]
    if varies:
        found.append(Finding(
            "multiplier_varies", "warn",
            f"from the highest loss to the lowest the multiplier changes by {varies[0]:.3g} to {varies[1]:.3g} times",
            "quote it with its loss; a single number would be wrong",
        ))  # fmt: skip
    return tuple(sorted(found, key=lambda f: f.severity != "fail"))


def _ruler(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[Finding]:
    for column in RULERS:
        if column not in ours:
            continue
        a, b = set(ours[column].dropna()), set(theirs[column].dropna())
        if a != b:
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
    """The law's verdict at the largest compute against the plain ranking."""
    last = at_compute.iloc[-1]
    law = arm if last["p_better"] > 0.5 else baseline
    if matched and matched.winner != law:
        sure = max(last["p_better"], 1 - last["p_better"])
        yield Finding(
            "verdicts_disagree", "warn",
            f"the laws put {law} ahead at {last['flops']:.3g} FLOPs (probability {sure:.2f}), the matched runs at "
            f"{matched.flops:.3g} put {matched.winner} ahead",
            "trust neither before another budget or more seeds",
        )  # fmt: skip
