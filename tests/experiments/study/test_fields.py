"""Every key of the configuration against values that it cannot have: each is refused by name, and nothing is made."""

import math
import pickle
from dataclasses import is_dataclass, replace

import pytest
from omegaconf import OmegaConf

from isoflop.experiments.compose.messages import UsageError, readable_errors
from isoflop.experiments.config import BudgetSpec, CellSpec, ExperimentConfig, ReplicateSpec, StudySpec, WindowSpec
from isoflop.experiments.data.sources import source_of
from isoflop.experiments.study.check import MOST_CELLS, checked_study
from isoflop.experiments.study.fields import FIELDS, FieldError, check_fields, leaves
from tests.support.sweep.studies import CORPUS

NAN, INF = math.nan, math.inf
WRONG = (
    "zzz", "", "\0", "../up", NAN, INF, -INF, -1, -1.5, 0, 0.0, 2.5, 1e300, 10**30, True, None, [], [[]], ["zzz"],
    [NAN], [-1], [0], [""], [None], [3, 2], [1, 1], {}, {"zzz": 1},
)  # fmt: skip

SINGLE = ExperimentConfig(budget=BudgetSpec(tokens=1e6))
GRID = ExperimentConfig(
    study=StudySpec(
        name="s", sizes=["d8"], budgets=[4e9], window=WindowSpec(min_steps=1), replicates=[ReplicateSpec(seeds=[1])]
    )
)
LISTED = ExperimentConfig(study=StudySpec(name="s", cells=[CellSpec(size="d8", flops=4e9)]))
OF_LISTS = {"study.cells": (LISTED, "study.cells[0]"), "study.replicates": (GRID, "study.replicates[0]")}

NUMBERS = [NAN, INF, -INF, -1, -1.5, 0, 0.0, 2.5, 1e300, 10**30, True]  # a text too, where a text is wanted
TEXT = ["zzz", "../up", *NUMBERS]
NAME = [value for value in TEXT if value not in ("../up", 1e300)]
TEXTS = [[], ["zzz"], [NAN], [-1], [0], [3, 2], [1, 1]]
SEEDS = [[0], [3, 2], [1, 1]]
FLAG = [-1, 0, 10**30, True]
RATE = [2.5, 10**30]
# What is left of WRONG for a key whose kind it happens to be. All else must be refused.
SENSIBLE = {
    "model.d_ff": [None], "model.tied": FLAG, "model.experts": [0],
    "data.name": NAME, "data.files": TEXTS, "data.hub.name": [*TEXT, ""], "data.hub.subset": [*TEXT, None],
    "data.hub.split": TEXT, "data.hub.revision": [*TEXT, None], "data.hub.max_bytes": [None], "data.text_column": TEXT,
    "data.skip_bad": FLAG, "data.separator": [*TEXT, ""], "data.clean": [[]],
    "data.unique_tokens": [None], "data.max_epochs": RATE,
    "data.synthetic.bigram_weight": [-1, -1.5, 0, 0.0, 2.5], "data.synthetic.skip_weight": [-1, -1.5, 0, 0.0, 2.5],
    "data.synthetic.trigram_weight": [-1, -1.5, 0, 0.0, 2.5], "data.synthetic.seed": [0], "data.synthetic.rank": [None],
    "data.synthetic.twins": SEEDS,
    "optim.rule": [""], "optim.learning_rate": RATE, "optim.beta1": [0, 0.0], "optim.beta2": [0, 0.0],
    "optim.beta2_half_life": [2.5, None], "optim.momentum": [0, 0.0], "optim.weight_decay": [0, 0.0, 2.5],
    "optim.clip_norm": [*RATE, None], "schedule.warmup_steps": [0], "schedule.final_fraction": [0, 0.0],
    "budget.flops": [None], "budget.tokens_per_param": [None], "seed": [0], "init_from": TEXT, "arm": [*TEXT, ""],
    "study.name": [*NAME, ""], "study.window.tokens_per_param": [None], "study.window.optimum_coef": [None],
    "study.window.optimum_exponent": [None], "study.window.factor": [None], "study.window.min_steps": [0],
    "study.seeds": SEEDS, "study.cells.seeds": SEEDS, "study.replicates.seeds": [*SEEDS, []],
    "data.part": [""], "study.stop": [""], "data.mixture": [{}], "data.domains": [{}], "study.mixtures.shares": [[]],
    "study.mixtures.grid": [0], "study.mixtures.draws": [0], "study.mixtures.concentration": [2.5],
    "study.mixtures.seed": [0], "study.replicates.sizes": [[]],
    "study.replicates.budgets": [[]], "study.arms": [{}], "study.vary": [{}], "study.hold_out": [[]],
    "study.rounds.count": [0], "study.rounds.budget": [*RATE, None], "study.rounds.target": [*RATE, None],
    "where.workers": [None], "where.pack": [None], "where.micro_batch": [None], "where.activation_checkpointing": FLAG,
    "where.noise_scale": FLAG,
    "where.graph": [0, None], "where.compile": [*FLAG, None], "where.checkpoint_seconds": [0, 0.0, 2.5],
    "where.price_per_hour": [0, 0.0, 2.5, None], "where.watts": [0, 0.0, 2.5, None],
    "where.max_dollars": [0, 0.0, 2.5, None], "where.trackers": TEXTS,
    "where.corpora": TEXT, "where.trunk": [*TEXT, None], "where.cells": [*NAME, None],
    "where.only": [*TEXTS, None], "runs": TEXT, "config_dirs": TEXTS,
}  # fmt: skip


