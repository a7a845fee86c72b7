"""What to object to in tuning results: optima at an edge, too few of them, unequal searches, costly rates."""

from collections.abc import Iterator, Sequence

import pandas as pd

from isoflop.experiments.followup.tune import Bowl, Transfer
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.tuning_checks import SAME_RANGE

COSTLY = 0.01  # nats/token that a rate may give away before it is said
ENOUGH = 2  # sizes with an optimum inside the grid


def tune_findings(found: Sequence[Bowl], moved: Sequence[Transfer]) -> Iterator[Finding]:
    """Objections to these bowls and transfers, in that order."""
    edges = [bowl for bowl in found if bowl.at_edge]
    if edges:
        listed = ", ".join(f"{_name(bowl.setting)} width {bowl.width}" for bowl in edges[:4])
        yield Finding(
            "rate_at_edge", "warn",
            f"the best value is at an edge of the grid in {len(edges)} of {len(found)} bowls ({listed})",
            "widen the grid: an optimum outside it is not measured",
        )  # fmt: skip
    for setting in {tuple(b.setting.items()): b.setting for b in found}.values():
        widths = {b.width for b in found if b.setting == setting and not b.refused}
        if len(widths) < ENOUGH:
            yield Finding(
                "few_optima", "warn",
                f"{_name(setting)}: an optimum inside the grid at {len(widths)} sizes, fewer than {ENOUGH}",
                "tune at a second size: one optimum says nothing about another size",
            )  # fmt: skip
    yield from _unequal(found)
    for transfer in moved:
        if transfer.cost > COSTLY:
            yield Finding(
                "costly_rate", "warn",
                f"{_name(transfer.setting)}: the narrowest model's optimum costs the others up to {transfer.cost:.3f} "
                "nats/token",
                "tune each size, or use a parametrization that transfers",
            )  # fmt: skip


def _unequal(found: Sequence[Bowl]) -> Iterator[Finding]:
    """Whether the settings compared had one budget and one range of values."""
    by_setting: dict[str, pd.Series] = {}
    for bowl in found:
        by_setting.setdefault(_name(bowl.setting), bowl.runs["value"].drop_duplicates())
    counts = {name: len(values) for name, values in by_setting.items()}
    ranges = {name: float(values.max() / values.min()) for name, values in by_setting.items()}
    if len(set(counts.values())) > 1 or max(ranges.values()) > SAME_RANGE * min(ranges.values()):
        told = ", ".join(f"{counts[name]} over a factor {ranges[name]:.3g} for {name}" for name in by_setting)
        yield Finding(
            "unequal_tuning", "info", f"values tried: {told}",
            "to compare the lowest losses, give every setting the same number of values and the same range",
        )  # fmt: skip


def _name(setting: dict) -> str:
    return setting["arm"] or f"{setting['family']} {setting['optimizer']} {setting['parametrization']}"
