"""From a study to its cells: sizes x budgets x seeds, exact budgets, windows. Pure functions; nothing trains or writes.

A grid is ragged: the window leaves out sizes that a budget would train for too short or too long, and each cell left
out is named with its reason.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Protocol

from isoflop.experiments.config import BudgetSpec, DataSpec, ExperimentConfig, ModelSpec, ReplicateSpec, WindowSpec
from isoflop.experiments.data.batches import count_windows
from isoflop.experiments.study.arms import variants
from isoflop.experiments.study.cell import Cell, group_by_trunk, trunk_steps
from isoflop.experiments.study.engine import decide
from isoflop.experiments.study.optimizers import optimizer_flops
from isoflop.experiments.study.rules import resolve
from isoflop.experiments.study.schedule import check as check_schedule
from isoflop.experiments.study.sizes import load_size, name_of, suggest
from isoflop.models.config import ModelConfig, n_matrices, training_flops_per_token

FEW_STEPS = 50


class StudyError(ValueError):
    """A study or cell that cannot be run as it was written."""


class Corpus(Protocol):
    """What a study must know of its data."""

    @property
    def corpus_id(self) -> str:
        """The identity of its text, split and tokenizer."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    @property
    def train_tokens(self) -> int:
        """The length of its training side."""


CorpusOf = Callable[[DataSpec], Corpus]


@dataclass(frozen=True)
class Dropped:
    """A cell of the grid that the window leaves out."""

    size: str
    budget_flops: float
    reason: str


@dataclass(frozen=True)
class Study:
    """Cells without repeats in the order of the grid, and what was left out of it."""

    name: str
    cells: tuple[Cell, ...]
    dropped: tuple[Dropped, ...] = ()
    warnings: tuple[str, ...] = ()
    hold_out: tuple[float, ...] = ()
    train_tokens: Mapping[str, int] = field(default_factory=dict)  # of each corpus by its id

    @cached_property
    def trunks(self) -> dict[str, tuple[Cell, ...]]:
        """Cells by trunk, the shortest first: one job each."""
        return group_by_trunk(self.cells)

    def epochs(self, cell: Cell) -> float:
        """How often a cell reads its corpus."""
        return cell.horizon_tokens / unique_tokens(self.train_tokens[cell.corpus_id], cell)

    @property
    def tokens_by_cell(self) -> int:
        """What a run per cell would train on."""
        return sum(cell.horizon_tokens for cell in self.cells)

    @property
    def tokens_trained(self) -> int:
        """What is trained on: every trunk once, every branch's cooldown."""
        return sum(trunk_steps(cells) * cells[0].batch_tokens for cells in self.trunks.values())


def expand(config: ExperimentConfig, corpora: CorpusOf) -> Study:
    """The cells of a study, or the single cell that `model` and `budget` describe; `corpora` finds each cell's text.

    Raises StudyError (or another ValueError, from the model's shape or its engine) naming the key, its value and the
    remedy.
    """
    study = config.study
    cells: list[Cell] = []
    dropped: list[Dropped] = []
    left_out: list[Dropped]
    train_tokens: dict[str, int] = {}
    for variant in variants(config):
        corpus = corpora(variant.data)
        train_tokens[corpus.corpus_id] = corpus.train_tokens
        if variant.study.cells:
            kept, left_out = _listed(variant, corpus), []
        elif variant.study.sizes:
            kept, left_out = _grid(variant, corpus)
        else:
            kept, left_out = _single(variant, corpus), []
        cells += kept
        dropped += left_out
    if not cells:
        reasons = "; ".join(f"{d.size} at {d.budget_flops:g}: {d.reason}" for d in dropped[:4])
        raise StudyError(f"study {study.name!r}: the window leaves no cell ({reasons}); widen study.window")
    unique = tuple({cell.run_id: cell for cell in cells}.values())
    for cell in unique:
        _check_schedule(cell)
        decide(cell, config.where)
    warnings = _epoch_warnings(unique, corpora) + _short_warnings(unique)
    return Study(study.name, unique, tuple(dropped), warnings, tuple(_hold_out(config)), train_tokens)


