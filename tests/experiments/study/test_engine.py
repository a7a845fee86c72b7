"""Which engine a cell gets: by itself, as told, and what is refused with a remedy."""

import re
from dataclasses import replace

import pytest

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.shape_key import shape_key
from isoflop.experiments.study.check import checked_study
from isoflop.experiments.study.engine import LARGE, Engine, EngineError, decide, engine_name
from isoflop.models import build_model
from isoflop.models.config import ModelConfig, n_total
from isoflop.models.step import native
from isoflop.models.step.training_step import choose
from tests.support.sweep.studies import CORPUS, cell_of_width, only, single

CPU, CUDA = WhereSpec(), WhereSpec(device="cuda:1")
SMALL = cell_of_width(64)
BIG = cell_of_width(1024)
BIG_PRE_NORM = cell_of_width(1024, norm="layernorm")
EXPERTS = cell_of_width(64, experts=4)
ROUNDED = cell_of_width(64, weight_bits=4)
BY_AUTOGRAD = "by autograd: the step by hand does not round to model.weight_bits and model.activation_bits"
RECURRENT = replace(SMALL, model=ModelConfig("lstm", 256, 64, 2, 64, 0))


def test_the_sizes_of_these_tests():
    assert n_total(SMALL.model) < LARGE < n_total(BIG.model)


