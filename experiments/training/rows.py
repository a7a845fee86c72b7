"""Rows of the run table: what a cell is, what was measured at a step, where it ran."""

import math
import platform
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from isoflop.experiments.data.batches import Corpus, count_windows
from isoflop.experiments.data.domains.interleave import counts
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.training.evaluate import Evaluation
from isoflop.models.config import count_params, flops_per_token, n_active, n_total
from isoflop.scaling.table.evaluations.domains import Domain, written
from isoflop.scaling.table.migrate import OF_OPTIMIZER, OF_SCHEDULE
from isoflop.scaling.table.runs import code_version

ROUNDING = 1e-6  # of ln V, the loss of a guess


@dataclass(frozen=True)
class Measurement:
    """One evaluation of a run in training: the numbers that its row is made of."""

    step: int
    learning_rate: float
    phase: str
    loss: float  # held-out, nats/token
    loss_se: float  # its standard error over windows
    accuracy: float  # share of next tokens that are the most likely one
    train_loss: float  # mean over the steps since the last row that is not between, nats/token
    seconds: float  # of training and evaluation, since the first step
    noise_scale: float = math.nan  # of the gradient, over the last steps mostly, tokens
    domains: list[float] = field(default_factory=list)  # held-out loss of each domain of a mixture, nats/token
    between: bool = False  # one of `rows_between`: it changes nothing in the other rows


def only_guesses(rows: Sequence[Measurement], guess: float, first_loss: float) -> bool:
    """Whether the last row is no better than `guess` (ln V, nats/token) and none of a run on its way down to it.

    A step size far too large need not end in NaN: logits that are huge, or all equal, lose to ln V just as well. A run
    whose first weights had more than ln V, a tied head's or those of a run on other text, may take its time; it has
    lost once it is back above `first_loss`, or above ln V after a row clearly below, or calls all tokens alike.
    """
    last = rows[-1]
    if last.loss < (1 - ROUNDING) * guess:
        return False
    alike = abs(last.loss - guess) <= ROUNDING * guess and not last.loss_se > ROUNDING * guess
    return alike or last.loss >= (1 - ROUNDING) * first_loss or any(at_most(row) < guess for row in rows)


def at_most(found: Evaluation | Measurement) -> float:
    """The loss on other windows than those it was measured on: two standard errors more."""
    return found.loss + (0.0 if math.isnan(found.loss_se) else 2 * found.loss_se)


def run_rows(
    cell: Cell,
    corpus: Corpus,
    measurements: Sequence[Measurement],
    *,
    state: str,
    device: str,
    processes: str = "",
    kernels: str = "",
    engine: str = "",
) -> list[dict]:
    """The run table's rows of one cell, in the order of the steps. The last one is final unless the run diverged.

    `state` is "running", "stopped", "done" or "diverged"; `processes` says how many shared a step, `kernels` which
    compiled ones, `engine` what took the steps.
    """
    constants = _constants(cell, corpus) | _provenance(device, processes, kernels)
    constants |= {"state": state, "engine": engine}
    rows = [constants | _measured(cell, corpus, m) for m in measurements]
    for row in rows:
        row["final"] = state == "done" and row["step"] == cell.steps
    return rows


def _constants(cell: Cell, corpus: Corpus) -> dict:
    model, counts, flops = cell.model, count_params(cell.model), flops_per_token(cell.model)
    return {
        "run_id": cell.run_id,
        "trunk_id": cell.trunk_id,
        "arm": cell.arm,
        "seed": cell.seed,
        "family": model.family,
        "n_layer": model.n_layer,
        "d_model": model.d_model,
        "n_head": model.n_head,
        "d_ff": model.d_ff,
        "vocab_size": model.vocab_size,
        "context_length": model.context_length,
        "tied": model.tied,
        "norm": model.norm,
        "activation": model.activation,
        "positions": model.positions,
        "experts": model.experts,
        "experts_per_token": model.experts_per_token if model.experts else 0,
        "weight_bits": model.weight_bits,
        "activation_bits": model.activation_bits,
        **{f"n_params_{group}": count for group, count in counts.items()},
        "n_params_total": n_total(model),
        "n_params_active": n_active(model),
        **{f"flops_token_{group}": count for group, count in flops.items()},
        "corpus_id": corpus.corpus_id,
        "tokenizer_id": corpus.tokenizer_id,
        "eval_id": corpus.eval_id,
        "loss_floor": corpus.loss_floor,
        "bytes_per_token": corpus.bytes_per_token,
        "unique_tokens": count_windows(corpus.train_tokens, model.context_length) * model.context_length,
        "optimizer": cell.optim.name,
        "parametrization": cell.optim.parametrization,
        "schedule": cell.schedule.name,
        "peak_learning_rate": cell.optim.learning_rate,
        "weight_decay": cell.optim.weight_decay,
        **{name: float(getattr(cell.optim, name) or 0.0) for name in OF_OPTIMIZER},
        **{name: getattr(cell.schedule, name) for name in (*OF_SCHEDULE, "cooldown_shape")},
        "warmup_tokens": cell.schedule.warmup_steps * cell.batch_tokens,
        "horizon_tokens": cell.horizon_tokens,
        "budget_flops": cell.budget_flops,
        "batch_tokens": cell.batch_tokens,
        "dtype": cell.precision,
    }


def _measured(cell: Cell, corpus: Corpus, at: Measurement) -> dict:
    tokens = at.step * cell.batch_tokens
    unique = count_windows(corpus.train_tokens, cell.model.context_length) * cell.model.context_length
    return {
        "step": at.step,
        "tokens": tokens,
        "epochs": tokens / unique,
        "learning_rate": at.learning_rate,
        "phase": at.phase,
        "loss": at.loss,
        "loss_se": at.loss_se,
        "bits_per_byte": at.loss / (math.log(2) * corpus.bytes_per_token),
        "accuracy": at.accuracy,
        "train_loss": at.train_loss,
        "noise_scale": at.noise_scale,
        "mixture": _mixture(cell, corpus, at),
        "flops": float(at.step * cell.step_flops),
        "flops_6nd": float(6 * n_total(cell.model) * tokens),
        "wall_seconds": at.seconds,
    }


def _mixture(cell: Cell, corpus: Corpus, at: Measurement) -> str:
    """What the run table keeps of each domain of a mixture (`scaling.table.evaluations.domains`); "" without one."""
    found = corpus.mixture(cell.data) if cell.data.mixture else None
    if found is None:
        return ""
    length = cell.model.context_length
    read = counts(found.shares, at.step * cell.optim.batch_size)
    losses = at.domains or [math.nan] * len(read)
    return written({
        one["name"]: Domain(weight=share, loss=loss, epochs=n / windows, unique_tokens=windows * length)
        for one, share, windows, n, loss in zip(corpus.domains, *found, read, losses, strict=True)
    })  # fmt: skip


def _provenance(device: str, processes: str, kernels: str) -> dict:
    name, memory = f"{device} {platform.machine()}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.startswith("cuda"):
        name, memory = torch.cuda.get_device_name(device), torch.cuda.max_memory_reserved(device)
    return {
        "device": name + (f", {processes}" if processes else ""),
        "peak_memory_bytes": memory,
        "code_version": code_version(),
        "torch_version": torch.__version__ + (f"; kernels {kernels}" if kernels else ""),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
