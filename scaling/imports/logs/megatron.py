"""Logs of Megatron-LM (github.com/NVIDIA/Megatron-LM, pretrain_gpt.py) and of its forks, GPT-NeoX among them."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.imports.logs.log import NUMBER, LogReader
from isoflop.scaling.imports.source import ForeignRun, reported_loss
from isoflop.scaling.table.meaning import number

_STEP = re.compile(r"^(?:samples/sec: [\d.]+ \| )?iteration\s+(\d+)/\s*(\d+) \|")
_EVAL = re.compile(
    rf"^valid(?:ation)? (?:loss|results) at iteration (\d+)(?: on validation set)? \| lm[ _]loss(?: value)?: "
    rf"(?P<loss>{NUMBER})"
)
_RANK = re.compile(r"^number of parameters on \(tensor, pipeline\) model parallel rank \((\d+), (\d+)\): ([\d,]+)")
_BILLIONS = re.compile(r"^Total number of parameters in billions: (\d+(?:\.\d*)?)")
_TOTAL = re.compile(r"^total params: ([\d,]+)")  # of GPT-NeoX
_UNTIED = re.compile(r"^untie_embeddings_and_output_weights \.+ True")
_SPLITS = re.compile(r"^(?:tensor|pipeline|expert)_model_parallel_size \.+ (\d+)")  # each into so many parts
NEAR = 0.005  # relative: parameters of all ranks and a total that leaves out biases and positions
_REPORTED = {
    "context": re.compile(r"^seq_length \.+ (\d+)"),
    "batch": re.compile(r"^(?:global|train)_batch_size \.+ (\d+)"),
    "steps": re.compile(r"^train_iters \.+ (\d+)"),
    "learning_rate": re.compile(rf"^lr \.+ ({NUMBER})\s*$"),
    "seed": re.compile(r"^seed \.+ (\d+)"),
}
_VALUES = {
    "samples": re.compile(r"\| consumed samples:\s*(\d+) \|"),
    "tokens": re.compile(r"\| consumed tokens:\s*(\d+) \|"),
    "train_loss": re.compile(rf"\| (?:lm[ _])?loss: ({NUMBER}) \|"),
    "learning_rate": re.compile(rf"\| learning rate: ({NUMBER}) \|"),
    "batch": re.compile(r"\| global batch size:\s*(\d+) \|"),
}


def _run(lines: list[str], path: Path) -> ForeignRun | None:
    reported: dict[str, float] = {}
    ranks: dict[tuple[str, str], float] = {}
    parts: dict[str, int] = {}
    billions, untied, total = "", False, 0.0
    training: dict[int, dict[str, float]] = {}
    rows: list[dict[str, float]] = []
    skipped: Counter[str] = Counter()
    for line in lines:
        if match := _EVAL.match(line):
            rows.append({"step": float(match[1]), "loss": reported_loss(float(match["loss"]))})
        elif match := _STEP.match(line):
            skipped["training loss alone (an iteration line)"] += 1
            training[int(match[1])] = {k: float(m[1]) for k, p in _VALUES.items() if (m := p.search(line))}
            reported["steps"] = float(match[2])
        elif match := _RANK.match(line):
            ranks[match[1], match[2]] = number(match[3]) or 0.0
        elif match := _SPLITS.match(line):
            parts[line.split()[0]] = int(match[1])
        elif match := _BILLIONS.match(line):
            billions = match[1]
        elif match := _TOTAL.match(line):
            total = number(match[1]) or 0.0
        untied = untied or bool(_UNTIED.match(line))
        for key, pattern in _REPORTED.items():
            if match := pattern.match(line):
                reported[key] = float(match[1])
    if not rows and not skipped:
        return None
    rates = [values["learning_rate"] for values in training.values() if "learning_rate" in values]
    peak = reported.get("learning_rate") or max(rates, default=float("nan"))
    batches = {values["batch"] for values in training.values() if "batch" in values}
    batch = reported.get("batch") or (min(batches) if len(batches) == 1 else None)
    context = reported.get("context")
    curve = pd.DataFrame([row | _at(training, int(row["step"])) for row in rows])
    curve = curve.reindex(columns=["step", "loss", "train_loss", "learning_rate"]).astype(float)
    curve = curve.assign(**_consumed(training, curve["step"].to_numpy(), context))
    notes = [] if len(batches) < 2 else [
        "tokens: by the samples consumed, since the batch grows; even between two iteration lines"
    ]  # fmt: skip
    counted = {"GPT-NeoX: total params, with the embedding": total}
    n_params, doubt = (
        (counted, "") if total else _params(ranks, math.prod(parts.values()) if parts else None, billions, untied)
    )
    return ForeignRun(
        name=path.stem, source=f"Megatron log {path.name}", skipped=skipped, curve=curve,
        horizon_steps=int(reported["steps"]) if "steps" in reported else None,
        batch_tokens=batch * context if batch and context else None,
        n_params=n_params, lacking={} if n_params else {"n_params": doubt},
        settings={"learning_rate": peak, "seed": int(reported.get("seed", 0))},
        notes=[*notes, f"n_params of {path.name}: {doubt}"] if n_params and doubt else notes,
    )  # fmt: skip


def _at(training: dict[int, dict[str, float]], step: int) -> dict[str, float]:
    """The training loss and rate of the last iteration line up to a step."""
    known = [k for k in training if k <= step]
    values = training[max(known)] if known else {}
    return {key: values[key] for key in ("train_loss", "learning_rate") if key in values}


def _consumed(training: dict[int, dict[str, float]], steps: np.ndarray, context: float | None) -> dict[str, np.ndarray]:
    """Samples and tokens consumed at steps (n,), of those that iteration lines report: in between they rise evenly.

    They begin at 0, and go on behind the last line by the batch that it reports, else as before it.
    """
    made: dict[str, np.ndarray] = {}
    for quantity in ("samples", "tokens"):
        reported = {0: 0.0} | {k: training[k][quantity] for k in sorted(training) if quantity in training[k]}
        if len(reported) < 2:
            continue
        at, values = np.array([*reported]), np.array([*reported.values()])
        slope = (values[-1] - values[-2]) / (at[-1] - at[-2])
        rate = training[int(at[-1])].get("batch", slope) if quantity == "samples" else slope
        made[quantity] = np.interp(steps, at, values) + np.maximum(steps - at[-1], 0) * rate
    if "samples" in made and "tokens" not in made and context:
        made["tokens"] = made["samples"] * context
    return made


def _params(
    ranks: Mapping[tuple[str, str], float], parts: int | None, billions: str, untied: bool
) -> tuple[dict[str, float], str]:
    """Parameters, and what is to be said of them: the sum over ranks where the log has all of the `parts` of the model
    and the sum is the total that it reports in `billions`, else that total, else none."""
    total = float(billions or 0) * 1e9
    rounded = {f"Megatron: total in billions ({billions}), with the embedding": total} if total else {}
    if not ranks:
        return rounded, "" if rounded else "the log reports no number of parameters"
    held = sum(ranks.values())
    if len(ranks) < (parts or 1):
        doubt = f"the log has {len(ranks)} of the {parts} model-parallel ranks, with {held:,.0f} parameters"
    elif total and abs(held - total) > 0.5 * _digit(billions) + NEAR * total:
        doubt = f"the ranks in the log have {held:,.0f} parameters together, but its total is {billions} billion"
    elif any(stage != "0" for _, stage in ranks) and not total and not untied:
        doubt = f"the ranks in the log have {held:,.0f} parameters, with a tied embedding at both ends of the pipeline"
    else:
        guess = "" if parts or total else "the ranks in the log are taken as all of the model"
        return {"Megatron: all model-parallel ranks, with the embedding": held}, guess
    return rounded, f"{doubt}; the total is taken, to its digits" if rounded else doubt


def _digit(billions: str) -> float:
    """The last digit of a number of billions, in parameters."""
    return 1e9 / 10 ** len(billions.partition(".")[2])


MEGATRON = LogReader(
    ("megatron",), (_EVAL, _STEP), re.compile(r"^-+ arguments -+"),
    re.compile(
        r"^(?:number of parameters on \(tensor, pipeline\) model parallel rank \(0, 0\)|total params): ([\d,]+)"
    ),
    (_REPORTED["context"], _REPORTED["batch"], _REPORTED["steps"]), _run,
)  # fmt: skip
