"""What only a CUDA device can show: graphs, streams and precisions there do as the plain step does."""

import json
import runpy
from dataclasses import replace

import pandas as pd
import pytest
import torch

from isoflop.experiments.config import OptimSpec, WhereSpec
from isoflop.experiments.data.batches import batches
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.study.engine import decide
from isoflop.experiments.training import gather, trainer
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.process import configure_process
from isoflop.models.config import ModelConfig
from tests.support.training import cuda_contenders
from tests.support.training.cells import DATA, KilledError, kill_at, make, train
from tests.support.training.quarter import REAL, Quarter, seed_sd

gpu = pytest.mark.gpu
pytestmark = pytest.mark.filterwarnings(  # torch's own
    "ignore:RNN module weights are not part of single contiguous chunk",
    "ignore:Synchronization debug mode is a prototype",
    "ignore:TensorFloat32 tensor cores",
    "ignore:.*torch.jit.* is deprecated:DeprecationWarning",
)
NO_DEVICE = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
CUDA = WhereSpec(device="cuda")
RELATIVE = 1e-5  # of a loss after 100 steps: sums that come in another order
CELLS = {
    "plain": {},
    "tied": {"model": ModelConfig("transformer", 16, 16, 2, 32, 2, tied=True)},
    "gpt2": {"model": ModelConfig("transformer", 16, 16, 2, 32, 2, None, False, "layernorm", "gelu", "learned")},
    "muon": {"optim": OptimSpec(name="muon", batch_size=4, learning_rate=0.003)},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    configure_process(1)
    return prepare(DATA, tmp_path_factory.mktemp("corpora"))


def cell_of(corpus, steps=150, **changes):
    """Calm enough that rounding stays rounding."""
    cell = make(corpus, steps, learning_rate=0.003)
    return replace(cell, **({"model": ModelConfig("transformer", 16, 16, 2, 32, 2)} | changes))


def learner_of(cell, corpus, **where):
    where = replace(CUDA, **where)
    return Learner(cell, corpus, where.device, engine=decide(cell, where))


def with_a_branch(learner):
    """Training losses of 100 steps, with a cooldown of 20 from the middle that is then left."""
    message = []
    for until, horizon in ((50, 150), (70, 62), (100, 150)):
        if horizon == 62:
            at_branch = learner.state()
        while learner.step < until:
            before = learner.loss_sum.item()
            learner.advance(learner.step + 10, horizon)
            message.append((learner.loss_sum.item() - before) / 10)
        if horizon == 62:
            learner.load(at_branch)
    learner.measure(150, windows=learner.windows)
    return [*message, learner.measurements[-1].loss]


@gpu
@NO_DEVICE
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_graph_trains_as_the_eager_step_does(corpus, kind, precision):
    cell = cell_of(corpus, precision=precision, **CELLS[kind])
    graph, eager = (learner_of(cell, corpus, graph=requested) for requested in (None, False))
    assert graph.engine.graph
    assert not eager.engine.graph
    tolerance = RELATIVE if precision == "float32" else 1e-3
    assert with_a_branch(graph) == pytest.approx(with_a_branch(eager), rel=tolerance)


@gpu
@NO_DEVICE
def test_float32_on_the_device_is_float32_on_the_host(corpus):
    """TF32 would be off by a thousand times as much."""
    cell = cell_of(corpus, model=ModelConfig("transformer", 16, 16, 2, 64, 2))
    for requested in ({"graph": True}, {"compile": True}, {"graph": False}):
        there, here = learner_of(cell, corpus, **requested), Learner(cell, corpus, "cpu")
        for learner in (there, here):
            learner.advance(20, 150)
        assert there.loss_sum.item() == pytest.approx(here.loss_sum.item(), rel=RELATIVE)
    lstm = replace(cell, model=ModelConfig("lstm", 16, 16, 2, 64, 0))
    there, here = learner_of(lstm, corpus), Learner(lstm, corpus, "cpu")
    for learner in (there, here):
        learner.advance(20, 150)
    assert there.loss_sum.item() == pytest.approx(here.loss_sum.item(), rel=RELATIVE)


@gpu
@NO_DEVICE
def test_bfloat16_is_within_the_noise_of_seeds(corpus):
    def final(precision, seed):
        learner = learner_of(replace(make(corpus, 150), seed=seed, precision=precision), corpus)
        learner.advance(150, 150)
        return learner.measure(150, windows=learner.windows).loss

    losses = torch.tensor([[final(precision, seed) for seed in range(6)] for precision in ("float32", "bfloat16")])
    error = (losses.var(1).sum() / 6).sqrt()
    assert (losses[0] != losses[1]).all()
    assert (losses[0] - losses[1]).mean().abs() < 3 * error


@gpu
@NO_DEVICE
def test_the_device_gathers_what_the_host_does(corpus, monkeypatch):
    cell = cell_of(corpus)
    expected = batches(corpus.train, seed=0, size=(2, 32), step=5, count=90, batch_size=4, context_length=16)
    for share in (gather.SHARE, 0.0):
        monkeypatch.setattr(gather, "SHARE", share)
        monkeypatch.setattr(gather, "_resident", {})
        learner = learner_of(cell, corpus)
        assert bool(gather._resident) == (share > 0)
        learner.step = 5
        found = torch.stack(list(learner.batches(95)))
        assert found.device.type == "cuda"
        assert (found.cpu().numpy() == expected).all()


@gpu
@NO_DEVICE
@pytest.mark.parametrize("kind", CELLS)
def test_no_step_waits_for_the_host(corpus, kind):
    learner = learner_of(cell_of(corpus, **CELLS[kind]), corpus)
    learner.advance(64, 150)  # captured
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.take_steps(128, 150)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert learner.step == 128
    assert learner.healthy


@gpu
@NO_DEVICE
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_and_resumed_under_a_graph(corpus, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(trainer, "_CHUNK", 7)
    cell = cell_of(corpus, 100, precision=precision)
    where = replace(CUDA, checkpoint_seconds=0.0)
    with pytest.raises(KilledError):
        train([cell], corpus, tmp_path, where, on_progress=kill_at(cell.run_id, 90))
    seen = []
    resumed = train([cell], corpus, tmp_path, where, on_progress=lambda p: seen.append(p["step"]))[100]
    whole = train([cell], corpus, where=CUDA)[100]
    assert seen[0] > 82
    message = [[row[name] for row in rows] for rows in (resumed, whole) for name in ("loss", "train_loss")]
    assert message[:2] == [
        pytest.approx(values, rel=RELATIVE if precision == "float32" else 1e-3) for values in message[2:]
    ]
    assert {row["dtype"] for row in resumed} == {precision}
    assert {row["device"] for row in resumed} == {torch.cuda.get_device_name()}
    assert all(row["peak_memory_bytes"] > 0 for row in resumed)


@gpu
@NO_DEVICE
def test_a_checkpoint_of_the_device_goes_on_on_the_host(corpus, tmp_path):
    cell = cell_of(corpus, 100)
    with pytest.raises(KilledError):
        train([cell], corpus, tmp_path, CUDA, on_progress=kill_at(cell.run_id, 90))
    seen = []
    there = train([cell], corpus, tmp_path, on_progress=lambda p: seen.append(p["step"]))[100]
    assert seen[0] > 64
    assert there[-1]["loss"] == pytest.approx(train([cell], corpus)[100][-1]["loss"], rel=1e-4)


@gpu
@NO_DEVICE
@pytest.mark.parametrize(
    "model",
    [ModelConfig("lstm", 16, 16, 2, 32, 0), ModelConfig("transformer", 16, 16, 2, 32, 2, 32, experts=4)],
    ids=["lstm", "experts"],
)
def test_what_no_graph_can_hold_trains_without(corpus, model, caplog):
    trainer._warn_once.cache_clear()
    cell = cell_of(corpus, 100, model=model)
    for _ in range(2):
        rows = train([cell], corpus, where=CUDA)[100]
    assert rows[-1]["loss"] == pytest.approx(train([cell], corpus)[100][-1]["loss"], rel=1e-3)
    assert caplog.text.count("without where.graph") == 1


@gpu
@NO_DEVICE
def test_the_fused_step_of_a_large_model_is_the_compiled_one_to_the_rounding_of_bfloat16(corpus):
    cell = cell_of(corpus, model=ModelConfig("transformer", 16, 16, 4, 512, 8), precision="bfloat16")
    compiled, fused = (learner_of(cell, corpus, compile=requested) for requested in (True, None))
    assert (compiled.engine_name, fused.engine_name) == ("cuda-compiled", "cuda-fused")
    for learner in (compiled, fused):
        learner.advance(20, 150)
    assert compiled.loss_sum.item() == pytest.approx(fused.loss_sum.item(), rel=1e-2)


def test_the_benchmark_says_that_there_is_no_device(capsys):
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a card")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("tests.bench.cuda", run_name="__main__")
    assert (ended.value.code, capsys.readouterr().out) == (1, "no CUDA device\n")


@pytest.mark.slow
@pytest.mark.parametrize("precision", cuda_contenders.PRECISIONS)
@pytest.mark.parametrize("name", ["plain", "ours, eager", "ours"])  # compiled needs half a minute on CPU
def test_every_contender_of_the_benchmark_trains(name, precision):
    cell = cuda_contenders.cell_of("g128", 2, 8, precision)
    found = cuda_contenders.pace(name, cell, "cpu", seconds=0.01)
    assert min(found) > 0


class Noted(Quarter):
    """The study at real scale without a card: writes what the commands would."""

    def isoflop(self, *words, quiet=False, must=True):
        self.given.append(words[0])
        for flag in ("--emit", "-o", "--register"):
            if flag in words:
                name = words[words.index(flag) + 1]
                if not (self.edge and flag == "--emit"):
                    (self.out / name).write_text("x")
        return json.dumps({"studies": []})


@pytest.fixture
def quarter(tmp_path):
    made = Noted(REAL, tmp_path, tmp_path / "runs")
    made.given, made.edge = [], False
    return made


def test_each_stage_is_done_once_and_the_forecast_is_made_before_it_is_tested(quarter):
    quarter.until("tuned")
    assert quarter.given == ["run", "tune", "plan"]
    quarter.until("trained")
    assert quarter.given[3:] == ["run", "compact", "predict"]
    quarter.until("scored")
    quarter.until("scored")
    assert quarter.given[6:] == ["run", "compact"]
    assert {*json.loads(quarter.times.read_text())} == {"gpu_quarter", "gpu_quarter_holdout"}


def test_without_an_optimum_of_the_rate_the_study_keeps_its_own(quarter, capsys):
    quarter.edge = True
    quarter.until("tuned")
    assert "base_width: 64" in quarter.optim.read_text()
    assert "the rates show no optimum" in capsys.readouterr().out


def test_the_noise_of_seeds_is_pooled_over_cells():
    runs = pd.DataFrame({"tokens": [1, 1, 2, 2, 3], "loss": [1.0, 1.02, 2.0, 2.0, 5.0]})
    assert seed_sd(runs) == pytest.approx(0.0099, abs=1e-3)
    assert pd.isna(seed_sd(runs[runs["tokens"] == 3]))
