"""A gate on a tiny study, for real: pairs until it is decided, taken up after a kill, nothing trained twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.experiments.app import RunError
from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.followup.gate import run_gate
from isoflop.experiments.study.check import StudyError
from isoflop.experiments.sweep.launch import make_launch, run_launch
from isoflop.scaling.gate.gate import gate
from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.table.runs import read_runs
from tests.support.sweep.launches import in_process
from tests.support.texts import write_texts

pytestmark = pytest.mark.slow

WORSE = "study.arms.worse={optim: {learning_rate: 0.0005}}"
TARGET = 4e8


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    folder = write_texts(tmp_path_factory.mktemp("gate") / "text", words=1600)
    return [
        "study.name=tiny", "study.sizes=[d6]", "study.budgets=[2e8,4e8]", "study.window.min_steps=1",
        "schedule.warmup_steps=3", f"data.files=['{folder}/*.txt']", "data.source=files", "data.eval_tokens=512",
        "data.held_out_fraction=0.3", "data.max_epochs=99", "data.context_length=16", "optim.batch_size=32",
        f"where.corpora={folder.parent / 'corpora'}",
    ]  # fmt: skip


def trainer(trained, *, dies_at=None):
    """Trains in this process; `trained` collects the trunks, and the one numbered `dies_at` is never begun."""

    def before(trunk):
        if len(trained) == dies_at:
            raise KeyboardInterrupt
        trained.append(trunk)

    def train(overrides):
        (spec,) = compose_all(overrides)
        return run_launch(make_launch([spec], workers=1), in_process(spec, before=before))

    return train


@pytest.fixture(scope="module")
def judged(typed, tmp_path_factory):
    """A gate that is killed at its fourth run and typed again: arguments, trained before and after, the verdicts."""
    arguments = [*typed, WORSE, f"runs={tmp_path_factory.mktemp('judged') / 'runs'}"]
    trained: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_gate(arguments, target=TARGET, spend=1e11, train=trainer(trained, dies_at=3))
    return arguments, trained, run_gate(arguments, target=TARGET, spend=1e11, train=trainer(trained))


def test_pairs_are_trained_until_it_is_decided(judged):
    arguments, trained, found = judged
    (verdict,) = found.verdicts
    assert verdict.decision == "reject"
    assert verdict.pairs >= 5
    table = read_runs(arguments[-1].partition("=")[2])
    final = table[table["final"]]
    assert len(trained) == len(set(trained)) == len(final) == 2 * verdict.pairs  # none twice, also after the kill
    seeds = final.groupby("seed")["arm"].agg(set)
    assert list(seeds.index) == list(range(verdict.pairs))
    assert (seeds == {"baseline", "worse"}).all()
    assert verdict.flops == pytest.approx(final["flops"].sum())
    assert set(np.round(final["budget_flops"])) <= {2e8, 4e8}


def test_typed_again_it_trains_nothing_and_says_the_same(judged):
    arguments, _, found = judged
    again = run_gate(arguments, target=TARGET, spend=1e11, train=trainer([], dies_at=0))
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())


def test_its_runs_are_kept_as_a_table_that_says_the_same(judged):
    arguments, _, found = judged
    path = Path(arguments[-1].partition("=")[2]) / "gates" / "tiny.parquet"
    again = gate(read_table(path), target=TARGET)
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())


def test_another_architecture_is_paired_though_it_counts_other_parameters(typed, tmp_path, capsys):
    arms = [WORSE, "study.arms.lstm={model: {family: lstm}}"]
    found = run_gate([*typed, *arms, f"runs={tmp_path / 'runs'}"], target=TARGET, spend=2e9, train=trainer([]))
    assert {v.arm: v.pairs for v in found.verdicts} == {"worse": 2, "lstm": 2}
    assert not found.failed
    assert "lstm undecided (2 pairs" in capsys.readouterr().err


def test_it_ends_where_the_flops_are_spent_and_with_more_of_them_goes_on(typed, tmp_path, capsys, monkeypatch):
    arguments = [*typed, WORSE, f"runs={tmp_path / 'runs'}"]
    found = run_gate(arguments, target=TARGET, spend=1.3e9, train=trainer([]))
    assert found.verdicts[0].decision == "undecided"
    assert (found.verdicts[0].pairs, found.verdicts[0].next is None) == (2, False)
    printed = capsys.readouterr()
    assert printed.out == ""  # of --json nothing else may stand there
    assert "worse undecided (2 pairs" in printed.err
    monkeypatch.setattr("isoflop.experiments.followup.gate.BATCH", 1)  # as many pairs again at every look
    found = run_gate(arguments, target=TARGET, spend=2.1e9, train=trainer(trained := []))
    assert (found.verdicts[0].pairs, len(trained)) == (3, 2)  # what is left is spent on fewer pairs
    assert found.verdicts[0].flops == pytest.approx(2e9, rel=0.05)


def test_pairs_of_another_study_are_refused_under_its_name_and_kept(judged):
    arguments, _, _ = judged
    kept = Path(arguments[-1].partition("=")[2]) / "gates" / "tiny.json"
    before = kept.read_text()
    others = (
        ["study.sizes=[d8]"], ["study.budgets=[4e8]"], ["study.budgets=[2e8,3e8,4e8]"], ["optim.learning_rate=0.03"],
        ["study.arms.worse={optim: {learning_rate: 0.0004}}"], ["study.arms.other={optim: {name: muon}}"],
    )  # fmt: skip
    for other in others:
        with pytest.raises(UsageError, match=r"study.name=tiny: the \d+ pairs of .* are of another study"):
            run_gate([*arguments, *other], target=TARGET, spend=1e11, train=trainer([], dies_at=0))
    assert kept.read_text() == before
    named = [*arguments, *others[-2], "study.name=mine"]
    run_gate(named, target=TARGET, spend=1.3e9, train=trainer(trained := []))  # the remedy, with the baseline's runs
    assert len(trained) == 2


def test_what_kept_pairs_still_take_is_within_what_may_be_spent(typed, tmp_path):
    arguments = [*typed, WORSE, f"runs={tmp_path / 'runs'}"]
    with pytest.raises(KeyboardInterrupt):
        run_gate(arguments, target=TARGET, spend=1.3e9, train=trainer([], dies_at=3))
    with pytest.raises(UsageError, match=r"--spend 1e\+09: the 2 pairs take 1.2"):
        run_gate(arguments, target=TARGET, spend=1e9, train=trainer([], dies_at=0))
    assert run_gate(arguments, target=TARGET, spend=1.3e9, train=trainer(trained := [])).verdicts[0].pairs == 2
    assert len(trained) == 1


def test_an_arm_that_was_decided_is_not_trained_when_it_is_typed_again(typed, tmp_path, monkeypatch):
    arguments = [*typed, WORSE, "study.arms.twin={optim: {learning_rate: 0.0199}}", f"runs={tmp_path / 'runs'}"]
    found = run_gate(arguments, target=TARGET, spend=2e10, train=trainer([]))
    pairs = {verdict.arm: verdict.pairs for verdict in found.verdicts}
    assert pairs["worse"] < pairs["twin"]
    again = run_gate(arguments, target=TARGET, spend=2e10, train=trainer([], dies_at=0))
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("further", "keywords", "message"),
    [
        ([], {}, "needs a candidate"),
        (["study.arms.same={}"], {}, "no setting differs in them"),
        ([WORSE], {"baseline": "nope"}, "no arm of that name"),
        ([WORSE], {"spend": 1e8}, "the first 2 pairs take 1.2e"),
        ([WORSE, "study.rounds.count=1"], {}, "rounds"),
        ([WORSE, "study.sizes=[]", "study.budgets=[]", "budget.tokens=2e4"], {}, "study.sizes"),
        (["study.arms.own={study: {sizes: [d8]}}"], {}, "the study's own sizes"),
        ([WORSE], {"target": 1.3e9}, "say nothing beyond 8e"),
        ([WORSE, "study.budgets=[2e8]"], {"target": 4e8}, "say nothing beyond 2e"),
    ],
)
def test_what_no_gate_can_be_made_of(typed, tmp_path, further, keywords, message):
    runs = tmp_path / "runs"
    with pytest.raises(ValueError, match=message) as raised:
        run_gate([*typed, *further, f"runs={runs}"], train=trainer([], dies_at=0), **{"target": TARGET, **keywords})
    assert isinstance(raised.value, (UsageError, StudyError))
    assert not (runs / "gates").exists()


def test_runs_without_a_result_end_it(typed, tmp_path):
    with pytest.raises(RunError, match="4 of 4 runs of the gate have no result"):
        run_gate([*typed, WORSE, f"runs={tmp_path / 'runs'}"], target=TARGET, spend=1e11, train=lambda overrides: 1)
