"""A study expands to the cells it describes, with identities that depend on what they should and on nothing else."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from isoflop.experiments.config import (
    BudgetSpec,
    DataSpec,
    ExperimentConfig,
    ModelSpec,
    ReplicateSpec,
    ScheduleSpec,
    StudySpec,
    WindowSpec,
)
from isoflop.experiments.study.cell import trunk_steps
from isoflop.experiments.study.check import StudyError, checked_study
from isoflop.experiments.study.sizes import load_size, size_names
from isoflop.experiments.study.study import expand
from isoflop.models.config import n_matrices, training_flops_per_token
from tests.support.sweep.studies import CORPUS, FakeCorpus, only, single


def study(**fields) -> ExperimentConfig:
    given = {"sizes": ["d8", "d16"], "budgets": [1e9, 3e9], "window": WindowSpec(min_steps=1)} | fields
    return ExperimentConfig(study=StudySpec(name="s", **given), schedule=ScheduleSpec(warmup_steps=5))


def test_grid_holds_every_size_at_every_budget():
    cells = expand(study(), CORPUS).cells
    assert [(c.size, c.budget_flops) for c in cells] == [("d8", 1e9), ("d16", 1e9), ("d8", 3e9), ("d16", 3e9)]


@pytest.mark.parametrize("size", ["d8", "d24", "d80"])
def test_budget_is_met_to_half_a_step(size):
    (cell,) = expand(study(sizes=[size], budgets=[1e11]), CORPUS).cells
    per_step = training_flops_per_token(cell.model) * cell.batch_tokens
    assert cell.training_flops == cell.steps * per_step
    assert abs(cell.training_flops - 1e11) <= per_step / 2


def test_three_ways_to_state_a_budget_agree():
    by_tokens = only(single(tokens=51_200))
    by_ratio = only(single(tokens_per_param=51_200 / n_matrices(by_tokens.model)))
    by_flops = only(single(flops=51_200 * training_flops_per_token(by_tokens.model)))
    assert by_tokens.steps == 100
    assert by_tokens.run_id == by_ratio.run_id == by_flops.run_id


def test_single_cell_is_the_cell_of_the_sweep():
    in_sweep = next(c for c in expand(study(), CORPUS).cells if c.size == "d16" and c.budget_flops == 3e9)
    alone = only(single(flops=3e9))
    assert (alone.run_id, alone.trunk_id) == (in_sweep.run_id, in_sweep.trunk_id)


def test_run_id_ignores_where_and_labels_and_heeds_every_what():
    base = single(flops=3e9)
    same = replace(base, arm="x", runs="elsewhere", where=replace(base.where, workers=7, threads=2, device="cuda"))
    same = replace(same, data=replace(base.data, max_epochs=9.0, name="other", files=["/a/*.txt"]))
    assert only(same).run_id == only(base).run_id
    changed = [
        replace(base, seed=1),
        replace(base, model=replace(base.model, tied=True)),
        replace(base, optim=replace(base.optim, learning_rate=0.01)),
        replace(base, schedule=replace(base.schedule, cooldown_fraction=0.3)),
        replace(base, data=replace(base.data, eval_tokens=4096)),
        replace(base, data=replace(base.data, context_length=32)),
        replace(base, budget=BudgetSpec(flops=4e9)),
    ]
    ids = [only(config).run_id for config in changed] + [expand(base, FakeCorpus("c1")).cells[0].run_id]
    assert len({only(base).run_id, *ids}) == len(changed) + 2


@pytest.mark.process
def test_run_id_is_the_same_in_another_process():
    code = "from tests.support.sweep.studies import only, single; print(only(single(flops=3e9)).run_id)"
    message = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert message.stdout.strip() == only(single(flops=3e9)).run_id


def test_cells_of_one_size_and_seed_share_a_trunk_under_wsd_only():
    config = study(seeds=[0, 1])
    assert sorted(len(cells) for cells in expand(config, CORPUS).trunks.values()) == [2, 2, 2, 2]
    cosine = replace(config, schedule=replace(config.schedule, name="cosine"))
    assert all(len(cells) == 1 for cells in expand(cosine, CORPUS).trunks.values())


def test_cosine_ignores_keys_of_the_cooldown():
    base = replace(single(flops=3e9), schedule=replace(single().schedule, name="cosine"))
    other = replace(base, schedule=replace(base.schedule, cooldown_fraction=0.5))
    assert only(base).run_id == only(other).run_id


def test_trunk_is_counted_once_and_every_cooldown_once():
    value = expand(study(sizes=["d8"]), CORPUS)
    short, long = value.cells
    expected = long.branch_step + (short.steps - short.branch_step) + (long.steps - long.branch_step)
    assert trunk_steps(value.cells) == expected
    assert value.tokens_trained == expected * short.batch_tokens < value.tokens_by_cell


def test_warm_up_is_the_trunks():
    short, long = expand(study(sizes=["d8"]), CORPUS).cells
    assert short.trunk_id == long.trunk_id
    assert short.warmup == long.warmup == 5


def test_window_names_each_cell_that_it_leaves_out():
    value = expand(study(window=WindowSpec(tokens_per_param=[1, 20], min_steps=30)), CORPUS)
    assert len(value.cells) + len(value.dropped) == 4
    reasons = {(d.size, d.budget_flops): d.reason for d in value.dropped}
    assert reasons["d16", 1e9] == "25 steps, fewer than min_steps=30"
    assert "tokens per parameter, outside [1, 20]" in reasons["d8", 3e9]


def test_window_around_a_predicted_optimum():
    window = WindowSpec(optimum_coef=3712.0, optimum_exponent=0.0, factor=2.0, min_steps=1)
    value = expand(study(window=window), CORPUS)
    assert {c.size for c in value.cells} == {"d8"}
    assert "of the predicted optimum 3.71e+03, beyond a factor 2" in value.dropped[0].reason


def test_replicates_add_seeds_to_the_named_cells():
    extra = ReplicateSpec(sizes=["d16"], budgets=[3e9], seeds=[1, 2])
    cells = expand(study(replicates=[extra]), CORPUS).cells
    assert [(c.size, c.budget_flops, c.seed) for c in cells if c.seed] == [("d16", 3e9, 1), ("d16", 3e9, 2)]
    assert len(cells) == 6


def test_repeats_are_one_cell():
    assert len(expand(study(seeds=[0, 0], sizes=["d8", "d8"]), CORPUS).cells) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (single(), "exactly one of budget.flops, budget.tokens, budget.tokens_per_param; none is given"),
        (single(flops=1e9, tokens=1e5), "2 are given: flops, tokens"),
        (single(flops=0.0), "budget.flops must be a positive number; not 0.0"),
        (single(tokens=-5.0), "budget.tokens must be a positive number; not -5.0"),
        (single(flops=float("nan")), "must be a positive number; not nan"),
        (single(flops=1e8), "leave no room for schedule.warmup_steps=5"),
        (replace(study(), budget=BudgetSpec(flops=1.0)), "study.budgets and budget.flops are both given"),
        (study(sizes=[]), "without study.sizes"),
        (replace(single(flops=1e9), study=StudySpec(seeds=[0, 1])), "of a single cell seed=0,1,2 trains several"),
        (study(sizes=["d17"]), "no model size 'd17'; did you mean 'd16'? allowed: d6, d8"),
        (study(budgets=[1e9, -1.0]), "study.budgets[1] must be a positive number; not -1.0"),
        (study(window=WindowSpec(tokens_per_param=[1e6, 2e6])), "the window leaves no cell"),
        (study(window=WindowSpec(tokens_per_param=[3, 2])), "must be [low, high]"),
        (study(window=WindowSpec(factor=2.0, min_steps=1)), "go together"),
        (study(replicates=[ReplicateSpec(sizes=["d32"])]), "names size 'd32', which is not in study.sizes"),
        (study(replicates=[ReplicateSpec(budgets=[7e9])]), "names budget 7e+09, which is not in study.budgets"),
        (
            replace(study(), study=replace(study().study, name="single")),
            "study.name=single: runs without a study are listed under that name",
        ),
        (study(hold_out=[7e9]), "study.hold_out names budget 7e+09"),
        (replace(single(flops=1e9), model=ModelSpec(d_model=18, n_head=4)), "d_model=18 is not divisible by"),
    ],
)
def test_bad_studies_are_refused_with_the_key_and_the_value(config, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        checked_study(config, CORPUS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_epochs_are_warned_of_above_one_and_refused_above_the_limit():
    windows, length = 800, 64
    small = FakeCorpus(train_tokens=windows * (length + 1))
    (warning,) = expand(single(tokens=2.0 * windows * length), small).warnings
    assert warning.startswith("1 of 1 cells repeat their corpus")
    assert "2.00 epochs" in warning
    assert not expand(single(tokens=0.9 * windows * length), small).warnings
    with pytest.raises(StudyError, match=r"5\.04 epochs, more than data\.max_epochs=4"):
        checked_study(single(tokens=5.04 * windows * length), small)


def test_sizes_form_a_ladder_of_near_constant_aspect():
    shapes = [load_size(name) for name in size_names() if name.startswith("d")]
    assert [s.d_model for s in shapes] == sorted(s.d_model for s in shapes)
    wide = [s.d_model / s.n_layer for s in shapes if s.d_model >= 32]
    assert max(wide) / min(wide) <= 1.5


def test_what_is_json_and_holds_no_path():
    config = replace(single(flops=3e9), data=DataSpec(source="files", files=["/secret/*.txt"]))
    assert "/secret" not in json.dumps(only(config).what())
