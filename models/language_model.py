"""What every model here is: token ids to logits, with what initialisation, optimisers and generation need of it.

Shape suffixes: B batch, T position, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isoflop.models.config import ModelConfig


class Matrix(NamedTuple):
    """A weight matrix of the blocks, with what an initialisation or an optimiser must know of it beside its numbers.

    `weight` is (parts x fan_out, fan_in): matrices that read the same input are stacked, as q, k and v are.
    """

    weight: nn.Parameter
    parts: int = 1
    residual: bool = False  # whether it writes to the residual stream


class LanguageModel(nn.Module):
    """Token ids (B, T) to logits (B, T, V). Weights are uninitialised: `parametrization.initialize` fills them."""

    config: ModelConfig
    embedding: nn.Parameter  # (V, D)
    head: nn.Parameter  # (V, D), the embedding itself where the two are tied

    @abstractmethod
    def forward(self, tokens_BT: Tensor, cache: Any = None) -> Tensor:
        """Logits of `tokens_BT`, which follow what `cache` holds, an `empty_cache` or what it became since."""

    @abstractmethod
    def empty_cache(self) -> Any:
        """What this model keeps of one text that it reads in pieces; nothing yet."""

    @abstractmethod
    def hidden_matrices(self) -> Iterator[Matrix]:
        """The weight matrices of the blocks: all but embedding and head."""

    @abstractmethod
    def set_vectors(self) -> None:
        """Initialise, in place, what is neither a hidden matrix nor embedding nor head: gains one, biases zero."""

    def recompute_blocks(self) -> None:
        """Have every block keep its input alone for the backward pass. Raises ValueError for a model without blocks."""
        blocks = [module for module in self.modules() if isinstance(module, Recomputable)]
        if not blocks:
            raise ValueError(
                f"where.activation_checkpointing: family {self.config.family} has no blocks to compute again; "
                "use where.micro_batch to need less memory"
            )
        for block in blocks:
            block.recompute = True


class Recomputable(nn.Module):
    """A block whose activations can be computed again in the backward pass instead of being kept.

    Memory then grows by one residual stream a layer instead of some ten; the price is one more forward pass, a third of
    a step (Chen et al. 1604.06174).
    """

    recompute = False

    def run(self, block: Callable[..., Tensor], *inputs: object) -> Tensor:
        """`block(*inputs)`, by checkpoints if `recompute` is set."""
        return _checkpointed(block, *inputs) if self.recompute else block(*inputs)


_checkpointed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
