"""The step of a small Transformer on a GPU: five kernels a block, forward and backward, each spread over its texts.

A step of a thousand numbers a product is a hundred launches and little else: here it is sixteen for two blocks, with
clipping and the update. `text_device` has the kernels.

Shape suffixes: B texts, T positions, D width, P parameters, L blocks, S query, key and value, G programs of rows.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor, nn

from isoflop.models.step.fused import text_device as device
from isoflop.models.transformer import NORM_EPS, Transformer

LONG, WIDE = 64, 64  # tokens of a text, width of a model: the most that a program holds
ROWS = 16  # of a text, of which a program of all but attention takes so many
CHUNK = 64  # columns of the MLP, and tokens of the vocabulary, that it multiplies by at once
EXACT = "tf32x3"  # products of float32 in three of TF32, which lose no digit that counts


_built: set[tuple[Any, ...]] = set()  # of which kernels are made: their tiles, on a device


class Launch(NamedTuple):
    """One kernel and what it is called with."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def run(self) -> None:
        """Queue it."""
        self.kernel[self.grid](*self.arguments, **self.options)

    def build(self) -> None:
        """Compile it, or load what was compiled before, without running it."""
        with torch.cuda.device_of(self.arguments[0]):
            self.kernel.warmup(*self.arguments, grid=self.grid, **self.options)


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

    def build(self) -> None:
        """Make the kernels ready, all at the same time: compiling one after the other takes ten times a quick study."""
        what = self.weights.device, *(self.head[key] for key in "TDK")
        if what in _built:
            return
        tokens_BT = torch.zeros(2, self.model.config.context_length + 1, dtype=torch.int64, device=self.weights.device)
        inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
        launches = [*self._training(inputs_BT, targets_BT)[0], *self._scoring(inputs_BT, targets_BT)[0]]
        each = list({(id(one.kernel), one.options.get("train")): one for one in launches}.values())
        with ThreadPoolExecutor(len(each)) as threads:
            list(threads.map(Launch.build, each))
        _built.add(what)

    @torch.no_grad()
    def loss_and_gradients(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter."""
        launches, gradients_GP, loss_G = self._training(inputs_BT, targets_BT)
        for launch in launches:
            launch.run()
        torch.sum(gradients_GP, 0, out=self.gradients)
        return loss_G.sum()

    @torch.no_grad()
    def score(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of every target, and whether it is the most likely token, both (B, T)."""
        launches, nats_BT, hit_BT = self._scoring(inputs_BT, targets_BT)
        for launch in launches:
            launch.run()
        return nats_BT, hit_BT

    def _training(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[list[Launch], Tensor, Tensor]:
        """The kernels of a training step, and what they fill: the gradients and the loss of each program of rows."""
        model, config, (batch, length) = self.model, self.model.config, inputs_BT.shape
        width, count, parts = config.d_model, len(self.weights), triton.cdiv(length, ROWS)
        gradients_GP, loss_G = self.weights.new_zeros(batch * parts, count), self.weights.new_empty(batch * parts)
        x_LBTD, middle_LBTD, y_LBTD = self._room(inputs_BT)
        dx_BTD, dy_BTD = (torch.empty_like(x_LBTD[0]) for _ in range(2))
        dqkv_BSTD = self.weights.new_empty(batch, 3, length, width)
        launches = [
            *self._forward(inputs_BT, x_LBTD, middle_LBTD, y_LBTD),
            self._last(x_LBTD[-1], targets_BT, loss_G, loss_G, loss_G, dx_BTD, gradients_GP, train=True),
        ]
        vectors: tuple[Tensor, ...]
        arguments: tuple[Any, ...]
        at: tuple[int, ...]
        for layer in reversed(range(config.n_layer)):
            block = model.blocks[layer]
            at = _places(block.output, block.mlp_norm, block.gate_up, block.down)
            vectors = middle_LBTD[layer], y_LBTD[layer], dx_BTD, dy_BTD, self.weights, gradients_GP
            arguments = *vectors, *at, length, width, config.mlp_width, count
            launches.append(Launch(device.gated_backward, (batch, parts), arguments, self.rows | {"C": CHUNK}))
            at, scale = _places(block.attention_norm, block.qkv), config.head_dim**-0.5
            vectors = x_LBTD[layer], dy_BTD, dqkv_BSTD, self.weights
            arguments = *vectors, *at, model.cos, model.sin, length, width, scale
            launches.append(Launch(device.attend_backward, (batch, config.n_head), arguments, self.head))
            arguments = x_LBTD[layer], dqkv_BSTD, dx_BTD, self.weights, gradients_GP, *at, length, width, count
            launches.append(Launch(device.project_backward, (batch, parts), arguments, self.rows))
        text = inputs_BT, inputs_BT.stride(0), dx_BTD, gradients_GP, *_places(model.embedding)
        arguments = *text, length, width, config.vocab_size, count, parts
        grid = batch, triton.cdiv(config.vocab_size, CHUNK)
        launches.append(Launch(device.embed_backward, grid, arguments, self.text | {"V": CHUNK}))
        return launches, gradients_GP, loss_G

    def _scoring(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[list[Launch], Tensor, Tensor]:
        """The kernels of an evaluation, and what they fill: nats of every target, and whether it is the likeliest."""
        nats_BT = self.weights.new_empty(inputs_BT.shape)
        hit_BT = torch.empty_like(nats_BT, dtype=torch.bool)
        x_LBTD, middle_LBTD, y_LBTD = self._room(inputs_BT)
        none = nats_BT  # of what training alone writes
        last = self._last(x_LBTD[-1], targets_BT, none, nats_BT, hit_BT, none, none, train=False)
        return [*self._forward(inputs_BT, x_LBTD, middle_LBTD, y_LBTD), last], nats_BT, hit_BT

    def _room(self, inputs_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For what every block reads, what its MLP reads, and what attention gives: (L, B, T, D) each.

        The first has one more, what the last norm reads.
        """
        layers, new = self.model.config.n_layer, self.weights.new_empty
        x_LBTD = new(layers + 1, *inputs_BT.shape, self.model.config.d_model)
        return x_LBTD, torch.empty_like(x_LBTD[1:]), torch.empty_like(x_LBTD[1:])

    def _forward(self, inputs_BT: Tensor, x_LBTD: Tensor, middle_LBTD: Tensor, y_LBTD: Tensor) -> Iterator[Launch]:
        """The kernels that fill them."""
        model, config, (batch, length) = self.model, self.model.config, inputs_BT.shape
        width, parts, scale = config.d_model, triton.cdiv(length, ROWS), config.head_dim**-0.5
        arguments: tuple[Any, ...] = inputs_BT, inputs_BT.stride(0), self.weights, *_places(model.embedding)
        yield Launch(
            device.embed, (batch, parts), (*arguments, x_LBTD, length, width), {"R": ROWS, "D": self.rows["D"]}
        )
        for layer, block in enumerate(model.blocks):
            at = _places(block.attention_norm, block.qkv)
            arguments = x_LBTD[layer], y_LBTD[layer], self.weights, *at, model.cos, model.sin, length, width, scale
            yield Launch(device.attend, (batch, config.n_head), arguments, self.head)
            at = _places(block.output, block.mlp_norm, block.gate_up, block.down)
            vectors = x_LBTD[layer], y_LBTD[layer], middle_LBTD[layer], x_LBTD[layer + 1], self.weights
            arguments = *vectors, *at, length, width, config.mlp_width
            yield Launch(device.gated, (batch, parts), arguments, self.rows | {"C": CHUNK})

    def _last(self, x_BTD: Tensor, targets_BT: Tensor, *out: Tensor, train: bool) -> Launch:
        model, (batch, length, width) = self.model, x_BTD.shape
        text = x_BTD, targets_BT, targets_BT.stride(0), self.weights, *_places(model.norm, model.head), *out
        arguments = *text, length, width, model.config.vocab_size, len(self.weights), 1 / (batch * length)
        grid = batch, triton.cdiv(length, ROWS)
        return Launch(device.head, grid, arguments, self.rows | {"V": CHUNK, "train": train})


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
