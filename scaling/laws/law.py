"""The base class of every scaling law: `Law`. A subclass is a functional form, an instance is a law with its numbers.

A form is a frozen dataclass whose fields are its parameters. It states its formula (`__call__`), the columns it reads
(`inputs`, and `columns` for those beyond size, tokens and compute) and where each parameter may lie (`box`). That is
enough to fit it: derivatives are then taken by complex step, or by differences of a formula that is not analytic, and
the search starts at random points of the box. The shipped forms add analytic derivatives (`evaluate`) and the terms
that they are linear in (`linearise`), with which a fit takes milliseconds.

A form also carries every fact that the rest of the package needs to know of it, as class attributes: which parameter
is the irreducible loss, under which names it can be fitted, where it is used by default. Nothing outside asks for a
form by its name.

Fits move in internal coordinates: a parameter whose box says `log` enters as its logarithm, the others as they are,
and the columns named in `scales` are divided by their geometric means. `rescaled` carries a law from one unit to
another.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.inputs import STANDARD, Column

Array = np.ndarray
COMPLEX_STEP = 1e-100
NEAR_MINIMUM = 1e-4  # of a logarithm: a slope that is zero further from the minimum is not the function's
GOLDEN = 2 / (1 + 5**0.5)
DIFFERENCE_STEP = 1e-6
SAME_DERIVATIVE = 1e-3  # relative: how near the derivatives of an analytic formula by either way are to one another


@dataclass(frozen=True)
class Paper:
    """A paper on arXiv. `authors` are written as BibTeX has them: "Family, Given and Family, Given and others"."""

    key: str
    authors: str
    title: str
    year: int
    arxiv: str

    def cite(self, place: str = "") -> str:
        """The paper in a line of text: "Hoffmann et al. 2022, arXiv 2203.15556, eq. 2"."""
        first, *more = self.authors.split(" and ")
        others = " et al." if more else ""
        return f"{first.partition(',')[0]}{others} {self.year}, arXiv {self.arxiv}" + (f", {place}" if place else "")


@dataclass(frozen=True)
class Box:
    """The interval [lo, hi] that a parameter is searched in.

    `log` fits its logarithm (then lo > 0). `grid` lists the values that a search starts from. For an amplitude the
    limits are those of its term at the geometric mean of the data, in nats/token.
    """

    lo: float
    hi: float
    log: bool = False
    grid: tuple[float, ...] = ()


AMPLITUDE = Box(1e-8, 1e4, log=True)
EXPONENT = Box(0.01, 3.0, grid=tuple(np.geomspace(0.03, 1.6, 18).tolist()))
COARSE = tuple(np.geomspace(0.05, 1.4, 12).tolist())  # exponents to start from, for laws with further shapes
FLOOR = Box(0.0, 1e3)


@dataclass(frozen=True)
class Allocation:
    """How to spend C FLOPs: N parameters, D tokens, and the loss in nats/token. Scalars, or arrays of one shape."""

    N: Any
    D: Any
    C: Any
    loss: Any

    @property
    def tokens_per_param(self) -> Any:
        """D / N, elementwise."""
        return self.D / self.N


_ANALYTIC: dict[type, bool] = {}  # of the forms whose derivatives are taken here

# Where a law is used when the user names none: the laws to "choose" are those that a law is chosen among and whose
# forecasts `predict` averages; `approaches` fits those of "approach 3"; `suggest` plans runs under those to "plan"
# with. `compare` scores the whole catalogue.
Role = Literal["choose", "approach 3", "plan"]


@dataclass(frozen=True)
class Preset:
    """How a form is fitted under one name: parameters freed from their default, fixed, or the two exponents tied.

    `paper` is that of what the name frees, where it is not the form's own.
    """

    free: tuple[str, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    tied: bool = False
    roles: tuple[Role, ...] = ()
    paper: Paper | None = None


class Law:
    """Base of every form. Subclasses are frozen dataclasses whose fields are the parameters.

    The loss is in nats/token, N counts parameters, D tokens, U unique tokens, C FLOPs.
    """

    # What it is.
    name: ClassVar[str] = ""  # in the catalogue; a class without a name is a base for others
    formula: ClassVar[str] = ""  # in ASCII
    paper: ClassVar[Paper | None] = None  # what is cited for it
    source: ClassVar[str] = ""  # paper, arXiv number, equation
    caution: ClassVar[str] = ""  # where it should not be used, for its page in the documentation
    typical: ClassVar[tuple[float, ...]] = ()  # parameter values near published ones, for examples and tests

    # What a fit needs.
    inputs: ClassVar[tuple[str, ...]] = ("N", "D")  # symbols of the columns read, in the order of `__call__`
    columns: ClassVar[Mapping[str, Column | str]] = {}  # which column a symbol is, for those that are not in STANDARD
    box: ClassVar[dict[str, Box]] = {}  # where each parameter may lie
    scales: ClassVar[tuple[str, ...]] = ()  # columns whose unit `rescaled` can change
    amplitudes: ClassVar[tuple[str, ...]] = ()  # parameters that the law is linear in, see `linearise`
    ties: ClassVar[tuple[str, str] | None] = None  # the two exponents that a tied fit makes one
    pair: ClassVar[tuple[str, str] | None] = None  # the two exponents to show jointly where none are tied
    coupled: ClassVar[dict[str, str]] = {}  # parameters that can be fixed only together with another
    side_by_side: ClassVar[bool] = False  # whether problems with columns of their own, at once, have the bits of each

    # What the rest of the package asks of it.
    rank: ClassVar[int] = 100  # place in lists of laws, lowest first
    presets: ClassVar[dict[str, Preset]] = {}  # how it is fitted, by name; its own name frees, fixes and ties nothing
    floor_name: ClassVar[str | None] = None  # the parameter that is the irreducible loss
    ceiling_name: ClassVar[str | None] = None  # the one that is the loss of a uniform guess, ln of the vocabulary
    usual: ClassVar[dict[str, tuple[float, float]]] = {"a": (0.35, 0.75), "frontier": (0.04, 0.3)}  # ranges published
    prior_sd: ClassVar[dict[str, float]] = {}  # knowledge before any run, in internal coordinates; 1 where not given
    open_ended: ClassVar[dict[str, str]] = {}  # parameters that few data bound on both sides, with what would

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> float: ...  # the parameters of a form that a checker does not know

    def __call__(self, *columns: Any) -> Any:
        """The loss at the columns named in `inputs`: scalars, or arrays of one shape. Analytic in every parameter."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no formula: give it __call__({', '.join(self.inputs)})"
        )

    def written(self) -> str:
        """The law with its numbers on one line, in ASCII."""
        values = ", ".join(f"{n} = {v:.5g}" for n, v in zip(self.parameters(), self.values(), strict=True))
        return f"{self.formula} with {values}"

    @property
    def irreducible(self) -> float | None:
        """The irreducible loss in nats/token, None for a form without one."""
        return None if self.floor_name is None else float(getattr(self, self.floor_name))

    @classmethod
    def all_presets(cls) -> dict[str, Preset]:
        """Every name that the form is fitted under, its own first."""
        return {cls.name: Preset()} | cls.presets

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of the parameters in the order of the fields."""
        return tuple(f.name for f in fields(cls))  # type: ignore[arg-type]

    @classmethod
    def reads(cls) -> dict[str, Column]:
        """The columns read, by symbol. Raises ValueError for a symbol that stands for none."""
        known = STANDARD | {k: Column(v) if isinstance(v, str) else v for k, v in cls.columns.items()}
        unknown = [symbol for symbol in cls.inputs if symbol not in known]
        if unknown:
            raise ValueError(
                f"law {cls.name or cls.__name__} reads {unknown[0]!r} without saying which column that is: add "
                f'columns = {{"{unknown[0]}": Column("its_name")}}'
            )
        return {symbol: known[symbol] for symbol in cls.inputs}

    @classmethod
    def defaults(cls) -> dict[str, float]:
        """The parameters that stay where they are unless a fit frees them."""
        return {f.name: float(f.default) for f in fields(cls) if f.default is not MISSING}  # type: ignore[arg-type]

    def values(self) -> Array:
        """Values (P,) of the parameters in the order of the fields."""
        return np.array([getattr(self, name) for name in self.parameters()], dtype=float)

    @classmethod
    def limits(cls) -> tuple[Array, Array]:
        """Lower and upper bound (P,) of every parameter in internal coordinates."""
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
        """Loss (B, n) and its derivatives (B, P, n) at internal coordinates theta (B, P).

        `x` has a column (n,) for every input, or (B, n) where problems have columns of their own; its logarithm where
        its transform is one, or the components (k, n) of a vector. This general version differentiates the formula by
        complex step, exact to rounding if the formula is analytic (Squire and Trapp 1998), else by central differences.
        """
        columns = [np.exp(x[k]) if read.transform == "log" else x[k] for k, read in cls.reads().items()]
        if cls not in _ANALYTIC:
            _ANALYTIC[cls] = cls._is_analytic(theta, columns)
        if _ANALYTIC[cls]:
            loss, jacobian = cls._by_complex_step(theta, columns)
        else:
            loss, jacobian = cls._formula(theta, columns), cls._by_differences(theta, columns)
        return loss, jacobian

    @classmethod
    def _by_complex_step(cls, theta: Array, columns: list[Array]) -> tuple[Array, Array]:
        loss = cls._formula(theta.astype(complex), columns)
        jacobian = np.empty((theta.shape[0], theta.shape[1], loss.shape[-1]))
        for j in range(theta.shape[1]):
            shifted = theta.astype(complex)
            shifted[:, j] += 1j * COMPLEX_STEP
            jacobian[:, j] = cls._formula(shifted, columns).imag / COMPLEX_STEP
        return loss.real, jacobian

    @classmethod
    def _by_differences(cls, theta: Array, columns: list[Array]) -> Array:
        slopes = []
        for j in range(theta.shape[1]):
            step = np.zeros(theta.shape[1])
            step[j] = DIFFERENCE_STEP
            slopes.append((cls._formula(theta + step, columns) - cls._formula(theta - step, columns)) / (2 * step[j]))
        return np.stack(slopes, axis=1)

    @classmethod
    def _is_analytic(cls, theta: Array, columns: list[Array]) -> bool:
        """Whether the complex step gives the derivatives that differences give, wherever both are finite."""
        with np.errstate(all="ignore"):
            rough = cls._by_differences(theta, columns)
            try:
                loss, exact = cls._by_complex_step(theta, columns)
            except (TypeError, ValueError):  # a function of real numbers alone
                return False
            rounding = 1e-8 * np.abs(loss).max(axis=1)[:, None, None]
            off = np.abs(exact - rough) > SAME_DERIVATIVE * np.abs(rough).max(axis=2, keepdims=True) + rounding
        finite = np.isfinite(rough).all(axis=(1, 2)) & np.isfinite(exact).all(axis=(1, 2))
        # At a kink the differences alone are off, and few of the rows of theta are near one.
        return not finite.any() or bool(off[finite].any(axis=2).mean(axis=0).max() < 0.5)

    @classmethod
    def _formula(cls, theta: Array, columns: list[Array]) -> Array:
        law = cls(*np.moveaxis(cls.decode(theta), -1, 0)[..., None])
        return np.broadcast_to(law(*columns), (theta.shape[0], columns[0].shape[-1]))

    @classmethod
    def one_basin(cls, pinned: Mapping[str, float]) -> bool:
        """Whether a fit with the `pinned` parameters at those values has one optimum, as a rule.

        It is then found from few starts by Newton's method at once; else from scattered starts as well, and the second
        derivative is trusted late.
        """
        return False

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array | None:
        """Sum over points of weight (B, n) times the second derivative of the loss in internal coordinates, (B, P, P).

        `jacobian` (B, P, n) is what `evaluate` gave at theta (B, P), or that divided by any number for each point and
        problem: the answer is then divided by it too. None, as here, has the derivatives of `evaluate` differenced.
        """
        return None

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """The same law for columns counted in other units: `units` gives, by column, the new unit in old ones."""
        return self

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """Values to start from for every parameter that the law is not linear in, by name; x (n,) are log columns."""
        return {name: cls.box[name].grid for name in cls.parameters() if cls.box[name].grid}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """The law as a linear combination of its `amplitudes`, given the other parameters.

        `shape` holds (G, 1) values of the others for G grid points, x the log columns (n,), loss (n,). Returns the
        basis (G, K, n) of the last K amplitudes, the target (n,) or (G, n) that the combination should equal, and the
        weight of its residual, which makes it a relative error of the loss.
        """
        raise ValueError(
            f"{cls.__name__} names amplitudes, and nowhere to start a fit: define linearise or propose, or name none"
        )

    @classmethod
    def from_linear(cls, values: Array, loss: Array) -> Array:
        """Parameters (S, P) from rows whose amplitudes are still the coefficients of `linearise`."""
        return values

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array | None:
        """Starts (S, P) in internal coordinates of a form that finds its own; None uses `linearise` or random ones."""
        return None

    @classmethod
    def more_starts(cls, theta: Array, free: frozenset[str]) -> Array:
        """Starts theta (S, P), in internal coordinates, repeated at values of free parameters that no grid covers."""
        return theta

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """The allocation of C FLOPs (scalar or array) that minimises the loss, where training costs what `cost` says.

        6 N D unless it is given; `Fit.optimal` gives the cost of the points fitted, `Fit.cost`.

        Found numerically here. Raises ValueError if the law does not weigh N against D or has no interior minimum.
        """
        if self.inputs != ("N", "D"):
            raise ValueError(f"{self.name}: a law of {', '.join(self.inputs)} has no compute-optimal allocation")
        return self.search(np.asarray(C, dtype=float), cost, self)

    def search(self, C: Any, cost: Cost, loss: Callable[[Any, Any], Any]) -> Allocation:
        """The allocation of C FLOPs where `loss` of N and D is least, numerically; ValueError where none is inside.

        A law may fall without end beyond all runs, as an exponential of a power of N does: that is no allocation.
        """
        C = np.asarray(C, dtype=float)

        def along(u: Any) -> Any:
            return loss(np.exp(u), cost.tokens(C, np.exp(u)))

        log_n = minimise_scalar(along, np.zeros(C.shape), np.log(C), inside=True)
        if np.any(~np.isfinite(log_n)):
            first = C[~np.isfinite(log_n)].flat[0]
            raise ValueError(
                f"{self.name}: no interior minimum of the loss at C = {first:.4g}, for any size from one parameter up"
            )
        with np.errstate(all="ignore"):
            N = np.exp(log_n)
            D = cost.tokens(C, N)
            best = loss(N, D)
        if np.any(nowhere := (D < 1) | ~np.isfinite(best)):  # the loss falls with N to the last token
            raise ValueError(f"{self.name}: no interior minimum of the loss at C = {C[nowhere].flat[0]:.4g}")
        return Allocation(N, D, C, best)

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        """Exponents that follow from the law: a of N* ~ C^a, b of D* ~ C^b, `frontier` of L* - E ~ C^-frontier.

        Empty where none of them is constant.
        """
        return {}


def balanced(
    law: Callable[[Any, Any], Any], log_ratio: float, alpha: float, beta: float, C: Any, cost: Cost
) -> Allocation:
    """The allocation of `Cost.optimal_size` at C FLOPs, with its loss.

    Zero, infinite or NaN where exponents at their bounds put the optimum beyond floating point.
    """
    C = np.asarray(C, dtype=float)
    with np.errstate(all="ignore"):
        N = cost.optimal_size(log_ratio, alpha, beta, C)
        D = cost.tokens(C, N)
        return Allocation(N, D, C, law(N, D))


def outer_sum(weight: Array, vectors: Array) -> Array:
    """Sum over points of weight (B, n) times the outer product of vectors (B, P, n) with themselves, (B, P, P)."""
    return (weight[:, None] * vectors) @ vectors.swapaxes(1, 2)


SYMMETRIC = np.array([[0, 1], [1, 2]])  # the places of three numbers in a symmetric matrix


def power_term_curvature(weighted: Array, column: Array) -> Array:
    """Sum over points of the second derivative of exp(log_A - alpha ln x) in (log_A, alpha), (B, 2, 2).

    `weighted` (B, n) is the term times the weight of its point, `column` (n,) is ln x.
    """
    powers = np.empty((len(column), 3))
    powers[:, 0], powers[:, 1], powers[:, 2] = 1.0, -column, column**2
    moments = weighted @ powers
    return moments[:, SYMMETRIC]


def minimise_scalar(
    function: Callable[[Any], Any], lo: Array, hi: Array, *, inside: bool = False, points: int = 257
) -> Array:
    """Where a function is smallest between lo and hi, elementwise; NaN where that is at an end.

    `inside` takes the lowest of its minima between the ends, however low it is at these; NaN where there is none.
    A grid finds the bracket, bisection of the complex-step derivative finds the point: the function's value alone is
    flat to rounding over relative 1e-8 around a minimum. Of a function that is not analytic, or of real numbers alone,
    the value is all there is: it is then searched by golden section.
    """
    grid = np.linspace(lo, hi, points)
    with np.errstate(all="ignore"):
        value = np.where(np.isfinite(f := np.real(function(grid))), f, np.inf)
        at = np.argmin(value, axis=0)
        if inside:
            least = (value[1:-1] < value[:-2]) & (value[1:-1] <= value[2:])
            inner = np.argmin(np.where(least, value[1:-1], np.inf), axis=0) + 1
            at = np.where(least.any(axis=0), inner, 0)
        width = (hi - lo) / (points - 1)
        middle = np.take_along_axis(grid, at[None], 0)[0]
        left, right = middle - width, middle + width
        try:
            found = _by_slope(function, left, right)
            missed = ~(np.abs(_to_minimum(function, found)) < NEAR_MINIMUM)
        except TypeError:  # a function of real numbers alone
            found, missed = middle, np.ones(middle.shape, dtype=bool)
        if np.any(missed & (at > 0) & (at < points - 1)):
            found = np.where(missed, _by_value(function, left, right), found)
    return np.where((at > 0) & (at < points - 1), found, np.nan)


def _by_slope(function: Callable[[Any], Any], left: Array, right: Array) -> Array:
    """Where the derivative of a function changes its sign between left and right, by bisection."""
    middle = 0.5 * (left + right)
    for _ in range(59):
        rising = np.imag(function(middle + 1j * COMPLEX_STEP)) > 0
        left, right = np.where(rising, left, middle), np.where(rising, middle, right)
        middle = 0.5 * (left + right)
    return middle


def _to_minimum(function: Callable[[Any], Any], at: Array) -> Array:
    """How far the minimum of a parabola through three values around a place is from it."""
    below, value, above = (np.real(function(at + step)) for step in (-NEAR_MINIMUM, 0.0, NEAR_MINIMUM))
    return -0.5 * NEAR_MINIMUM * (above - below) / (above - 2 * value + below)


def _by_value(function: Callable[[Any], Any], left: Array, right: Array) -> Array:
    """The minimum between left and right by golden section (Kiefer 1953), as near as the values tell it."""
    for _ in range(45):
        one, other = right - GOLDEN * (right - left), left + GOLDEN * (right - left)
        above = np.real(function(one)) > np.real(function(other))
        left, right = np.where(above, one, left), np.where(above, right, other)
    return 0.5 * (left + right)
