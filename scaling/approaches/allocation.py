"""How the best size and the best number of tokens grow with compute: power laws through the optima of budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.isoflop_profiles import IsoflopProfile
from isoflop.scaling.laws.special_functions import fdtrc, stdtrit

LEVEL = 0.9
SURE = 1e6
REFUTED = 0.1  # p below which the scatter of optima refutes their own standard deviations


class NoAllocationError(ValueError):
    """Too few optima to draw a power law through."""

    exit_code = 1


@dataclass(frozen=True)
class PowerFit:
    """n_opt = n_coef flops^n_exponent and tokens_opt = tokens_coef flops^tokens_exponent, with intervals at `level`.

    `n_error` is the standard error of n_exponent, `freedom` the degrees of freedom of its Student's t. `n_budgets`
    counts the budgets with an optimum: 0 where the line goes through no optima of budgets (an envelope of curves, a
    law).
    """

    n_exponent: float
    n_coef: float
    n_interval: tuple[float, float]
    tokens_exponent: float
    tokens_coef: float
    tokens_interval: tuple[float, float]
    n_budgets: int
    level: float = LEVEL
    n_error: float = float("nan")
    freedom: float = float("inf")

    def n_half_width(self, level: float) -> float:
        """Half the width of the interval of n_exponent at another level."""
        own, other = (stdtrit(min(self.freedom, SURE), (1 + at) / 2) for at in (self.level, level))
        return float(np.ptp(self.n_interval) / 2 * other / own)

    def n(self, flops: Any) -> Any:
        """The best number of parameters at `flops`."""
        return self.n_coef * np.power(flops, self.n_exponent)

    def tokens(self, flops: Any) -> Any:
        """The best number of tokens at `flops`."""
        return self.tokens_coef * np.power(flops, self.tokens_exponent)


def allocation(optima: Sequence[IsoflopProfile] | pd.DataFrame, *, level: float = LEVEL) -> PowerFit:
    """Least-squares lines of ln n_opt and ln tokens_opt on ln flops, through the accepted profiles or all rows.

    A frame needs flops, n_opt, tokens_opt and may have log_n_sd with its freedom. The intervals pool what these
    standard deviations say of the slope's variance with what the scatter around the line says, each by its degrees of
    freedom, and take Student's t on the sum. Where the optima scatter more than that (F test at level REFUTED), as when
    every budget has a learning rate of its own, the scatter alone counts. Raises NoAllocationError below two optima.
    """
    frame = optima if isinstance(optima, pd.DataFrame) else optima_frame(optima)
    if len(frame) < 2 or frame["flops"].nunique() < 2:
        raise NoAllocationError(
            f"{len(frame)} budget{'s' if len(frame) != 1 else ''} with an optimum: an exponent needs at least two; "
            "add sizes on both sides of the lowest loss"
        )
    x = np.log(frame["flops"].to_numpy(float))
    sd = frame["log_n_sd"].to_numpy(float) if "log_n_sd" in frame else np.zeros(len(x))
    sure = SURE if "log_n_sd" in frame else 0.0  # standard deviations that come without their freedom are known
    known = frame["freedom"].to_numpy(float) if "freedom" in frame else np.full(len(x), sure)
    sd = np.where(known > 0, sd, sd[known > 0].mean() if (known > 0).any() else 0.0)
    n_slope, n_at_zero, n_half, n_error, freedom = _line(
        x, np.log(frame["n_opt"].to_numpy(float)), sd, known.sum(), level
    )
    t_slope, t_at_zero, t_half, *_ = _line(x, np.log(frame["tokens_opt"].to_numpy(float)), sd, known.sum(), level)
    return PowerFit(
        n_exponent=n_slope,
        n_coef=float(np.exp(n_at_zero)),
        n_interval=(n_slope - n_half, n_slope + n_half),
        tokens_exponent=t_slope,
        tokens_coef=float(np.exp(t_at_zero)),
        tokens_interval=(t_slope - t_half, t_slope + t_half),
        n_budgets=len(frame),
        level=level,
        n_error=n_error,
        freedom=freedom,
    )


def optima_frame(profiles: Sequence[IsoflopProfile]) -> pd.DataFrame:
    """The optima of the accepted profiles, one row per budget."""
    names = ("flops", "n_opt", "tokens_opt", "loss_opt", "log_n_sd", "freedom")
    return pd.DataFrame([{k: getattr(p, k) for k in names} for p in profiles if p.accepted], columns=list(names))


def _line(
    x: np.ndarray, y: np.ndarray, sd: np.ndarray, known: float, level: float
) -> tuple[float, float, float, float, float]:
    """Slope, value at x = 0, half-width of the slope's interval, its standard error and the degrees of freedom of that;
    `known` are those of the sds.
    """
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residual = y - y.mean() - slope * centred
    scatter = len(x) - 2
    seen = (scatter > 0) * (residual @ residual) / (centred @ centred)  # times its degrees of freedom
    stated = (centred**2 @ sd**2) / (centred @ centred) ** 2
    freedom = max(scatter + known, 1)
    error = np.sqrt((seen + known * stated) / freedom)
    if scatter > 0 and known > 0 and fdtrc(scatter, known, seen / scatter / max(stated, 1e-300)) < REFUTED:
        freedom, error = scatter, np.sqrt(seen / scatter)
    half = stdtrit(freedom, (1 + level) / 2) * error
    return slope, float(y.mean() - slope * x.mean()), float(half), float(error), float(freedom)
