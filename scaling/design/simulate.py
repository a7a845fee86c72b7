"""Tables of runs simulated from a known law, for tests of recovery and coverage.

`simulate_study` makes a whole run table with shapes, FLOPs and curves, `simulate_points` a plain table of three
columns. Noise is a normal error of ln loss.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from isoflop.scaling.table.formats.run_columns import COLUMNS, NAMES
from isoflop.scaling.table.migrate import OF_OPTIMIZER, OF_SCHEDULE

_DTYPE = {"string": "str", "int64": "int64", "float64": "float64", "bool": "bool"}
VOCAB_SIZE, CONTEXT_LENGTH, BATCH_TOKENS = 256, 64, 512
COOLDOWN = 0.2  # share of a cell's own steps
TRUNK_PENALTY = 0.05  # how far ln loss at constant learning rate lies above the cooled-down loss of the law

Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]


def simulate_points(
    law: Surface,
    n_params: Sequence[float],
    tokens: Sequence[float],
    *,
    noise: float = 0.0,
    outliers: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """A plain table of n_params, tokens, loss. A share `outliers` of its rows has ln loss raised by 0.05 to 0.2."""
    rng = np.random.default_rng(seed)
    sizes, seen = np.broadcast_arrays(np.asarray(n_params, float), np.asarray(tokens, float))
    log_loss = np.log(law(sizes, seen)) + rng.normal(0.0, noise, sizes.shape)
    hit = rng.permutation(sizes.size).reshape(sizes.shape) < round(outliers * sizes.size)
    log_loss = log_loss + np.where(hit, rng.uniform(0.05, 0.2, sizes.shape), 0.0)
    return pd.DataFrame({"n_params": sizes.ravel(), "tokens": seen.ravel(), "loss": np.exp(log_loss).ravel()})


def simulate_study(
    law: Surface,
    *,
    sizes: Sequence[int] = (8, 12, 16, 24, 32, 40, 48, 64, 80),
    budgets: Sequence[float] = (3e10, 1e11, 3e11, 1e12),
    noise: float = 0.0,
    seed: int = 0,
    curves: bool = True,
    factor: float = 8.0,
    seeds: Sequence[int] = (0,),
) -> pd.DataFrame:
    """A run table of widths `sizes` at exact FLOP `budgets`, with the losses of `law` (matrix weights, tokens).

    A cell is kept when its size lies within `factor` of the budget's best size. Cells of one size and seed share a
    trunk and its rows; `noise` is the sd of ln loss between cells. `seeds` are replicates, `seed` draws the noise.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict] = []
    shapes = [_shape(d) for d in sizes]
    for replicate in seeds:
        for shape in shapes:
            trunk = {**shape, "seed": replicate, "trunk_id": _hash(shape["d_model"], replicate)}
            horizons = [_horizon(shape, c) for c in budgets if _kept(law, shape, shapes, c, factor)]
            for budget, tokens in horizons:
                rows.extend(_cell(law, trunk, budget, tokens, noise=noise, rng=rng, curves=curves))
    if not rows:
        raise ValueError(f"no cell within a factor {factor:g} of the best size: widen factor, sizes or budgets")
    frame = pd.DataFrame(rows)[list(NAMES)].astype({c.name: _DTYPE[c.dtype] for c in COLUMNS})
    return frame.sort_values(["run_id", "step"], kind="stable", ignore_index=True)