def _single(config: ExperimentConfig, corpus: Corpus) -> list[Cell]:
    if config.study.budgets:
        raise StudyError(f"study.budgets={config.study.budgets} without study.sizes; add study.sizes=[d16,d24,...]")
    if config.study.seeds != [0] or config.study.replicates:
        raise StudyError(
            "study.seeds and study.replicates are for study.sizes; of a single cell seed=0,1,2 trains several"
        )
    return [_cell(config, corpus, name_of(config.model, config.config_dirs), config.model, config.budget)]


def _listed(config: ExperimentConfig, corpus: Corpus) -> list[Cell]:
    """The cells of `study.cells`, each with its own seeds; no window leaves any out."""
    study, cells = config.study, []
    if study.sizes or study.budgets or _given(config.budget):
        raise StudyError("study.cells states sizes and budgets itself: leave out study.sizes, study.budgets and budget")
    for spec in study.cells:
        model = load_size(spec.size, config.model, config.config_dirs)
        cell = _cell(config, corpus, spec.size, model, BudgetSpec(flops=spec.flops))
        cells += [replace(cell, seed=seed) for seed in spec.seeds]
    return cells


def _grid(config: ExperimentConfig, corpus: Corpus) -> tuple[list[Cell], list[Dropped]]:
    study, cells, dropped = config.study, [], []
    if study.budgets and _given(config.budget):
        raise StudyError(f"study.budgets and budget.{_given(config.budget)[0]} are both given; keep one of them")
    budgets = [BudgetSpec(flops=flops) for flops in study.budgets] or [config.budget]
    models = {name: load_size(name, config.model, config.config_dirs) for name in study.sizes}
    _check_replicates(config)
    _check_window(study.window)
    for budget in budgets:
        for size, model in models.items():
            cell = _cell(config, corpus, size, model, budget)
            if reason := _outside(cell, study.window):
                dropped.append(Dropped(size, budget.flops or cell.training_flops, reason))
                continue
            extra = [seed for r in study.replicates if _covers(r, size, budget.flops) for seed in r.seeds]
            cells += [replace(cell, seed=seed) for seed in dict.fromkeys([*study.seeds, *extra])]
    return cells, dropped


def _cell(config: ExperimentConfig, corpus: Corpus, size: str, spec: ModelSpec, budget: BudgetSpec) -> Cell:
    model = ModelConfig(vocab_size=corpus.vocab_size, context_length=config.data.context_length, **asdict(spec))
    if config.optim.batch_size < 1:
        raise StudyError(f"optim.batch_size must be at least 1; not {config.optim.batch_size}")
    per_token = training_flops_per_token(model)
    tokens = _tokens(budget, model, per_token)
    optim, schedule = resolve(config.optim, config.schedule, model, tokens)
    batch_tokens = optim.batch_size * model.context_length
    tokens = _tokens(budget, model, per_token + optimizer_flops(model, optim) / batch_tokens)
    steps = max(1, round(tokens / batch_tokens))
    return Cell(
        model,
        size,
        config.data,
        optim,
        schedule,
        corpus.corpus_id,
        config.seed,
        config.arm,
        steps,
        math.nan if budget.flops is None else float(budget.flops),
        precision=config.where.precision,
    )


def _tokens(budget: BudgetSpec, model: ModelConfig, flops_per_token: float) -> float:
    given = _given(budget)
    if len(given) != 1:
        what = "none is given" if not given else f"{len(given)} are given: {', '.join(given)}"
        raise StudyError(f"a cell needs exactly one of budget.flops, budget.tokens, budget.tokens_per_param; {what}")
    value = getattr(budget, given[0])
    if not (math.isfinite(value) and value > 0):
        raise StudyError(f"budget.{given[0]} must be a positive number; not {value}")
    per_unit = {"tokens": 1.0, "flops": 1 / flops_per_token, "tokens_per_param": n_matrices(model)}
    return value * per_unit[given[0]]


def _given(budget: BudgetSpec) -> list[str]:
    return [name for name in ("flops", "tokens", "tokens_per_param") if getattr(budget, name) is not None]


def _check_window(window: WindowSpec) -> None:
    bounds = window.tokens_per_param
    if bounds is not None and (len(bounds) != 2 or not 0 < bounds[0] < bounds[1]):
        raise StudyError(f"study.window.tokens_per_param must be [low, high] with 0 < low < high; not {bounds}")
    optimum = (window.optimum_coef, window.optimum_exponent, window.factor)
    if None in optimum and any(value is not None for value in optimum):
        raise StudyError("study.window: optimum_coef, optimum_exponent and factor go together; give all three or none")
    if window.factor is not None and window.factor <= 1:
        raise StudyError(f"study.window.factor must be above 1; not {window.factor}")


