"""The Transformer's loss and its gradients by hand: what `autograd` computes, several times faster on small models.

A step of a small model is hundreds of tiny kernels, so what counts is how few there are and how well each runs:

- no graph is recorded, and every gradient is written where the optimiser reads it, so nothing is zeroed or added;
- activations are feature-major, (D, N): a product then has N columns to vectorise over, however narrow the model;
- the gain of a norm is folded into the matrix behind it, and its scale moves behind the product:
  W (g * x * s) = ((W g) x) * s;
- what stands between the products is one pass each, in C where a compiler is at hand (`c_ops`), otherwise in
  torch (`torch_ops`);
- the products themselves are those of the fastest library at hand (`blas`).

Each part returns its output and a function from the gradient of the output to the gradient of the input. Tests hold
the sum of it to autograd through `models.transformer`.

Shape suffixes: B batch, T position, N = B x T, D width, F width of the MLP, V vocabulary, E any output width.
"""

from types import ModuleType

import torch
from torch import Tensor, nn

from isoflop.models.step import c_ops as kernels
from isoflop.models.step import torch_ops as pieces
from isoflop.models.step.torch_ops import Backward
from isoflop.models.transformer import Block, Transformer


@torch.no_grad()
def logits(model: Transformer, inputs_BT: Tensor) -> Tensor:
    """What the model itself returns, (B, T, V), without recording anything: for evaluation."""
    x_DN, _ = _blocks(model, inputs_BT, keep=False)
    logits_NV, scale_N, _ = _head(model, x_DN)
    return logits_NV.mul_(scale_N[:, None]).unflatten(0, inputs_BT.shape)


@torch.no_grad()
def score(model: Transformer, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every target, and whether it is the most likely token, both (B, T)."""
    x_DN, _ = _blocks(model, inputs_BT, keep=False)
    logits_NV, scale_N, _ = _head(model, x_DN)
    return tuple(z.view_as(inputs_BT) for z in _way(model).score(logits_NV, scale_N, targets_BT.flatten()))


@torch.no_grad()
def loss_and_gradients(model: Transformer, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which must be allocated."""
    way = _way(model)
    x_DN, undo = _blocks(model, inputs_BT, keep=True)
    logits_NV, scale_N, backward = _head(model, x_DN)
    loss, dlogits_NV = way.cross_entropy(logits_NV, scale_N, targets_BT.flatten())
    dx_DN = backward(dlogits_NV.t(), None)
    for backward in reversed(undo):
        dx_DN = backward(dx_DN)
    if not model.config.tied:  # a tied matrix already holds the gradient of the head
        model.embedding.grad.zero_()
    way.embed_backward(inputs_BT.flatten(), dx_DN, model.embedding.grad)
    return loss


def _way(model: Transformer) -> ModuleType:
    return kernels if kernels.usable(model.embedding) else pieces


def _blocks(model: Transformer, inputs_BT: Tensor, *, keep: bool) -> tuple[Tensor, list[Backward]]:
    """The residual stream after the last block; what the way back needs is kept if asked for."""
    way = _way(model)
    x_DN = way.embed(model.embedding, inputs_BT.flatten())
    undo = []
    for block in model.blocks:
        for sublayer in (_attention_sublayer, _mlp_sublayer):
            x_DN, backward = sublayer(way, block, x_DN, inputs_BT.shape, keep)
            if keep:
                undo.append(backward)
    return x_DN, undo


def _head(model: Transformer, x_DN: Tensor) -> tuple[Tensor, Tensor, Backward]:
    """Logits before their scale, with the vocabulary innermost: the softmax runs along it."""
    logits_NV = x_DN.new_empty(x_DN.shape[1], len(model.head))
    _, scale_N, backward = _normed_linear(_way(model), x_DN, model.norm, model.head, out=logits_NV.t())
    return logits_NV, scale_N, backward


def _attention_sublayer(
    way: ModuleType, block: Block, x_DN: Tensor, shape: torch.Size, keep: bool
) -> tuple[Tensor, Backward]:
    qkv_EN, scale_N, norm_backward = _normed_linear(way, x_DN, block.attention_norm, block.qkv)
    y_DN, attend_backward = way.attend(qkv_EN, scale_N, block.n_head, shape, keep=keep)

    def backward(dy_DN: Tensor) -> Tensor:
        way.product(dy_DN, y_DN.t(), out=block.output.grad)
        return norm_backward(attend_backward(way.product(block.output.t(), dy_DN)), dy_DN)

    return way.product(block.output, y_DN, plus=x_DN), backward


def _mlp_sublayer(way: ModuleType, block: Block, x_DN: Tensor, _: torch.Size, keep: bool) -> tuple[Tensor, Backward]:
    gate_up_EN, scale_N, norm_backward = _normed_linear(way, x_DN, block.mlp_norm, block.gate_up)
    hidden_FN, swiglu_backward = way.swiglu(gate_up_EN, scale_N, keep=keep)

    def backward(dy_DN: Tensor) -> Tensor:
        way.product(dy_DN, hidden_FN.t(), out=block.down.grad)
        return norm_backward(swiglu_backward(way.product(block.down.t(), dy_DN)), dy_DN)

    return way.product(block.down, hidden_FN, plus=x_DN), backward


def _normed_linear(
    way: ModuleType, x_DN: Tensor, gain_D: nn.Parameter, weight_ED: nn.Parameter, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Backward]:
    """(weight gain x, (E, N); 1 / rms(x), (N)): their product is the linear map of the normed x."""
    scale_N = way.norm_scale(x_DN)
    folded_ED = weight_ED * gain_D

    def backward(dy_EN: Tensor, residual_DN: Tensor | None) -> Tensor:
        way.product(dy_EN, x_DN.t(), out=weight_ED.grad)
        way.fold_backward(weight_ED.grad, weight_ED, gain_D, gain_D.grad)
        return way.norm_backward(way.product(folded_ED.t(), dy_EN), x_DN, scale_N, residual_DN)

    return way.product(folded_ED, x_DN, out=out), scale_N, backward
