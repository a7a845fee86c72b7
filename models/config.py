"""The shape of a model, and everything that follows from it in closed form: parameters and FLOPs by group.

Standard library only, so that planning a thousand cells costs no import of torch. What differs from one architecture to
another is in its `Family`, one file of `models/families` each. Tests hold these formulas to the built modules:
parameters to `numel`, FLOPs to `FlopCounterMode` on the meta device, both exactly.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

FAMILIES = tuple(sorted(f.stem for f in Path(__file__).with_name("families").glob("*.py") if f.stem != "__init__"))
OPTIONS = {"norm": ("rmsnorm", "layernorm"), "activation": ("swiglu", "gelu"), "positions": ("rotary", "learned")}
FULL_BITS = 32  # float32: nothing is rounded
FEWEST_BITS, MOST_BITS = 2, 16  # of factors rounded to integers
PLAIN: dict[str, Any] = {
    "norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "experts": 0,
    "weight_bits": FULL_BITS, "activation_bits": FULL_BITS,
}  # fmt: skip
UNUSED: dict[str, Any] = {"n_head": 0, "d_ff": 0, **PLAIN}  # the values of fields that a family does not use
PARAMETRIZATIONS = ("mup", "completep", "standard")  # see models/parametrization.py
PARAM_GROUPS = ("embedding", "position", "attention", "recurrent", "mlp", "norm", "unembedding")
BLOCK_GROUPS = ("attention", "recurrent", "mlp")  # those of the matrices between embedding and head


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape. `d_ff=None` becomes 8/3 of the width, rounded up to a multiple of 8; for GELU 4 x the width.

    Fields that the family does not use become 0 or the default part, whatever was given: an LSTM has neither heads nor
    an MLP nor options. Raises ValueError naming the field, its value and the remedy.
    """

    family: str
    vocab_size: int
    context_length: int
    n_layer: int
    d_model: int
    n_head: int
    d_ff: int | None = None
    tied: bool = False
    norm: str = "rmsnorm"
    activation: str = "swiglu"
    positions: str = "rotary"
    experts: int = 0  # 0: one MLP for every token
    experts_per_token: int = 2
    weight_bits: int = FULL_BITS  # of the factors of the blocks' products, see `models.quantise`; FULL_BITS: float32
    activation_bits: int = FULL_BITS

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"model.family must be one of {', '.join(FAMILIES)}; not {self.family!r}")
        for name in ("vocab_size", "context_length", "n_layer", "d_model"):
            _require_positive(name, getattr(self, name))
        used = family_of(self).fields
        self._check_bits(used)
        for name in UNUSED.keys() - used:
            object.__setattr__(self, name, UNUSED[name])
        self._check_options()
        if self.d_ff is None:
            default = default_d_ff(self.d_model) if self.activation == "swiglu" else 4 * self.d_model
            object.__setattr__(self, "d_ff", default)
        if "n_head" in used:
            _require_positive("n_head", self.n_head)
        if "d_ff" in used:
            _require_positive("d_ff", self.d_ff)
        if "n_head" in used:
            self._check_heads(rotary="positions" in used and self.positions == "rotary")

    @property
    def plain(self) -> bool:
        """Whether every part is the default one."""
        return all(getattr(self, name) == value for name, value in PLAIN.items())

    @property
    def quantised(self) -> bool:
        """Whether the products of its blocks have rounded factors."""
        return (self.weight_bits, self.activation_bits) != (FULL_BITS, FULL_BITS)

    @property
    def mlp_width(self) -> int:
        """`d_ff`, which is a number once the shape is made."""
        return cast(int, self.d_ff)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_head

    def _check_bits(self, used: frozenset[str]) -> None:
        for name in ("weight_bits", "activation_bits"):
            bits = getattr(self, name)
            if isinstance(bits, bool) or bits not in (*range(FEWEST_BITS, MOST_BITS + 1), FULL_BITS):
                raise ValueError(
                    f"model.{name} must be from {FEWEST_BITS} to {MOST_BITS}, or {FULL_BITS} (float32); not {bits!r}"
                )
            if name not in used and bits != FULL_BITS:
                raise ValueError(
                    f"model.{name}={bits}: the products of family {self.family} are not rounded; use {FULL_BITS}"
                )

    def _check_options(self) -> None:
        for name, allowed in OPTIONS.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"model.{name} must be one of {', '.join(allowed)}; not {getattr(self, name)!r}")
        if self.experts:
            _require_positive("experts", self.experts)
            _require_positive("experts_per_token", self.experts_per_token)
            if self.experts_per_token > self.experts:
                raise ValueError(
                    f"model.experts_per_token={self.experts_per_token} is more than model.experts={self.experts}"
                )

    def _check_heads(self, *, rotary: bool) -> None:
        if self.d_model % self.n_head:
            raise ValueError(
                f"model.d_model={self.d_model} is not divisible by model.n_head={self.n_head}; "
                f"n_head may be {', '.join(str(h) for h in _possible_heads(self.d_model))}"
            )
        if self.head_dim % 2 and rotary:
            raise ValueError(
                f"model.d_model={self.d_model} with model.n_head={self.n_head} gives heads of width {self.head_dim}; "
                "rotary positions need an even width"
            )


