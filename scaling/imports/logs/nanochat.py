"""Logs of nanochat (github.com/karpathy/nanochat, scripts/base_train.py); validation is in bits per byte."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from isoflop.scaling.imports.logs.log import NUMBER, LogReader
from isoflop.scaling.imports.source import ForeignRun, reported_loss

_EVAL = re.compile(rf"^Step (\d+) \| Validation bpb: (?P<loss>{NUMBER})")
_STEP = re.compile(rf"^step (\d+)/(\d+) \([^)]*\) \| loss: ({NUMBER})")
_REPORTED = {
    "batch": re.compile(r"^Total batch size ([\d,]+) =>"),
    "steps": re.compile(r"number of iterations(?: from [^:]*)?: ([\d,]+)\s*$"),
    "flops": re.compile(r"^Estimated FLOPs per token: ([\d.e+-]+)"),
    "params": re.compile(r"^Number of parameters: ([\d,]+)"),
}
_COUNT = re.compile(r"^(\w+)\s*: ([\d,]+)\s*$")


def _run(lines: list[str], path: Path) -> ForeignRun | None:
    reported: dict[str, float] = {}
    counts: dict[str, float] = {}
    rows: list[dict] = []
    skipped: Counter[str] = Counter()
    train = float("nan")
    for line in lines:
        if match := _EVAL.match(line):
            rows.append({"step": int(match[1]), "loss": reported_loss(float(match[2])), "train_loss": train})
        elif match := _STEP.match(line):
            skipped["training loss alone (a step line)"] += 1
            train, reported["steps"] = float(match[3]), float(match[2])
        elif not rows and (match := _COUNT.match(line)):
            counts[match[1]] = float(match[2].replace(",", ""))
        for key, pattern in _REPORTED.items():
            if match := pattern.search(line):
                reported[key] = float(match[1].replace(",", ""))
    if not rows and not skipped:
        return None
    return ForeignRun(
        name=path.stem, source=f"nanochat log {path.name}", loss_unit="bits/byte",
        curve=pd.DataFrame(rows, columns=["step", "loss", "train_loss"], dtype=float), skipped=skipped,
        horizon_steps=int(reported["steps"]) if "steps" in reported else None, batch_tokens=reported.get("batch"),
        n_params=_counts(counts, reported.get("params")), flops_per_token=reported.get("flops"),
        compute_convention="nanochat: estimate_flops, forward and backward, with attention and head",
    )  # fmt: skip


def _counts(counts: dict[str, float], single: float | None) -> dict[str, float]:
    """Parameters by convention where the log counts groups (matrices: its scaling parameters), else the total alone."""
    if {"transformer_matrices", "lm_head", "total"} <= set(counts):
        return {
            "matrices": counts["transformer_matrices"] + counts["lm_head"],
            "total": counts["total"],
            "no-embedding": counts["transformer_matrices"] + counts.get("scalars", 0.0),
        }
    return {"total": single} if single else {}


NANOCHAT = LogReader(
    ("nanochat",), (_EVAL, _STEP), re.compile(r"^Vocab size: "),
    re.compile(r"^(?:Number of parameters: ([\d,]+)|total\s*: ([\d,]+)\s*$)"), (_REPORTED["batch"],), _run,
)  # fmt: skip
