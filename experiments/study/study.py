"""From a study to its cells: sizes x budgets x seeds, exact budgets, windows. Pure functions; nothing trains or writes.

`check.checked_study` refuses what cannot be run; of a study that passed it, nothing here raises. A grid is ragged: the
window leaves out sizes that a budget would train for too short or too long, and each cell left out is named with its
reason.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Protocol

from isoflop.experiments.config import (
    BudgetSpec,
    DataSpec,
    ExperimentConfig,
    ModelSpec,
    ReplicateSpec,
    WindowSpec,
)
from isoflop.experiments.data.batches import Domain, count_windows
from isoflop.experiments.data.domains.interleave import counts
from isoflop.experiments.study.arms import variants
from isoflop.experiments.study.cell import Cell, group_by_trunk, trunk_steps
from isoflop.experiments.study.optimizers import optimizer_flops
from isoflop.experiments.study.rules import resolve, unused
from isoflop.experiments.study.same_runs import same_runs, same_runs_warning
from isoflop.experiments.study.sizes import load_size, name_of
from isoflop.models.config import ModelConfig, n_matrices, training_flops_per_token

FEW_STEPS = 50


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

    @property
    def domains(self) -> Sequence[Domain]:
        """Those of a mixture; requested where data.mixture has some."""

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader of losses on it must know."""


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
    windows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # training windows of each domain, likewise
    same: tuple[tuple[Cell, ...], ...] = ()  # of what was written differently and is one run; the last is in `cells`

    @cached_property
    def trunks(self) -> dict[str, tuple[Cell, ...]]:
        """Cells by trunk, the shortest first: one job each."""
        return group_by_trunk(self.cells)

    def epochs(self, cell: Cell) -> float:
        """How often a cell reads its corpus; of a mixture, the domain that it reads most often."""
        if cell.data.mixture:
            return max(self.epochs_by_domain(cell).values())
        return cell.horizon_tokens / unique_tokens(self.train_tokens[cell.corpus_id], cell)

    def epochs_by_domain(self, cell: Cell) -> dict[str, float]:
        """How often a cell of a mixture reads each of its domains."""
        windows = self.windows[cell.corpus_id]
        read = counts([cell.data.mixture[name] for name in windows], cell.steps * cell.optim.batch_size)
        return {name: n / held for n, (name, held) in zip(read, windows.items(), strict=True)}

    @property
    def tokens_by_cell(self) -> int:
        """What a run per cell would train on."""
        return sum(cell.horizon_tokens for cell in self.cells)

    @property
    def tokens_trained(self) -> int:
        """What is trained on: every trunk once, every branch's cooldown."""
        return sum(trunk_steps(cells) * cells[0].batch_tokens for cells in self.trunks.values())


def expand(config: ExperimentConfig, corpora: CorpusOf, made: Iterable[ExperimentConfig] | None = None) -> Study:
    """The cells of a study, or the single cell that `model` and `budget` describe; `corpora` finds each cell's text.

    The configuration has passed `check.check_study`, which returns its variants: `made`, where they are at hand.
    """
    study = config.study
    cells: list[Cell] = []
    dropped: list[Dropped] = []
    left_out: list[Dropped]
    train_tokens: dict[str, int] = {}
    windows: dict[str, dict[str, int]] = {}
    warned: dict[str, None] = {}  # each line once
    for variant in variants(config) if made is None else made:
        corpus = corpora(variant.data)
        train_tokens[corpus.corpus_id] = corpus.train_tokens
        warned |= dict.fromkeys([*corpus.warnings, *unused(variant.optim, variant.schedule)])
        if variant.data.mixture:
            windows[corpus.corpus_id] = {one["name"]: one["windows"] for one in corpus.domains}
        if variant.study.cells:
            kept, left_out = _listed(variant, corpus), []
        elif variant.study.sizes:
            kept, left_out = _grid(variant, corpus)
        else:
            kept, left_out = _single(variant, corpus), []
        cells += kept
        dropped += left_out
    unique = tuple({cell.run_id: cell for cell in cells}.values())
    same = same_runs(cells)
    warned |= {same_runs_warning(same): None} if same else {}
    found = Study(study.name, unique, tuple(dropped), (), tuple(study.hold_out), train_tokens, windows, same)
    return replace(found, warnings=(*warned, *_epoch_warnings(found), *_short_warnings(unique)))


def _single(config: ExperimentConfig, corpus: Corpus) -> list[Cell]:
    return [_cell(config, corpus, name_of(config.model, config.config_dirs), config.model, config.budget)]


def _listed(config: ExperimentConfig, corpus: Corpus) -> list[Cell]:
    """The cells of `study.cells`, each with its own seeds; no window leaves any out."""
    cells = []
    for spec in config.study.cells:
        model = load_size(spec.size, config.model, config.config_dirs)
        cell = _cell(config, corpus, spec.size, model, BudgetSpec(flops=spec.flops))
        cells += [replace(cell, seed=seed) for seed in spec.seeds]
    return cells


def _grid(config: ExperimentConfig, corpus: Corpus) -> tuple[list[Cell], list[Dropped]]:
    study, cells, dropped = config.study, [], []
    budgets = [BudgetSpec(flops=flops) for flops in study.budgets] or [config.budget]
    models = {name: load_size(name, config.model, config.config_dirs) for name in study.sizes}
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
    (given,) = stated(budget)
    per_unit = {"tokens": 1.0, "flops": 1 / flops_per_token, "tokens_per_param": n_matrices(model)}
    return float(getattr(budget, given)) * per_unit[given]


def stated(budget: BudgetSpec) -> list[str]:
    """The names of the amounts that a budget states; one, in a study that can be run."""
    return [name for name in ("flops", "tokens", "tokens_per_param") if getattr(budget, name) is not None]


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


def _covers(replicate: ReplicateSpec, size: str, flops: float | None) -> bool:
    return (not replicate.sizes or size in replicate.sizes) and (not replicate.budgets or flops in replicate.budgets)


def _epoch_warnings(study: Study) -> tuple[str, ...]:
    """A line when cells read their corpus more than once."""
    repeated = sum(study.epochs(cell) > 1 for cell in study.cells)
    if not repeated:
        return ()
    return (f"{repeated} of {len(study.cells)} cells repeat their corpus; {most_epochs(study)[1]}",)


def most_epochs(study: Study) -> tuple[Cell, str]:
    """The cell that reads its corpus most often, and how often, in words."""
    cell = max(study.cells, key=study.epochs)
    if cell.data.mixture:
        each = study.epochs_by_domain(cell)
        name = max(each, key=each.__getitem__)
        share, held = cell.data.mixture[name], study.windows[cell.corpus_id][name] * cell.model.context_length
        return cell, (
            f"{cell.label} needs {share * cell.horizon_tokens:,.0f} tokens of the {held:,} in domain {name} "
            f"(data.mixture.{name}={share:g}): {each[name]:.2f} epochs"
        )
    unique = unique_tokens(study.train_tokens[cell.corpus_id], cell)
    return cell, (
        f"{cell.label} needs {cell.horizon_tokens:,} tokens of the {unique:,} in corpus {cell.data.name}: "
        f"{study.epochs(cell):.2f} epochs"
    )


def _short_warnings(cells: tuple[Cell, ...]) -> tuple[str, ...]:
    """A line when cells end before sizes differ in what they have learned."""
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
