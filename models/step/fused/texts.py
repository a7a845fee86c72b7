"""The step of a small Transformer on a GPU: a kernel for each half of a block, of which a program takes one text.

A step of a thousand numbers a product is a hundred launches and little else: here it is sixteen for two blocks.
`text_device` has the kernels.

Shape suffixes: B texts, T positions, D width, P parameters, H halves of blocks.
"""

from typing import Any

import torch
import triton
from torch import Tensor, nn

from isoflop.models.step.fused import text_device as device
from isoflop.models.transformer import NORM_EPS, Transformer

LONG, WIDE = 64, 64  # tokens of a text, width of a model: the most that a program holds
CHUNK = 64  # columns of the MLP, and tokens of the vocabulary, that it multiplies by at once
EXACT = "tf32x3"  # products of float32 in three of TF32, which lose no digit that counts
WARPS = 4


class Texts:
    """The step of one model, in float32, whose parameters and gradients lie in one vector each (`fits`)."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.weights, gradients = _vectors(model)
        assert gradients is not None, "an optimizer holds the model"
        self.gradients = gradients
        self.tile = {"exact": EXACT, "T": LONG, "D": max(16, triton.next_power_of_2(model.config.d_model))}
        self.tile["num_warps"] = WARPS
        self.norm = {"eps": NORM_EPS} | self.tile

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
        width, count, new = config.d_model, len(self.weights), self.weights.new_empty
        gradients_BP, dx_BTD, loss_B = new(batch, count), new(batch, length, width), new(batch)
        x_HBTD = self._forward(inputs_BT)
        self._head(x_HBTD[-1], targets_BT, loss_B, loss_B, loss_B, dx_BTD, gradients_BP, train=True)
        for layer in reversed(range(config.n_layer)):
            block = model.blocks[layer]
            device.gated_backward[(batch,)](
                x_HBTD[2 * layer + 1], dx_BTD, self.weights, gradients_BP,
                *_places(block.mlp_norm, block.gate_up, block.down), length, width, config.mlp_width, count,
                C=CHUNK, **self.norm,
            )  # fmt: skip
            device.attend_backward[(batch,)](
                x_HBTD[2 * layer], dx_BTD, self.weights, gradients_BP,
                *_places(block.attention_norm, block.qkv, block.output), model.cos, model.sin, config.n_head, length,
                width, count, config.head_dim**-0.5, **self.norm,
            )  # fmt: skip
        device.embed_backward[(batch, triton.cdiv(config.vocab_size, CHUNK))](
            inputs_BT, inputs_BT.stride(0), dx_BTD, gradients_BP, *_places(model.embedding), length, width,
            config.vocab_size, count, V=CHUNK, **self.tile,
        )  # fmt: skip
        torch.sum(gradients_BP, 0, out=self.gradients)
        return loss_B.sum()

    @torch.no_grad()
    def score(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of every target, and whether it is the most likely token, both (B, T)."""
        nats_BT = self.weights.new_empty(inputs_BT.shape)
        hit_BT = torch.empty_like(nats_BT, dtype=torch.bool)
        none = nats_BT  # of what training alone writes
        self._head(self._forward(inputs_BT)[-1], targets_BT, none, nats_BT, hit_BT, none, none, train=False)
        return nats_BT, hit_BT

    def _forward(self, inputs_BT: Tensor) -> Tensor:
        """The input of every half of a block, and of the last norm: (H + 1, B, T, D)."""
        model, config, (batch, length) = self.model, self.model.config, inputs_BT.shape
        width = config.d_model
        x_HBTD = self.weights.new_empty(2 * config.n_layer + 1, batch, length, width)
        tile = {key: size for key, size in self.tile.items() if key != "exact"}
        device.embed[(batch,)](
            inputs_BT, inputs_BT.stride(0), self.weights, *_places(model.embedding), x_HBTD, length, width, **tile
        )
        for layer, block in enumerate(model.blocks):
            device.attend[(batch,)](
                x_HBTD[2 * layer], x_HBTD[2 * layer + 1], self.weights,
                *_places(block.attention_norm, block.qkv, block.output), model.cos, model.sin, config.n_head, length,
                width, config.head_dim**-0.5, **self.norm,
            )  # fmt: skip
            device.gated[(batch,)](
                x_HBTD[2 * layer + 1], x_HBTD[2 * layer + 2], self.weights,
                *_places(block.mlp_norm, block.gate_up, block.down), length, width, config.mlp_width,
                C=CHUNK, **self.norm,
            )  # fmt: skip
        return x_HBTD

    def _head(self, x_BTD: Tensor, targets_BT: Tensor, *out: Any, train: bool) -> None:
        model, (batch, length, width) = self.model, x_BTD.shape
        device.head[(batch,)](
            x_BTD, targets_BT, targets_BT.stride(0), self.weights, *_places(model.norm, model.head), *out,
            length, width, model.config.vocab_size, len(self.weights), 1 / (batch * length),
            train=train, V=CHUNK, **self.norm,
        )  # fmt: skip


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