@dataclass(frozen=True)
class MatrixShape:
    """`count` weight matrices of one shape, in one parameter group. Stacked ones (q, k, v; gates) count one by one."""

    group: str  # of BLOCK_GROUPS
    count: int
    fan_out: int
    fan_in: int
    inactive: int = 0  # how many of them a token does not meet: those of the experts that it is not sent to

    def __post_init__(self) -> None:
        if self.group not in BLOCK_GROUPS:
            raise TypeError(f"a MatrixShape of the group {self.group!r}: tables count {', '.join(BLOCK_GROUPS)}")

    @property
    def params(self) -> int:
        """Weights of all of them together."""
        return self.count * self.fan_out * self.fan_in

    @property
    def active(self) -> int:
        """Weights that one token meets."""
        return (self.count - self.inactive) * self.fan_out * self.fan_in


class Family(ABC):
    """An architecture: what planning, memory, engine, packs and export must know of it. No torch.

    A subclass stands in `models/families/NAME.py`, which ends with `FAMILY`, an instance of it; NAME is the family's.
    The defaults are those of a module about which nothing more is known: trained by autograd, exported as TorchScript.
    """

    size_prefix: str  # of the names of its sizes: "lstm-" for lstm-d20
    module: str  # the class that is built, "isoflop.models.lstm:LSTM", a `models.language_model.LanguageModel`
    variant = ""  # the class that is built where a part is not the default one; "": the same
    fields: frozenset[str] = frozenset()  # of UNUSED, those that mean something to it
    by_hand_on_cpu = False  # whether `models/step/hand_written.py` takes its step on a CPU
    by_hand_elsewhere = False  # whether on other devices too, where every part is the default one
    by_kernels_alone = False  # whether its step by hand is the faster one in C alone: else autograd takes it
    attends = False  # whether every layer has causal attention over d_model features

    def build(self, config: ModelConfig) -> Any:
        """The module of this shape, weights uninitialised. Imports torch."""
        module, _, name = (self.module if config.plain else self.variant or self.module).partition(":")
        return getattr(import_module(module), name)(config)

    @abstractmethod
    def matrices(self, config: ModelConfig) -> list[MatrixShape]:
        """The weight matrices of the blocks: without embedding and head, which every family has."""

    @abstractmethod
    def vectors(self, config: ModelConfig) -> dict[str, int]:
        """Parameters that multiply no token's features, by group: "norm" (gains and biases), "position"."""

    @abstractmethod
    def activations(self, config: ModelConfig, *, hand_written: bool, fused: bool = False) -> float:
        """Numbers that a layer keeps per token between forward and backward: by which step, else by autograd."""

    def hand_written(self, config: ModelConfig, device: str) -> bool:
        """Whether the step of this model is taken by `models/step/hand_written.py` on such a device: cpu, cuda:0."""
        by_hand = self.by_hand_on_cpu if device == "cpu" else self.by_hand_elsewhere and config.plain
        return by_hand and not config.quantised

    def fused(self, config: ModelConfig) -> bool:
        """Whether `models/step/fused` takes the step of this model on a GPU."""
        return False

    def no_graph(self, config: ModelConfig) -> str:
        """Why its step cannot be captured as a CUDA graph; "" if it can."""
        return ""

    def no_compile(self, config: ModelConfig) -> str:
        """Why torch.compile has nothing to offer to it; "" if it has."""
        return ""

    def is_llama(self, config: ModelConfig) -> bool:
        """Whether it is LlamaForCausalLM under other names: then it is exported for transformers, and served."""
        return False