def places():
    """(key, configuration, place in it) of every value."""
    for key, at, _ in leaves(SINGLE):
        yield key, GRID if key.startswith(("study.", "where.")) else SINGLE, at
    for part, (config, at) in OF_LISTS.items():
        for key in FIELDS:
            if key.startswith(f"{part}."):
                yield key, config, f"{at}.{key.rpartition('.')[2]}"


def corpora(data):
    source_of(data).check()
    return CORPUS


TREES = {}


def tree_of(config, group):
    """A tree of a group, or of all for a key of none: OmegaConf takes ten times as long to make one as to read it."""
    part = getattr(config, group)
    if (id(config), group) not in TREES:
        tree = OmegaConf.create({group: part}) if is_dataclass(part) else OmegaConf.structured(config)
        TREES[id(config), group] = pickle.dumps(tree)
    return part, pickle.loads(TREES[id(config), group])


def printed(config, at, value):
    """What is said of a configuration with this value at this place; "" if it can be run."""
    group = at.partition(".")[0]
    part, tree = tree_of(config, group)
    try:
        with readable_errors():
            OmegaConf.update(tree, at, value, merge=False)
            changed = OmegaConf.to_object(tree)
            checked = replace(config, **{group: changed[group]}) if is_dataclass(part) else changed
    except UsageError as error:
        return str(error)
    try:
        checked_study(checked, corpora)
    except ValueError as error:
        return str(error)
    return ""


def same(a, b):
    return type(a) is type(b) and (a == b or (a != a and b != b) or str(a) == str(b))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "config", "at"), list(places()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_key_refuses_by_name_what_it_cannot_be(key, config, at):
    allowed = SENSIBLE.get(key, [])
    for value in WRONG:
        line = printed(config, at, value)
        assert (line == "") == any(same(value, one) for one in allowed), (value, line)
        assert "\n" not in line
        named = key.rpartition(".")[2] in line.lower() or ("budget" in key and "budget" in line)
        assert not line or named, (value, line)


def test_every_key_has_a_rule():
    assert {key for key, _, _ in places()} == {*FIELDS}


@pytest.mark.parametrize(
    ("overrides", "reported"),
    [
        (["optim.name=zzz"], "optim.name must be one of adamw, muon; not 'zzz'"),
        (["optim.learning_rate=nan"], "optim.learning_rate must be a positive number; not nan"),
        (["optim.learning_rate=abc"], "optim.learning_rate"),
        (["seed=-1"], "seed must be a whole number from 0 to 9,223,372,036,854,775,807; not -1"),
        (["model.n_layer=1000000000"], "model.n_layer must be a whole number from 1 to 10,000; not 1000000000"),
        (["runs="], "runs must be a text that is not empty; not ''"),
        (["where.trackers=[zzz]"], "where.trackers: no tracker 'zzz'"),
        (["experiment=smoke", "study.seeds=[0,-1]"], "study.seeds[1] must be a whole number from 0"),
        (["experiment=smoke", "study.sizes=[zzz]"], "study.sizes: no model size 'zzz'"),
        (
            ["experiment=smoke", "+study.vary={optim.beta1: [.9, nan]}"],
            "optim.beta1 must be a number from 0 to below 1; not nan (set by",
        ),
        (["experiment=smoke", "+study.arms={a: {optim: {eps: -1}}}"], "not -1.0 (set by study.arms.a or study.vary)"),
        (["experiment=smoke", "+study.vary={optim: [1]}"], "study.vary.optim names a group; vary a key of it"),
        (["experiment=smoke", "+study.vary={optim.zzz: [1]}"], "study.vary.optim.zzz"),
        (["experiment=smoke", "+study.vary={1: [1]}"], "study.vary"),
    ],
)
def test_the_command_line_says_it_in_one_line_and_makes_nothing(typed, here, overrides, reported):
    """The whole way of a typed value: composed, merged, checked."""
    single = [] if "experiment=smoke" in overrides else ["budget.tokens=1e6"]
    code, out, err = typed("plan", "--no-calibrate", *single, *overrides)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reported in err
    assert list(here.iterdir()) == []


def test_a_study_of_too_many_cells_is_refused():
    many = replace(GRID, study=replace(GRID.study, seeds=list(range(MOST_CELLS))))
    with pytest.raises(ValueError, match="the study has more than 100,000 cells"):
        checked_study(many, CORPUS)
    vary = {f"optim.{key}": [0.5] * 100 for key in ("beta1", "beta2", "momentum")}
    with pytest.raises(ValueError, match=r"study\.vary has 1,000,000 combinations of values; at most 10,000"):
        checked_study(replace(GRID, study=replace(GRID.study, vary=vary)), CORPUS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "step"}, r"schedule.name must be one of wsd, cosine, linear, constant; not 'step'"),
        ({"cooldown_shape": "exp"}, r"schedule.cooldown_shape must be one of linear, 1-sqrt; not 'exp'"),
        ({"cooldown_fraction": 0.0}, r"schedule.cooldown_fraction must be a number above 0, up to 1; not 0.0"),
        ({"final_fraction": 2.0}, r"schedule.final_fraction"),
        ({"warmup_steps": -1}, r"schedule.warmup_steps must be a whole number from 0 .*; not -1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(change, message):
    with pytest.raises(FieldError, match=message):
        check_fields(replace(SINGLE, schedule=replace(SINGLE.schedule, **change)))
    check_fields(SINGLE)
