"""Parameters and forward FLOPs by group of the models that training logs describe: closed forms of their own code."""

from collections.abc import Mapping
from dataclasses import dataclass

from isoflop.scaling.table.runs import PARAM_GROUPS


@dataclass(frozen=True)
class Shape:
    """A decoder as the run table states it. `params` by group sum to every trainable parameter once."""

    family: str
    n_layer: int
    d_model: int
    n_head: int
    d_ff: int
    vocab_size: int
    context_length: int
    tied: bool
    params: Mapping[str, int]
    flops: Mapping[str, float]  # forward, per token
    norm: str = "layernorm"
    activation: str = "gelu"
    positions: str = "learned"

    @property
    def total(self) -> int:
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


def nanogpt_shape(n_layer: int, n_head: int, n_embd: int, block_size: int, vocab_size: int, *, bias: bool) -> Shape:
    """nanoGPT's GPT: learned positions, LayerNorm, GELU of four times the width, the head tied to the embedding.

    A tied matrix counts once, as unembedding. With `bias` every matrix of the blocks and every norm has one.
    """
    square = n_embd**2
    vectors = n_embd * (2 * n_layer + 1) * (2 if bias else 1) + (9 * n_embd * n_layer if bias else 0)
    attention, mlp, head = 4 * n_layer * square, 8 * n_layer * square, vocab_size * n_embd
    per_key = 4.0 * n_layer * n_embd
    return Shape(
        "transformer", n_layer, n_embd, n_head, 4 * n_embd, vocab_size, block_size, True,
        params={
            "embedding": 0, "position": block_size * n_embd, "attention": attention, "recurrent": 0, "mlp": mlp,
            "norm": vectors, "unembedding": head,
        },
        flops={
            "blocks": 2 * (attention + mlp), "attention_scores": per_key * (block_size + 1) / 2,
            "attention_scores_full": per_key * block_size, "unembedding": 2 * head,
        },
    )  # fmt: skip
