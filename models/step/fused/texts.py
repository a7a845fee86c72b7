"""The step of a small Transformer on a GPU: five kernels a block, forward and backward, each spread over its texts.

A step of a thousand numbers a product is a hundred launches and little else: here it is sixteen for two blocks, with
clipping and the update. `text_device` has the kernels.

Shape suffixes: B texts, T positions, D width, P parameters, L blocks, S query, key and value, G programs of rows.
"""

from typing import Any

import torch
import triton
from torch import Tensor, nn

from isoflop.models.step.fused import text_device as device
from isoflop.models.transformer import NORM_EPS, Transformer

LONG, WIDE = 64, 64  # tokens of a text, width of a model: the most that a program holds
ROWS = 16  # of a text, of which a program of all but attention takes so many
CHUNK = 64  # columns of the MLP, and tokens of the vocabulary, that it multiplies by at once
EXACT = "tf32x3"  # products of float32 in three of TF32, which lose no digit that counts


class Texts:
    """The step of one model, in float32, whose parameters and gradients lie in one vector each (`fits`)."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.weights, gradients = _vectors(model)
        assert gradients is not None, "an optimizer holds the model"
        self.gradients = gradients
        width = {"D": _padded(model.config.d_model), "exact": EXACT, "num_warps": 4, "num_stages": 1}
        self.rows: dict[str, Any] = width | {"R": ROWS, "eps": NORM_EPS}
        self.text: dict[str, Any] = width | {"T": LONG}
        self.head: dict[str, Any] = self.text | {"K": _padded(model.config.head_dim), "eps": NORM_EPS}

    @staticmethod
    def fits(model: Transformer) -> bool:
        """Whether the model has such a step: it is small, and an optimizer holds it in one vector."""
        config = model.config
        small = config.context_length <= LONG and config.d_model <= WIDE
        return small and not config.tied and _vectors(model)[1] is not None

    @torch.no_grad()
    def loss_and_gradients(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter."""
        model, config, (batch, length) = self.model, self.model.config, inputs_BT.shape
        width, count, parts = config.d_model, len(self.weights), triton.cdiv(length, ROWS)
        gradients_GP, loss_G = self.weights.new_zeros(batch * parts, count), self.weights.new_empty(batch * parts)
        x_LBTD, middle_LBTD, y_LBTD = self._forward(inputs_BT)
        dx_BTD, dy_BTD = (torch.empty_like(x_LBTD[0]) for _ in range(2))
        dqkv_BSTD = self.weights.new_empty(batch, 3, length, width)
        self._head(x_LBTD[-1], targets_BT, loss_G, loss_G, loss_G, dx_BTD, gradients_GP, train=True)
        for layer in reversed(range(config.n_layer)):
            block = model.blocks[layer]
            device.gated_backward[(batch, parts)](
                middle_LBTD[layer], y_LBTD[layer], dx_BTD, dy_BTD, self.weights, gradients_GP,
                *_places(block.output, block.mlp_norm, block.gate_up, block.down), length, width, config.mlp_width,
                count, C=CHUNK, **self.rows,
            )  # fmt: skip
            at = _places(block.attention_norm, block.qkv)
            device.attend_backward[(batch, config.n_head)](
                x_LBTD[layer], dy_BTD, dqkv_BSTD, self.weights, *at, model.cos, model.sin, length, width,
                config.head_dim**-0.5, **self.head,
            )  # fmt: skip
            device.project_backward[(batch, parts)](
                x_LBTD[layer], dqkv_BSTD, dx_BTD, self.weights, gradients_GP, *at, length, width, count, **self.rows
            )
        device.embed_backward[(batch, triton.cdiv(config.vocab_size, CHUNK))](
            inputs_BT, inputs_BT.stride(0), dx_BTD, gradients_GP, *_places(model.embedding), length, width,
            config.vocab_size, count, parts, V=CHUNK, **self.text,
        )  # fmt: skip
        torch.sum(gradients_GP, 0, out=self.gradients)
        return loss_G.sum()

    @torch.no_grad()
    def score(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of every target, and whether it is the most likely token, both (B, T)."""
        nats_BT = self.weights.new_empty(inputs_BT.shape)
        hit_BT = torch.empty_like(nats_BT, dtype=torch.bool)
        none = nats_BT  # of what training alone writes
        self._head(self._forward(inputs_BT)[0][-1], targets_BT, none, nats_BT, hit_BT, none, none, train=False)
        return nats_BT, hit_BT

    def _forward(self, inputs_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every block what it reads, what its MLP reads, and what attention gives: (L, B, T, D) each.

        The first has one more, what the last norm reads.
        """
        model, config, (batch, length) = self.model, self.model.config, inputs_BT.shape
        width, parts, new = config.d_model, triton.cdiv(length, ROWS), self.weights.new_empty
        x_LBTD = new(config.n_layer + 1, batch, length, width)
        middle_LBTD, y_LBTD = (torch.empty_like(x_LBTD[1:]) for _ in range(2))
        device.embed[(batch, parts)](
            inputs_BT, inputs_BT.stride(0), self.weights, *_places(model.embedding), x_LBTD, length, width,
            R=ROWS, D=self.rows["D"],
        )  # fmt: skip
        for layer, block in enumerate(model.blocks):
            device.attend[(batch, config.n_head)](
                x_LBTD[layer], y_LBTD[layer], self.weights, *_places(block.attention_norm, block.qkv), model.cos,
                model.sin, length, width, config.head_dim**-0.5, **self.head,
            )  # fmt: skip
            device.gated[(batch, parts)](
                x_LBTD[layer], y_LBTD[layer], middle_LBTD[layer], x_LBTD[layer + 1], self.weights,
                *_places(block.output, block.mlp_norm, block.gate_up, block.down), length, width, config.mlp_width,
                C=CHUNK, **self.rows,
            )  # fmt: skip
        return x_LBTD, middle_LBTD, y_LBTD

    def _head(self, x_BTD: Tensor, targets_BT: Tensor, *out: Tensor, train: bool) -> None:
        model, (batch, length, width) = self.model, x_BTD.shape
        device.head[(batch, triton.cdiv(length, ROWS))](
            x_BTD, targets_BT, targets_BT.stride(0), self.weights, *_places(model.norm, model.head), *out,
            length, width, model.config.vocab_size, len(self.weights), 1 / (batch * length),
            train=train, V=CHUNK, **self.rows,
        )  # fmt: skip


def _padded(width: int) -> int:
    return int(max(16, triton.next_power_of_2(width)))


def _places(*parameters: nn.Parameter) -> tuple[int, ...]:
    """Where in the vector of all parameters these begin."""
    return tuple(int(parameter.storage_offset()) for parameter in parameters)


def _vectors(model: Transformer) -> tuple[Tensor, Tensor | None]:
    """The vector of which all parameters are views, and that of their gradients: None where there is not one of each,
    in float32 and in the same order."""
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    weights = torch.empty(0, device=parameters[0].device)
    if len(gradients) < len(parameters) or any(p.dtype != torch.float32 for p in parameters):
        return weights, None
    pairs = list(zip(parameters, gradients, strict=True))
    if len({(p.untyped_storage().data_ptr(), g.untyped_storage().data_ptr()) for p, g in pairs}) > 1:
        return weights, None
    if any(p.storage_offset() != g.storage_offset() for p, g in pairs):
        return weights, None
    return weights.set_(parameters[0].untyped_storage()), torch.empty_like(weights).set_(gradients[0].untyped_storage())