def family_of(config: ModelConfig) -> Family:
    """The family of a shape."""
    return family_named(config.family)


@cache
def family_named(name: str) -> Family:
    """The family of one of the names in FAMILIES. Raises TypeError for one that lacks what every family says."""
    family: Family = import_module(f"isoflop.models.families.{name}").FAMILY
    if lacking := [key for key in ("size_prefix", "module") if not hasattr(family, key)]:
        raise TypeError(f"models/families/{name}.py: its FAMILY has no {' and no '.join(lacking)} (models/config.py)")
    return family


def default_d_ff(d_model: int) -> int:
    """8/3 of the width rounded up to a multiple of 8: a SwiGLU MLP with the parameters of a 4x GELU one."""
    return -(-8 * d_model // 24) * 8


def count_params(config: ModelConfig) -> dict[str, int]:
    """Trainable parameters by group. A tied matrix counts once, as unembedding: that is where it multiplies.

    `norm` holds all vectors: gains, and the biases of an LSTM (two of each gate, as in torch).
    """
    embedding = config.vocab_size * config.d_model
    counts = dict.fromkeys(PARAM_GROUPS, 0)
    counts |= {"embedding": 0 if config.tied else embedding, "unembedding": embedding}
    for matrix in family_of(config).matrices(config):
        counts[matrix.group] += matrix.params
    return counts | family_of(config).vectors(config)


def hidden_shapes(config: ModelConfig) -> list[tuple[int, int, int]]:
    """(how many, fan_out, fan_in) of the weight matrices of the blocks, q, k, v (and gates, and experts) one by one."""
    return [(m.count, m.fan_out, m.fan_in) for m in family_of(config).matrices(config)]


@cache
def n_matrices(config: ModelConfig) -> int:
    """Parameters that multiply every token, the head included and the embedding lookup not: the default N."""
    return count_params(config)["unembedding"] + sum(m.params for m in family_of(config).matrices(config))


def n_active(config: ModelConfig) -> int:
    """Of the matrices, those that a token meets: with experts, the ones it is sent to. Else all."""
    return count_params(config)["unembedding"] + _active(family_of(config).matrices(config))


def n_total(config: ModelConfig) -> int:
    """All trainable parameters."""
    return sum(count_params(config).values())


def flops_per_token(config: ModelConfig) -> dict[str, int]:
    """Forward FLOPs per token by group, a multiply-add being two; norms, softmax and activations are left out.

    `attention_scores` counts what a causal kernel must do: a query sees (T + 1) / 2 keys on average. The `_full`
    square is what a kernel without that knowledge does, and what profilers count.
    """
    family = family_of(config)
    scores_per_key = 4 * config.n_layer * config.d_model * family.attends  # query times key, then weight times value
    return {
        "blocks": 2 * _active(family.matrices(config)),
        "attention_scores": scores_per_key * (config.context_length + 1) // 2,
        "attention_scores_full": scores_per_key * config.context_length,
        "unembedding": 2 * count_params(config)["unembedding"],
    }


@cache
def training_flops_per_token(config: ModelConfig) -> int:
    """Forward and backward FLOPs per token, causal attention, with the head: 6 per active weight of a matrix, and
    6 L d (T + 1) of a Transformer."""
    forward = flops_per_token(config)
    return 3 * (forward["blocks"] + forward["attention_scores"] + forward["unembedding"])


def _active(matrices: Iterable[MatrixShape]) -> int:
    return sum(matrix.active for matrix in matrices)


def _require_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"model.{name} must be a whole number of at least 1; not {value!r}")


def _possible_heads(d_model: int) -> list[int]:
    return [heads for heads in range(1, d_model + 1) if d_model % heads == 0 and d_model // heads % 2 == 0]
