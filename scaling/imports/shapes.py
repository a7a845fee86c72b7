"""Shapes of models that other programs trained: dimensions, parameters and forward FLOPs by group."""

from collections.abc import Mapping
from dataclasses import dataclass

from isoflop.scaling.table.formats.run_columns import PARAM_GROUPS


@dataclass(frozen=True)
class Shape:
    """A decoder with the dimensions of the run table.

    `params` holds parameters by group, each counted once; `flops` forward FLOPs per token by group.
    """

    family: str
    n_layer: int
    d_model: int
    n_head: int
    d_ff: int
    vocab_size: int
    context_length: int
    tied: bool
    params: Mapping[str, int]
    flops: Mapping[str, float]
    norm: str = "layernorm"
    activation: str = "gelu"
    positions: str = "learned"

    @property
    def total(self) -> int:
        """All trainable parameters."""
        return sum(self.params.values())

    def columns(self) -> dict[str, object]:
        """The run table's columns for this shape."""
        names = ("family", "n_layer", "d_model", "n_head", "d_ff", "vocab_size", "context_length", "tied")
        return (
            {name: getattr(self, name) for name in names}
            | {f"n_params_{group}": self.params.get(group, 0) for group in PARAM_GROUPS}
            | {
                "n_params_total": self.total,
                "n_params_active": int(self.flops["blocks"] + self.flops["unembedding"]) // 2,
            }
            | {"norm": self.norm, "activation": self.activation, "positions": self.positions}
            | {f"flops_token_{group}": count for group, count in self.flops.items()}
        )
