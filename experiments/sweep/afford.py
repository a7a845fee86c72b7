"""What a launch costs, and which of its runs a given time or sum pays for.

The runs are chosen from the study's own grid. As long as they cost too much, the run goes whose loss widens the
interval of the exponent a of the best size, N* ~ C^a, least per second saved; then runs that still fit come back. The
interval is that of the Fisher information under a published law of Chinchilla's form (`scaling.design.information`),
with a discrepancy of the law that grows with the distance from ten times the largest compute: cheap runs count less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.cost.cost import Speed, trunk_seconds, trunks_seconds
from isoflop.experiments.cost.price import price
from isoflop.experiments.store.store import SETTLED
from isoflop.experiments.study.cell import Cell, group_by_trunk
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.launch import Launch
from isoflop.experiments.sweep.pool import devices_of, worker_count
from isoflop.models.config import n_matrices
from isoflop.scaling.design.information import Noise, Scenario, goal_gradient, scenario_of_law, standard_deviation
from isoflop.scaling.design.planning import TAU, TYPICAL_NOISE
from isoflop.scaling.laws.cost import SIX_ND
from isoflop.scaling.laws.published import PUBLISHED

ASSUMED = "besiroglu-2024"
FEWEST_CELLS, FEWEST_SIZES = 6, 3  # of a law of five parameters
AHEAD = 10.0  # the target over the largest compute


class TooLittleError(ValueError):
    """A time or a sum pays for too few runs to fit a law to."""

    exit_code = 1


def afford(launch: Launch, *, minutes: float | None = None, dollars: float | None = None) -> dict[str, Any]:
    """The runs of a study that so many minutes with the workers of `where`, or so many dollars, pay for.

    Returns run_ids (those to train or finished), left_out, budgets (cells and seeds of each), minutes, device_hours,
    dollars, joules, workers, sd_exponent (all runs, the chosen ones), law, and overrides, which run them. Raises
    UsageError for dollars without a price or several studies, TooLittleError where too few runs fit.
    """
    if len(launch.studies) != 1:
        raise UsageError(f"--minutes and --dollars choose runs of one study, and this launch has {len(launch.studies)}")
    if launch.flops_ahead:
        raise UsageError("--minutes and --dollars choose runs of a study without rounds: add study.rounds.count=0")
    where, (study,) = launch.where, launch.studies
    workers = worker_count(where)
    devices = devices_of(where, workers)
    if dollars is not None and where.price_per_hour is None:
        raise UsageError("--dollars needs the price of a device: where.price_per_hour=DOLLARS")
    limits = [60 * minutes] if minutes is not None else []
    if dollars is not None and where.price_per_hour is not None:
        limits.append(dollars / where.price_per_hour * 3600 / devices if where.price_per_hour else np.inf)
    cells = launch.cells
    search = _Search(cells, [launch.states[c.run_id] in SETTLED for c in cells], launch.speed, workers, min(limits))
    kept = search.run()
    chosen = [cells[i] for i in kept]
    if len({(c.size, c.steps) for c in chosen}) < FEWEST_CELLS or len({c.size for c in chosen}) < FEWEST_SIZES:
        raise TooLittleError(
            f"{_limit(minutes, dollars)} pays for {len(chosen)} of {len(cells)} runs: a law needs {FEWEST_CELLS} cells "
            f"of {FEWEST_SIZES} sizes; all of them take {search.seconds(range(len(cells))) / 60:.3g} minutes"
        )
    cost = price(search.seconds(kept), devices, where)
    return {
        "limit": {"minutes": minutes, "dollars": dollars},
        "run_ids": [c.run_id for c in chosen],
        "left_out": [c.run_id for i, c in enumerate(cells) if i not in set(kept)],
        "budgets": _grid(study, chosen),
        "minutes": search.seconds(kept) / 60,
        "workers": workers,
        "devices": devices,
        "device_hours": cost.device_hours,
        "dollars": cost.dollars,
        "joules": cost.joules,
        "sd_exponent": {"all": search.sd(range(len(cells))), "chosen": search.sd(kept)},
        "law": ASSUMED,
        "overrides": [] if len(kept) == len(cells) else [f"where.only=[{','.join(c.run_id for c in chosen)}]"],
    }


def afford_text(found: Mapping[str, Any]) -> str:
    """The answer of `afford` as lines for a reader."""
    n, out = len(found["run_ids"]), len(found["left_out"])
    money = "" if found["dollars"] is None else f", about ${found['dollars']:,.2f}"
    sd = found["sd_exponent"]
    lines = [
        f"{_limit(**found['limit'])} with {found['workers']} workers: {n} of {n + out} runs, {found['minutes']:.1f} "
        f"minutes, {found['device_hours']:.3g} device hours{money}"
    ]
    lines += [f"  {row['flops']:.3g} FLOPs: {', '.join(row['runs'])}" for row in found["budgets"]]
    lines.append(
        f"exponent of the best size, as if {found['law']} held: sd {sd['chosen']:.3f}; of all runs {sd['all']:.3f}"
    )
    lines += [f"run them: isoflop run (the same arguments) '{one}'" for one in found["overrides"]]
    return "\n".join(lines)


def _limit(minutes: float | None, dollars: float | None) -> str:
    parts = [] if minutes is None else [f"{minutes:g} minutes"]
    parts += [] if dollars is None else [f"${dollars:g}"]
    return " and ".join(parts)


def _grid(study: Study, chosen: Sequence[Cell]) -> list[dict[str, Any]]:
    """The chosen runs by budget: the sizes, each with how many of its runs."""
    rows: dict[float, dict[str, int]] = {}
    for cell in chosen:
        flops = cell.training_flops if np.isnan(cell.budget_flops) else cell.budget_flops
        sizes = rows.setdefault(flops, {})
        name = f"{cell.arm} {cell.size}".strip()
        sizes[name] = sizes.get(name, 0) + 1
    return [
        {"flops": flops, "runs": [f"{name} x{n}" if n > 1 else name for name, n in sizes.items()]}
        for flops, sizes in sorted(rows.items())
    ]


@dataclass
class _Search:
    """Which cells to keep within `limit` seconds; finished ones cost nothing and stay."""

    cells: Sequence[Cell]
    done: Sequence[bool]
    speed: Speed
    workers: int
    limit: float

    def __post_init__(self) -> None:
        frame = pd.DataFrame({
            "n_params": [float(n_matrices(cell.model)) for cell in self.cells],
            "tokens": [float(cell.horizon_tokens) for cell in self.cells],
        })  # fmt: skip
        flops = np.array([float(cell.training_flops) for cell in self.cells])
        target = AHEAD * float(flops.max())
        law: Any = PUBLISHED[ASSUMED].law
        scenario = scenario_of_law(law, frame, "n_opt", target, SIX_ND)
        gradient = goal_gradient(scenario.problem, scenario.theta, lambda law: law.exponents()["a"])
        self.scenario: Scenario = replace(scenario, goal=gradient)
        self.variance = Noise(TYPICAL_NOISE, TAU, target).variance(flops)
        self.trunk: dict[frozenset[int], float] = {}

    def run(self) -> list[int]:
        """The places of the cells to keep, in their order."""
        kept, out = list(range(len(self.cells))), []
        while self.seconds(kept) > self.limit:
            free = [i for i in kept if not self.done[i]]
            worth = self.worth(kept)
            drop = min(free, key=lambda i: worth[i] / max(self.saved(kept, i), 1e-9))
            kept.remove(drop)
            out.append(drop)
        for back in reversed(out):
            if self.seconds([*kept, back]) <= self.limit:
                kept.append(back)
        return sorted(kept)

    def seconds(self, kept: Sequence[int] | range) -> float:
        """From the first import to the last cell, of those that are not finished."""
        left = [self.cells[i] for i in kept if not self.done[i]]
        return trunks_seconds(list(group_by_trunk(left).values()), self.workers, self.speed)

    def saved(self, kept: Sequence[int], i: int) -> float:
        """Seconds of its trunk that leaving out cell i saves."""
        own = frozenset(k for k in kept if self.cells[k].trunk_id == self.cells[i].trunk_id and not self.done[k])
        return self._trunk(own) - self._trunk(own - {i})

    def _trunk(self, places: frozenset[int]) -> float:
        if places not in self.trunk:
            self.trunk[places] = trunk_seconds([self.cells[i] for i in sorted(places)], self.speed) if places else 0.0
        return self.trunk[places]

    def _inverse(self, kept: Sequence[int] | range) -> np.ndarray:
        places = list(kept)
        return self.scenario.inverse(np.ones(0), self.scenario.offered[:, places], self.variance[places])

    def sd(self, kept: Sequence[int] | range) -> float:
        """Standard deviation of the exponent after these runs."""
        return standard_deviation([self.scenario], [self._inverse(kept)])

    def worth(self, kept: Sequence[int]) -> dict[int, float]:
        """By how much the variance of the exponent grows without each of these, averaged over plausible laws."""
        inverse, rows = self._inverse(kept), self.scenario.offered[:, kept]
        moved = np.einsum("bp,bpq,bnq->bn", self.scenario.goal, inverse, rows)
        own = np.einsum("bnp,bpq,bnq->bn", rows, inverse, rows)
        grown = (moved**2 / np.maximum(self.variance[kept] - own, 1e-12 * self.variance[kept])).mean(axis=0)
        return dict(zip(kept, grown.tolist(), strict=True))