@pytest.mark.parametrize(
    ("cell", "where", "engine"),
    [
        (SMALL, CPU, Engine()),
        (BIG, CPU, Engine()),
        (SMALL, CUDA, Engine(fused=True, graph=True)),
        (BIG, CUDA, Engine(hand_written=False, fused=True, graph=True)),
        (replace(SMALL, precision="bfloat16"), CPU, Engine(hand_written=False, bfloat16=True)),
        (replace(SMALL, precision="bfloat16"), CUDA, Engine(hand_written=False, fused=True, graph=True, bfloat16=True)),
        (replace(BIG, precision="bfloat16"), CUDA, Engine(False, fused=True, graph=True, bfloat16=True)),
        (SMALL, replace(CPU, compile=True), Engine(hand_written=False, compiled=True)),
        (SMALL, replace(CUDA, graph=False), Engine(fused=True)),
        (BIG, replace(CUDA, compile=False), Engine(hand_written=False, fused=True, graph=True)),
        (BIG_PRE_NORM, CUDA, Engine(hand_written=False, compiled=True)),
        (SMALL, replace(CUDA, compile=True), Engine(hand_written=False, compiled=True)),
        (BIG, replace(CUDA, graph=True), Engine(hand_written=False, fused=True, graph=True)),
        (BIG, replace(CUDA, graph=True, compile=True), Engine(hand_written=False, graph=True, compiled=True)),
        (SMALL, replace(CUDA, micro_batch=2), Engine(fused=True, graph=True, micro_batch=2)),
        (SMALL, replace(CPU, activation_checkpointing=True), Engine(hand_written=False, recompute=True)),
        (BIG, replace(CUDA, activation_checkpointing=True), Engine(hand_written=False, compiled=True, recompute=True)),
        (BIG, replace(CUDA, distributed="ddp"), Engine(hand_written=False, compiled=True)),
        (SMALL, replace(CPU, distributed="fsdp2"), Engine(hand_written=False)),
        (RECURRENT, CPU, Engine()),
        (ROUNDED, CPU, Engine(hand_written=False, note=BY_AUTOGRAD)),
        (ROUNDED, CUDA, Engine(hand_written=False, graph=True, note=BY_AUTOGRAD)),
    ],
)
def test_what_a_cell_gets(cell, where, engine):
    assert decide(cell, where) == engine


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("cell", "where"),
    [
        (SMALL, CPU), (RECURRENT, CPU), (EXPERTS, CPU), (cell_of_width(64, norm="layernorm"), CPU),
        (replace(SMALL, precision="bfloat16"), CPU), (SMALL, replace(CPU, activation_checkpointing=True)),
        (SMALL, replace(CPU, compile=True)), (ROUNDED, CPU),
    ],
)  # fmt: skip
def test_the_name_of_an_engine_is_known_before_it_trains(cell, where, threads, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    where = replace(where, threads=threads)
    kernels = native.library() is not None
    found = choose(build_model(cell.model), decide(cell, where))
    assert engine_name(cell, where, kernels=kernels) == found.engine
    assert engine_name(cell, replace(where, device="cuda"), kernels=kernels).startswith("cuda-")
    if kernels and found.engine == "c":
        assert engine_name(cell, where, kernels=False) == ("autograd" if cell is RECURRENT else "torch")


def test_every_family_has_the_step_by_hand_on_cpu_and_the_default_parts_everywhere():
    for cell in (SMALL, RECURRENT, EXPERTS, cell_of_width(64, norm="layernorm", activation="gelu")):
        assert engine_name(cell, CPU, kernels=True) == "c"
        expected = "cuda-fused" if cell is SMALL else "cuda-autograd"
        assert engine_name(cell, replace(CUDA, compile=False), kernels=True) == expected
    assert engine_name(SMALL, replace(CUDA, distributed="ddp"), kernels=True) == "cuda-torch"


@pytest.mark.parametrize(
    ("cell", "where", "reason"),
    [
        (EXPERTS, CUDA, "without where.graph: how many tokens each expert gets is read on the host"),
        (cell_of_width(1024, experts=8), CUDA, "without where.compile: how many tokens each expert gets changes"),
        (RECURRENT, CUDA, "without where.graph: cuDNN runs the layers"),
        (SMALL, replace(CUDA, distributed="ddp"), "without where.graph: processes exchange gradients"),
        (BIG, replace(CUDA, distributed="fsdp2"), "without where.compile: where.distributed=fsdp2"),
        (SMALL, replace(CUDA, activation_checkpointing=True), "without where.graph: where.activation_checkpointing"),
    ],
)
def test_what_cannot_be_is_left_and_told_when_nobody_asked_for_it(cell, where, reason):
    engine = decide(cell, where)
    assert engine.note.startswith(reason)
    assert not engine.graph
    assert not engine.compiled
    requested = reason.split(".")[1].split(":")[0]
    message = rf"{re.escape(cell.label)}: where\.{requested}=true is not possible: .*use where\.{requested}=null"
    with pytest.raises(EngineError, match=message):
        decide(cell, replace(where, **{requested: True}))
    assert decide(cell, replace(where, **{requested: False})).note == ""


def test_the_noise_scale_needs_a_batch_that_one_process_holds_and_two_halves():
    assert decide(SMALL, replace(CPU, noise_scale=True)) == Engine(noise_scale=True)
    for cell, where in ((SMALL, replace(CPU, distributed="ddp")), (cell_of_width(64, batch=1), CPU)):
        with pytest.raises(
            EngineError, match=r"where\.noise_scale needs where\.distributed=none and optim\.batch_size"
        ):
            decide(cell, replace(where, noise_scale=True))


def test_there_are_no_graphs_on_cpu():
    with pytest.raises(EngineError, match=r"where.graph=true is not possible: where.device=cpu has no CUDA graphs"):
        decide(SMALL, replace(CPU, graph=True))


def test_a_study_is_refused_before_anything_is_launched():
    config = single(tokens=1e5)
    with pytest.raises(EngineError, match=r"where.graph=true"):
        checked_study(replace(config, where=replace(CPU, graph=True)), CORPUS)
    with pytest.raises(EngineError, match=r"where.precision must be one of float32, bfloat16; not 'bf16'"):
        checked_study(replace(config, where=replace(CPU, precision="bf16")), CORPUS)


def test_bits_are_part_of_a_run_where_something_is_rounded_and_bfloat16_does_not_go_with_them():
    config = single(tokens=1e5)
    full = replace(config, model=replace(config.model, weight_bits=32, activation_bits=32))
    four = replace(config, model=replace(config.model, weight_bits=4))
    assert only(full).run_id == only(config).run_id != only(four).run_id
    assert only(four).what()["model"] == only(config).what()["model"] | {"weight_bits": 4}
    with pytest.raises(EngineError, match=r"where.precision=bfloat16 would round again what model.weight_bits and"):
        checked_study(replace(four, where=replace(CPU, precision="bfloat16")), CORPUS)


def test_precision_is_part_of_a_run_and_the_rest_of_where_is_not():
    config = single(tokens=1e5)
    cell = only(config)
    half = only(replace(config, where=replace(CPU, precision="bfloat16")))
    assert half.run_id != cell.run_id
    assert half.trunk_id != cell.trunk_id
    assert half.what() == cell.what() | {"precision": "bfloat16"}
    assert shape_key(half) != shape_key(cell)
    assert only(replace(config, where=replace(CUDA, graph=False, compile=True))).run_id == cell.run_id
