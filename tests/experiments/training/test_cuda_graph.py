"""A captured step trains as the plain one does, to the bit, and reads nothing but its buffers and its state."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_leaves

from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.study.engine import Engine
from isoflop.experiments.training import cuda_graph
from isoflop.experiments.training import learner as learner_module
from isoflop.experiments.training.cuda_graph import WARM_UP, GraphedStep
from isoflop.experiments.training.learner import TOGETHER, Learner
from isoflop.models.config import ModelConfig
from isoflop.models.step import torch_ops, training_step
from tests.support.training.cells import CHANGES, DATA, losses, make, same
from tests.support.training.tape import CaptureError, Tape, record


class Running:
    """A step with state: a sum of what it was given, and how often."""

    def __init__(self):
        self.total, self.count = torch.zeros(3), torch.zeros(())
        self.calls = 0

    def step(self, x, rate):
        self.calls += 1
        self.total.add_(x * rate)
        self.count += 1


class Taped(GraphedStep):
    """Replays as a CUDA graph does: the step's Python is not run again."""

    def __init__(self, step, example, state, warm_up=None):
        super().__init__(step, example, state, warm_up)
        before = [tensor.clone() for tensor in state]
        self._replay = record(self._replay).play
        for tensor, was in zip(state, before, strict=True):
            tensor.copy_(was)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepare(DATA, tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def taped(monkeypatch):
    monkeypatch.setattr(learner_module, "GraphedStep", Taped)
    monkeypatch.setattr(training_step, "ops_for", lambda weights: torch_ops)  # as on CUDA


ENGINES = {
    "by hand": Engine(),
    "autograd": Engine(hand_written=False),
    "in pieces": Engine(micro_batch=3),
    "bfloat16": Engine(hand_written=False, bfloat16=True),
}


def pair(cell, corpus, engine=None):
    """A learner as it is, and one whose steps are captured."""
    engine = engine or Engine()
    return Learner(cell, corpus, "cpu", engine=engine), Learner(cell, corpus, "cpu", engine=replace(engine, graph=True))


def test_warming_up_leaves_no_trace_and_calls_add_up():
    running = Running()
    running.total += 7
    x, rate = torch.arange(3.0), torch.tensor(0.5)
    captured = GraphedStep(running.step, (x, rate), (running.total, running.count))
    assert running.calls == WARM_UP
    assert torch.equal(running.total, torch.full((3,), 7.0))
    assert running.count == 0
    for _ in range(2):
        captured(x, rate)
    captured(2 * x, torch.tensor(2.0))
    assert torch.equal(running.total, 7 + 5 * x)
    assert running.count == 3


def test_inputs_are_copied():
    running = Running()
    x, rate = torch.ones(3), torch.tensor(1.0)
    captured = GraphedStep(running.step, (x, rate), (running.total, running.count))
    x.fill_(100)
    captured(torch.ones(3), torch.tensor(1.0))
    assert torch.equal(running.total, torch.ones(3))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        captured(x)


def test_a_tape_does_as_a_graph_does():
    x, y, state = torch.ones(3), torch.full((3,), 2.0), torch.zeros(3)
    host = [1.0]

    def step():
        product = (x * y).view(3, 1).expand(3, 2).sum(1)
        state.add_(product * host[0])

    tape = record(step)
    assert torch.equal(state, torch.full((3,), 4.0))
    x.fill_(3.0)
    host[0] = 100.0  # Python's numbers are those of the recording
    tape.play()
    assert torch.equal(state, torch.full((3,), 16.0))
    with pytest.raises(CaptureError, match="_local_scalar_dense"):
        record(lambda: x.sum().item())
    with pytest.raises(CaptureError, match="nonzero"):
        record(lambda: x.nonzero())


class FakeStream:
    """Tells which streams it waits for."""

    def __init__(self, name):
        self.name, self.message = name, []

    def wait_stream(self, other):
        self.message.append(f"{self.name} waits for {other.name}")


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["on the default stream", "on a stream of its own"])
def test_a_graph_is_warmed_up_and_captured_on_one_stream_that_can_be(monkeypatch, own):
    """The calls to CUDA, with a tape for a graph."""
    message, state = [], torch.zeros(())
    main, lane = FakeStream("main"), FakeStream("lane")
    main.message = lane.message = message
    current = [lane if own else main]

    @contextmanager
    def on(stream):
        before = [*current]
        current.append(stream)
        try:
            yield
        finally:
            current[:] = before

    class FakeGraph(Tape):
        replay = Tape.play

        def capture_begin(self, capture_error_mode):
            message.append(f"capture, {capture_error_mode}")
            self.__enter__()

        def capture_end(self):
            self.__exit__(None, None, None)

    def stream_of(device):
        message.append(f"stream on {device}")
        made = FakeStream("side")
        made.message = message
        return made

    fakes = {"Stream": stream_of, "stream": on, "CUDAGraph": FakeGraph, "default_stream": lambda _: main}
    for name, fake in (fakes | {"current_stream": lambda _: current[-1]}).items():
        monkeypatch.setattr(torch.cuda, name, fake)

    def step():
        message.append(f"step on {current[-1].name}")
        state.add_(1)

    device = torch.device("cuda:1")
    cuda_graph._stream.cache_clear()
    graphs = [cuda_graph._graph(step, device, step) for _ in range(2)]
    cuda_graph._stream.cache_clear()
    name, at = ("lane", "lane") if own else ("side", "main")
    one = [
        f"{name} waits for {at}", *[f"step on {name}"] * WARM_UP, "capture, thread_local", f"step on {name}",
        f"{at} waits for {name}",
    ]  # fmt: skip
    assert message == [*([] if own else ["stream on cuda:1"]), *one, *one]
    before = state.item()
    graphs[0].replay()
    assert state.item() == before + 1
    with pytest.raises(cuda_graph.CaptureError, match=r"where.graph=false trains without"):
        cuda_graph._graph(state.item, device, lambda: None)
    assert current == [lane if own else main]


