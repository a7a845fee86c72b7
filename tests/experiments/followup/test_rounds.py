"""Rounds after a study, for real on a tiny one: asked once, taken up after a kill, and nothing trained twice."""

import json
import shutil

import pytest

from isoflop.experiments import app
from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.followup import next_study, rounds
from isoflop.experiments.followup.rounds import run_rounds
from isoflop.experiments.followup.template import NextStudyError
from isoflop.experiments.store.models import finished
from isoflop.experiments.store.rounds import flops_ahead
from isoflop.experiments.store.store import create_store, open_store
from isoflop.experiments.sweep.launch import make_launch, run_launch
from isoflop.experiments.sweep.plan import plan, plan_text
from isoflop.scaling.design.candidates import DesignError
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import read_runs
from tests.support.sweep.launches import in_process
from tests.support.texts import write_texts

pytestmark = pytest.mark.usefixtures("kept_searches")


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """Arguments of nine cells in three trunks and two rounds after them."""
    folder = write_texts(tmp_path_factory.mktemp("rounds") / "text", words=1600)
    return [
        "experiment=smoke", "study.name=tiny", "study.sizes=[d6,d8,d12]", "study.budgets=[3e8,6e8,1.2e9]",
        "study.window.min_steps=1", "schedule.warmup_steps=3", f"data.files=['{folder}/*.txt']", "data.source=files",
        "data.eval_tokens=2048", "data.held_out_fraction=0.3", "data.max_epochs=99",
        "data.context_length=16", "optim.batch_size=32", f"where.corpora={folder.parent / 'corpora'}",
        "study.rounds.count=2", "study.rounds.budget=1e9", "study.rounds.target=1e11",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def short_cells(monkeypatch):
    monkeypatch.setattr(next_study, "MIN_STEPS", 10)


def compose(overrides):
    return compose_all(overrides)[0]


def run(overrides, *, dies_at=None):
    """Exit code of a launch, and the trunks that it trained."""
    trained, spec = [], compose(overrides)

    def before(trunk):
        if len(trained) == dies_at:
            raise KeyboardInterrupt
        trained.append(trunk)

    def launch(specs):
        return run_launch(make_launch(specs, workers=1), in_process(spec, before=before), typed=overrides)

    return run_rounds([(list(overrides), spec)], compose, launch), trained


def requested(folder, k):
    return json.loads((folder / "rounds" / f"tiny-round{k}.json").read_text())


@pytest.fixture(scope="module")
def launched(typed, tmp_path_factory):
    """A launch that dies in its first round and is repeated: arguments, store, the first answer, outcome."""
    folder = tmp_path_factory.mktemp("rounds") / "runs"
    overrides = [*typed, f"runs={folder}"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(next_study, "MIN_STEPS", 10)
        with pytest.raises(KeyboardInterrupt):
            run(overrides, dies_at=3)  # after the study, before the first round has trained a cell
        first = requested(folder, 1)
        assert not (folder / "rounds" / "tiny-round2.json").exists()
        return overrides, folder, first, run(overrides)


@pytest.mark.slow
def test_a_study_is_followed_by_its_rounds(launched):
    _, folder, first, (code, trained) = launched
    assert code == 0
    assert trained
    assert requested(folder, 1) == first  # not asked again after the kill
    second = requested(folder, 2)
    cells = [(c["size"], c["flops"]) for answer in (first, second) for c in answer["cells"]]
    assert len(set(cells)) == len(cells)
    runs = 9 + sum(len(c["seeds"]) for answer in (first, second) for c in answer["cells"])
    assert read_runs(folder)["run_id"].nunique() == runs
    states = create_store(folder).states()
    assert (states["state"] == "done").all()
    assert len(states) == runs


def test_plan_and_the_cap_count_the_rounds_before_anything_is_trained(typed, tmp_path):
    priced = [*typed, f"runs={tmp_path / 'runs'}", "where.workers=1", "where.price_per_hour=3600"]

    def planned(*more, **limits):
        return plan(make_launch([compose([*priced, *more])], workers=None), **limits)

    bare, value = planned("study.rounds.count=0"), planned()
    assert "rounds" not in bare
    assert bare["studies"] == value["studies"]
    assert value["rounds"]["flops"] == 2e9
    study, rounds_ = value["studies"][0]["cost"]["dollars"], value["rounds"]["cost"]["dollars"]
    assert rounds_ == pytest.approx(60 * value["rounds"]["minutes"]["1"])
    assert planned("study.rounds.count=6")["rounds"]["cost"]["dollars"] == pytest.approx(3 * rounds_)
    assert "plus rounds of study.rounds: at most 2e+09 FLOPs" in plan_text(value)
    capped = f"where.max_dollars={study + rounds_ / 2}"
    assert planned(capped, "study.rounds.count=0")
    with pytest.raises(UsageError, match=r"of it the rounds .*lower study.rounds.count"):
        planned(capped)
    with pytest.raises(UsageError, match=r"of it the rounds"):
        run([*priced, capped], dies_at=0)
    with pytest.raises(UsageError, match=r"add study\.rounds\.count=0"):
        planned(minutes=1.0)
    assert not (tmp_path / "runs").exists()


def test_no_round_follows_a_study_whose_cells_all_diverged(typed, tmp_path):
    message = (
        r"study tiny: none of its 1 cells is done, all diverged: no round can follow; isoflop status .*learning_rate"
    )
    few = ["study.sizes=[d6]", "study.budgets=[3e8]", f"runs={tmp_path / 'runs'}", "optim.learning_rate=1e38"]
    with pytest.raises(NextStudyError, match=message):
        run([*typed, *few])


@pytest.mark.slow
def test_a_study_is_read_with_its_rounds(launched, monkeypatch):
    overrides, folder, *_ = launched
    monkeypatch.setattr(app, "run_study", lambda arguments: 0)
    whole = set(read_runs(folder)["run_id"])
    assert set(app.run(overrides=overrides)["run_id"]) == whole
    assert set(read_table(folder, study="tiny")["run_id"]) == whole
    assert len(finished(open_store(folder), "tiny")) == len(whole)


@pytest.mark.slow
def test_rounds_that_have_ended_are_not_counted_again(launched):
    overrides = launched[0]
    assert flops_ahead(compose(overrides)) == 0
    assert flops_ahead(compose([*overrides, "study.rounds.count=3"])) == 1e9
    assert flops_ahead(compose([*overrides, "study.rounds.target=2e11"])) == 2e9
    assert flops_ahead(compose([*overrides, "where.only=[x]", "study.rounds.count=3"])) == 0


@pytest.mark.slow
def test_a_second_launch_asks_for_nothing_and_trains_nothing(launched, monkeypatch):
    overrides = launched[0]
    monkeypatch.setattr(rounds, "plan_from_table", lambda *a, **k: pytest.fail("asked again"))
    assert run(overrides) == (0, [])
    for path in launched[1].glob("rounds/*.json"):  # under the name that it had in files of before
        answer = json.loads(path.read_text())
        path.write_text(json.dumps(answer | {"wish": answer.pop("requested")}))
    assert run(overrides) == (0, [])


@pytest.mark.slow
def test_a_run_of_a_round_can_be_asked_for_alone(launched):
    overrides, folder, *_ = launched
    store = create_store(folder)
    run_id = store.studies()["tiny-round2"]["cells"][0]["run_id"]
    store.record(run_id, "failed")
    code, trained = run([*overrides, f"where.only=['{run_id}']"])
    assert (code, len(trained)) == (0, 1)


@pytest.mark.slow
def test_another_wish_is_asked_anew_and_what_was_trained_stays(launched, tmp_path):
    copy = shutil.copytree(launched[1], tmp_path / "runs")
    overrides = [*launched[0], f"runs={copy}", "study.rounds.count=1"]
    assert run([*overrides, "study.rounds.target=2e11"])[0] == 0
    assert requested(copy, 1)["requested"]["target"] == 2e11
    before = read_runs(copy)["run_id"].nunique()
    with pytest.raises(DesignError, match="not above the largest run"):
        run([*overrides, "study.rounds.target=1e9"])
    assert read_runs(copy)["run_id"].nunique() == before


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        (["study.rounds.target=null"], "study.rounds.budget and study.rounds.target"),
        (["study.rounds.goal=fame"], "choose n_opt"),
        (["study.sizes=[]", "study.budgets=[]", "budget.flops=3e8"], "a name and sizes"),
        (["+study.vary.seed=[0,1]"], "launch one arm"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_before_anything_is_trained(typed, tmp_path, more, reported):
    with pytest.raises((UsageError, ValueError), match=reported):
        run([*typed, f"runs={tmp_path / 'runs'}", *more])
    assert not (tmp_path / "runs").exists()


def test_two_argument_sets_have_no_rounds(typed):
    both = [([], compose(typed)), ([], compose(typed))]
    with pytest.raises(UsageError, match="one by one"):
        run_rounds(both, compose, lambda sets: 0)


def test_without_rounds_a_launch_is_one_call():
    calls = []
    sets = [([], compose(["experiment=smoke"]))]
    assert run_rounds(sets, compose, lambda given: calls.append(given) or 3) == 3
    assert calls == [[sets[0][1]]]
