"""The decoder-only Transformer: of default parts (`models.transformer`), or of others (`models.variants`)."""

from isoflop.models.config import UNUSED, Family, MatrixShape, ModelConfig


class TransformerFamily(Family):
    """Every field of the configuration means something to it."""

    size_prefix = ""
    module = "isoflop.models.transformer:Transformer"
    variant = "isoflop.models.variants:Variant"
    fields = frozenset(UNUSED)
    attends = True
    by_hand_on_cpu = by_hand_elsewhere = True

    def matrices(self, config: ModelConfig) -> list[MatrixShape]:
        """q, k, v and output; the router, if there are experts; into the MLP (gate and up, or up), and out of it."""
        layers, width, hidden = config.n_layer, config.d_model, config.mlp_width
        mlps = layers * max(1, config.experts)
        idle = layers * (config.experts - config.experts_per_token) if config.experts else 0
        inputs = 2 if config.activation == "swiglu" else 1
        router = [MatrixShape("mlp", layers, config.experts, width)] if config.experts else []
        return [
            MatrixShape("attention", 4 * layers, width, width),
            *router,
            MatrixShape("mlp", inputs * mlps, hidden, width, inactive=inputs * idle),
            MatrixShape("mlp", mlps, width, hidden, inactive=idle),
        ]

    def vectors(self, config: ModelConfig) -> dict[str, int]:
        """Two norms a layer and the last one, with a bias each in LayerNorm; learned positions."""
        norms = (2 * config.n_layer + 1) * config.d_model
        return {
            "norm": norms * (2 if config.norm == "layernorm" else 1),
            "position": config.context_length * config.d_model if config.positions == "learned" else 0,
        }

    def activations(self, config: ModelConfig, *, hand_written: bool, fused: bool = False) -> float:
        """Floats a token and layer that a backward pass needs."""
        if fused:  # the residual stream and its norm twice, q k v and output, gate and up, hidden
            return 8 * config.d_model + 3 * config.mlp_width
        if hand_written:  # q k v and output, inputs and normed ones, into the MLP and hidden, weights of attention
            inputs, attention = 2 if config.activation == "swiglu" else 1, config.n_head * config.context_length
            normed = 2 if config.norm == "layernorm" else min(1, config.experts)
            experts = config.experts_per_token if config.experts else 1
            picked = 2 * config.d_model * experts * min(1, config.experts)  # what experts read and write
            return (6 + normed) * config.d_model + picked + (inputs + 1) * experts * config.mlp_width + attention
        experts = config.experts_per_token if config.experts else 1
        return 12 * config.d_model + (4 if config.activation == "swiglu" else 2) * experts * config.mlp_width

    def fused(self, config: ModelConfig) -> bool:
        """Of default parts, with heads of two halves."""
        return config.plain and not config.quantised and config.head_dim % 2 == 0

    def no_graph(self, config: ModelConfig) -> str:
        """Why not, with experts: the host reads how many tokens each gets."""
        return "how many tokens each expert gets is read on the host" if config.experts else ""

    def no_compile(self, config: ModelConfig) -> str:
        """Why not, with experts: their shapes change from batch to batch."""
        return "how many tokens each expert gets changes from batch to batch" if config.experts else ""

    def is_llama(self, config: ModelConfig) -> bool:
        """Where every part is the default one."""
        return config.plain


FAMILY = TransformerFamily()
