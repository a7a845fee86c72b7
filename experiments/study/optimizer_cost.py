"""FLOPs of an optimiser's matrix products, per step: none for AdamW, those of Muon's iteration. No torch."""

from isoflop.experiments.config import OptimSpec
from isoflop.models.config import ModelConfig, hidden_shapes

NEWTON_SCHULZ_STEPS = 5


def optimizer_flops(model: ModelConfig, optim: OptimSpec) -> int:
    """A step's matrix products of one update of `model`. They do not grow with the batch, so a small batch feels them.

    Newton-Schulz on a short x long matrix X: X X', its square, and the product of their sum with X.
    """
    if optim.name != "muon":
        return 0
    return sum(
        count * NEWTON_SCHULZ_STEPS * (4 * min(shape) ** 2 * max(shape) + 2 * min(shape) ** 3)
        for count, *shape in hidden_shapes(model)
    )