def _shape(width: int) -> dict:
    """A decoder of this width: run-table columns for its shape, parameters and forward FLOPs per token."""
    layers, heads = max(2, width // 16), max(1, width // 8)
    d_ff = 8 * -(-width // 3)
    attention, mlp, embedding = 4 * width**2 * layers, 3 * width * d_ff * layers, VOCAB_SIZE * width
    norm = width * (2 * layers + 1)
    scores = 2.0 * layers * width
    return {
        "family": "transformer", "n_layer": layers, "d_model": width, "n_head": heads, "d_ff": d_ff,
        "vocab_size": VOCAB_SIZE, "context_length": CONTEXT_LENGTH, "tied": False,
        "n_params_embedding": embedding, "n_params_position": 0, "n_params_attention": attention,
        "n_params_recurrent": 0, "n_params_mlp": mlp, "n_params_norm": norm, "n_params_unembedding": embedding,
        "n_params_total": 2 * embedding + attention + mlp + norm, "n_params_active": attention + mlp + embedding,
        "norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "experts": 0, "experts_per_token": 0,
        "weight_bits": 32, "activation_bits": 32,
        "flops_token_blocks": 2 * (attention + mlp),
        "flops_token_attention_scores": scores * (CONTEXT_LENGTH + 1),
        "flops_token_attention_scores_full": scores * 2 * CONTEXT_LENGTH,
        "flops_token_unembedding": 2 * embedding,
    }  # fmt: skip


def _matrices(shape: dict) -> int:
    return shape["n_params_attention"] + shape["n_params_mlp"] + shape["n_params_unembedding"]


def _training_flops_per_token(shape: dict) -> float:
    return 3.0 * sum(shape[f"flops_token_{g}"] for g in ("blocks", "attention_scores", "unembedding"))


def _horizon(shape: dict, budget: float) -> tuple[float, int]:
    steps = round(budget / _training_flops_per_token(shape) / BATCH_TOKENS)
    return budget, max(steps, 1) * BATCH_TOKENS


def _kept(law: Surface, shape: dict, shapes: Sequence[dict], budget: float, factor: float) -> bool:
    sizes = np.array([_matrices(s) for s in shapes], float)
    tokens = np.array([budget / _training_flops_per_token(s) for s in shapes])
    best = sizes[np.argmin(law(sizes, tokens))]
    return bool(1 / factor <= _matrices(shape) / best <= factor)


def _cell(
    law: Surface, trunk: dict, budget: float, horizon: int, *, noise: float, rng: np.random.Generator, curves: bool
) -> list[dict]:
    """The rows of one run: the trunk's evaluations up to its cooldown, then the final one at its own horizon."""
    run = {**trunk, "run_id": _hash(trunk["trunk_id"], horizon), "horizon_tokens": horizon, "budget_flops": budget}
    size = np.array([float(_matrices(trunk))])

    def loss(tokens: int) -> float:
        return float(law(size, np.array([float(tokens)]))[0])

    rows = []
    if curves:
        for tokens in _evaluations(horizon):
            rows.append(_row(run, tokens, loss(tokens) * np.exp(TRUNK_PENALTY), final=False))
    rows.append(_row(run, horizon, loss(horizon) * np.exp(rng.normal(0.0, noise)), final=True))
    return rows


def _evaluations(horizon: int) -> list[int]:
    """Token counts on a geometric grid that depends on nothing but the trunk, up to the branch point."""
    grid = np.unique(np.round(100 * 2.0 ** (np.arange(80) / 2)).astype(np.int64)) * BATCH_TOKENS
    return [int(t) for t in grid if t <= (1 - COOLDOWN) * horizon]


def _row(run: dict, tokens: int, loss: float, *, final: bool) -> dict:
    per_token = _training_flops_per_token(run)
    unique = 10_000_000
    return {
        **run, "arm": "", "state": "done", "final": final,
        "corpus_id": "simulated", "tokenizer_id": "bytes", "eval_id": "simulated", "loss_floor": np.nan,
        "bytes_per_token": 1.0, "unique_tokens": unique, "epochs": tokens / unique,
        "optimizer": "none", "parametrization": "none", "schedule": "wsd", "peak_learning_rate": 0.02,
        "weight_decay": 0.0, **dict.fromkeys((*OF_OPTIMIZER, *OF_SCHEDULE), np.nan), "cooldown_shape": "",
        "warmup_tokens": 25 * BATCH_TOKENS, "step": tokens // BATCH_TOKENS, "tokens": tokens,
        "batch_tokens": BATCH_TOKENS, "learning_rate": 0.0 if final else 0.02,
        "phase": "cooldown" if final else "constant",
        "loss": loss, "loss_se": 0.0, "bits_per_byte": loss / np.log(2), "accuracy": np.nan, "train_loss": loss,
        "mixture": "", "noise_scale": np.nan,
        "flops": per_token * tokens, "flops_6nd": 6.0 * run["n_params_total"] * tokens,
        "wall_seconds": 0.0, "peak_memory_bytes": 0, "code_version": "simulated", "torch_version": "",
        "engine": "", "device": "none", "dtype": "float32", "created_at": "",
    }  # fmt: skip


def _hash(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:12]
