"""A law of mixture-of-experts models: size and number of experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Array, Box, Law, Preset
from isoflop.scaling.laws.paper import Paper

PAPER = Paper(
    "clark2022unified",
    "Clark, Aidan and de las Casas, Diego and Guy, Aurelia and others",
    "Unified Scaling Laws for Routed Language Models",
    2022,
    "2202.01169",
)
EXPERTS = Column("experts", "experts of a layer", usual=(1.0, 1e5), typical=16.0)
STARTS = (0.6, 1.0, 2.0, 4.0), (60.0, 300.0, 1500.0)  # of E_start and of E_max
FLOORS = (0.0, 0.3, 0.6, 0.8)  # shares of the lowest loss that a search starts at, where the floor is free


@dataclass(frozen=True)
class Experts(Law):
    """log10(L - floor) = a log10 N + b log10 X + c log10 N log10 X + d  (Clark et al. 2022, eqs. 5 and 6)

    N counts the parameters of the dense model that the experts widen, E the experts of a layer (1 is dense). X is E
    saturated between E_start, its value at one expert, and E_max: 1/X = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max.
    The floor is 0 unless a fit frees it, as "experts-floor" does.
    """

    a: float
    b: float
    c: float
    d: float
    E_start: float
    E_max: float
    floor: float = 0.0

    name: ClassVar[str] = "experts"
    formula: ClassVar[str] = (
        "L = floor + 10^d N^(a + c log10 X) X^b, 1/X = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max"
    )
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eqs. 5 and 6; floor: ours")
    caution: ClassVar[str] = (
        "Without a floor it falls too fast beyond the largest size. b, E_start and E_max trade off among themselves. "
        "It reads no tokens: runs of one number of them, as in the paper, say nothing of others; for runs of several "
        "there is experts-joint."
    )
    typical: ClassVar[tuple[float, ...]] = (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478, 0.5)
    rank: ClassVar[int] = 200
    presets: ClassVar[dict[str, Preset]] = {"experts": Preset(), "experts-floor": Preset(free=("floor",))}
    floor_name: ClassVar[str | None] = "floor"
    inputs: ClassVar[tuple[str, ...]] = ("N", "E")
    columns: ClassVar[Mapping[str, Column | str]] = {"E": EXPERTS}
    box: ClassVar[dict[str, Box]] = {
        "a": Box(-2.0, 0.5),
        "b": Box(-5.0, 2.0),
        "c": Box(-0.5, 0.5),
        "d": Box(-20.0, 20.0),
        "E_start": Box(0.05, 50.0, log=True),
        "E_max": Box(51.0, 1e6, log=True),
        "floor": Box(0.0, 1e3),
    }

    def __call__(self, N: Any, E: Any) -> Any:
        n, x = np.log10(N), np.log10(saturated(E, self.E_start, self.E_max))
        return self.floor + np.power(10.0, self.a * n + self.b * x + self.c * n * x + self.d)

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array:
        """Least squares of log10(L - floor), linear in a, b, c and d, on a grid of E_start, E_max and the floor."""
        n, starts = x["N"] / np.log(10), []
        for first in STARTS[0]:
            for last in STARTS[1]:
                z = np.log10(saturated(np.exp(x["E"]), first, last))
                design = np.column_stack([n, z, n * z, np.ones_like(n)]) * np.sqrt(weights)[:, None]
                for share in FLOORS:
                    target = np.log10(loss - share * loss.min()) * np.sqrt(weights)
                    solved = np.linalg.lstsq(design, target, rcond=None)[0]
                    starts.append([*solved, np.log(first), np.log(last), share * loss.min()])
        return np.array(starts)


def saturated(E: Any, first: Any, last: Any) -> Any:
    """The effective number of experts: `first` for one, at most `last`."""
    return 1.0 / (1.0 / (E - 1.0 + 1.0 / (1.0 / first - 1.0 / last)) + 1.0 / last)
