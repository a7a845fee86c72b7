"""What a study must satisfy before it is launched; each complaint names the key, its value and the remedy.

`check_study` reads the configuration alone, `check_cells` what it expands to on its corpora. Between them stands
`study.expand`, which is pure.
"""

import dataclasses

from isoflop.experiments.config import (
    BudgetSpec,
    ExperimentConfig,
    ModelSpec,
    StudySpec,
    WhereSpec,
    WindowSpec,
)
from isoflop.experiments.data.domains.mixed import check_mixture
from isoflop.experiments.files import check_name, check_study_name
from isoflop.experiments.study.arms import variants
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import decide
from isoflop.experiments.study.fields import FieldError, check_fields
from isoflop.experiments.study.mixtures import has_mixtures
from isoflop.experiments.study.rules import resolve
from isoflop.experiments.study.same_runs import idle_settings
from isoflop.experiments.study.sizes import load_size, suggest
from isoflop.experiments.study.study import CorpusOf, Study, expand, most_epochs, stated
from isoflop.models.config import ModelConfig


class StudyError(ValueError):
    """A study or cell that cannot be run as it was written."""


DECIDED = "decided"  # of study.stop
MOST_CELLS = 100_000  # of one study: a mistyped range of seeds is not a plan

# Stand in for a corpus and a budget that are not known yet: shapes and rules are refused for any.
VOCABULARY, TOKENS = 256, 1e9


def checked_study(config: ExperimentConfig, corpora: CorpusOf) -> Study:
    """The study that a configuration describes. Raises a ValueError for one that cannot be run; see the two checks."""
    study = expand(config, corpora, check_study(config))
    check_cells(study, config.where)
    return study


def check_study(config: ExperimentConfig) -> list[ExperimentConfig]:
    """Refuse a configuration that describes no study, before any corpus is prepared or store is made; its variants.

    Raises StudyError, FieldError for a value that its key cannot have, or the ValueError of an arm, a size, a model's
    shape or an optimiser's rule.
    """
    if config.study.name:
        check_study_name(config.study.name, "study.name")
    check_name(config.data.name, "data.name")
    check_fields(config)
    if config.study.rounds.count:
        check_rounds(config.study)
    if config.study.stop:
        _check_stop(config)
    cells, checked = 0, []
    for variant in variants(config):
        checked.append(variant)
        _check_variant(variant)
        study, shapes = variant.study, _shapes(variant)
        cells += _most_cells(variant)
        if cells > MOST_CELLS:
            raise StudyError(f"the study has more than {MOST_CELLS:,} cells; fewer sizes, budgets, seeds or values")
        if study.cells:
            _check_listed(variant)
        elif study.sizes:
            _check_grid(variant)
        else:
            _check_single(variant)
        for budget in [BudgetSpec(flops=flops) for flops in _budgets(variant)] or [variant.budget]:
            _check_budget(budget)
        for spec in shapes:
            _check_shape(spec)
            model = ModelConfig(
                vocab_size=VOCABULARY, context_length=variant.data.context_length, **dataclasses.asdict(spec)
            )
            resolve(variant.optim, variant.schedule, model, TOKENS)
    _check_hold_out(config.study, {flops for variant in checked for flops in _budgets(variant)})
    return checked


def check_cells(study: Study, where: WhereSpec) -> None:
    """Refuse cells that cannot be trained: none at all, an arm that is another, no room for the cooldown, no engine,
    too little text.

    Raises StudyError, or the EngineError of `engine.decide`.
    """
    if not study.cells:
        reasons = "; ".join(f"{d.size} at {d.budget_flops:g}: {d.reason}" for d in study.dropped[:4])
        raise StudyError(f"study {study.name!r}: the window leaves no cell ({reasons}); widen study.window")
    _check_arms(study)
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


def _check_variant(variant: ExperimentConfig) -> None:
    """The fields of one arm with its values of study.vary; those of the study without them have been checked."""
    try:
        check_fields(variant)
    except FieldError as error:
        arm = f"study.arms.{variant.arm}" if variant.arm else "study.arms"
        raise StudyError(f"{error} (set by {arm} or study.vary)") from error
    if variant.data.mixture:
        check_mixture(variant.data)
    elif variant.data.domains:
        raise StudyError("data.domains without data.mixture: say how much of each, in data.mixture or study.mixtures")


