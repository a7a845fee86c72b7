"""Activation checkpointing: a block keeps its input alone and computes the rest again on the way back.

Memory then grows by one residual stream a layer instead of some ten; the price is one more forward pass, a third of a
step (Chen et al. 1604.06174).
"""

from functools import cache

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module) -> None:
    """Have every block of `model` do so. Raises ValueError for a family that has no blocks."""
    if not hasattr(model, "blocks"):
        raise ValueError(
            f"where.activation_checkpointing: family {model.config.family} has no blocks to compute again; "
            "use where.micro_batch to need less memory"
        )
    for block in model.blocks:
        block.__class__ = _recomputing(type(block))


def recomputes(model: nn.Module) -> bool:
    return any(hasattr(block, "recomputes") for block in getattr(model, "blocks", ()))


@cache
def _recomputing(family: type[nn.Module]) -> type[nn.Module]:
    class Recomputing(family):
        recomputes = True

        def forward(self, *inputs: object) -> object:
            return checkpoint(super().forward, *inputs, use_reentrant=False, preserve_rng_state=False)

    return Recomputing