def _outside(cell: Cell, window: WindowSpec) -> str | None:
    """Why the window leaves this cell out, or None."""
    if cell.steps < window.min_steps:
        return f"{cell.steps} steps, fewer than min_steps={window.min_steps}"
    if window.tokens_per_param is not None:
        low, high = window.tokens_per_param
        if not low <= cell.tokens_per_param <= high:
            return f"{cell.tokens_per_param:.3g} tokens per parameter, outside [{low:g}, {high:g}]"
    if window.factor is not None and window.optimum_coef is not None and window.optimum_exponent is not None:
        best = window.optimum_coef * cell.training_flops**window.optimum_exponent
        ratio = n_matrices(cell.model) / best
        if not 1 / window.factor <= ratio <= window.factor:
            return f"{ratio:.3g} of the predicted optimum {best:.3g}, beyond a factor {window.factor:g}"
    return None


def _check_replicates(config: ExperimentConfig) -> None:
    study = config.study
    for replicate in study.replicates:
        for size in replicate.sizes:
            if size not in study.sizes:
                raise StudyError(
                    f"study.replicates names size {size!r}, which is not in study.sizes" + suggest(size, study.sizes)
                )
        for flops in replicate.budgets:
            if flops not in study.budgets:
                raise StudyError(f"study.replicates names budget {flops:g}, which is not in study.budgets")


def _covers(replicate: ReplicateSpec, size: str, flops: float | None) -> bool:
    return (not replicate.sizes or size in replicate.sizes) and (not replicate.budgets or flops in replicate.budgets)


def _hold_out(config: ExperimentConfig) -> list[float]:
    budgets: list[float | None] = [*config.study.budgets, *(cell.flops for cell in config.study.cells)]
    for flops in config.study.hold_out:
        if flops not in budgets:
            raise StudyError(f"study.hold_out names budget {flops:g}, which is not in study.budgets")
    return config.study.hold_out


def _check_schedule(cell: Cell) -> None:
    check_schedule(cell.schedule)
    end = cell.branch_step if cell.schedule.name == "wsd" else cell.steps
    if cell.warmup >= end:
        raise StudyError(
            f"{cell.label}: {cell.steps} steps leave no room for schedule.warmup_steps={cell.warmup}"
            " and the cooldown; raise the budget or shorten the warm-up"
        )


def _epoch_warnings(cells: tuple[Cell, ...], corpora: CorpusOf) -> tuple[str, ...]:
    """A line when cells repeat their corpus; StudyError beyond data.max_epochs."""
    unique = {cell.run_id: unique_tokens(corpora(cell.data).train_tokens, cell) for cell in cells}
    epochs = {cell.run_id: cell.horizon_tokens / unique[cell.run_id] for cell in cells}
    worst = max(cells, key=lambda cell: epochs[cell.run_id])
    most, limit = epochs[worst.run_id], worst.data.max_epochs
    told = (
        f"{worst.label} needs {worst.horizon_tokens:,} tokens of the {unique[worst.run_id]:,} in corpus "
        f"{worst.data.name}: {most:.2f} epochs"
    )
    if most > limit:
        raise StudyError(f"{told}, more than data.max_epochs={limit:g}; add text, lower the budget or raise the limit")
    repeated = sum(value > 1 for value in epochs.values())
    return (f"{repeated} of {len(cells)} cells repeat their corpus; {told}",) if repeated else ()


def _short_warnings(cells: tuple[Cell, ...]) -> tuple[str, ...]:
    """A line when cells end before they have learned anything that tells sizes apart."""
    short = sorted((cell for cell in cells if cell.steps < FEW_STEPS), key=lambda cell: cell.steps)
    if not short:
        return ()
    return (
        f"{len(short)} of {len(cells)} cells take fewer than {FEW_STEPS} steps, {short[0].label} only "
        f"{short[0].steps}: raise their budget at least {FEW_STEPS / short[0].steps:.3g} times, or lower "
        "optim.batch_size",
    )


def unique_tokens(train_tokens: int, cell: Cell) -> int:
    """Training tokens that whole windows of a corpus of so many tokens predict."""
    length = cell.model.context_length
    return count_windows(train_tokens, length) * length
