"""The training step and the forward pass of any model, each by the fastest backend for it: chosen here, and only here.

fused         a Transformer of default parts on a GPU, in float32 or bfloat16, where Triton works
hand_written  a float32 model: gradients written out, over one of two sets of functions (`Ops`); on other devices than a
              CPU the Transformer of default parts alone
              c_ops      in C, for one CPU thread where a compiler is at hand and its output agrees with torch
              torch_ops  on any device, with any number of threads; not for an LSTM, whose own autograd is faster
autograd      every other model, bfloat16, recomputed activations, sharded weights; optionally compiled
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from isoflop.models.config import family_of
from isoflop.models.language_model import LanguageModel
from isoflop.models.step import autograd, c_ops, hand_written, native, torch_ops
from isoflop.models.step.options import StepOptions
from isoflop.models.step.torch_ops import Ops
from isoflop.models.transformer import Transformer


@dataclass(frozen=True)
class Step:
    """What trains and evaluates one model. Inputs and targets are token ids (B, T)."""

    loss_and_gradients: Callable[[Tensor, Tensor], Tensor]
    """From inputs and targets to the mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which
    must be allocated."""
    logits: Callable[[Tensor], Tensor]
    """From inputs to what the model itself returns, (B, T, V), without recording anything."""
    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """From inputs and targets to the nats of every target and whether it is the most likely token, both (B, T)."""
    engine: str = "autograd"
    """What takes the training steps: c, torch, fused, autograd or compiled. Each rounds in its own way."""
    brief: bool = False
    """Whether a training step is a handful of kernels on a GPU: then a graph holds dozens of steps."""
    build: str = ""
    """The build of the kernels, and the library of matrix products, that training steps run; "" where torch does."""


def choose(model: LanguageModel, options: StepOptions = StepOptions()) -> Step:  # noqa: B008 (frozen)
    """The fastest step for a model on the device where it is, within `options`.

    Evaluations record no gradients, so a model with a hand-written step is evaluated by it even where autograd trains.
    Raises ValueError for `recompute` on a model without blocks.
    """
    if options.recompute:
        model.recompute_blocks()
    if options.fused and not (options.compiled or options.recompute) and (fused := _fused(model, options.bfloat16)):
        return fused
    step = None if options.bfloat16 or options.recompute else _by_hand(model)
    if step is None:
        return _by_autograd(model, options)
    if options.hand_written and not options.compiled:
        return step
    trained = _by_autograd(model, options)
    return replace(step, loss_and_gradients=trained.loss_and_gradients, engine=trained.engine, build="")


def accumulate(step: Step, gradients: Sequence[Tensor], inputs_BT: Tensor, targets_BT: Tensor, at_once: int) -> Tensor:
    """Mean cross-entropy in nats/token of a batch, and its gradients, computed `at_once` sequences at a time.

    `gradients` are the tensors that hold every parameter's `grad`; they end as for the whole batch, to rounding.
    """
    if at_once >= len(inputs_BT):
        return step.loss_and_gradients(inputs_BT, targets_BT)
    total, loss = [torch.zeros_like(part) for part in gradients], torch.zeros((), device=inputs_BT.device)
    for inputs, targets in zip(inputs_BT.split(at_once), targets_BT.split(at_once), strict=True):
        share = len(inputs) / len(inputs_BT)
        loss += share * step.loss_and_gradients(inputs, targets)
        for whole, part in zip(total, gradients, strict=True):
            whole.add_(part, alpha=share)
    for part, whole in zip(gradients, total, strict=True):
        part.copy_(whole)
    return loss


def _fused(model: LanguageModel, bfloat16: bool) -> Step | None:
    """None for a model that has no such step where it is."""
    if type(model) is not Transformer or model.embedding.device.type != "cuda" or not triton_works():
        return None
    from isoflop.models.step.fused.texts import Texts  # load Triton, which comes with torch for CUDA alone
    from isoflop.models.step.fused.transformer import Fused

    made = cache(partial(Fused, model, torch.bfloat16 if bfloat16 else torch.float32))  # as the stack by hand is
    step = Step(
        lambda inputs_BT, targets_BT: made().loss_and_gradients(inputs_BT, targets_BT),
        lambda inputs_BT: made().logits(inputs_BT),
        lambda inputs_BT, targets_BT: made().score(inputs_BT, targets_BT),
        engine="fused",
    )
    if bfloat16 or not Texts.fits(model):
        return step
    texts = Texts(model)
    texts.build()
    return replace(step, loss_and_gradients=texts.loss_and_gradients, score=texts.score, brief=True)


@cache
def triton_works() -> bool:
    """Whether kernels in Triton can be built and run on the GPU: it needs a C compiler, too. Told once if not."""
    try:
        from isoflop.models.step.fused import kernels as fused_kernels

        sample = torch.linspace(-3, 3, 64, device="cuda").view(4, 16)
        gate, up = sample.chunk(2, 1)
        if torch.allclose(fused_kernels.swiglu(sample), torch.nn.functional.silu(gate) * up, rtol=1e-4, atol=1e-5):
            return True
        reason = "a kernel disagrees with torch"
    except Exception as error:  # a missing package, a missing compiler, a device that it does not know
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    warnings.warn(f"Triton cannot be used ({reason}): steps on the GPU take several times as long", stacklevel=2)
    return False


def _by_autograd(model: LanguageModel, options: StepOptions) -> Step:
    forward = autograd.forward_of(model, bfloat16=options.bfloat16)
    loss_of = autograd.compiled_loss() if options.compiled else autograd.loss_of
    return Step(
        partial(autograd.loss_and_gradients, model, forward, loss_of),
        partial(autograd.logits, forward),
        partial(autograd.score, forward),
        engine="compiled" if options.compiled else "autograd",
    )


def _by_hand(model: LanguageModel) -> Step | None:
    """None for a model that has no such step on its device."""
    family, ops = family_of(model.config), ops_for(model.embedding)
    if not family.hand_written(model.config, model.embedding.device.type):
        return None
    if family.by_kernels_alone and ops is not c_ops:
        return None
    if type(model) not in hand_written.KINDS:
        return None
    stack = cache(partial(hand_written.stack, model, ops))  # at the first step, whatever loads weights before it
    return Step(
        lambda inputs_BT, targets_BT: stack().loss_and_gradients(inputs_BT, targets_BT),
        lambda inputs_BT: stack().logits(inputs_BT),
        lambda inputs_BT, targets_BT: stack().score(inputs_BT, targets_BT),
        engine="c" if ops is c_ops else "torch",
        build=kernels() if ops is c_ops else "",
    )


def ops_for(weights: Tensor) -> Ops:
    """The fastest functions for a step by hand on these weights in this process."""
    one_thread = weights.device.type == "cpu" and weights.dtype == torch.float32 and torch.get_num_threads() == 1
    return c_ops if one_thread and kernels() else torch_ops


@cache
def kernels() -> str:
    """The build of the kernels in C; "" where there are none, or where they disagree with torch on something small:
    compilers have faults too."""
    if native.library() is None:
        return ""
    if all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(_sample(c_ops), _sample(torch_ops), strict=True)):
        return c_ops.build_id()
    warnings.warn(f"kernels {c_ops.build_id()} disagree with torch and are left alone", stacklevel=2)
    return ""


def _sample(ops: Ops) -> list[Tensor]:
    """What these functions make of a few numbers."""
    shape, heads, generator = torch.Size((2, 19)), 2, torch.Generator().manual_seed(0)
    qkv, dy, scale = (torch.randn(*s, generator=generator) for s in ((24, 38), (8, 38), (38,)))
    targets = torch.arange(38) % 24
    y, attend_backward = ops.attend(qkv.clone(), scale, heads, shape, rotary=True, keep=True)
    hidden, swiglu_backward = ops.swiglu(qkv.clone(), scale, keep=True)
    curved, gelu_backward = ops.gelu(qkv[:8].clone(), scale, keep=True)
    normed, norm_backward = ops.norm(qkv[:8], scale[:8], scale[8:16])
    vectors = torch.empty(2, 8)
    dx = norm_backward(dy.clone(), None, *vectors)
    loss, dlogits = ops.cross_entropy(qkv.t().contiguous(), scale, targets)
    products = [ops.product(dy, y.t()), ops.product(dy.t(), y), ops.product(dy, dy.t(), plus=dy[:, :8])]
    states, recur_backward = ops.recur(qkv.t()[:, :20].contiguous(), dy[:4, :25].reshape(20, 5), scale[:20], 2)
    routes, route_backward = ops.route(qkv[:5].clone(), 2)
    made = ops.spread(dy, routes, weighed=True)
    experts = [ops.collect(made, routes, dy, weighed=True), ops.collect(made, routes, dy, weighed=False)]
    experts.append(route_backward(ops.collect_weights(qkv[:8], made, routes), scale[:5]))
    activations = [hidden, swiglu_backward(torch.cat([dy, dy[:4]])), curved, gelu_backward(dy)]
    recurrent = [states, recur_backward(qkv[:5].t().contiguous(), bias := torch.empty(20)), bias]
    return [*products, y, attend_backward(dy), *activations, *recurrent, *experts, normed, dx, vectors, loss, dlogits]
