"""The LSTM of `models.lstm`: layers that read their input and their own state, each by four gates."""

from isoflop.models.config import Family, MatrixShape, ModelConfig


class LSTMFamily(Family):
    """Depth and width are its whole shape."""

    size_prefix = "lstm-"
    module = "isoflop.models.lstm:LSTM"
    by_hand_on_cpu = by_kernels_alone = True  # cuDNN takes it elsewhere

    def matrices(self, config: ModelConfig) -> list[MatrixShape]:
        """Of each layer, four gates from its input and four from its state."""
        return [MatrixShape("recurrent", 8 * config.n_layer, config.d_model, config.d_model)]

    def vectors(self, config: ModelConfig) -> dict[str, int]:
        """The gain of the last norm, and two biases for each gate, as in torch."""
        return {"norm": (8 * config.n_layer + 1) * config.d_model}

    def activations(self, config: ModelConfig, *, hand_written: bool, fused: bool = False) -> float:
        """Floats a token and layer that a backward pass needs."""
        return 16 * config.d_model

    def no_graph(self, config: ModelConfig) -> str:
        """Why its step is not captured in a CUDA graph."""
        return "cuDNN runs the layers of an LSTM in few launches already, and is not known to bear a capture"

    def no_compile(self, config: ModelConfig) -> str:
        """Why torch.compile has nothing to offer to it."""
        return "torch.compile leaves the layers of an LSTM as they are"


FAMILY = LSTMFamily()
