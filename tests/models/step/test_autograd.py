"""Products in bfloat16: as float32 to a tolerance, in every family; weights, moments and loss stay float32."""

import weakref
from dataclasses import replace

import pytest
import torch

from isoflop.experiments.config import OptimSpec, WhereSpec
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.training.learner import Learner
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import initialize
from isoflop.models.step.options import StepOptions
from isoflop.models.step.training_step import choose
from isoflop.scaling.table.runs import same_runs
from tests.support.training.cells import DATA, OTHERS, make, table, train

TOLERANCE = 0.005  # nats/token, of the held-out loss after 50 steps
GENTLE = 0.25  # of the usual rates: at those, paths part by .01 to .03 whatever the products, where experts are chosen


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepare(DATA, tmp_path_factory.mktemp("corpora"))


def trained(cell, corpus, **engine):
    learner = Learner(cell, corpus, "cpu", **engine)
    learner.advance(50, cell.steps)
    return learner, learner.measure(cell.steps, windows=learner.windows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", *OTHERS])
def test_after_50_steps_the_loss_is_that_of_float32(corpus, kind):
    cell = replace(make(corpus, 60), **({"plain": {}} | OTHERS)[kind])
    cell = replace(cell, optim=replace(cell.optim, learning_rate=GENTLE * cell.optim.learning_rate))
    whole, half = trained(cell, corpus), trained(replace(cell, precision="bfloat16"), corpus)
    assert half[1].loss == pytest.approx(whole[1].loss, abs=TOLERANCE)
    assert half[1].loss != whole[1].loss
    assert half[1].loss < half[0].guess - 0.05  # it learned something
    state = half[0].state()
    assert {tensor.dtype for tensor in state["optimizer"].values()} == {torch.float32}
    assert {p.grad.dtype for p in half[0].model.parameters()} == {torch.float32}
    assert half[1].nats.dtype == torch.float32
    assert state["loss_sum"].dtype == torch.float64


def test_products_alone_are_lowered():
    config = ModelConfig("transformer", 32, 16, 2, 16, 2)
    model = initialize(build_model(config), 0)
    with torch.no_grad():
        model.head.normal_(generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(32, (4, 17), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    whole, _ = choose(model).score(inputs, targets)
    seen = []
    hook = model.blocks[1].register_forward_hook(lambda _, given, made: seen.extend([given[0].dtype, made.dtype]))
    step = choose(model, StepOptions(bfloat16=True))
    half, _ = step.score(inputs, targets)
    hook.remove()
    assert seen == [torch.float32] * 2  # the residual stream
    assert 1e-5 < (half - whole).abs().max() < 0.1
    assert half.dtype == torch.float32
    assert step.build == ""
    refers = weakref.ref(model)
    del model, step
    assert refers() is None  # a trunk's memory is there for the next one


@pytest.mark.slow
def test_a_run_says_what_it_was_trained_in(corpus, tmp_path):
    """And resumes to the bit, with recomputed activations and in pieces too."""
    cell = replace(make(corpus, 30), precision="bfloat16")
    rows = train([cell], corpus, tmp_path)[30]
    assert {row["dtype"] for row in rows} == {"bfloat16"}
    assert {row["dtype"] for row in train([make(corpus, 30)], corpus)[30]} == {"float32"}
    assert same_runs(table({30: rows}), table(train([cell], corpus)))
    again = train([cell], corpus, tmp_path)  # from its branch point
    assert same_runs(table(again), table({30: rows}))
    where = WhereSpec(micro_batch=3, activation_checkpointing=True)
    pieces = train([cell], corpus, where=where)[30]
    assert pieces[-1]["loss"] == pytest.approx(rows[-1]["loss"], abs=TOLERANCE)


@pytest.mark.slow
def test_muon_iterates_in_float32(corpus):
    cell = replace(make(corpus, 60), precision="bfloat16", optim=OptimSpec(name="muon", batch_size=4))
    learner, _ = trained(cell, corpus)
    assert learner.optimizer.momentum.dtype == torch.float32
