"""A weight matrix of the blocks, with what an initialisation or an optimiser must know of it beside its numbers."""

from typing import NamedTuple

from torch import nn


class Matrix(NamedTuple):
    """`weight` is (parts x fan_out, fan_in): matrices that read the same input are stacked, as q, k and v are."""

    weight: nn.Parameter
    parts: int = 1
    residual: bool = False  # whether it writes to the residual stream
