"""Training logs as text: what nanoGPT and nanochat print becomes runs. Line formats as in their train scripts."""

import ast
import math
import operator
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.scaling.imports.assemble import ForeignRun, SourceError
from isoflop.scaling.imports.shapes import Shape, nanogpt_shape

NANOGPT_EVAL = re.compile(r"^step (\d+): train loss ([\d.einfa+-]+), val loss ([\d.einfa+-]+)\s*$")
_NANOGPT_ITER = re.compile(r"^iter (\d+): loss ")
_SETTING = re.compile(r"^\s*(?:Overriding: )?([a-z]\w*) = (.+?)\s*(?:#.*)?$")
_TOLD = {
    "tokens": re.compile(r"^tokens per iteration will be: ([\d,]+)"),
    "vocab": re.compile(r"^(?:found vocab_size = (\d+) |defaulting to vocab_size of GPT-2 to (\d+))"),
    "params": re.compile(r"^number of parameters: ([\d.]+)M"),
}
# train.py's own values, used only where its count of parameters confirms them.
_NANOGPT: dict[str, Any] = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "block_size": 1024,
    "bias": False,
    "max_iters": 600_000,
}
_NANOGPT |= {"learning_rate": 6e-4, "warmup_iters": 2000, "lr_decay_iters": 600_000, "decay_lr": True}
_SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "bias")

NANOCHAT_EVAL = re.compile(r"^Step (\d+) \| Validation bpb: ([\d.einfa+-]+)")
_NANOCHAT_STEP = re.compile(r"^step (\d+)/(\d+) \([^)]*\) \| loss: ([\d.einfa+-]+)")
_NANOCHAT = {
    "batch": re.compile(r"^Total batch size ([\d,]+) =>"),
    "steps": re.compile(r"number of iterations(?: from [^:]*)?: ([\d,]+)\s*$"),
    "flops": re.compile(r"^Estimated FLOPs per token: ([\d.e+-]+)"),
    "params": re.compile(r"^Number of parameters: ([\d,]+)"),
}
_NANOCHAT_COUNT = re.compile(r"^(\w+)\s*: ([\d,]+)\s*$")


def is_nanogpt(text: str) -> bool:
    return any(NANOGPT_EVAL.match(line) or _NANOGPT_ITER.match(line) for line in text.splitlines())


def is_nanochat(text: str) -> bool:
    return any(NANOCHAT_EVAL.match(line) or _NANOCHAT_STEP.match(line) for line in text.splitlines())


def nanogpt_runs(path: Path, text: str) -> list[ForeignRun]:
    """The runs of one nanoGPT log; a second one begins where the log says again how many tokens an iteration has."""
    found = [_nanogpt(lines, path) for lines in _runs_of(text, _TOLD["tokens"])]
    return _numbered([run for run in found if run is not None], path)


def nanochat_runs(path: Path, text: str) -> list[ForeignRun]:
    """The runs of one nanochat log (scripts/base_train.py); validation is in bits per byte."""
    found = [_nanochat(lines, path) for lines in _runs_of(text, re.compile(r"^Vocab size: "))]
    return _numbered([run for run in found if run is not None], path)


def _runs_of(text: str, first: re.Pattern) -> Iterator[list[str]]:
    lines: list[str] = []
    for line in text.splitlines():
        if first.match(line) and any(first.match(before) for before in lines):
            yield lines
            lines = []
        lines.append(line)
    yield lines


def _numbered(runs: list[ForeignRun], path: Path) -> list[ForeignRun]:
    if not runs:
        raise SourceError(f"{path}: no evaluation line in it")
    return runs if len(runs) == 1 else [replace(run, name=f"{run.name}#{k}") for k, run in enumerate(runs, 1)]


