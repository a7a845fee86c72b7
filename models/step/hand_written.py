"""The Transformer's loss and its gradients by hand: what `autograd` computes, several times faster on small models.

A step of a small model is hundreds of tiny kernels, so what counts is how few there are and how well each runs:

- no graph is recorded, and every gradient is written where the optimiser reads it, so nothing is zeroed or added;
- activations are feature-major, (D, N): a product then has N columns to vectorise over, however narrow the model;
- the gain of a norm is folded into the matrix behind it, and its scale moves behind the product:
  W (g * x * s) = ((W g) x) * s;
- what stands between the products is one pass each over memory, by the functions of an `Ops`: in C (`c_ops`, with the
  products of the fastest library at hand), otherwise in torch (`torch_ops`).

Each part returns its output and a function from the gradient of the output to the gradient of the input. Tests hold
the sum of it to autograd through `models.transformer`.

Shape suffixes: B batch, T position, N = B x T, D width, F width of the MLP, V vocabulary, E any output width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isoflop.models.step.torch_ops import Backward, Ops
from isoflop.models.transformer import Block, Transformer

# from the gradient of a normed linear map, and one to add to it or None, to the gradient of its input
LinearBackward = Callable[[Tensor, Tensor | None], Tensor]


@torch.no_grad()
def logits(model: Transformer, ops: Ops, inputs_BT: Tensor) -> Tensor:
    """Logits (B, T, V), without recording anything."""
    x_DN, _ = _blocks(model, ops, inputs_BT, keep=False)
    logits_NV, scale_N, _ = _head(model, ops, x_DN)
    return logits_NV.mul_(scale_N[:, None]).unflatten(0, inputs_BT.shape)


@torch.no_grad()
def score(model: Transformer, ops: Ops, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every target, and whether it is the most likely token, both (B, T)."""
    x_DN, _ = _blocks(model, ops, inputs_BT, keep=False)
    logits_NV, scale_N, _ = _head(model, ops, x_DN)
    nats_N, hits_N = ops.score(logits_NV, scale_N, targets_BT.flatten())
    return nats_N.view_as(inputs_BT), hits_N.view_as(inputs_BT)


@torch.no_grad()
def loss_and_gradients(model: Transformer, ops: Ops, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which must be allocated."""
    x_DN, undo = _blocks(model, ops, inputs_BT, keep=True)
    logits_NV, scale_N, head_backward = _head(model, ops, x_DN)
    loss, dlogits_NV = ops.cross_entropy(logits_NV, scale_N, targets_BT.flatten())
    dx_DN = head_backward(dlogits_NV.t(), None)
    for backward in reversed(undo):
        dx_DN = backward(dx_DN)
    gradient_VD = _gradient(model.embedding)
    if not model.config.tied:  # a tied matrix already holds the gradient of the head
        gradient_VD.zero_()
    ops.embed_backward(inputs_BT.flatten(), dx_DN, gradient_VD)
    return loss


def _blocks(model: Transformer, ops: Ops, inputs_BT: Tensor, *, keep: bool) -> tuple[Tensor, list[Backward]]:
    """The residual stream after the last block, and with `keep` the backward of every sublayer, first to last."""
    x_DN = ops.embed(model.embedding, inputs_BT.flatten())
    undo: list[Backward] = []
    for block in model.blocks:
        for sublayer in (_attention_sublayer, _mlp_sublayer):
            x_DN, backward = sublayer(ops, block, x_DN, inputs_BT.shape, keep)
            if keep:
                undo.append(backward)
    return x_DN, undo


def _head(model: Transformer, ops: Ops, x_DN: Tensor) -> tuple[Tensor, Tensor, LinearBackward]:
    """Logits before their scale, with the vocabulary innermost: the softmax runs along it."""
    logits_NV = x_DN.new_empty(x_DN.shape[1], len(model.head))
    _, scale_N, linear_backward = _normed_linear(ops, x_DN, model.norm, model.head, out=logits_NV.t())
    return logits_NV, scale_N, linear_backward


def _attention_sublayer(ops: Ops, block: Block, x_DN: Tensor, shape: torch.Size, keep: bool) -> tuple[Tensor, Backward]:
    qkv_EN, scale_N, linear_backward = _normed_linear(ops, x_DN, block.attention_norm, block.qkv)
    y_DN, attend_backward = ops.attend(qkv_EN, scale_N, block.n_head, shape, keep=keep)

    def backward(dy_DN: Tensor) -> Tensor:
        ops.product(dy_DN, y_DN.t(), out=_gradient(block.output))
        return linear_backward(attend_backward(ops.product(block.output.t(), dy_DN)), dy_DN)

    return ops.product(block.output, y_DN, plus=x_DN), backward


def _mlp_sublayer(ops: Ops, block: Block, x_DN: Tensor, _: torch.Size, keep: bool) -> tuple[Tensor, Backward]:
    gate_up_EN, scale_N, linear_backward = _normed_linear(ops, x_DN, block.mlp_norm, block.gate_up)
    hidden_FN, swiglu_backward = ops.swiglu(gate_up_EN, scale_N, keep=keep)

    def backward(dy_DN: Tensor) -> Tensor:
        ops.product(dy_DN, hidden_FN.t(), out=_gradient(block.down))
        return linear_backward(swiglu_backward(ops.product(block.down.t(), dy_DN)), dy_DN)

    return ops.product(block.down, hidden_FN, plus=x_DN), backward


def _normed_linear(
    ops: Ops, x_DN: Tensor, gain_D: nn.Parameter, weight_ED: nn.Parameter, out: Tensor | None = None
) -> tuple[Tensor, Tensor, LinearBackward]:
    """(weight gain x, (E, N); 1 / rms(x), (N)): their product is the linear map of the normed x."""
    scale_N = ops.norm_scale(x_DN)
    folded_ED = weight_ED * gain_D

    def backward(dy_EN: Tensor, residual_DN: Tensor | None) -> Tensor:
        gradient_ED = ops.product(dy_EN, x_DN.t(), out=_gradient(weight_ED))
        ops.fold_backward(gradient_ED, weight_ED, gain_D, _gradient(gain_D))
        return ops.norm_backward(ops.product(folded_ED.t(), dy_EN), x_DN, scale_N, residual_DN)

    return ops.product(folded_ED, x_DN, out=out), scale_N, backward


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The room of its gradient, which an optimiser or a test has made."""
    assert parameter.grad is not None
    return parameter.grad
