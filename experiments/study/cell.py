"""A cell: one model, one data set, one optimiser setting, one budget, one seed; its identity, and what its steps do.

`run_id` hashes what determines the losses and nothing else, so a cell launched alone and the same cell of a sweep are
one run, and studies that overlap share runs. Cells that differ only in budget share a trunk where the schedule has one.

A run is measured on a few held-out windows along its curve, and on all of them at its end.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec
from isoflop.experiments.study.optimizers import OPTIMIZERS, optimizer_flops
from isoflop.models.config import PLAIN, ModelConfig, n_matrices, training_flops_per_token

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What is hashed of a cell that uses none of the idle keys below. 1: one data order for all sizes of a seed, as in the
# tables of experiments/results/v1. 2: an order for each seed, depth and width.
WHAT_VERSION = 2

FIRST_ROW = 64  # steps
ROWS_PER_DOUBLING = 2
CURVE_SHARE = 32  # rows on the way are measured on every 32nd window of the final evaluation,
CURVE_TOKENS = 4096  # or on more of a small one: so many targets if it has them
ROW_SHARE = 0.35  # of a training step's time or FLOPs: an evaluation of as many tokens
DENSE_SHARE = 0.01  # of a run up to any step: what rows between those of `row_steps` may cost
MOST_ROWS = 64  # per doubling


@dataclass(frozen=True)
class Initial:
    """Weights to begin from. `digest` hashes the files that hold them: it is what a run's identity heeds."""

    folder: Path
    digest: str
    parent: str  # the run that they are of; empty for a checkpoint from elsewhere


@dataclass(frozen=True)
class Cell:
    """One training run, resolved. Two cells with the same `run_id` have the same losses."""

    model: ModelConfig
    size: str
    data: DataSpec
    optim: OptimSpec
    schedule: ScheduleSpec
    corpus_id: str
    seed: int
    arm: str
    steps: int
    budget_flops: float  # the budget requested; NaN when the budget was given in tokens
    initial: Initial | None = None  # None: random weights, by the seed
    precision: str = "float32"  # of the matrix products

    def what(self) -> dict:
        """Everything that determines the losses, and nothing else: what `run_id` hashes."""
        return self._trunk() | {"steps": self.steps}

    def _trunk(self) -> dict:
        return {
            "version": WHAT_VERSION,
            "model": _hashed(self.model, _idle_model(self.model)),
            "data": {"corpus_id": self.corpus_id, "eval_tokens": self.data.eval_tokens},
            "optim": _hashed(self.optim, _idle_optim(self.optim)),
            "schedule": _hashed(self.schedule, _idle_schedule(self.schedule)),
            "seed": self.seed,
        } | self._beyond()

    def _beyond(self) -> dict:
        """The parts of `what` that few cells have: initial weights, a mixture, a precision other than float32, a single
        expert of a token from several (whose weight was 1, and not its probability, in runs without this part)."""
        few: dict = {"initial": self.initial.digest} if self.initial else {}
        few |= {"gate": "probability"} if self.model.experts > self.model.experts_per_token == 1 else {}
        few |= {"mixture": dict(self.data.mixture)} if self.data.mixture else {}
        return few | ({"precision": self.precision} if self.precision != "float32" else {})

    @cached_property
    def run_id(self) -> str:
        """The identity of the run: a hash of everything that determines its losses."""
        return digest(self.what())

    @cached_property
    def trunk_id(self) -> str:
        """What this cell shares with others before they differ. A schedule without a trunk shares nothing."""
        return digest(self._trunk()) if self.schedule.name == "wsd" else digest({"trunk_of": self.run_id})

    @property
    def label(self) -> str:
        """Size, compute, seed and mixture in words, for messages."""
        arm = f"{self.arm} " if self.arm else ""
        shares = [f"{name} {share:.3g}" for name, share in self.data.mixture.items()]
        mixture = f" of {', '.join(shares)}" if shares else ""
        return f"{arm}{self.size} at {self.training_flops:.2g} FLOPs seed {self.seed}{mixture}"

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.optim.batch_size * self.model.context_length

    @property
    def horizon_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.batch_tokens

    @property
    def step_flops(self) -> int:
        """Exact: forward and backward, causal attention, with the head, and the optimiser's matrix products."""
        return self.batch_tokens * training_flops_per_token(self.model) + optimizer_flops(self.model, self.optim)

    @property
    def training_flops(self) -> int:
        """Exact FLOPs of the whole run."""
        return self.steps * self.step_flops

    @property
    def tokens_per_param(self) -> float:
        """Tokens over weight matrices with the head."""
        return self.horizon_tokens / n_matrices(self.model)

    @property
    def warmup(self) -> int:
        """Steps of warm-up: the same for every cell of a trunk."""
        return self.schedule.warmup_steps

    @property
    def branch_step(self) -> int:
        """The step that this cell leaves its trunk at: the first of its cooldown, as `learning_rate` has it."""
        if self.schedule.name != "wsd":
            return 0
        return self.steps - max(1, round(self.schedule.cooldown_fraction * self.steps))


