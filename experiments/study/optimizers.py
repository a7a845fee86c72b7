"""The optimizers as planning sees them: their own settings, FLOPs and memory, and what steps they allow. No torch.

`training.optimizer` has the class of each. To add one: an entry in `OPTIMIZERS` here, and its class there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from isoflop.experiments.config import OptimSpec
from isoflop.models.config import ModelConfig, hidden_shapes

NEWTON_SCHULZ_STEPS = 5  # of one update of a matrix by Muon


def _no_flops(model: ModelConfig) -> int:
    return 0


def _newton_schulz_flops(model: ModelConfig) -> int:
    """Newton-Schulz on a short x long matrix X: X X', its square, and the product of their sum with X."""
    return sum(
        count * NEWTON_SCHULZ_STEPS * (4 * min(shape) ** 2 * max(shape) + 2 * min(shape) ** 3)
        for count, *shape in hidden_shapes(model)
    )


@dataclass(frozen=True)
class OptimizerFacts:
    """What one optimizer is like. `own_settings` are the keys of `optim` that are hashed into its run ids alone."""

    own_settings: frozenset[str] = frozenset()
    vectors: float = 3.0  # weights and moments together, as multiples of the model's parameters
    flops: Callable[[ModelConfig], int] = _no_flops  # of its matrix products in one update


OPTIMIZERS = {
    "adamw": OptimizerFacts(),
    "muon": OptimizerFacts(
        own_settings=frozenset({"momentum"}),
        vectors=2.5,  # the matrices have one moment
        flops=_newton_schulz_flops,
    ),
}


def optimizer_flops(model: ModelConfig, optim: OptimSpec) -> int:
    """FLOPs of the optimizer's matrix products in one update of `model`; 0 for one that is not known here.

    They do not grow with the batch, so they weigh most at a small one.
    """
    return OPTIMIZERS[optim.name].flops(model) if optim.name in OPTIMIZERS else 0


def check(optim: OptimSpec) -> None:
    """Raise ValueError naming the field, its value and what it may be."""
    if optim.name not in OPTIMIZERS:
        raise ValueError(f"optim.name must be one of {', '.join(OPTIMIZERS)}; not {optim.name!r}")
    for name in ("learning_rate", "eps"):
        if not getattr(optim, name) > 0:
            raise ValueError(f"optim.{name} must be positive; not {getattr(optim, name)}")
    for name in ("beta1", "beta2", "momentum"):
        if not 0 <= getattr(optim, name) < 1:
            raise ValueError(f"optim.{name} must lie in [0, 1); not {getattr(optim, name)}")
    for name in ("weight_decay", "clip_norm"):
        if (getattr(optim, name) or 0) < 0:
            raise ValueError(f"optim.{name} must not be negative; not {getattr(optim, name)}")
