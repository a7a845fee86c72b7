"""What every scaling law is: a frozen dataclass whose class is the form and whose instance is a law.

A form declares its parameters as dataclass fields, where each may lie (`box`), which columns it reads (`inputs`) and
its formula (`__call__`). That is enough to fit it: derivatives then come by complex step and starts from the box.
The forms shipped here add a hand Jacobian (`evaluate`) and the terms they are linear in (`linearise`), which is what
makes a fit take milliseconds.

Fits run in internal coordinates: a parameter whose box says `log` enters as its logarithm, the others as they are, and
the columns named in `scales` are divided by their geometric means (`rescaled` carries a law from one unit to another).
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np

Array = np.ndarray
COMPLEX_STEP = 1e-100


@dataclass(frozen=True)
class Box:
    """Where a parameter may lie; `log` fits its logarithm (so lo > 0), `grid` lists values to start from.

    For an amplitude the limits are those of its term at the geometric mean of the data, in nats/token.
    """

    lo: float
    hi: float
    log: bool = False
    grid: tuple[float, ...] = ()


AMPLITUDE = Box(1e-8, 1e4, log=True)
EXPONENT = Box(0.01, 3.0, grid=tuple(np.geomspace(0.03, 1.6, 18).tolist()))
FLOOR = Box(0.0, 1e3)


@dataclass(frozen=True)
class Cost:
    """Training compute of N parameters on D tokens: C = k N^(1 + slope) D FLOPs.

    The slope is 0 when FLOPs per parameter do not change with size, and slightly negative under exact counts, where
    attention weighs less in larger models.
    """

    k: float = 6.0
    slope: float = 0.0

    def flops(self, N: Any, D: Any) -> Any:
        return self.k * np.power(N, 1.0 + self.slope) * D

    def tokens(self, C: Any, N: Any) -> Any:
        return C / (self.k * np.power(N, 1.0 + self.slope))


SIX_ND = Cost()


@dataclass(frozen=True)
class Allocation:
    """How a law spends the compute C: N parameters, D tokens, and the loss reached. Scalars or arrays alike."""

    N: Any
    D: Any
    C: Any
    loss: Any

    @property
    def tokens_per_param(self) -> Any:
        return self.D / self.N


class Law:
    """Base of every form. Subclasses are frozen dataclasses whose fields are the parameters, in nats/token."""

    name: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = ("N", "D")
    box: ClassVar[dict[str, Box]] = {}
    scales: ClassVar[tuple[str, ...]] = ()
    ties: ClassVar[tuple[str, str] | None] = None
    amplitudes: ClassVar[tuple[str, ...]] = ()
    coupled: ClassVar[dict[str, str]] = {}  # parameters that can be fixed only together with another

    def __call__(self, *columns: Any) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} defines no formula: give it __call__({', '.join(self.inputs)})"
        )

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        return tuple(f.name for f in fields(cls))  # type: ignore[arg-type]

    @classmethod
    def defaults(cls) -> dict[str, float]:
        """The parameters that stay where they are unless a fit frees them."""
        return {f.name: float(f.default) for f in fields(cls) if f.default is not MISSING}  # type: ignore[arg-type]

    def values(self) -> Array:
        return np.array([getattr(self, name) for name in self.parameters()], dtype=float)

    @classmethod
    def limits(cls) -> tuple[Array, Array]:
        """Lower and upper bound of every parameter in internal coordinates."""
        boxes = [cls.box[name] for name in cls.parameters()]
        inner = [(np.log(b.lo), np.log(b.hi)) if b.log else (b.lo, b.hi) for b in boxes]
        return np.array([lo for lo, _ in inner]), np.array([hi for _, hi in inner])

    @classmethod
    def encode(cls, values: Array) -> Array:
        """Parameters (..., P) to internal coordinates, a logarithm clipped into its box."""
        theta = np.array(values, dtype=float)
        for j, name in enumerate(cls.parameters()):
            if cls.box[name].log:
                theta[..., j] = np.log(np.maximum(theta[..., j], 1e-300))
        return theta

    @classmethod
    def decode(cls, theta: Array) -> Array:
        """Internal coordinates (..., P) to parameters."""
        values = np.array(theta)
        for j, name in enumerate(cls.parameters()):
            if cls.box[name].log:
                values[..., j] = np.exp(values[..., j])
        return values

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss (B, n) and its derivatives (B, P, n) at internal coordinates theta (B, P), given log columns x (n,).

        This general version differentiates the formula by complex step, exact to rounding if the formula is analytic.
        """
        columns = [np.exp(x[k]) for k in cls.inputs]
        loss = cls._formula(theta.astype(complex), columns)
        jacobian = np.empty((theta.shape[0], theta.shape[1], loss.shape[-1]))
        for j in range(theta.shape[1]):
            shifted = theta.astype(complex)
            shifted[:, j] += 1j * COMPLEX_STEP
            jacobian[:, j] = cls._formula(shifted, columns).imag / COMPLEX_STEP
        return loss.real, jacobian

    @classmethod
    def _formula(cls, theta: Array, columns: list[Array]) -> Array:
        law = cls(*np.moveaxis(cls.decode(theta), -1, 0)[..., None])
        return np.broadcast_to(law(*columns), (theta.shape[0], columns[0].size))

    @classmethod
    def bent(cls, pinned: Mapping[str, float]) -> bool:
        """Whether `curvature` is exact when the `pinned` parameters stay at those values."""
        return False

    @classmethod
    def curvature(cls, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """Sum over points of weight (B, n) times the second derivative of the loss, (B, P, P); optional, see `bent`."""
        raise NotImplementedError(f"{cls.__name__}.bent says that the curvature is exact: define it")

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """The same law when each column in `units` (of those in `scales`) is counted in that many of the old unit."""
        return self

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """The grid of every parameter that the law is not linear in, where the search starts."""
        return {name: cls.box[name].grid for name in cls.parameters() if cls.box[name].grid}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """Basis (G, K, n) of the `amplitudes` given shapes (G, 1), with the target and the weight of its residual."""
        raise NotImplementedError(f"{cls.__name__} says nowhere to start a fit: define linearise or propose")

    @classmethod
    def from_linear(cls, values: Array, loss: Array) -> Array:
        """Parameters (S, P) from rows that hold linear coefficients in the columns of the amplitudes."""
        return values

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array | None:
        """Starts (S, P) in internal coordinates of a form with its own way to find them; None for the common way."""
        return None

    @classmethod
    def vary(cls, theta: Array, free: frozenset[str]) -> Array:
        """Further starts from seeds theta (S, P), along free parameters that the linear seeds do not reach."""
        return theta

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """The allocation of compute C (scalar or array, FLOPs) that minimises the loss.

        Raises ValueError if the law does not weigh N against D or has no interior minimum there.
        """
        if self.inputs != ("N", "D"):
            raise ValueError(f"{self.name}: a law of {', '.join(self.inputs)} has no compute-optimal allocation")
        return self._search(np.asarray(C, dtype=float), cost, self)

    def _search(self, C: Array, cost: Cost, loss: Callable[[Any, Any], Any]) -> Allocation:
        log_n = minimise_scalar(lambda u: loss(np.exp(u), cost.tokens(C, np.exp(u))), np.zeros(C.shape), np.log(C))
        if np.any(~np.isfinite(log_n)):
            raise ValueError(f"{self.name}: no interior minimum of the loss at C = {C}")
        N = np.exp(log_n)
        D = cost.tokens(C, N)
        return Allocation(N, D, C, loss(N, D))

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        """Exponents a, b of N* ~ C^a, D* ~ C^b and `frontier` of L* - E ~ C^-frontier; empty where none is constant."""
        return {}


def minimise_scalar(function: Callable[[Any], Any], lo: Array, hi: Array, *, points: int = 257) -> Array:
    """Where an analytic function is smallest between lo and hi, elementwise; NaN where that is at an end.

    A grid finds the bracket, bisection of the complex-step derivative finds the point: the function's value alone is
    flat to rounding over relative 1e-8 around a minimum.
    """
    grid = np.linspace(lo, hi, points)
    with np.errstate(all="ignore"):
        value = np.where(np.isfinite(f := np.real(function(grid))), f, np.inf)
        at = np.argmin(value, axis=0)
        width = (hi - lo) / (points - 1)
        middle = np.take_along_axis(grid, at[None], 0)[0]
        left, right = middle - width, middle + width
        for _ in range(60):
            middle = 0.5 * (left + right)
            rising = np.imag(function(middle + 1j * COMPLEX_STEP)) > 0
            left, right = np.where(rising, left, middle), np.where(rising, middle, right)
    return np.where((at > 0) & (at < points - 1), middle, np.nan)
