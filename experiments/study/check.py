"""What a study must satisfy before it is launched; each complaint names the key, its value and the remedy.

`check_study` reads the configuration alone, `check_cells` what it expands to on its corpora. Between them stands
`study.expand`, which is pure.
"""

import dataclasses
import math

from isoflop.experiments.config import BudgetSpec, ExperimentConfig, ModelSpec, WhereSpec, WindowSpec
from isoflop.experiments.files import check_name
from isoflop.experiments.study.arms import variants
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import decide
from isoflop.experiments.study.rules import resolve
from isoflop.experiments.study.schedule import check as check_schedule
from isoflop.experiments.study.sizes import load_size, suggest
from isoflop.experiments.study.study import CorpusOf, Study, expand, most_epochs, stated
from isoflop.models.config import ModelConfig


class StudyError(ValueError):
    """A study or cell that cannot be run as it was written."""


# Stand in for a corpus and a budget that are not known yet: shapes and rules are refused for any.
VOCABULARY, TOKENS = 256, 1e9


def checked_study(config: ExperimentConfig, corpora: CorpusOf) -> Study:
    """The study that a configuration describes. Raises a ValueError for one that cannot be run; see the two checks."""
    check_study(config)
    study = expand(config, corpora)
    check_cells(study, config.where)
    return study


def check_study(config: ExperimentConfig) -> None:
    """Refuse a configuration that describes no study, before any corpus is prepared or store is made.

    Raises StudyError, or the ValueError of an arm, a size, a model's shape, an optimiser's rule or a schedule.
    """
    if config.study.name:
        check_name(config.study.name, "study.name")
    for variant in variants(config):
        study, shapes = variant.study, _shapes(variant)
        if study.cells:
            _check_listed(variant)
        elif study.sizes:
            _check_grid(variant)
        else:
            _check_single(variant)
        for budget in [BudgetSpec(flops=flops) for flops in _budgets(variant)] or [variant.budget]:
            _check_budget(budget)
        if variant.optim.batch_size < 1:
            raise StudyError(f"optim.batch_size must be at least 1; not {variant.optim.batch_size}")
        check_schedule(variant.schedule)
        for spec in shapes:
            model = ModelConfig(
                vocab_size=VOCABULARY, context_length=variant.data.context_length, **dataclasses.asdict(spec)
            )
            resolve(variant.optim, variant.schedule, model, TOKENS)
    _check_hold_out(config)


def check_cells(study: Study, where: WhereSpec) -> None:
    """Refuse cells that cannot be trained: none at all, no room for the cooldown, no engine, too little text.

    Raises StudyError, or the EngineError of `engine.decide`.
    """
    if not study.cells:
        reasons = "; ".join(f"{d.size} at {d.budget_flops:g}: {d.reason}" for d in study.dropped[:4])
        raise StudyError(f"study {study.name!r}: the window leaves no cell ({reasons}); widen study.window")
    for cell in study.cells:
        _check_room(cell)
        decide(cell, where)
    for cell in study.cells:
        if study.epochs(cell) > cell.data.max_epochs:
            worst, epochs = most_epochs(study)
            raise StudyError(
                f"{epochs}, more than data.max_epochs={worst.data.max_epochs:g}; add text, lower the budget or raise "
                "the limit"
            )


def _budgets(config: ExperimentConfig) -> list[float]:
    """The budgets in FLOPs that a study states."""
    return [*config.study.budgets, *(cell.flops for cell in config.study.cells)]


def _shapes(config: ExperimentConfig) -> list[ModelSpec]:
    """The shapes that a study names. Raises ValueError with the nearest name for a size that there is not."""
    names = [*config.study.sizes, *(cell.size for cell in config.study.cells)]
    return [load_size(name, config.model, config.config_dirs) for name in names] or [config.model]


def _check_single(config: ExperimentConfig) -> None:
    if config.study.budgets:
        raise StudyError(f"study.budgets={config.study.budgets} without study.sizes; add study.sizes=[d16,d24,...]")
    if config.study.seeds != [0] or config.study.replicates:
        raise StudyError(
            "study.seeds and study.replicates are for study.sizes; of a single cell seed=0,1,2 trains several"
        )


def _check_listed(config: ExperimentConfig) -> None:
    if config.study.sizes or config.study.budgets or stated(config.budget):
        raise StudyError("study.cells states sizes and budgets itself: leave out study.sizes, study.budgets and budget")


def _check_grid(config: ExperimentConfig) -> None:
    if config.study.budgets and (given := stated(config.budget)):
        raise StudyError(f"study.budgets and budget.{given[0]} are both given; keep one of them")
    _check_replicates(config)
    _check_window(config.study.window)


def _check_budget(budget: BudgetSpec) -> None:
    given = stated(budget)
    if len(given) != 1:
        what = "none is given" if not given else f"{len(given)} are given: {', '.join(given)}"
        raise StudyError(f"a cell needs exactly one of budget.flops, budget.tokens, budget.tokens_per_param; {what}")
    value = getattr(budget, given[0])
    if not (math.isfinite(value) and value > 0):
        raise StudyError(f"budget.{given[0]} must be a positive number; not {value}")


def _check_window(window: WindowSpec) -> None:
    bounds = window.tokens_per_param
    if bounds is not None and (len(bounds) != 2 or not 0 < bounds[0] < bounds[1]):
        raise StudyError(f"study.window.tokens_per_param must be [low, high] with 0 < low < high; not {bounds}")
    optimum = (window.optimum_coef, window.optimum_exponent, window.factor)
    if None in optimum and any(value is not None for value in optimum):
        raise StudyError("study.window: optimum_coef, optimum_exponent and factor go together; give all three or none")
    if window.factor is not None and window.factor <= 1:
        raise StudyError(f"study.window.factor must be above 1; not {window.factor}")


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


def _check_hold_out(config: ExperimentConfig) -> None:
    for flops in config.study.hold_out:
        if flops not in _budgets(config):
            raise StudyError(f"study.hold_out names budget {flops:g}, which is not in study.budgets")


def _check_room(cell: Cell) -> None:
    end = cell.branch_step if cell.schedule.name == "wsd" else cell.steps
    if cell.warmup >= end:
        raise StudyError(
            f"{cell.label}: {cell.steps} steps leave no room for schedule.warmup_steps={cell.warmup}"
            " and the cooldown; raise the budget or shorten the warm-up"
        )
