"""A captured step trains as the plain one does, to the bit, and reads nothing but its buffers and its state."""

import pytest
import torch

from experiments.captured import WARM_UP, Captured
from tests.tape import CaptureError, record


class Running:
    """A step with state: a sum of what it was given, and how often."""

    def __init__(self):
        self.total, self.count = torch.zeros(3), torch.zeros(())
        self.calls = 0

    def step(self, x, rate):
        self.calls += 1
        self.total.add_(x * rate)
        self.count += 1


def test_warming_up_leaves_no_trace_and_calls_add_up():
    running = Running()
    running.total += 7
    x, rate = torch.arange(3.0), torch.tensor(0.5)
    captured = Captured(running.step, (x, rate), (running.total, running.count))
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
    captured = Captured(running.step, (x, rate), (running.total, running.count))
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
