"""Whether to buy more text for a budget: `isoflop predict --unique-tokens U --price-per-token P --flops C`.

The money is what C FLOPs cost. Part of it may go to new text: then fewer FLOPs are left, and tokens repeat less.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.printable import loss_text
from isoflop.scaling.fitting.fit import Fit, Huber
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws import get_law
from isoflop.scaling.laws.axes.data_constrained import Repeats
from isoflop.scaling.laws.law import Allocation, Law
from isoflop.scaling.prediction.forecast import LossForecast
from isoflop.scaling.prediction.target import best_run
from isoflop.scaling.selection.rolling_origins import fit_at
from isoflop.scaling.table.json_plain import plain

PRICE_PER_FLOP = 1.4e-18  # a card of 1e15 FLOP/s at 40% for two dollars an hour
GRID = 33  # shares of the money that may go to text
LEAST_GAIN = 1e-4  # of the loss: below, buying is not worth the trouble
LEVEL = 0.9


@dataclass(frozen=True)
class TextPurchase:
    """How to split the money of C FLOPs between compute and new text, under one law.

    `n_params`, `tokens`, `unique_tokens` (with those bought) and `epochs` are of the best run, `flops` what it is
    trained with; `bought` are new tokens, 0 where they are not worth their price. `gain` is ln of the loss without a
    purchase over that with it, `interval` its jackknife interval at 90%.
    """

    law: str
    n_params: float
    tokens: float
    unique_tokens: float
    epochs: float
    flops: float
    bought: float
    loss: float
    loss_without: float
    gain: float
    interval: tuple[float, float]
    price_per_token: float
    price_per_flop: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return plain(dict(vars(self)))

    def __str__(self) -> str:
        money = f"at {self.price_per_token:.3g} a token and {self.price_per_flop:.3g} a FLOP ({self.law})"
        run = f"{self.n_params:.4g} parameters on {self.tokens:.4g} tokens, {self.epochs:.3g} epochs"
        if not self.bought:
            return f"buy no text {money}: {run}, loss {loss_text(self.loss)}"
        lower, lo, hi = -np.expm1([-self.gain, -self.interval[0], -self.interval[1]])
        return (
            f"buy {self.bought:.4g} tokens {money}, {self.flops:.4g} FLOPs are left: {run}, "
            f"loss {loss_text(self.loss)}, lower by {lower:.2%} than the {loss_text(self.loss_without)} without "
            f"({LEVEL:.0%} {lo:.2%} to {hi:.2%})"
        )


def buy_text(
    loss: LossForecast, price_per_token: float, price_per_flop: float | None = None, *, laws: tuple[str, ...] = ()
) -> TextPurchase:
    """The purchase of text that lowers the loss most, for the forecast of the best run of some FLOPs.

    The law is the one of the most weight if it reads unique tokens, else the first of `laws` that does and can be
    fitted, else the heaviest that does; without any the one of the most weight with the worth of repeats borrowed.
    Raises ValueError for a run of given size, without unique tokens, or prices that are not positive.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and only this needs it

    target, price = loss.target, PRICE_PER_FLOP if price_per_flop is None else price_per_flop
    if not target.optimal or target.unique_tokens is None:
        raise ValueError("--price-per-token needs --flops and --unique-tokens: the text that there is")
    if not (np.isfinite([price_per_token, price]).all() and price_per_token > 0 and price > 0):
        raise ValueError("--price-per-token and --price-per-flop: prices must be positive and finite")
    name, fitted = _law(loss, laws)
    money, unique = price * target.flops, target.unique_tokens

    def run(bought: float) -> Allocation:
        flops = max(money - price_per_token * bought, 0.0) / price
        return best_run(fitted.law, flops, fitted.cost, unique + bought)

    def lost(share: float) -> float:
        try:
            return float(run(share * money / price_per_token).loss)
        except ValueError:  # too few FLOPs are left for a run
            return np.inf

    without = run(0.0)
    # More text than the run reads is worth nothing: the share of the money that goes to it is bounded, and searched on
    # a logarithm first.
    shares = np.geomspace(1e-6, 0.95, GRID)
    losses = np.array([lost(share) for share in shares])
    k = int(np.argmin(losses))
    around = np.log(shares[[max(k - 1, 0), min(k + 1, GRID - 1)]])
    found = minimize_scalar(lambda u: lost(float(np.exp(u))), bounds=tuple(around), method="bounded")
    bought = float(np.exp(found.x)) * money / price_per_token
    if not float(found.fun) < float(without.loss) * (1 - LEAST_GAIN):
        bought = 0.0
    best = run(bought)

    def gain(law: Law) -> float:
        return float(np.log(_loss(law, without, unique) / _loss(law, best, unique + bought)))

    interval = jackknife(fitted).interval(gain, LEVEL, positive=False) if bought else (0.0, 0.0)
    return TextPurchase(
        law=name, n_params=float(best.N), tokens=float(best.D), unique_tokens=unique + bought,
        epochs=max(float(best.D) / (unique + bought), 1.0), flops=float(best.C), bought=bought, loss=float(best.loss),
        loss_without=float(without.loss), gain=gain(fitted.law), interval=interval, price_per_token=price_per_token,
        price_per_flop=price,
    )  # fmt: skip


def _law(loss: LossForecast, laws: tuple[str, ...]) -> tuple[str, Fit]:
    first, *others = loss.fitted
    for name in dict.fromkeys([first, *laws, *others]):
        if "U" in get_law(name)[0].inputs:
            try:
                return name, fit_at(name, loss.points, Huber("auto"))
            except ValueError:
                continue
    return first, fit_at(first, loss.points, Huber("auto"))


def _loss(law: Law, run: Allocation, unique: float) -> float:
    if "U" in law.inputs:
        return float(law(run.N, run.D, min(unique, float(run.D))))
    return float(Repeats(law, unique)(run.N, run.D))
