"""Triton's compiler takes every kernel that a fused step launches: its interpreter takes programs that it does not."""

import os
import subprocess

import pytest

pytestmark = [pytest.mark.process, pytest.mark.slow]

SCRIPT = """
import torch
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import new_model
from isoflop.models.step.fused.adamw import FusedAdamW
from isoflop.models.step.fused.texts import Texts
from isoflop.models.step.fused.transformer import Fused

target = GPUTarget("cuda", 90, 32)
backend = make_backend(target)
options = backend.parse_options({})
names = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.bool: "*i1"}
done = set()


def kind(value):
    return names[value.dtype] if isinstance(value, torch.Tensor) else "i32" if isinstance(value, int) else "fp32"


def compiled(kernel, grid):
    def launch(*arguments, **keywords):
        given = {**dict(zip(kernel.arg_names, arguments)), **keywords}
        constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
        signature = {p.name: "constexpr" if p.is_constexpr else kind(given[p.name]) for p in kernel.params}
        if (key := str((kernel.fn.__name__, signature, constants))) in done:
            return
        done.add(key)
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        source.make_ir(target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
        print(kernel.fn.__name__)
    return launch


JITFunction.__getitem__ = compiled
for length, low in ((64, torch.float32), (96, torch.bfloat16)):
    model = new_model(ModelConfig("transformer", 256, length, n_layer=1, d_model=24, n_head=3), seed=0)
    optimizer = FlatAdamW(model, OptimSpec())
    tokens = torch.zeros(2, length + 1, dtype=torch.int64)
    for step in [Fused(model, low), *([Texts(model)] if Texts.fits(model) else [])]:
        step.loss_and_gradients(tokens[:, :-1], tokens[:, 1:])
        step.score(tokens[:, :-1], tokens[:, 1:])
vectors = optimizer.weights, optimizer.gradients, optimizer.mean, optimizer.square, optimizer.steps
sizes = [len(optimizer.weights) - 5, 5]
update = FusedAdamW(sizes, [1.0, 0.5], [0.1, 0.0], torch.device("cpu"))
update.step(*vectors, torch.tensor(0.1), clip=1.0, beta1=0.9, beta2=0.95, eps=1e-8)
"""
KERNELS = {
    "norm", "norm_backward", "swiglu", "swiglu_backward", "attend", "attend_backward", "rotate", "rotate_backward",
    "cross_entropy", "embed", "embed_backward", "project_backward", "gated", "gated_backward", "head", "squares",
    "adamw",
}  # fmt: skip


def test_the_compiler_takes_every_kernel_that_the_interpreter_takes(commands):
    pytest.importorskip("triton", reason="needs another processor: there is no Triton for this one")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([commands.bin / "python", "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(done.stdout.split()) == KERNELS
