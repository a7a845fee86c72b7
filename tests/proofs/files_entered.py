"""Which files of this project a job enters, from its first line until its first training step, in this order.

    python -m tests.proofs.files_entered [--most 14]

A tiny cell is trained through the command, in this process (hydra/launcher=basic). Every Python call is followed with
`sys.setprofile`, in the threads that the job starts too; what runs while a module is imported is not counted, since an
import is not a stop of somebody who reads the job. The list is in two parts: until training begins (the job has found,
claimed and opened what it works on), and from there until the first step (model, optimiser and step are made). A stop
is a call that goes to another file than the call before. Exits with 1 if the first part is more than `--most` files.
"""

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
FIRST = ("job", "train_job.py")  # the function that a worker calls
TRAINING = ("train_trunk", "trainer.py")
STEP = {("take", "learner.py"), ("train_step", "learner.py")}
ARGUMENTS = (
    "study.name=entered", "study.sizes=[d6]", "study.budgets=[2e8]", "study.window.min_steps=1",
    "schedule.warmup_steps=3", "data=text", "data.eval_tokens=512", "data.held_out_fraction=0.3",
    "hydra/launcher=basic", "where.workers=1",
)  # fmt: skip


class Follower:
    """Notes the files of this project in which a function begins, in two parts, and counts the stops of each."""

    def __init__(self) -> None:
        self.parts: list[list[str]] = []
        self.stops: list[int] = []
        self.done = False
        self._last = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if self.done or event != "call" or not (path := project_file(frame.f_code.co_filename)):
            return
        name = frame.f_code.co_name, Path(path).name
        if name == (FIRST if not self.parts else TRAINING) and len(self.parts) < 2:
            threading.setprofile(self)
            self.parts.append([])
            self.stops.append(0)
        self.done = name in STEP
        if self.parts and not importing(frame):
            self.stops[-1] += path != self._last
            self._last = path
            if not any(path in part for part in self.parts):
                self.parts[-1].append(path)


@cache
def project_file(name: str) -> str:
    """The path from the root of a source file of the project; "" if it is another's, or a test."""
    path = Path(os.path.realpath(name))
    ours = not name.startswith("<") and path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests")
    return str(path.relative_to(ROOT)) if ours and ".venv" not in path.parts else ""


def importing(frame: FrameType | None) -> bool:
    """Whether a frame runs because a module is being imported."""
    while frame is not None and (frame.f_code.co_name, Path(frame.f_code.co_filename).name) != FIRST:
        if frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def follow() -> Follower:
    """Train one tiny cell; returns what its job entered before the first step."""
    from isoflop.experiments.app import run_study

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(12):
            (folder / f"{i}.txt").write_text("".join(f"{i * j % 97} and {j * j % 89}, " for j in range(800)))
        options = [f"data.files=[{folder}/*.txt]", f"runs={folder}/runs", f"where.corpora={folder}/corpora"]
        follower = Follower()
        sys.setprofile(follower)
        try:
            code = run_study([*ARGUMENTS, *options])
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]  # None ends it, as the documentation says
    assert code == 0, f"the tiny study ended with exit code {code}"
    assert follower.done, f"no call of {STEP}: has the step another name?"
    return follower


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both parts; 1 if the first has more than `--most` files."""
    parser = argparse.ArgumentParser(description="files of the project that a job enters until its first step")
    parser.add_argument("--most", type=int, default=14)
    most = parser.parse_args(arguments).most
    follower = follow()
    names = ("until training begins", "from there to the first step")
    for name, part, stops in zip(names, follower.parts, follower.stops, strict=True):
        print(f"{name}: {len(part)} files, {stops} stops", *(f"  {path}" for path in part), sep="\n")
    return 0 if len(follower.parts[0]) <= most else 1


if __name__ == "__main__":
    sys.exit(main())
