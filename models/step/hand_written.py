"""A model's loss and its gradients by hand: what `autograd` computes, several times faster on small models.

A step of a small model is hundreds of tiny kernels, so what counts is how few there are and how well each runs:

- no graph is recorded, and every gradient is written where the optimiser reads it, so nothing is zeroed or added;
- activations are feature-major, (D, N): a product then has N columns to vectorise over, however narrow the model;
- what stands between the products is one pass each over memory, by the functions of an `Ops`: in C (`c_ops`, with the
  products of the fastest library at hand), otherwise in torch (`torch_ops`).

A model is a stack of parts, one file each in `parts`. Each returns its output and a function from the gradient of the
output to the gradient of the input, which writes the gradients of its parameters on the way. A new part is such a file
and its line where a model is put together. Tests hold every combination to autograd through the model's own `forward`.

Shape suffixes: B batch, T position, N = B x T, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from isoflop.models import moe, variants
from isoflop.models.language_model import LanguageModel
from isoflop.models.lstm import LSTM
from isoflop.models.step.parts.attention import Attention
from isoflop.models.step.parts.embedding import Embedding
from isoflop.models.step.parts.experts import Experts
from isoflop.models.step.parts.mlp import MLP
from isoflop.models.step.parts.norm import LayerNorm, Norm, NormBackward, RMSNorm
from isoflop.models.step.parts.recurrent import Recurrent, Weights
from isoflop.models.step.torch_ops import Backward, Ops
from isoflop.models.transformer import Transformer


class Sublayer(Protocol):
    """A part between embedding and head."""

    def __call__(self, x_DN: Tensor, shape: torch.Size, *, keep: bool) -> tuple[Tensor, Backward]:
        """(D, N) to (D, N), and with `keep` the backward; `shape` is (B, T)."""


@dataclass(frozen=True)
class Stack:
    """The parts of a model, first to last."""

    ops: Ops
    embedding: Embedding
    sublayers: Sequence[Sublayer]
    norm: Norm
    head: nn.Parameter

    @torch.no_grad()
    def logits(self, inputs_BT: Tensor) -> Tensor:
        """Logits (B, T, V), without recording anything."""
        logits_NV, scale_N, _ = self._forward(inputs_BT, undo=None)
        return logits_NV.mul_(scale_N[:, None]).unflatten(0, inputs_BT.shape)

    @torch.no_grad()
    def score(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of every target, and whether it is the most likely token, both (B, T)."""
        logits_NV, scale_N, _ = self._forward(inputs_BT, undo=None)
        nats_N, hits_N = self.ops.score(logits_NV, scale_N, _flat(targets_BT))
        return nats_N.view_as(inputs_BT), hits_N.view_as(inputs_BT)

    @torch.no_grad()
    def loss_and_gradients(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which must be allocated."""
        undo: list[Backward] = []
        logits_NV, scale_N, head_backward = self._forward(inputs_BT, undo=undo)
        loss, dlogits_NV = self.ops.cross_entropy(logits_NV, scale_N, _flat(targets_BT))
        dx_DN = head_backward(dlogits_NV.t(), None)
        while undo:  # what a part kept is free for the parts before it
            dx_DN = undo.pop()(dx_DN)
        self.embedding.backward(_flat(inputs_BT), inputs_BT.shape, dx_DN)
        return loss

    def _forward(self, inputs_BT: Tensor, *, undo: list[Backward] | None) -> tuple[Tensor, Tensor, NormBackward]:
        """Logits before their scale, with the vocabulary innermost: the softmax runs along it; the scale; the backward.

        The backward of every sublayer is added to `undo`, first to last.
        """
        x_DN = self.embedding.forward(_flat(inputs_BT), inputs_BT.shape)
        for sublayer in self.sublayers:
            x_DN, backward = sublayer(x_DN, inputs_BT.shape, keep=undo is not None)
            if undo is not None:
                undo.append(backward)
        logits_NV = x_DN.new_empty(x_DN.shape[1], len(self.head))
        _, scale_N, head_backward = self.norm.linear(x_DN, self.head, out=logits_NV.t())
        return logits_NV, scale_N, head_backward


def stack(model: LanguageModel, ops: Ops) -> Stack:
    """The parts that a model of one of the classes in KINDS is made of."""
    return KINDS[type(model)](model, ops)


def _transformer(model: Transformer, ops: Ops) -> Stack:
    sublayers: list[Sublayer] = []
    for block in model.blocks:
        before_attention, before_mlp = RMSNorm(ops, block.attention_norm), RMSNorm(ops, block.mlp_norm)
        sublayers.append(Attention(ops, before_attention, block.qkv, block.output, block.n_head, rotary=True))
        sublayers.append(MLP(ops, before_mlp, block.gate_up, block.down, gated=True))
    embedding = Embedding(ops, model.embedding, None, model.config.tied)
    return Stack(ops, embedding, sublayers, RMSNorm(ops, model.norm), model.head)


def _variant(model: variants.Variant, ops: Ops) -> Stack:
    sublayers: list[Sublayer] = []
    for block in model.blocks:
        attention, rotary = block.attention, model.config.positions == "rotary"
        before_attention, before_mlp = _norm(block.attention_norm, ops), _norm(block.mlp_norm, ops)
        sublayers.append(
            Attention(ops, before_attention, attention.qkv, attention.output, attention.n_head, rotary=rotary)
        )
        sublayers.append(_mlp(block.mlp, before_mlp, ops))
    embedding = Embedding(ops, model.embedding, model.position, model.config.tied)
    return Stack(ops, embedding, sublayers, _norm(model.norm, ops), model.head)


def _lstm(model: LSTM, ops: Ops) -> Stack:
    kinds = "weight_ih", "weight_hh", "bias_ih", "bias_hh"
    layers = [
        Weights(*(getattr(model.layers, f"{kind}_l{layer}") for kind in kinds)) for layer in range(model.config.n_layer)
    ]
    embedding = Embedding(ops, model.embedding, None, model.config.tied)
    return Stack(ops, embedding, [Recurrent(ops, layers)], RMSNorm(ops, model.norm), model.head)


def _norm(module: variants.Norm, ops: Ops) -> Norm:
    return RMSNorm(ops, module.gain) if module.bias is None else LayerNorm(ops, module.gain, module.bias)


def _mlp(module: variants.MLP | moe.Experts, norm: Norm, ops: Ops) -> Sublayer:
    if isinstance(module, variants.MLP):
        return MLP(ops, norm, module.up, module.down, module.gated)
    return Experts(ops, norm, module.router, module.up, module.down, module.chosen, module.gated)


# Of these classes exactly: fully_shard turns a model into a subclass whose weights are parts of tensors.
KINDS: dict[type, Callable[[Any, Ops], Stack]] = {Transformer: _transformer, variants.Variant: _variant, LSTM: _lstm}


def _flat(tokens_BT: Tensor) -> Tensor:
    """(N) without gaps: the column of a longer window stays a view when it is flattened."""
    return tokens_BT.flatten().contiguous()
