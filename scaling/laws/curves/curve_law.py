"""Laws of whole training curves: the loss at any step under any learning-rate schedule.

Each is L(t) = L0 + A S(t)^-alpha - B sum_k (eta_{k-1} - eta_k) K_k(t), with S the summed learning rate, warm-up
included, and a sum over the steps k at which the rate fell. The kernel K says how much of what a lower rate will gain
has come by step t; it is all that the laws differ in.

The coordinates of a fit are L0, ln A, alpha, ln B and those of the kernel, for rates divided by `Units.rate` and summed
rates by `Units.total`: of order one, whatever the rates are. `values` are in the units of the papers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from isoflop.scaling.laws.curves.sums import Array, CurveRows, Units
from isoflop.scaling.laws.law import Box, Paper

FAR = 60.0  # of a logarithm: what is beyond has no effect on a double


@dataclass(frozen=True)
class Prior:
    """What is known of a coordinate before any run: its centre and standard deviation."""

    centre: float
    sd: float


class CurveLaw(ABC):
    """A functional form of whole curves. Coordinates (B, P, n): one row of P for each problem and row, or n = 1."""

    name: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    paper: ClassVar[Paper]
    box: ClassVar[Mapping[str, Box]] = {}  # of the coordinates, in their order
    priors: ClassVar[Mapping[str, Prior]] = {}
    grids: ClassVar[Mapping[str, tuple[float, ...]]] = {}  # what a search starts from, of those that are not linear

    @classmethod
    def coordinates(cls) -> tuple[str, ...]:
        """Names of the coordinates in their order; the first four are L0, log_A, alpha and log_B where it has one."""
        return tuple(cls.box)

    @classmethod
    @abstractmethod
    def parameters(cls, theta: Array, units: Units) -> dict[str, float]:
        """The parameters as the paper has them, from coordinates (P,)."""

    @classmethod
    @abstractmethod
    def theta(cls, parameters: Mapping[str, float], units: Units) -> Array:
        """The coordinates (P,) of parameters as the paper has them."""

    @classmethod
    def evaluate(cls, theta: Array, rows: CurveRows) -> tuple[Array, Array]:
        """Loss (B, n) and its derivatives (B, P, n) at coordinates theta (B, P, n) or (B, P, 1)."""
        L0, log_A, alpha = theta[:, 0], theta[:, 1], theta[:, 2]
        slow = np.exp(log_A - alpha * rows.log_total)
        return L0 + slow, np.stack([np.ones_like(slow), slow, -slow * rows.log_total], axis=1)


class CoolingLaw(CurveLaw):
    """A form in which a fall of the rate gains what comes later, by its kernel; its fourth coordinate is log_B."""

    @classmethod
    @abstractmethod
    def kernel(cls, shape: Mapping[str, Array], rows: CurveRows) -> tuple[Array, dict[str, Array]]:
        """K at the terms of the rows, (B, m), and its derivative in every coordinate of the kernel, by name."""

    @classmethod
    def evaluate(cls, theta: Array, rows: CurveRows) -> tuple[Array, Array]:
        """As that of a curve law, less what the falls of the rate have gained."""
        loss, slow = super().evaluate(theta, rows)
        names = cls.coordinates()[len(LEVELS) :]
        at = {name: theta[:, len(LEVELS) + j] for j, name in enumerate(names)}
        shape = {k: v[:, :1] if (v == v[:, :1]).all() else v[:, rows.row] for k, v in at.items()}
        value, slopes = cls.kernel(shape, rows)
        B = np.exp(theta[:, LEVELS.index("log_B")])
        gain = B * rows.sum(rows.weight * value)
        falls = [-gain, *(-B * rows.sum(rows.weight * slopes[name]) for name in names)]
        return loss - gain, np.concatenate([slow, np.stack(falls, axis=1)], axis=1)


LEVELS = ("L0", "log_A", "alpha", "log_B")
_BASE = {
    "L0": Box(0.0, 1e3),
    "log_A": Box(-14.0, 8.0),
    "alpha": Box(0.02, 2.0),
    "log_B": Box(-14.0, 8.0),
}
_ALONE = {k: v for k, v in _BASE.items() if k != "log_B"}
_KNOWN = {"alpha": Prior(0.5, 0.2), "log_B": Prior(-2.0, 1.0)}


class MultiPower(CoolingLaw):
    """The multi-power law: what a fall of the rate gains comes as a power of the summed rate since (MPL)."""

    name = "multi_power"
    formula = (
        "L = L0 + A S^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma S_k)^-beta), S_k the rate summed "
        "since step k"
    )
    paper = Paper(
        "luo2025multipower",
        "Luo, Kairong and Wen, Haodong and Hu, Shengding and Sun, Zhenbo and others",
        "A Multi-Power Law for Loss Curve Prediction Across Learning Rate Schedules",
        2025,
        "2503.12811",
    )
    box = _BASE | {"log_C": Box(-14.0, 8.0), "beta": Box(0.02, 3.0), "gamma": Box(-0.5, 2.0)}
    priors = _KNOWN | {"log_C": Prior(-2.1, 0.5), "beta": Prior(0.59, 0.15), "gamma": Prior(0.64, 0.15)}
    grids: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "alpha": (0.2, 0.35, 0.5, 0.7),
        "log_C": (-4.0, -2.5, -1.0),
        "beta": (0.3, 0.6, 1.0),
        "gamma": (0.3, 0.65),
    }

    @classmethod
    def kernel(cls, shape: Mapping[str, Array], rows: CurveRows) -> tuple[Array, dict[str, Array]]:
        """1 - (1 + C eta^-gamma S_k)^-beta."""
        u = np.exp(np.clip(shape["log_C"] - shape["gamma"] * rows.log_rate, -FAR, FAR)) * rows.since
        log = np.log1p(u)
        left = np.exp(-shape["beta"] * log)
        slope = shape["beta"] * left * u / (1 + u)
        return 1 - left, {"log_C": slope, "beta": left * log, "gamma": -rows.log_rate * slope}

    @classmethod
    def parameters(cls, theta: Array, units: Units) -> dict[str, float]:
        """L0, A, alpha, B, C, beta, gamma."""
        at = dict(zip(cls.coordinates(), map(float, theta), strict=True))
        found = _levels(at, units)
        C = np.exp(at["log_C"] + (at["gamma"] - 1) * np.log(units.rate))
        return found | {"C": float(C), "beta": at["beta"], "gamma": at["gamma"]}

    @classmethod
    def theta(cls, parameters: Mapping[str, float], units: Units) -> Array:
        """The inverse of `parameters`."""
        p = parameters
        log_C = np.log(p["C"]) - (p["gamma"] - 1) * np.log(units.rate)
        return np.array([*_from_levels(p, units), log_C, p["beta"], p["gamma"]])


class Annealing(CoolingLaw):
    """The law of Tissue et al.: what a fall of the rate gains comes at a fixed pace of steps."""

    name = "annealing"
    formula = "L = L0 + A S^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - lam^(t-k+1)) / (1 - lam)"
    paper = Paper(
        "tissue2024annealing",
        "Tissue, Howe and Wang, Venus and Wang, Lu",
        "Scaling Law with Learning Rate Annealing",
        2024,
        "2408.11029",
    )
    box = _BASE | {"log_pace": Box(-14.0, 0.0)}
    priors = _KNOWN | {"log_pace": Prior(-6.0, 2.0)}
    grids: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "alpha": (0.2, 0.35, 0.5, 0.7),
        "log_pace": (-9.0, -7.5, -6.0, -4.5),
    }

    @classmethod
    def kernel(cls, shape: Mapping[str, Array], rows: CurveRows) -> tuple[Array, dict[str, Array]]:
        """1 - lam^steps, lam = exp(-pace)."""
        u = np.exp(shape["log_pace"]) * rows.steps
        left = np.exp(-u)
        return 1 - left, {"log_pace": u * left}

    @classmethod
    def parameters(cls, theta: Array, units: Units) -> dict[str, float]:
        """L0, A, alpha, B (the paper's C), lam."""
        at = dict(zip(cls.coordinates(), map(float, theta), strict=True))
        found, lam = _levels(at, units), np.exp(-np.exp(at["log_pace"]))
        return found | {"B": float(found["B"] * (1 - lam)), "lam": float(lam)}

    @classmethod
    def theta(cls, parameters: Mapping[str, float], units: Units) -> Array:
        """The inverse of `parameters`."""
        p = {**parameters, "B": parameters["B"] / (1 - parameters["lam"])}
        return np.array([*_from_levels(p, units), np.log(-np.log(p["lam"]))])


class SummedRate(CurveLaw):
    """A power of the summed rate alone: no gain from a cooldown. On a constant rate, a power of the steps."""

    name = "summed_rate"
    formula = "L = L0 + A S^-alpha"
    paper = MultiPower.paper
    box: ClassVar[Mapping[str, Box]] = _ALONE
    priors: ClassVar[Mapping[str, Prior]] = {"alpha": _KNOWN["alpha"]}
    grids: ClassVar[Mapping[str, tuple[float, ...]]] = {"alpha": (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)}

    @classmethod
    def parameters(cls, theta: Array, units: Units) -> dict[str, float]:
        """L0, A, alpha."""
        return _levels(dict(zip(cls.coordinates(), map(float, theta), strict=True)), units)

    @classmethod
    def theta(cls, parameters: Mapping[str, float], units: Units) -> Array:
        """The inverse of `parameters`."""
        return np.array(_from_levels(parameters, units))


CURVE_LAWS: dict[str, type[CurveLaw]] = {form.name: form for form in (MultiPower, Annealing, SummedRate)}


def _levels(at: Mapping[str, float], units: Units) -> dict[str, float]:
    total = np.log(units.rate * units.total)
    found = {"L0": at["L0"], "A": float(np.exp(at["log_A"] + at["alpha"] * total)), "alpha": at["alpha"]}
    return found | ({"B": float(np.exp(at["log_B"]) / units.rate)} if "log_B" in at else {})


def _from_levels(p: Mapping[str, float], units: Units) -> list[float]:
    total = np.log(units.rate * units.total)
    found = [p["L0"], np.log(p["A"]) - p["alpha"] * total, p["alpha"]]
    return [*found, np.log(p["B"] * units.rate)] if "B" in p else found