def check_rounds(study: StudySpec) -> None:
    """Raise StudyError for a study that no rounds can follow, or a request for rounds that is incomplete."""
    if not (study.sizes or study.cells) or not study.name:
        raise StudyError("study.rounds need a study with a name and sizes: a single cell says nothing of the next ones")
    if study.arms or study.vary or has_mixtures(study):
        raise StudyError(
            "study.rounds follow one law, and a study with arms, study.vary or study.mixtures has several: "
            "launch one arm"
        )
    if study.rounds.budget is None or study.rounds.target is None:
        raise StudyError("study.rounds.count needs study.rounds.budget and study.rounds.target, both in FLOPs")


def _check_stop(config: ExperimentConfig) -> None:
    """Raise StudyError for a study of which it cannot be decided where its runs stop."""
    study, stop = config.study, f"study.stop={config.study.stop}"
    if not (study.sizes or study.cells) or not study.name:
        raise StudyError(f"{stop} needs a study with a name and sizes: a single cell is trained to its end")
    if study.arms or study.vary or has_mixtures(study):
        raise StudyError(
            f"{stop} decides by one law, and a study with arms, study.vary or study.mixtures has several: launch one"
        )
    if study.hold_out:
        raise StudyError(f"{stop}: what study.hold_out names is to be measured, not forecast; study.hold_out=[]")
    if study.rounds.count:
        raise StudyError(f"{stop} and study.rounds both say which runs come next; keep one of them")
    if config.where.distributed != "none":
        raise StudyError(f"{stop} needs where.distributed=none")


def _check_shape(spec: ModelSpec) -> None:
    check_fields(ExperimentConfig(model=spec))


def _most_cells(config: ExperimentConfig) -> int:
    """Cells of a variant before the window leaves any out."""
    study = config.study
    if study.cells:
        return sum(len(cell.seeds) for cell in study.cells)
    seeds = len(study.seeds) + sum(len(one.seeds) for one in study.replicates)
    return max(1, len(study.sizes)) * max(1, len(study.budgets)) * seeds


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


def _check_window(window: WindowSpec) -> None:
    bounds = window.tokens_per_param
    if bounds is not None and (len(bounds) != 2 or not bounds[0] < bounds[1]):
        raise StudyError(f"study.window.tokens_per_param must be [low, high] with 0 < low < high; not {bounds}")
    optimum = (window.optimum_coef, window.optimum_exponent, window.factor)
    if None in optimum and any(value is not None for value in optimum):
        raise StudyError("study.window: optimum_coef, optimum_exponent and factor go together; give all three or none")


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


def _check_hold_out(study: StudySpec, budgets: set[float]) -> None:
    """Raise StudyError for a budget to hold out that no arm has."""
    for flops in study.hold_out:
        if flops not in budgets:
            there = ", ".join(f"{one:g}" for one in sorted(budgets)) or "none in FLOPs"
            raise StudyError(
                f"study.hold_out names budget {flops:g}, which is not in study.budgets, of any arm ({there})"
            )


def _check_arms(study: Study) -> None:
    """Refuse an arm of which every run is another's: nothing would stand under its name."""
    lost = {cell.arm for group in study.same for cell in group} - {cell.arm for cell in study.cells}
    if not lost:
        return
    arm = min(lost)
    groups = [group for group in study.same if arm in {cell.arm for cell in group}]
    others = sorted({group[-1].arm for group in groups})
    raise StudyError(
        f"study.arms.{arm}: its {len(groups)} cells are the same runs as those of {', '.join(others)}: "
        f"{idle_settings(groups)}; leave the arm out, or set what makes a difference"
    )


def _check_room(cell: Cell) -> None:
    end = cell.branch_step if cell.schedule.name == "wsd" else cell.steps
    if cell.warmup >= max(1, end):  # a cooldown may begin with the first step
        raise StudyError(
            f"{cell.label}: {cell.steps} steps leave no room for schedule.warmup_steps={cell.warmup}"
            " and the cooldown; raise the budget or shorten the warm-up"
        )