def group_by_trunk(cells: Iterable[Cell]) -> dict[str, tuple[Cell, ...]]:
    """Cells by the id of their trunk, the shortest first in each."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.trunk_id, []).append(cell)
    return {trunk: tuple(sorted(group, key=lambda c: c.steps)) for trunk, group in groups.items()}


def trunk_steps(cells: Iterable[Cell]) -> int:
    """Optimiser steps that a trunk and its branches take together."""
    cells = tuple(cells)
    return max(cell.branch_step for cell in cells) + sum(cell.steps - cell.branch_step for cell in cells)


def row_steps(until: int) -> list[int]:
    """The steps up to `until` at which a run is measured: a geometric grid, the same for every run."""
    steps, k = [], 0
    while (step := round(FIRST_ROW * 2 ** (k / ROWS_PER_DOUBLING))) <= until:
        steps.append(step)
        k += 1
    return steps


def rows_between(cell: Cell, until: int, per_doubling: int) -> list[int]:
    """The further steps up to `until` at which a run is measured where `per_doubling` rows are requested, evenly along
    ln step: as many as cost DENSE_SHARE of the steps so far, at most. The same for every cell of a trunk.
    """
    tokens = cell.data.eval_tokens // curve_stride(cell.data.eval_tokens)
    cost = ROW_SHARE * tokens / cell.batch_tokens  # of a row, in steps
    grid, found, k = set(row_steps(until)), [0], 0
    while (step := round(FIRST_ROW * 2 ** (k / per_doubling))) <= until:
        if step not in grid and step > found[-1] and len(found) * cost <= DENSE_SHARE * step:
            found.append(step)
        k += 1
    return found[1:]


def curve_stride(eval_tokens: int) -> int:
    """k where rows before the last are measured on every k-th window of a final evaluation on `eval_tokens`."""
    return max(1, min(CURVE_SHARE, eval_tokens // CURVE_TOKENS))


def to_plain(cell: Cell) -> dict[str, Any]:
    """Every field of a cell as JSON knows it: dictionaries, lists, text, numbers; NaN as null; and its run id."""
    plain = asdict(cell) | {"run_id": cell.run_id}
    if cell.initial:
        plain["initial"] |= {"folder": str(cell.initial.folder)}
    return plain | {"budget_flops": None if math.isnan(cell.budget_flops) else cell.budget_flops}


def from_plain(plain: Mapping[str, Any]) -> Cell:
    """The cell that `to_plain` wrote. Raises KeyError, TypeError or ValueError for anything else, and for a cell whose
    settings are not those of its run id: edited, or written by another version."""
    cell = _of_kind(Cell, {key: value for key, value in plain.items() if key != "run_id"})
    if cell.run_id != plain["run_id"]:
        raise ValueError(f"its run {plain['run_id']} has the settings of run {cell.run_id}")
    return cell


def _of_kind(kind: Any, value: Any) -> Any:
    """The value of type `kind` that `to_plain` wrote: dataclasses by their fields, null as NaN where a float stands."""
    if isinstance(kind, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    elif value is None and kind is float:
        return math.nan
    if value is None:
        return None
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise TypeError(f"{getattr(kind, '__name__', kind)} is keys with values, not {str(value)[:60]!r}")
        kinds = get_type_hints(kind)
        return kind(**{key: _of_kind(kinds[key], part) for key, part in value.items()})  # type: ignore[operator]
    return Path(value) if kind is Path else value


def _hashed(spec: "DataclassInstance", idle: set[str]) -> dict:
    return {key: value for key, value in vars(spec).items() if key not in idle}


def _idle_model(model: ModelConfig) -> set[str]:
    """Options that are at their default part."""
    idle = {name for name, value in PLAIN.items() if getattr(model, name) == value}
    return idle | (set() if model.experts else {"experts_per_token"})


def _idle_optim(optim: OptimSpec) -> set[str]:
    """Keys that do nothing in this cell: rules are numbers by now, and some keys belong to one kind alone."""
    idle = {"rule", "beta2_half_life"}
    idle |= set() if optim.parametrization == "completep" else {"base_depth"}
    of_others = [facts.own_settings for name, facts in OPTIMIZERS.items() if name != optim.name]
    own = OPTIMIZERS[optim.name].own_settings if optim.name in OPTIMIZERS else frozenset()
    return idle.union(*of_others) - own


def _idle_schedule(schedule: ScheduleSpec) -> set[str]:
    cooldown = {"cooldown_fraction", "cooldown_shape"}
    return {"wsd": set(), "constant": cooldown | {"final_fraction"}}.get(schedule.name, cooldown)


def digest(value: Mapping[str, Any]) -> str:
    """The id of what `value` describes: the first 12 digits of the SHA-256 of its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
