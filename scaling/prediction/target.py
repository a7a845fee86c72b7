"""A run to predict, and what each law says of it: the run that it would make, its loss and its best size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.axes.data_constrained import EXCESS_WORTH, REPEAT_WORTH, Repeats
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Allocation, Array, Law, minimise_scalar
from isoflop.scaling.prediction.breaks import Broken, breaks
from isoflop.scaling.selection.averaging import Forecast
from isoflop.scaling.table.conventions import Points

BORROWED = (REPEAT_WORTH, EXCESS_WORTH)  # R_D and R_N where no run of a table repeats its tokens
EXACT = 1e-18  # variance of ln n_opt under a law that fits exactly
MOST_LOG = 700.0  # of a size: beyond, floating point ends


@dataclass(frozen=True)
class Target:
    """A run to predict: `flops`, and n_params and tokens unless it is the compute-optimal run of that compute.

    `unique_tokens` says how many of its tokens differ; None: all of them.
    """

    flops: float
    n_params: float | None = None
    tokens: float | None = None
    unique_tokens: float | None = None

    @property
    def optimal(self) -> bool:
        """Whether the target is the compute-optimal run at `flops`."""
        return self.n_params is None

    @classmethod
    def of(
        cls,
        data: Points,
        flops: float | None,
        n_params: float | None,
        tokens: float | None,
        unique_tokens: float | None = None,
    ) -> "Target":
        """A target from FLOPs, or from parameters and tokens, whose FLOPs follow the cost of training in `data`.

        Raises ValueError unless exactly one of the two is given, with positive finite numbers.
        """
        if (flops is None) == (n_params is None) or (n_params is None) != (tokens is None):
            raise ValueError("a target is either --flops, or --n-params and --tokens together")
        given = [v for v in (flops, n_params, tokens, unique_tokens) if v is not None]
        if not all(np.isfinite(v) and v > 0 for v in given):
            raise ValueError(f"a target must be positive and finite, not {', '.join(f'{v:g}' for v in given)}")
        if flops is not None:
            return cls(flops, unique_tokens=unique_tokens)
        return cls(float(data.cost.flops(n_params, tokens)), n_params, tokens, unique_tokens)

    def __str__(self) -> str:
        unique = "" if self.unique_tokens is None else f", {self.unique_tokens:.4g} of the tokens unique"
        if self.optimal:
            return f"the best run of {self.flops:.4g} FLOPs{unique}"
        return f"{self.n_params:.4g} parameters on {self.tokens:.4g} tokens ({self.flops:.4g} FLOPs){unique}"


def reader(law: Law | Broken, target: Target, worths: tuple[float, float]) -> Callable[..., Any]:
    """A law as it reads the target: one of N and D alone counts repeats at what they are worth."""
    if target.unique_tokens is None or "U" in law.inputs:
        return law
    return Repeats(law, target.unique_tokens, *worths)


def place(fitted: Fit, target: Target, worths: tuple[float, float]) -> pd.DataFrame:
    """The target as one row of n_params, tokens, flops, unique_tokens: a law's own optimum unless it is given.

    Raises ValueError where that is no run: less than a parameter or a token, or more than floating point holds.
    """
    n, d = _run(fitted, fitted.law, target, worths)
    if not (1 <= n < np.inf and 1 <= d < np.inf):
        raise ValueError(f"its best run of {target.flops:.3g} FLOPs would have {n:.3g} parameters and {d:.3g} tokens")
    unique = min(_unique(target), d)
    return pd.DataFrame({"n_params": [n], "tokens": [d], "flops": [target.flops], "unique_tokens": [unique]})


def _unique(target: Target) -> float:
    return np.inf if target.unique_tokens is None else target.unique_tokens


def _run(fitted: Fit, law: Law, target: Target, worths: tuple[float, float]) -> tuple[float, float]:
    """The size and tokens that a law, the fit's or a refit of it, calls best at the target, unless they are given."""
    if target.n_params is not None and target.tokens is not None:
        return target.n_params, target.tokens
    best = best_run(law, target.flops, fitted.cost, _unique(target), worths)
    return float(best.N), float(best.D)


def best_run(law: Law, flops: float, cost: Cost, unique: float, worths: tuple[float, float] = BORROWED) -> Allocation:
    """A law's compute-optimal run where so many tokens are unique; `worths` are R_D and R_N of repeats to a law of N
    and D alone."""
    if "U" in law.inputs:
        return law.optimal(flops, cost, unique_tokens=unique)  # type: ignore[call-arg]
    best = law.optimal(flops, cost)
    return best if float(best.D) <= unique else law.search(flops, cost, Repeats(law, unique, *worths))


@dataclass(frozen=True)
class WithBreaks:
    """Forecasts of one law, straight first and then with each likely break: of ln loss, and of ln of the best size
    where the target is compute-optimal; with their probabilities."""

    losses: list[Forecast]
    sizes: list[Forecast]
    odds: list[float]


def with_breaks(
    fitted: Fit, loss: Forecast, size: Forecast | None, target: Target, worths: tuple[float, float]
) -> WithBreaks:
    """The forecasts of a law whose own, without breaks, are `loss` and `size`."""
    losses, odds, sizes = [loss], [1.0], [] if size is None else [size]
    found = breaks(fitted)
    if found is not None and len(found.place):
        log_n, log_loss = _of_broken(fitted, found.laws(), target, worths)
        losses, odds = found.forecasts(loss, log_loss[None])
        sizes = [] if size is None else found.forecasts(size, log_n[None])[0]
    return WithBreaks(losses, sizes, odds)


def log_size(fitted: Fit, target: Target, worths: tuple[float, float]) -> Forecast:
    """One law's forecast of ln of the best size, by its jackknife; a size beyond floating point counts as its end.

    Raises ValueError where the law, or a refit of it, has no best size.
    """
    draws = jackknife(fitted)
    with np.errstate(divide="ignore"):
        values = np.log([_run(fitted, law, target, worths)[0] for law in draws.laws])
        centre = np.log([_run(fitted, fitted.law, target, worths)[0]])
    if lost := int(np.isnan(values).sum() + np.isnan(centre).sum()):
        raise ValueError(f"its best size at {target.flops:.3g} FLOPs is no number in {lost} of {len(values)} refits")
    values, centre = np.clip(values, -MOST_LOG, MOST_LOG), np.clip(centre, -MOST_LOG, MOST_LOG)
    sd = np.sqrt(draws.error_of(values) ** 2 + EXACT)
    return Forecast(centre, np.atleast_1d(sd), float(draws.freedom_of(values)))


def _of_broken(fitted: Fit, law: Broken, target: Target, worths: tuple[float, float]) -> tuple[Array, Array]:
    """ln of the size and of the loss (K,) of the target's run by broken laws; NaN of one without an optimum."""
    unique = _unique(target)

    def loss(N: Any, D: Any) -> Any:
        if "U" in law.inputs:
            return law(N, D, np.where(np.real(D) < unique, D, unique))
        return reader(law, target, worths)(N, D)

    flops = np.full(law.place.shape, target.flops)
    with np.errstate(all="ignore"):
        if target.n_params is not None and target.tokens is not None:
            size, tokens = np.full_like(flops, target.n_params), np.full_like(flops, target.tokens)
        else:
            log_n = minimise_scalar(
                lambda u: loss(np.exp(u), fitted.cost.tokens(flops, np.exp(u))), np.zeros_like(flops), np.log(flops),
                inside=True,
            )  # fmt: skip
            size = np.exp(log_n)
            tokens = fitted.cost.tokens(flops, size)
        return np.log(size), np.log(loss(size, tokens))
