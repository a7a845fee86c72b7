"""Estimated against measured peak memory of a worker: python -m tests.proofs.memory [name ...]

Each shape takes two steps, a branch point, a checkpoint and an evaluation in a process of its own. Bar: within 30%.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec
from isoflop.experiments.cost.memory import worker_bytes
from isoflop.experiments.study.cell import Cell
from isoflop.models.config import ModelConfig


def cell(width, layers, heads, length, batch, vocab=256, family="transformer", optim="adamw", **options) -> Cell:
    """A cell of this shape; `options` are of its model."""
    model = ModelConfig(family, vocab, length, layers, width, heads, **options)
    data = DataSpec(context_length=length, eval_tokens=8 * length)
    return Cell(model, f"d{width}", data, OptimSpec(name=optim, batch_size=batch), ScheduleSpec(), "c", 0, "", 100, 1.0)


GPT2 = {"norm": "layernorm", "activation": "gelu", "positions": "learned"}
SHAPES = {
    "quick": cell(64, 4, 8, 64, 8),
    "deep": cell(256, 8, 8, 128, 16),
    "wide": cell(768, 4, 12, 128, 4),
    "long": cell(128, 4, 8, 512, 8),
    "vocabulary": cell(128, 2, 4, 128, 16, vocab=16384),
    "muon": cell(512, 4, 8, 128, 4, optim="muon"),
    "gpt2": cell(256, 4, 8, 128, 16, **GPT2),
    "lstm": cell(512, 2, 1, 128, 16, family="lstm"),
    "experts": cell(128, 4, 4, 128, 16, experts=8),
}


def measure(name: str) -> None:
    """Print the peak of this process in bytes after imports, and at the end."""
    from isoflop.experiments.sweep.timing import noise
    from isoflop.experiments.sweep.train_job import train_claimed
    from isoflop.experiments.training.checkpoint import Checkpoints
    from isoflop.experiments.training.learner import Learner
    from isoflop.experiments.training.process import configure_process

    assert train_claimed  # what a worker has loaded
    configure_process(1)
    shape = SHAPES[name]
    before = _peak()
    learner = Learner(shape, noise(shape), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), 0.0)
        learner.advance(2, shape.steps)
        at_branch = learner.state()
        checkpoints.save_trunk(learner.state())
        learner.advance(3, shape.steps)
        learner.measure(shape.steps, windows=learner.windows)
        learner.load(at_branch)
    print(before, _peak())


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(names: list[str]) -> None:
    """Print estimate and measurement of the shapes of these names, or of all."""
    print(f"{'shape':12} {'imports':>8} {'measured':>9} {'estimate':>9} {'ratio':>6}  MB")
    worst = 0.0
    for name in names or SHAPES:
        command = [sys.executable, "-m", "tests.proofs.memory", "--measure", name]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        before, peak = map(int, out.split())
        estimate = worker_bytes(SHAPES[name])
        worst = max(worst, abs(estimate / peak - 1))
        print(
            f"{name:12} {before / 1e6:8.0f} {peak / 1e6:9.0f} {estimate / 1e6:9.0f} {estimate / peak:6.2f}", flush=True
        )
    print(f"worst error {worst:.0%} (bar 30%)")


if __name__ == "__main__":
    measure(sys.argv[2]) if sys.argv[1:2] == ["--measure"] else main(sys.argv[1:])
