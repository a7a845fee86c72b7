"""Activation checkpointing: a block keeps its input alone and computes the rest again on the way back.

Memory then grows by one residual stream a layer instead of some ten; the price is one more forward pass, a third of a
step (Chen et al. 1604.06174).
"""

from functools import partial

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
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def recomputes(model: nn.Module) -> bool:
    return any("forward" in vars(block) for block in getattr(model, "blocks", ()))
