"""The compiled step: the same losses, one graph a shape, and no shape too many for a process that trains many."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.study.engine import Engine
from isoflop.experiments.training.learner import Learner
from isoflop.models.config import ModelConfig
from tests.support.training.cells import CHANGES, DATA, losses, make, same, train

pytestmark = pytest.mark.slow

COMPILED = Engine(hand_written=False, compiled=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepare(DATA, tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled: traced as for any backend, then run op by op."""
    traced = []

    def backend(graph, example):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return traced


@pytest.mark.parametrize(("kind", "options"), [  # what is compiled is a loss: it knows no optimizer
    ("plain", {}), ("plain", {"micro_batch": 3}), ("tied", {"bfloat16": True}), ("gpt2", {"recompute": True}),
    ("decay", {"bfloat16": True, "recompute": True}), ("muon", {}),
])  # fmt: skip
def test_compiled_it_trains_as_by_autograd(corpus, graphs, kind, options):
    cell = replace(make(corpus, 30), **CHANGES[kind])
    compiled = Learner(cell, corpus, "cpu", engine=replace(COMPILED, **options))
    plain = Learner(cell, corpus, "cpu", engine=replace(COMPILED, compiled=False, **options))
    assert losses(compiled, 30, until=12) == losses(plain, 30, until=12)
    assert same(plain, compiled)
    assert compiled.measure(30).loss == plain.measure(30).loss
    assert len(graphs) == (2 if "micro_batch" in options else 1)  # the last of 4 = 3 + 1 sequences


def test_a_process_compiles_any_number_of_shapes(corpus, graphs):
    with torch._dynamo.config.patch(recompile_limit=2):  # torch allows a function eight
        for width in (8, 10, 12):
            cell = replace(make(corpus, 30), model=ModelConfig("transformer", 16, 16, 1, width, 1))
            Learner(cell, corpus, "cpu", engine=COMPILED).advance(2, 30)
    assert len(graphs) == 3


def test_a_trunk_is_trained_compiled_when_that_is_asked_for(corpus, graphs):
    cell = make(corpus, 70)
    row, alone = (train([cell], corpus, where=WhereSpec(compile=requested))[70][-1] for requested in (True, None))
    assert len(graphs) == 1
    assert row["loss"] == pytest.approx(alone["loss"], abs=1e-3)
    assert "kernels" not in row["torch_version"]
    assert row["run_id"] == alone["run_id"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # torch's own
def test_torch_compiles_it_for_this_machine(corpus):
    """By Inductor itself, with a C++ compiler."""
    cell = replace(make(corpus, 30), model=ModelConfig("transformer", 16, 16, 1, 8, 1))
    compiled, plain = (Learner(cell, corpus, "cpu", engine=engine) for engine in (COMPILED, Engine()))
    assert losses(compiled, 30, until=20) == pytest.approx(losses(plain, 30, until=20), rel=1e-5)
