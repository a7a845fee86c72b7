"""The best setting of a run under a law of tuning, and the loss that another setting gives away."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from isoflop.scaling.laws.axes.tuning import RateBowl
from isoflop.scaling.table.json_plain import plain


@dataclass(frozen=True)
class Scale:
    """A run by its size, its tokens and the tokens of a step; NaN for what is not known, or is to be chosen."""

    n_params: float
    tokens: float
    batch_tokens: float = math.nan


@dataclass(frozen=True)
class Setting:
    """A learning rate, a batch in tokens and a weight decay; NaN for what a table does not tell."""

    learning_rate: float
    batch_tokens: float = math.nan
    weight_decay: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return plain(asdict(self))

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in asdict(self).items() if math.isfinite(value))


def best_setting(law: RateBowl, at: Scale) -> Setting:
    """The setting with the lowest loss at a scale, its batch the best one where the scale has none."""
    batch = at.batch_tokens
    if math.isnan(batch) and "T" in law.inputs:
        batch = float(law.best_batch(at.tokens))
    rate = float(law.best_rate(at.n_params, at.tokens, batch))
    decay = float(law.best_decay(rate, at.tokens, batch)) if "W" in law.inputs else math.nan
    return Setting(rate, batch, decay)


def loss_at(law: RateBowl, at: Scale, setting: Setting) -> float:
    """The loss at a scale with a setting."""
    columns = {"N": at.n_params, "D": at.tokens, "T": setting.batch_tokens, "W": setting.weight_decay}
    columns["r"] = setting.learning_rate
    return float(law(*(columns[k] for k in law.inputs)))


def lost(law: RateBowl, at: Scale, setting: Setting) -> float:
    """Loss that a setting gives away at a scale, nats/token."""
    return loss_at(law, at, setting) - loss_at(law, at, best_setting(law, at))


def best_rate_with(law: RateBowl, at: Scale, setting: Setting) -> float:
    """The best learning rate with the batch and the weight decay of a setting."""
    best = float(np.log(law.best_rate(at.n_params, at.tokens, setting.batch_tokens)))
    if "W" not in law.inputs:
        return math.exp(best)
    # The bowl of the memory is one of the rate too: its bottom is where this decay would be the best one.
    one = float(law.best_decay(1.0, at.tokens, setting.batch_tokens))
    other = math.log(one / setting.weight_decay)
    return math.exp((law.q * best + law.h * other) / (law.q + law.h))
