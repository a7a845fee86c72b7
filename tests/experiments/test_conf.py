"""Every file of the configuration tree composes, and every study in it expands to the cells its comment promises."""

import sys

import pytest

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.cost.cost import REFERENCE, makespan
from isoflop.experiments.study.check import checked_study
from isoflop.experiments.study.sizes import load_size, name_of, size_names
from isoflop.experiments.sweep import launch
from isoflop.experiments.sweep.launch import make_launch
from isoflop.experiments.sweep.plan import plan
from tests.support.root import ROOT
from tests.support.sweep.studies import FakeCorpus

CONF = ROOT / "conf"
EXPERIMENTS = sorted(path.stem for path in CONF.glob("experiment/*.yaml"))
LONG = ("overnight_cpu", "gpu_hour", "gpu_rates", "gpu_quarter", "gpu_quarter_holdout")  # on text of their own


@pytest.fixture
def without_corpus(monkeypatch):
    """Plans without preparing a corpus: only its size matters."""

    def load(spec):
        corpus = FakeCorpus(vocab_size=64 if spec.data.source == "synthetic" else 256)
        if spec.study.name in LONG:
            corpus.train_tokens = 1_000_000_000
        return checked_study(spec, corpus), corpus

    monkeypatch.setattr(launch, "load", load)


def planned(*overrides):
    (study,) = plan(make_launch(compose_all(overrides), workers=None, speed=REFERENCE))["studies"]
    return study


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_planned(name, without_corpus):
    study = planned(f"experiment={name}")
    assert study["study"] == name
    assert len({cell["run_id"] for cell in study["cells"]}) == len(study["cells"]) >= 3
    assert max(cell["epochs"] for cell in study["cells"]) < 1.5
    assert name in LONG or study["minutes"]["2"] < 60


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_first_which_command_runs_it(name):
    package, command = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[:2]
    assert package == "# @package _global_"
    assert command.startswith(tuple(f"# isoflop {verb} experiment={name} " for verb in ("run", "tune", "gate")))


SERIES = {name.rstrip("0123456789"): name for name in size_names()}  # the widest of each


@pytest.mark.slow
@pytest.mark.parametrize("size", SERIES.values())
def test_a_size_of_every_series_is_a_model(size, without_corpus):
    (cell,) = planned(f"model={size}", "budget.tokens=1e6", "data.max_epochs=9")["cells"]
    assert load_size(cell["size"]) == load_size(size)


def test_the_others_are_files_alike():
    """Keys of `model` and no other, as Hydra reads a file that names no package; a shape leads back to its file."""
    assert len(SERIES) >= 6
    for size in size_names():
        assert "@package" not in (CONF / "model" / f"{size}.yaml").read_text()
        assert load_size(name_of(load_size(size))) == load_size(size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [f"{group}={path.stem}" for group in ("optim", "schedule", "data") for path in CONF.glob(f"{group}/*.yaml")],
)
def test_every_choice_of_a_group_composes(choice, without_corpus):
    assert planned(choice, "budget.tokens=1e6")["cells"]


def test_quick_brackets_every_budget_and_measures_its_noise(without_corpus):
    study = planned("experiment=quick")
    by_budget = {}
    for cell in study["cells"]:
        by_budget.setdefault(cell["budget_flops"], {}).setdefault(cell["size"], set()).add(cell["seed"])
    assert sorted(by_budget) == [3e10, 1e11, 3e11, 1e12]
    assert all(len(sizes) >= 6 for sizes in by_budget.values())
    assert sum(len(seeds) >= 3 for sizes in by_budget.values() for seeds in sizes.values()) >= 3
    assert study["hold_out"] == [1e12]
    assert max(cell["epochs"] for cell in study["cells"]) < 1
    assert study["minutes"]["2"] < 7


@pytest.mark.slow
def test_sharing_counts_every_trunk_once(without_corpus):
    study = planned("experiment=quick")
    assert study["sharing"] == study["tokens_by_cell"] / study["tokens_trained"] > 1.2
    cosine = planned("experiment=quick", "schedule=cosine")
    assert cosine["sharing"] == 1
    assert cosine["minutes"]["1"] > study["minutes"]["1"]


def counted(run):
    """What `run()` returns, and the calls of Python functions that it makes."""
    count = 0

    def on_event(frame, event, argument):
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        return run(), count
    finally:
        sys.setprofile(before)


@pytest.mark.slow
def test_a_thousand_cells_are_planned_with_as_much_work_for_each_as_a_few(without_corpus):
    def seeds(count):
        return planned("experiment=quick", "study.seeds=[" + ",".join(map(str, range(count))) + "]")

    seeds(4)  # what is done once is done
    (few, calls_few), (many, calls_many) = counted(lambda: seeds(4)), counted(lambda: seeds(40))
    assert len(many["cells"]) > 1000
    assert calls_many <= 1.1 * len(many["cells"]) / len(few["cells"]) * calls_few


def test_commas_make_one_study_each(without_corpus):
    studies = plan(
        make_launch(compose_all(["experiment=smoke", "optim.learning_rate=0.01,0.02"]), workers=None, speed=REFERENCE)
    )["studies"]
    ids = [{cell["run_id"] for cell in study["cells"]} for study in studies]
    assert len(ids) == 2
    assert not ids[0] & ids[1]


def test_makespan_is_the_longest_worker():
    assert makespan([3.0, 3.0, 2.0], 2) - makespan([], 1) == pytest.approx(5.0)
    assert makespan([3.0, 3.0, 2.0], 1) - makespan([], 1) == pytest.approx(8.0)