def test_a_graph_of_several_steps_is_warmed_up_by_one(corpus, monkeypatch):
    cell, taken = make(corpus, 60), []
    learner = Learner(cell, corpus, "cpu", engine=Engine(graph=True))
    step = learner.train_step
    monkeypatch.setattr(learner, "train_step", lambda *given: (taken.append(1), step(*given)))
    assert learner.together == TOGETHER
    learner.advance(TOGETHER[0], 60)
    assert len(taken) == WARM_UP + TOGETHER[0]


def test_on_cpu_the_captured_step_is_the_plain_one_to_the_bit(corpus):
    """With the kernels in C, which no tape hears of."""
    plain, captured = pair(make(corpus, 60), corpus)
    assert losses(plain, 60) == losses(captured, 60)
    assert same(plain, captured)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "engine"), [
    *((kind, engine) for kind in CHANGES for engine in ("by hand", "autograd")),  # these know the model, the others not
    ("decay", "in pieces"), ("tied", "bfloat16"), ("muon", "bfloat16"),
])  # fmt: skip
def test_a_step_without_its_python_trains_alike(corpus, taped, kind, engine):
    steps = 45  # eight and one in a graph at the end
    cell = replace(make(corpus, steps), **CHANGES[kind])
    plain, captured = pair(cell, corpus, ENGINES[engine])
    message = losses(plain, steps, until=steps)
    if kind == "muon":  # its rate, as a tensor, is multiplied in another order
        again = losses(captured, steps, until=steps)
        assert again == pytest.approx(message, rel=1e-5 if engine != "bfloat16" else 1e-3)
    else:
        assert losses(captured, steps, until=steps) == message
        assert same(plain, captured)
    assert message[-1] / steps < message[0] - 0.05  # it learned something


@pytest.mark.slow
def test_branches_restore_into_the_addresses_that_a_graph_holds(corpus, taped):
    plain, captured = pair(make(corpus, 100), corpus)
    addresses = {name: tensor.data_ptr() for name, tensor in captured.optimizer.tensors().items()}
    for learner in (plain, captured):
        learner.advance(40, 100)
        learner.measure(100)
        at_branch = learner.state()
        learner.advance(50, 50)  # a cooldown of another cell, at falling rates
        learner.measure(50, windows=learner.windows)
        learner.load(at_branch)
        learner.advance(90, 100)
        learner.measure(100)
    assert [m.loss for m in plain.measurements] == [m.loss for m in captured.measurements]
    assert [m.train_loss for m in plain.measurements] == [m.train_loss for m in captured.measurements]
    assert {name: tensor.data_ptr() for name, tensor in captured.optimizer.tensors().items()} == addresses


@pytest.mark.slow
def test_one_learner_goes_on_from_the_state_of_another(corpus, taped):
    plain, captured = pair(make(corpus, 60), corpus)
    plain.advance(30, 60)
    captured.advance(5, 60)  # somewhere else, and captured already
    captured.load(plain.state())
    assert losses(plain, 60) == losses(captured, 60)
    assert same(plain, captured)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["by hand", "autograd", "in pieces"])  # no autocast to shapes alone
@pytest.mark.parametrize("kind", CHANGES)
def test_a_step_meets_no_tensor_of_the_host(corpus, monkeypatch, kind, engine):
    """On the device of shapes alone, where what was made on the host, or is copied from it, shows."""
    updates = []  # torch has no shapes of this op
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *tensors, lr, **_: updates.append((tensors, lr)))
    cell = replace(make(corpus, 60), **CHANGES[kind])
    learner = Learner(cell, corpus, "meta", engine=replace(ENGINES[engine], graph=True))
    example = torch.zeros(4, 17, dtype=torch.int64, device="meta"), torch.zeros((), device="meta")
    learner.train_step(*example)  # makes the tables that stay
    updates.clear()
    tape = record(lambda: learner.train_step(*example))
    met = {str(leaf.device) for leaf in tree_leaves([tape.ops, updates]) if isinstance(leaf, torch.Tensor)}
    assert met == {"meta"}
    assert len(tape.ops) > 50
    assert len(updates) == len(learner.optimizer.groups) > 1


def test_a_mixture_of_experts_is_what_a_capture_refuses(corpus, taped):
    cell = replace(make(corpus, 60), model=ModelConfig("transformer", 16, 16, 2, 8, 1, 8, experts=3))
    _, captured = pair(cell, corpus, ENGINES["autograd"])  # as on CUDA
    with pytest.raises(CaptureError, match="nonzero"):
        captured.advance(1, 60)
