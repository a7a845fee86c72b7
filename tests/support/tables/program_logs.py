"""Known runs as the lines that programs print while they train."""

import math
from pathlib import Path

import numpy as np

from tests.support.tables.dialects import Known
from tests.support.tables.program_runs import known, some_runs


def megatron(rng: np.random.Generator, folder: Path) -> Known:
    """A log of Megatron-LM; parameters by rank, or the total alone."""
    (run,) = some_runs(rng, 1)
    sequences, context = run.batch // 512, 512
    ranks, prefix = int(rng.integers(1, 4)), str(rng.choice(["", "[default7]:", "7: "]))
    lines = ["------------------------ arguments ------------------------",
             f"  global_batch_size ............................... {sequences}",
             "  lr .............................................. 0.0006",
             f"  seq_length ...................................... {context}",
             f"  train_iters ..................................... {run.end[0]}"]  # fmt: skip
    shares = [run.n_params // ranks] * ranks
    shares[0] += run.n_params - sum(shares)
    lines += [
        f" > number of parameters on (tensor, pipeline) model parallel rank ({k}, 0): {n}" for k, n in enumerate(shares)
    ]
    for step, _, loss in run.points:
        stamp = "[2026-01-01 10:00:00.123456] " if rng.random() < 0.5 else ""
        lines.append(
            f" {stamp}iteration {step:8d}/{run.end[0]:8d} | consumed samples: {step * sequences:12d} | elapsed time "
            f"per iteration (ms): 120.4 | learning rate: 6.000000E-04 | global batch size: {sequences:5d} | lm loss: "
            f"{loss - 0.1:.6E} | loss scale: 1.0 | grad norm: 0.811 | number of skipped iterations:   0 | number of "
            "nan iterations:   0 |"
        )
        text = (
            f" validation loss at iteration {step} | lm loss value: {loss:.6E} | lm loss PPL: {math.exp(loss):.6E} | "
        )
        lines += ["-" * len(text), text, "-" * len(text)]
    step, _, loss = run.end
    if rng.random() < 0.5:
        lines.append(
            f" validation loss at iteration {step} on validation set | lm loss value: {loss:.6E} | lm loss PPL: 9 | "
        )
        lines.append(
            f" validation loss at iteration {step} on test set | lm loss value: {loss + 1:.6E} | lm loss PPL: 9 | "
        )
    (folder / f"{run.name}.log").write_text("\n".join(prefix + line for line in lines) + "\n")
    return known(folder / f"{run.name}.log", [run], "a log of Megatron-LM")


PREFIXES = ("", "[EVAL] ", "2026-01-01 12:00:00,123 - INFO - ", "[rank0]: ", "0: ", "\x1b[32m")


def nanogpt(rng: np.random.Generator, folder: Path) -> Known:
    """A nanoGPT log of several models one after the other, some resumed after a stop, each with its batch."""
    runs, prefix = some_runs(rng), str(rng.choice(PREFIXES))
    lines: list[str] = []
    for run in runs:
        stop = int(rng.integers(1, len(run.points) + 1)) if rng.random() < 0.4 else 0
        for points in (run.points[:stop], run.points[max(stop - 1, 0) :]):
            if points:
                lines += [f"max_iters = {run.end[0]}", f"tokens per iteration will be: {run.batch:,}",
                          f"number of parameters: {run.n_params / 1e6:.2f}M"]  # fmt: skip
            if points and points[0] == run.points[0]:
                lines.append("step 0: train loss 10.9000, val loss 10.9100")
            lines += [f"step {step}: train loss {loss - 0.1:.4f}, val loss {loss:.4f}" for step, _, loss in points]
    (folder / "train.log").write_text("\n".join(prefix + line for line in lines))
    return known(folder / "train.log", runs, f"nanoGPT, prefix {prefix!r}", named=False)


def interleaved(rng: np.random.Generator, folder: Path) -> Known:
    """A nanoGPT log of runs whose lines are mixed, each line with the label of its run."""
    runs = [run for run in some_runs(rng) if run.name not in ("None", "nan")] or some_runs(rng, 1)
    form = str(rng.choice(["[{}] ", "{}: ", "{} | ", "2026-01-01 12:00:00 [{}] ", "[{}][INFO] "]))
    streams = []
    for run in runs:
        head = [f"tokens per iteration will be: {run.batch:,}", f"number of parameters: {run.n_params / 1e6:.2f}M"]
        message = [f"step {step}: train loss {loss - 0.1:.4f}, val loss {loss:.4f}" for step, _, loss in run.points]
        if rng.random() < 0.3:  # stopped and begun again from the first evaluation
            message = [*message[:2], *head, *message[1:]]
        streams.append([form.format(run.name) + line for line in head + message])
    lines: list[str] = []
    while any(streams):
        chosen = [stream for stream in streams if stream]
        lines.append(chosen[int(rng.integers(len(chosen)))].pop(0))
    (folder / "train.log").write_text("\n".join(lines))
    first = [next(k for k, line in enumerate(lines) if line.startswith(form.format(run.name) + "step")) for run in runs]
    runs = [runs[k] for k in np.argsort(first)]
    return known(folder / "train.log", runs, f"mixed lines {form!r}", named=False)