def _nanogpt(lines: list[str], path: Path) -> ForeignRun | None:
    told: dict[str, float] = {}
    settings: dict[str, Any] = {}
    rows: list[dict] = []
    skipped: Counter[str] = Counter()
    for line in lines:
        if match := NANOGPT_EVAL.match(line):
            rows.append({"step": int(match[1]), "train_loss": float(match[2]), "loss": float(match[3])})
        elif _NANOGPT_ITER.match(line):
            skipped["training loss alone (an iter line)"] += 1
        elif not rows and (match := _SETTING.match(line)) and (value := _literal(match[2])) is not None:
            settings[match[1]] = value
        for key, pattern in _TOLD.items():
            if match := pattern.match(line):
                told[key] = float(next(group for group in match.groups() if group).replace(",", ""))
    if not rows and not skipped:
        return None
    shape, why = _nanogpt_shape(settings, told)
    known = {key: settings.get(key, default if shape else None) for key, default in _NANOGPT.items()}
    curve = pd.DataFrame(rows, columns=["step", "train_loss", "loss"], dtype=float)
    decays = known["decay_lr"]
    return ForeignRun(
        name=path.stem, source=f"nanoGPT log {path.name}", curve=curve, shape=shape,
        horizon_steps=int(settings["max_iters"]) if "max_iters" in settings else None,
        batch_tokens=told.get("tokens"), skipped=skipped,
        n_params={} if "params" not in told else {why: told["params"] * 1e6},
        settings={
            "corpus": settings.get("dataset", ""), "optimizer": "adamw", "dtype": settings.get("dtype", ""),
            "schedule": "" if decays is None else "cosine" if decays else "constant",
            "learning_rate": known["learning_rate"] or float("nan"), "warmup_steps": known["warmup_iters"] or 0,
            "seed": settings.get("seed", 0),
        },
    )  # fmt: skip


def _nanogpt_shape(settings: dict, told: dict) -> tuple[Shape | None, str]:
    """The shape, if the log's own count of parameters confirms it; and how that count counts."""
    counted = "nanoGPT: total less the position embedding, to 0.01M"
    if not {"vocab", "params"} <= set(told):
        return None, counted
    values = {key: settings.get(key, _NANOGPT[key]) for key in _SHAPE}
    bias = bool(values.pop("bias"))
    shape = nanogpt_shape(
        **{key: int(value) for key, value in values.items()}, vocab_size=int(told["vocab"]), bias=bias
    )
    counts = (shape.total - shape.params["position"]) / 1e6
    return (shape if math.isclose(counts, told["params"], abs_tol=0.006) else None), counted


def _literal(text: str) -> object:
    """A number, a word or a product of numbers written in Python; None for anything else."""
    try:
        return _evaluate(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError):
        return None


_OPERATORS = {ast.Mult: operator.mul, ast.Add: operator.add, ast.Sub: operator.sub}


def _evaluate(node: ast.AST) -> object:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    raise ValueError("not a literal")


def _nanochat(lines: list[str], path: Path) -> ForeignRun | None:
    told: dict[str, float] = {}
    counts: dict[str, float] = {}
    rows: list[dict] = []
    skipped: Counter[str] = Counter()
    train = float("nan")
    for line in lines:
        if match := NANOCHAT_EVAL.match(line):
            rows.append({"step": int(match[1]), "loss": float(match[2]), "train_loss": train})
        elif match := _NANOCHAT_STEP.match(line):
            skipped["training loss alone (a step line)"] += 1
            train, told["steps"] = float(match[3]), float(match[2])
        elif not rows and (match := _NANOCHAT_COUNT.match(line)):
            counts[match[1]] = float(match[2].replace(",", ""))
        for key, pattern in _NANOCHAT.items():
            if match := pattern.search(line):
                told[key] = float(match[1].replace(",", ""))
    if not rows and not skipped:
        return None
    return ForeignRun(
        name=path.stem, source=f"nanochat log {path.name}", loss_unit="bits/byte",
        curve=pd.DataFrame(rows, columns=["step", "loss", "train_loss"], dtype=float), skipped=skipped,
        horizon_steps=int(told["steps"]) if "steps" in told else None, batch_tokens=told.get("batch"),
        n_params=_nanochat_counts(counts, told.get("params")), flops_per_token=told.get("flops"),
        compute_convention="nanochat: estimate_flops, forward and backward, with attention and head",
    )  # fmt: skip


def _nanochat_counts(counts: dict[str, float], single: float | None) -> dict[str, float]:
    """By our conventions where the log tells groups: `matrices` is what nanochat calls scaling parameters."""
    if {"transformer_matrices", "lm_head", "total"} <= set(counts):
        return {
            "matrices": counts["transformer_matrices"] + counts["lm_head"],
            "total": counts["total"],
            "no-embedding": counts["transformer_matrices"] + counts.get("scalars", 0.0),
        }
    return {"total": single} if single else {}
