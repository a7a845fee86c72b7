"""The shape of a model, and everything that follows from it in closed form: parameters and FLOPs by group.

Standard library only, so that planning a thousand cells costs no import of torch. Tests hold these formulas to the
built modules: parameters to `numel`, FLOPs to `FlopCounterMode` on the meta device, both exactly.
"""

from dataclasses import dataclass

FAMILIES = ("transformer", "lstm")
OPTIONS = {"norm": ("rmsnorm", "layernorm"), "activation": ("swiglu", "gelu"), "positions": ("rotary", "learned")}
PLAIN = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "experts": 0}
PARAM_GROUPS = ("embedding", "position", "attention", "recurrent", "mlp", "norm", "unembedding")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape. `d_ff=None` becomes 8/3 of the width, rounded up to a multiple of 8; for GELU 4 x the width.

    An LSTM has neither heads nor an MLP nor options: its n_head and d_ff become 0 whatever was given.
    Raises ValueError naming the field, its value and the remedy.
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

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"model.family must be one of {', '.join(FAMILIES)}; not {self.family!r}")
        for name in ("vocab_size", "context_length", "n_layer", "d_model"):
            _require_positive(name, getattr(self, name))
        if self.family == "lstm":
            object.__setattr__(self, "n_head", 0)
            object.__setattr__(self, "d_ff", 0)
            for name, value in PLAIN.items():
                object.__setattr__(self, name, value)
            return
        self._check_options()
        if self.d_ff is None:
            default = default_d_ff(self.d_model) if self.activation == "swiglu" else 4 * self.d_model
            object.__setattr__(self, "d_ff", default)
        self._check_transformer()

    @property
    def plain(self) -> bool:
        """Whether every part is the default one."""
        return all(getattr(self, name) == value for name, value in PLAIN.items())

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

    def _check_transformer(self) -> None:
        _require_positive("n_head", self.n_head)
        _require_positive("d_ff", self.d_ff)
        if self.d_model % self.n_head:
            raise ValueError(
                f"model.d_model={self.d_model} is not divisible by model.n_head={self.n_head}; "
                f"n_head may be {', '.join(str(h) for h in _possible_heads(self.d_model))}"
            )
        if self.head_dim % 2 and self.positions == "rotary":
            raise ValueError(
                f"model.d_model={self.d_model} with model.n_head={self.n_head} gives heads of width {self.head_dim}; "
                "rotary positions need an even width"
            )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_head


def default_d_ff(d_model: int) -> int:
    """8/3 of the width rounded up to a multiple of 8: a SwiGLU MLP with the parameters of a 4x GELU one."""
    return -(-8 * d_model // 24) * 8


def count_params(config: ModelConfig) -> dict[str, int]:
    """Trainable parameters by group. A tied matrix counts once, as unembedding: that is where it multiplies.

    `norm` holds all vectors: gains, and the biases of an LSTM (two of each gate, as in torch).
    """
    blocks = _lstm_params(config) if config.family == "lstm" else _transformer_params(config)
    embedding = config.vocab_size * config.d_model
    return (
        dict.fromkeys(PARAM_GROUPS, 0)
        | {"embedding": 0 if config.tied else embedding, "unembedding": embedding}
        | blocks
    )


def _transformer_params(config: ModelConfig) -> dict[str, int]:
    norms = (2 * config.n_layer + 1) * config.d_model
    return {
        "position": config.context_length * config.d_model if config.positions == "learned" else 0,
        "attention": config.n_layer * 4 * config.d_model**2,
        "mlp": _mlp_params(config, config.experts),
        "norm": norms * (2 if config.norm == "layernorm" else 1),
    }


def _mlp_params(config: ModelConfig, experts: int) -> int:
    """Of all layers; with `experts` of each layer's experts, and the router if there are any."""
    mlp = (3 if config.activation == "swiglu" else 2) * config.d_model * config.d_ff
    return config.n_layer * (max(1, experts) * mlp + config.experts * config.d_model)


def _lstm_params(config: ModelConfig) -> dict[str, int]:
    return {
        "recurrent": config.n_layer * 8 * config.d_model**2,
        "norm": (8 * config.n_layer + 1) * config.d_model,
    }


def hidden_shapes(config: ModelConfig) -> list[tuple[int, int, int]]:
    """(how many, fan_out, fan_in) of the weight matrices of the blocks, q, k, v (and gates, and experts) one by one."""
    width, layers = config.d_model, config.n_layer
    if config.family == "lstm":
        return [(8 * layers, width, width)]
    mlps = layers * max(1, config.experts)
    into = 2 * mlps if config.activation == "swiglu" else mlps
    router = [(layers, config.experts, width)] if config.experts else []
    return [(4 * layers, width, width), *router, (into, config.d_ff, width), (mlps, width, config.d_ff)]


def n_matrices(config: ModelConfig) -> int:
    """Parameters that multiply every token, the head included and the embedding lookup not: the default N."""
    counts = count_params(config)
    return counts["attention"] + counts["recurrent"] + counts["mlp"] + counts["unembedding"]


def n_active(config: ModelConfig) -> int:
    """Of the matrices, those that a token meets: with experts, the ones it is sent to. Else all."""
    return n_matrices(config) - count_params(config)["mlp"] + _active_mlp(config)


def _active_mlp(config: ModelConfig) -> int:
    if config.family == "lstm":
        return 0
    return _mlp_params(config, config.experts_per_token if config.experts else 0)


def n_total(config: ModelConfig) -> int:
    return sum(count_params(config).values())


def flops_per_token(config: ModelConfig) -> dict[str, int]:
    """Forward FLOPs per token by group, a multiply-add being two; norms, softmax and activations are left out.

    `attention_scores` counts what a causal kernel must do: a query sees (T + 1) / 2 keys on average. The `_full`
    square is what a kernel without that knowledge does, and what profilers count.
    """
    counts = count_params(config)
    attends = config.family == "transformer"
    scores_per_key = 4 * config.n_layer * config.d_model * attends  # query times key, then weight times value
    return {
        "blocks": 2 * (counts["attention"] + counts["recurrent"] + _active_mlp(config)),
        "attention_scores": scores_per_key * (config.context_length + 1) // 2,
        "attention_scores_full": scores_per_key * config.context_length,
        "unembedding": 2 * counts["unembedding"],
    }


def training_flops_per_token(config: ModelConfig) -> int:
    """Forward and backward FLOPs per token, causal attention, with the head: 6 per active weight of a matrix, and
    6 L d (T + 1) of a Transformer."""
    forward = flops_per_token(config)
    return 3 * (forward["blocks"] + forward["attention_scores"] + forward["unembedding"])


def _require_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"model.{name} must be a whole number of at least 1; not {value!r}")


def _possible_heads(d_model: int) -> list[int]:
    return [heads for heads in range(1, d_model + 1) if d_model % heads == 0 and d_model // heads % 2 == 0]
