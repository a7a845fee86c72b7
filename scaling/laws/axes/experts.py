"""A law of mixture-of-experts models: size and number of experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Array, Box, Law, Paper, Preset, outer_sum

PAPER = Paper(
    "clark2022unified",
    "Clark, Aidan and de las Casas, Diego and Guy, Aurelia and others",
    "Unified Scaling Laws for Routed Language Models",
    2022,
    "2202.01169",
)
EXPERTS = Column("experts", "experts of a layer", usual=(1.0, 1e5), typical=16.0)
LN10 = float(np.log(10.0))
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
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives: of the part above the floor, itself times those of its logarithm."""
        a, b, c, d, log_start, log_max, floor = theta.T[..., None]
        n, z = x["N"] / LN10, Effective(x["E"], log_start, log_max)
        excess = np.exp(a * x["N"] + (b + c * n) * z.log + d * LN10)
        jacobian = np.empty((*theta.shape, x["N"].shape[-1]))
        jacobian[:, :6] = excess[:, None] * z.slopes(x["N"], b + c * n)
        jacobian[:, 6] = 1.0
        return floor + excess, jacobian

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """By the slopes u of the logarithm of the part above the floor: that part becomes u u' + u' of itself."""
        second = np.zeros((len(theta), 7, 7))
        b, c, log_start, log_max = theta.T[[1, 2, 4, 5], :, None]
        n, z = x["N"] / LN10, Effective(x["E"], log_start, log_max)
        part, w = weight * jacobian[:, 3] / LN10, b + c * n
        second[:, :6, :6] = outer_sum(part, z.slopes(x["N"], w))
        (ss, sm), (_, mm) = z.bends()
        for i, j, bend in (
            (1, 4, z.by_start), (1, 5, z.by_max), (2, 4, n * z.by_start), (2, 5, n * z.by_max),
            (4, 4, w * ss), (4, 5, w * sm), (5, 5, w * mm),
        ):  # fmt: skip
            second[:, i, j] += np.sum(part * bend, axis=-1)
            second[:, j, i] = second[:, i, j]
        return second

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


class Effective:
    """ln of the effective number of experts X and its derivatives in ln E_start and ln E_max.

    With q = 1/(1/E_start - 1/E_max) and y = E - 1 + q, X = y E_max / (y + E_max); `log_E` (n,), the others (B, 1).
    """

    def __init__(self, log_E: Array, log_start: Array, log_max: Array):
        start, self.max = np.exp(log_start), np.exp(log_max)
        self.q = 1.0 / (1.0 / start - 1.0 / self.max)
        self.y = np.expm1(log_E) + self.q
        self.whole = self.y + self.max
        self.q_start, self.q_max = self.q**2 / start, -(self.q**2) / self.max  # of q in ln E_start, ln E_max
        self.log = np.log(self.y) + log_max - np.log(self.whole)
        self.by_start = self.max * self.q_start / (self.y * self.whole)
        self.by_max = (self.y**2 - self.q**2) / (self.y * self.whole)

    def slopes(self, log_N: Array, w: Array) -> Array:
        """Derivatives (B, 6, n) of a ln N + w ln X + d ln 10, w = b + c log10 N, in a, b, c, d and both of X."""
        one = np.ones_like(self.log)
        log_N = log_N * one
        return np.stack(
            [log_N, self.log, log_N * self.log / LN10, LN10 * one, w * self.by_start, w * self.by_max], axis=1
        )

    def bends(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Second derivatives of ln X in (ln E_start, ln E_max)."""
        start, last = self.q_start, self.q_max
        ss = self.by_start * (2.0 * start / self.q - 1.0 - start / self.y - start / self.whole)
        falling = last / self.y + (last + self.max) / self.whole
        sm = self.by_start * (1.0 + 2.0 * last / self.q - falling)
        mm = 2.0 * last * (self.y - self.q) / (self.y * self.whole) - self.by_max * falling
        return (ss, sm), (sm, mm)


def saturated(E: Any, first: Any, last: Any) -> Any:
    """The effective number of experts: `first` for one, at most `last`."""
    return 1.0 / (1.0 / (E - 1.0 + 1.0 / (1.0 / first - 1.0 / last)) + 1.0 / last)
