"""Which files of this project a job enters, from its first line until its first training step, in this order.

    python -m tests.proofs.files_entered [--most 14]

A tiny cell is trained through the command, in this process (hydra/launcher=basic). Every Python call is followed with
`sys.settrace`, in the threads that the job starts too; what runs while a module is imported is not counted, since an
import is not a stop of somebody who reads the job. The job is listed in two parts: until training begins (it has found,
claimed and opened what it works on), and from there until the first step (model, optimiser and step are made). What a
worker does once, before its jobs, is printed before them. A stop is a call that goes to another file than the call
before. Exits with 1 if the job enters more than `--most` files in all.
"""

import argparse
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[2]
BEGIN = ("begin", "process.py")  # what a worker does once
FIRST = ("job", "train_job.py")  # the function that it calls for every job
TRAINING = ("train_trunk", "trainer.py")
STEP = {("take", "learner.py"), ("train_step", "learner.py")}
ARGUMENTS = (
    "study.name=entered", "study.sizes=[d6]", "study.budgets=[2e8]", "study.window.min_steps=1",
    "schedule.warmup_steps=3", "data=text", "data.eval_tokens=512", "data.held_out_fraction=0.3",
    "hydra/launcher=basic", "where.workers=1",
)  # fmt: skip

# Loaded before the calls are followed, which makes an import four times as long.
LIBRARIES = (
    "torch", "pandas", "pyarrow.parquet", "scipy.optimize", "hydra", "joblib", "isoflop.experiments.sweep.launch",
    "isoflop.experiments.training.keep", "isoflop.experiments.training.trainer",
)  # fmt: skip


class Follower:
    """Notes the files of this project in which a function begins, in two parts, and counts the stops of each."""

    def __init__(self) -> None:
        self.once: list[str] = []  # by the worker, before its jobs
        self.parts: list[list[str]] = []
        self.stops: list[int] = []
        self.done = False
        self._last = ""
        self._begins = False

    def __call__(self, frame: FrameType, event: str, _: object) -> "Follower | None":
        """As `sys.settrace` has it: of all but BEGIN the calls alone are told."""
        if event == "return":
            self._begins = False
        if event != "call":
            return self
        if self.done or not (path := project_file(frame.f_code)):
            return None
        name = function(frame.f_code)
        self._begins |= name == BEGIN
        if self._begins and path not in self.once and not importing(frame):
            self.once.append(path)
        if name == (FIRST if not self.parts else TRAINING) and len(self.parts) < 2:
            threading.settrace(self)
            self.parts.append([])
            self.stops.append(0)
        if name in STEP:
            self.done = True
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]  # None ends it, as the documentation says
        if self.parts and not importing(frame):
            self.stops[-1] += path != self._last
            self._last = path
            if not any(path in part for part in self.parts):
                self.parts[-1].append(path)
        return self if name == BEGIN else None


@cache
def function(code: CodeType) -> tuple[str, str]:
    """The name of a function, and of its file."""
    return code.co_name, Path(code.co_filename).name


@cache
def project_file(code: CodeType) -> str:
    """The path from the root of the source file of a function; "" if it is not of the project, or a test's."""
    path = Path(os.path.realpath(code.co_filename))
    ours = (
        not code.co_filename.startswith("<") and path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests")
    )
    return str(path.relative_to(ROOT)) if ours and ".venv" not in path.parts else ""


def importing(frame: FrameType | None) -> bool:
    """Whether a frame runs because a module is being imported."""
    while frame is not None and function(frame.f_code) not in (BEGIN, FIRST):
        if frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def follow() -> Follower:
    """Train one tiny cell; returns what its job entered before the first step."""
    from isoflop.experiments.app import run_study

    for library in LIBRARIES:
        importlib.import_module(library)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(12):
            (folder / f"{i}.txt").write_text("".join(f"{i * j % 97} and {j * j % 89}, " for j in range(800)))
        options = [f"data.files=[{folder}/*.txt]", f"runs={folder}/runs", f"where.corpora={folder}/corpora"]
        follower = Follower()
        sys.settrace(follower)
        try:
            code = run_study([*ARGUMENTS, *options])
        finally:
            sys.settrace(None)
    assert code == 0, f"the tiny study ended with exit code {code}"
    assert follower.done, f"no call of {STEP}: has the step another name?"
    return follower


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both parts; 1 if they have more than `--most` files together."""
    parser = argparse.ArgumentParser(description="files of the project that a job enters until its first step")
    parser.add_argument("--most", type=int, default=14)
    most = parser.parse_args(arguments).most
    follower = follow()
    print(
        f"once, when its worker starts: {len(follower.once)} files", *(f"  {path}" for path in follower.once), sep="\n"
    )
    names = ("until training begins", "from there to the first step")
    for name, part, stops in zip(names, follower.parts, follower.stops, strict=True):
        print(f"{name}: {len(part)} files, {stops} stops", *(f"  {path}" for path in part), sep="\n")
    entered = sum(map(len, follower.parts))
    print(f"in all, until the first step of a job: {entered} files, at most {most} wanted")
    return 0 if entered <= most else 1


if __name__ == "__main__":
    sys.exit(main())
