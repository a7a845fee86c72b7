"""Logs of nanoGPT (github.com/karpathy/nanoGPT, train.py)."""

import ast
import math
import operator
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.scaling.imports.logs.log import NUMBER, LogReader
from isoflop.scaling.imports.shapes import Shape
from isoflop.scaling.imports.source import ForeignRun, reported_loss
from isoflop.scaling.table.meaning import number

_EVAL = re.compile(rf"^step (\d+): train loss (?P<train>{NUMBER}), val loss (?P<loss>{NUMBER})(?![\w.])")
_ITER = re.compile(r"^iter (\d+): loss ")
_SETTING = re.compile(r"^\s*(?:Overriding: )?([a-z]\w*) = (.+?)\s*(?:#.*)?$")
_REPORTED = {
    "tokens": re.compile(r"^tokens per iteration will be: ([\d,]+)"),
    "vocab": re.compile(r"^(?:found vocab_size = (\d+) |defaulting to vocab_size of GPT-2 to (\d+))"),
    "params": re.compile(r"^number of parameters: ([\d.,_]+ ?[KMB]?)(?!\w)", re.IGNORECASE),
}
# train.py's own values, used only where its count of parameters confirms them.
_DEFAULTS: dict[str, Any] = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "block_size": 1024,
    "bias": False,
    "max_iters": 600_000,
}
_DEFAULTS |= {"learning_rate": 6e-4, "warmup_iters": 2000, "lr_decay_iters": 600_000, "decay_lr": True}
_DIMENSIONS = ("n_layer", "n_head", "n_embd", "block_size", "bias")


def _run(lines: list[str], path: Path) -> ForeignRun | None:
    reported: dict[str, float] = {}
    settings: dict[str, Any] = {}
    rows: list[dict] = []
    skipped: Counter[str] = Counter()
    for line in lines:
        if match := _EVAL.match(line):
            loss = reported_loss(float(match["loss"]))
            rows.append({"step": int(match[1]), "train_loss": float(match["train"]), "loss": loss})
        elif _ITER.match(line):
            skipped["training loss alone (an iter line)"] += 1
        elif not rows and (match := _SETTING.match(line)) and (value := _literal(match[2])) is not None:
            settings[match[1]] = value
        for key, pattern in _REPORTED.items():
            if match := pattern.match(line):
                reported[key] = number(next(group for group in match.groups() if group)) or 0.0
    if not rows and not skipped:
        return None
    shape, why = _shape(settings, reported)
    known = {key: settings.get(key, default if shape else None) for key, default in _DEFAULTS.items()}
    curve = pd.DataFrame(rows, columns=["step", "train_loss", "loss"], dtype=float)
    decays = known["decay_lr"]
    return ForeignRun(
        name=path.stem, source=f"nanoGPT log {path.name}", curve=curve, shape=shape,
        horizon_steps=int(settings["max_iters"]) if "max_iters" in settings else None,
        batch_tokens=reported.get("tokens"), skipped=skipped,
        n_params={} if "params" not in reported else {why: reported["params"]},
        settings={
            "corpus": settings.get("dataset", ""), "optimizer": "adamw", "dtype": settings.get("dtype", ""),
            "schedule": "" if decays is None else "cosine" if decays else "constant",
            "learning_rate": known["learning_rate"] or float("nan"), "warmup_steps": known["warmup_iters"] or 0,
            "seed": settings.get("seed", 0),
        },
    )  # fmt: skip


def _shape(settings: dict, reported: dict) -> tuple[Shape | None, str]:
    """The shape, where the log's own count of parameters confirms it, else None; and the convention of that count."""
    counted = "nanoGPT: total less the position embedding, to 0.01M"
    if not {"vocab", "params"} <= set(reported):
        return None, counted
    values = {key: settings.get(key, _DEFAULTS[key]) for key in _DIMENSIONS}
    bias = bool(values.pop("bias"))
    shape = nanogpt_shape(
        **{key: int(value) for key, value in values.items()}, vocab_size=int(reported["vocab"]), bias=bias
    )
    counts = shape.total - shape.params["position"]
    return (shape if math.isclose(counts, reported["params"], abs_tol=6000) else None), counted


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


def nanogpt_shape(n_layer: int, n_head: int, n_embd: int, block_size: int, vocab_size: int, *, bias: bool) -> Shape:
    """The shape of nanoGPT's GPT: learned positions, LayerNorm, GELU of width 4 n_embd, head tied to the embedding.

    A tied matrix counts once, as unembedding. With `bias` every matrix of the blocks and every norm has one.
    """
    square = n_embd**2
    vectors = n_embd * (2 * n_layer + 1) * (2 if bias else 1) + (9 * n_embd * n_layer if bias else 0)
    attention, mlp, head = 4 * n_layer * square, 8 * n_layer * square, vocab_size * n_embd
    per_key = 4.0 * n_layer * n_embd
    return Shape(
        "transformer", n_layer, n_embd, n_head, 4 * n_embd, vocab_size, block_size, True,
        params={
            "embedding": 0, "position": block_size * n_embd, "attention": attention, "recurrent": 0, "mlp": mlp,
            "norm": vectors, "unembedding": head,
        },
        flops={
            "blocks": 2 * (attention + mlp), "attention_scores": per_key * (block_size + 1) / 2,
            "attention_scores_full": per_key * block_size, "unembedding": 2 * head,
        },
    )  # fmt: skip


NANOGPT = LogReader(
    ("nanogpt",), (_EVAL, _ITER), _REPORTED["tokens"], _REPORTED["params"],
    (_REPORTED["tokens"], _REPORTED["vocab"], re.compile(r"^\s*(?:Overriding: )?(?:dataset|max_iters|dtype) = ")), _run,
)  # fmt: skip
