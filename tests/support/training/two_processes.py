"""What the tests of replicas run in two processes: losses of 25 steps in every mode, refusals, trunks that are killed.

FOLDER losses|killed|resumed [ddp|fsdp2] is a job. Run as a module this reads jobs, each a line of JSON after its number
of processes, forks these in the environment that torchrun gives, prints their exit codes and the first one's errors.
"""

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.parallel.world import join
from isoflop.experiments.study.engine import decide
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.process import configure_process
from isoflop.experiments.training.trainer import train_trunk
from isoflop.models.config import ModelConfig
from tests.support.training.cells import DATA, make

STEPS = 25
KILL_AT = 92  # a step is reported before it is saved
KILLED = 9  # the exit code of a process that dies there
MODEL = ModelConfig("transformer", 16, 16, 2, 8, 2)


def learner_class(where: WhereSpec) -> type[Learner]:
    """As of `replicas`, which loads torch's sharding: not where tests are collected."""
    return importlib.import_module("isoflop.experiments.parallel.replicas").learner_class(where)


def cell_of(corpus, steps=150, **optim):
    """A cell calm enough that rounding stays rounding: at higher rates it grows from step to step."""
    cell = make(corpus, steps, learning_rate=0.003, **optim)
    return replace(cell, model=MODEL, optim=replace(cell.optim, batch_size=16))


def losses(cell, corpus, where) -> list[float]:
    """Training loss of each of the first steps."""
    learner = learner_class(where)(cell, corpus, where.device, engine=decide(cell, where))
    found = []
    for step in range(STEPS):
        before = learner.loss_sum.item()
        learner.advance(step + 1, cell.steps)
        found.append(learner.loss_sum.item() - before)
    return found


def refusal(cell, corpus, where) -> str:
    """The error that training a cell begins with; empty if it trains."""
    try:
        next(train_trunk([cell], corpus, folder=None, where=where, make=learner_class(where)))
    except ValueError as error:
        return str(error)
    return ""


def all_losses(corpus, ddp: WhereSpec, fsdp2: WhereSpec) -> dict:
    """Losses of every mode, by its name, and what fsdp2 refuses."""
    cell, muon = cell_of(corpus), cell_of(corpus, name="muon")
    half = replace(cell, precision="bfloat16")
    in_pieces = {"micro_batch": 3, "activation_checkpointing": True}
    experts = replace(cell, model=replace(MODEL, experts=2))
    odd = replace(cell, optim=replace(cell.optim, batch_size=3))
    return {
        "ddp": losses(cell, corpus, ddp),
        "fsdp2": losses(cell, corpus, fsdp2),
        "muon": losses(muon, corpus, ddp),
        "ddp in pieces": losses(cell, corpus, replace(ddp, **in_pieces)),
        "ddp in bfloat16": losses(half, corpus, ddp),
        "fsdp2 in bfloat16": losses(half, corpus, fsdp2),
        "fsdp2 in pieces": losses(cell, corpus, replace(fsdp2, **in_pieces)),
        "refused": [refusal(c, corpus, fsdp2) for c in (muon, experts, odd)],
    }


def trunk(corpus, folder: Path, where: WhereSpec, *, kill_at: int | None) -> dict:
    """Rows of a trunk's two cells, and the steps that were reported; all processes die at once at step `kill_at`."""
    steps = []

    def on_progress(at) -> None:
        steps.append(at["step"])
        if kill_at is not None and at["step"] >= kill_at:
            os._exit(KILLED)

    cells = [cell_of(corpus, 100), cell_of(corpus, 120)]
    trained = train_trunk(
        cells, corpus, folder=folder, where=where, on_progress=on_progress,
        keep=lambda *_: None, make=learner_class(where),
    )  # fmt: skip
    return {"losses": [[row["loss"] for row in rows] for _, rows in trained], "steps": steps}


def main(folder: Path, job: str, mode: str = "") -> None:
    """What each of the processes does; the first writes `folder`/`job`.json."""
    configure_process(1)
    ddp = WhereSpec(distributed="ddp", checkpoint_seconds=0.0)
    fsdp2 = replace(ddp, distributed="fsdp2")
    rank, corpus = join(ddp).rank, prepare(DATA, folder / "corpora")
    if job == "losses":
        result = all_losses(corpus, ddp, fsdp2)
    else:
        where = replace(ddp, distributed=mode)
        result = trunk(corpus, folder / mode, where, kill_at=KILL_AT if job == "killed" else None)
    if rank == 0:
        (folder / f"{job}.json").write_text(json.dumps(result))
    importlib.import_module("isoflop.experiments.parallel.follow").end(0)


def together(processes: int, arguments: list[str]) -> tuple[list[int], str]:
    """Exit codes of so many processes, and what the first one wrote to its errors; when that failed the others end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    with tempfile.TemporaryFile("w+") as message:
        ranks = [_forked(i, processes, meeting, arguments, message) for i in range(processes)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(ranks[0], 0)[1])]
        for rank in ranks[1:]:
            if codes[0]:
                os.kill(rank, signal.SIGKILL)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]))
        message.seek(0)
        return codes, message.read()


def _forked(rank: int, processes: int, meeting: dict[str, str], arguments: list[str], message: TextIO) -> int:
    """Number of a fork of this process that does the job."""
    if child := os.fork():
        return child
    code = 1
    try:
        if rank == 0:
            os.dup2(message.fileno(), 2)
        os.environ |= meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        main(Path(arguments[0]), *arguments[1:])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for module in ("isoflop.experiments.parallel.follow", "torch._dynamo"):  # once for all that are forked
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(together(*json.loads(line))), flush=True)
    os._exit(0)  # torch takes long to end
