"""What `isoflop tune TABLE` answers, as values, as JSON and as text."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from isoflop.answer import Answer
from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.laws.axes.tuning import RateBowl
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.tuning.best import Scale, Setting
from isoflop.scaling.tuning.sweep import KEYS, Sweep

Span = tuple[float, float]


@dataclass(frozen=True)
class Question:
    """A setting that was asked about, the loss that it gives away at the scale (nats/token), and its interval."""

    setting: Setting
    lost: float
    interval: Span


@dataclass(frozen=True)
class TunedArm:
    """The tuning of one arm at one scale.

    `optimum` is the best setting, `intervals` those of its parts that the table varies, at `level`; `inside` the loss
    that either end of each gives away, nats/token. `loss` is that of the optimum. `cells` has a row per cell of the
    sweep with the best rate that the law gives it and `off_frontier`, what its lowest measured rate loses against the
    best setting of its size and tokens.
    """

    arm: str
    at: Scale
    sweep: Sweep
    fit: Fit
    level: float
    optimum: Setting
    intervals: Mapping[str, Span]
    inside: Mapping[str, Span]
    loss: float
    requested: Question | None
    cells: pd.DataFrame
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def law(self) -> RateBowl:
        """The law of tuning."""
        assert isinstance(self.fit.law, RateBowl)
        return self.fit.law

    @property
    def edges(self) -> pd.DataFrame:
        """The cells whose lowest loss is at an edge of the rates tried."""
        return self.cells[self.cells["edge"] != ""]

    @property
    def most_lost(self) -> float:
        """The most that a setting inside the intervals gives away, nats/token; NaN without any interval."""
        return max((max(span) for span in self.inside.values()), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        held = self.fit.problem.pinned
        return plain({
            "arm": self.arm,
            "at": asdict(self.at),
            "optimum": self.optimum.to_dict(),
            "intervals": {name: list(span) for name, span in self.intervals.items()},
            "level": self.level,
            "loss": self.loss,
            "regret": {
                "inside": {name: list(span) for name, span in self.inside.items()},
                "most": self.most_lost,
                "setting": self._requested_dict(),
            },
            "edges": self.edges[[*KEYS, "edge", "lowest_rate", "rates"]].to_dict("records"),
            "law": {
                "formula": self.law.formula,
                "params": dict(zip(self.law.parameters(), self.law.values().tolist(), strict=True)),
                "fixed": dict(held),
                "status": self.fit.status,
                "noise": self.fit.noise,
                "n_runs": len(self.fit.points),
                "n_clusters": self.fit.n_clusters,
            },
            "cells": self.cells.to_dict("records"),
            "conventions": self.fit.points.conventions,
            "findings": [f.to_dict() for f in self.findings],
            "notes": list(self.notes),
        })  # fmt: skip

    def _requested_dict(self) -> dict[str, Any] | None:
        if self.requested is None:
            return None
        share = self.requested.lost / self.loss
        return self.requested.setting.to_dict() | {
            "lost": self.requested.lost, "interval": list(self.requested.interval), "share": share,
        }  # fmt: skip

    def __str__(self) -> str:
        scale = ", ".join(f"{name} {value:.4g}" for name, value in asdict(self.at).items() if math.isfinite(value))
        lines = [(f"{self.arm}: " if self.arm else "") + f"best setting at {scale}"]
        lines += [self._part_line(name, value) for name, value in asdict(self.optimum).items() if math.isfinite(value)]
        lines.append(f"  {'loss':<14} {loss_text(self.loss):>10} {self.fit.points.loss_unit}")
        if self.requested is not None:
            lo, hi = self.requested.interval
            lines.append(
                f"  with {self.requested.setting}: {self._loss(self.requested.lost)} lost, "
                f"{self.level:.0%} {loss_text(lo, of=self.loss)} to {loss_text(hi, of=self.loss)}"
            )
        held = self.fit.problem.pinned
        values = zip(self.law.parameters(), self.law.values().tolist(), strict=True)
        numbers = ", ".join(f"{name} {value:.4g}" + (" held" if name in held else "") for name, value in values)
        lines += [f"  {self.law.formula}", f"  {numbers}"]
        lines.append(
            f"  {len(self.fit.points)} runs in {int(self.cells['fitted'].sum())} cells, noise {self.fit.noise:.2%} of "
            f"the loss; N counts in 1e8, D in 1e10, T in 1e5"
        )
        return "\n".join([*lines, *self._cell_lines(), *map(str, self.findings), *(f"note: {n}" for n in self.notes)])

    def _loss(self, lost: float) -> str:
        return f"{loss_text(lost, of=self.loss)} {self.fit.points.loss_unit} ({lost / self.loss:.2%})"

    def _part_line(self, name: str, value: float) -> str:
        span = self.intervals.get(name)
        if span is None:
            return f"  {name:<14} {value:>10.4g}   not fitted: as given, or as in every run"
        most = self._loss(max(self.inside[name]))
        return (
            f"  {name:<14} {value:>10.4g}   {self.level:.0%} {span[0]:.4g} to {span[1]:.4g}; its ends lose up to {most}"
        )

    def _cell_lines(self) -> list[str]:
        """A line per cell: how far what was measured there is from the best that the law gives it."""
        keys = [key for key in KEYS if self.cells[key].notna().any()]
        lines = ["  " + " ".join(f"{key:>12}" for key in keys) + "  rates  lowest at  best rate  lost at the lowest"]
        for cell in self.cells.to_dict("records"):
            place = " ".join(f"{cell[key]:>12.4g}" for key in keys)
            remark = {"low": "  the lowest rate tried", "high": "  the highest rate tried"}.get(cell["edge"], "")
            remark = remark if cell["fitted"] else "  too few rates"
            lines.append(
                f"  {place} {cell['rates']:>6} {cell['lowest_rate']:>10.4g} {cell['best_rate']:>10.4g} "
                f"{loss_text(cell['off_frontier'], of=self.loss):>19}{remark}"
            )
        return lines


@dataclass(frozen=True, repr=False, eq=False)
class Tuned(Answer):
    """What `isoflop tune TABLE` answers: every arm, the one with the lowest loss at its best setting first.

    `failed` says by arm why it has no answer.
    """

    arms: tuple[TunedArm, ...]
    failed: Mapping[str, str]

    @property
    def best(self) -> TunedArm:
        """The arm with the lowest loss at its best setting."""
        return self.arms[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: those of the best arm, and of all under `arms` where there are several."""
        held = self.best.to_dict()
        if len(self.arms) + len(self.failed) > 1:
            held |= {"arms": [arm.to_dict() for arm in self.arms], "failed": dict(self.failed)}
        return held

    def __str__(self) -> str:
        lines = ["\n\n".join(map(str, self.arms)), *(f"{name}: {why}" for name, why in self.failed.items())]
        if len(self.arms) > 1:
            losses = ", ".join(f"{arm.arm} {loss_text(arm.loss)}" for arm in self.arms)
            lines += ["", f"lowest loss at its best setting: {self.best.arm} ({losses})"]
        return "\n".join(lines)
