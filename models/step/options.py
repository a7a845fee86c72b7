"""What can be chosen about how a model takes its steps. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepOptions:
    """How loss and gradients are computed; the loss is the same to rounding."""

    hand_written: bool = True  # by models/step/hand_written.py, for the models that it is written for
    fused: bool = False  # by models/step/fused, on a GPU, for the models that it is written for
    compiled: bool = False  # by autograd, through torch.compile
    bfloat16: bool = False  # matrix products in bfloat16; weights, residual stream and loss stay float32
    recompute: bool = False  # activation checkpointing: blocks keep their input alone
