"""The commands run, plan and status as they are typed: results, exit codes, and one clear line for bad input."""

import json

import pytest

from isoflop.experiments.store.store import STATES, create_store
from tests.support.root import RESULTS

TINY = ("model=d8", "budget.flops=2e8", "schedule.warmup_steps=3", "data.eval_tokens=512", "hydra/launcher=basic")


@pytest.fixture
def text(here):
    return ("data=text", f"data.files=[{here.parent}/text/*.txt]", "data.held_out_fraction=0.3")


@pytest.mark.slow
def test_a_cell_is_trained_once_and_told_by_status(typed, text, tmp_path):
    code, out, _ = typed("run", *text, *TINY)
    assert (code, out.splitlines()[0][:15]) == (0, "1 cells: 1 done")
    code, out, err = typed("run", *text, *TINY)
    assert code == 0
    assert "1 cells, 0 to train" in err
    code, out, _ = typed("status", "--json")
    answer = json.loads(out)
    assert answer["counts"]["done"] == 1
    assert answer["cells"][0]["attempts"] == 1
    assert "single" in typed("status")[1]
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["corpora", "runs"]


def test_status_names_finished_runs_unless_they_are_many(typed, tmp_path):
    store = create_store(tmp_path / "runs")
    for n in range(21):
        if n == 20:
            few = typed("status", tmp_path / "runs")[1]
            assert all(f"done      r{k:02}  d8 at" in few for k in range(20))
        store.record(f"r{n:02}", "done", label="d8 at 1e+09 FLOPs")
    many = typed("status", tmp_path / "runs")[1]
    assert many.splitlines()[-1] == f"done      21 cells, whose ids isoflop status {tmp_path / 'runs'} --runs lists"
    every = typed("status", tmp_path / "runs", "--runs")[1]
    assert sum(line.startswith("done      r") for line in every.splitlines()) == 21


def test_status_names_the_runs_that_were_stopped(typed, tmp_path):
    store = create_store(tmp_path / "runs")
    store.record("r1", "stopped", label="d8 at 1e+09 FLOPs", step=64, steps=200)
    assert "stopped   r1  d8 at 1e+09 FLOPs  step 64/200" in typed("status", tmp_path / "runs")[1].splitlines()
    for n in range(20):
        store.record(f"s{n}", "stopped")
    assert "stopped   21 cells, whose ids isoflop status" in typed("status", tmp_path / "runs")[1]
    assert typed("status", tmp_path / "runs", "--runs")[1].count("stopped   ") == 21


@pytest.mark.slow
def test_plan_starts_nothing_and_knows_what_is_done(typed, text, tmp_path):
    code, out, _ = typed("plan", *text, *TINY, "--json")
    (study,) = json.loads(out)["studies"]
    assert (code, study["cells"][0]["state"], study["cells"][0]["budget_flops"]) == (0, "planned", 2e8)
    assert not (tmp_path / "here" / "runs").exists()
    typed("run", *text, *TINY)
    (study,) = json.loads(typed("plan", *text, *TINY, "--json")[1])["studies"]
    assert (study["done"], study["minutes"]["1"]) == (1, 0.0)
    message = typed("plan", *text, *TINY)[1]
    assert ": 1 cell in 1 trunk, " in message
    assert "predicted minutes by workers" in message


@pytest.mark.slow
def test_plan_has_a_price_and_both_commands_end_above_the_cap(typed, text, tmp_path):
    paid = [*text, *TINY, "where.workers=1", "where.price_per_hour=3600", "where.watts=10"]
    code, out, _ = typed("plan", "--no-calibrate", *paid, "--json")
    (study,) = json.loads(out)["studies"]
    cost = study["cost"]
    assert code == 0
    assert list(cost) == ["devices", "device_hours", "dollars", "joules"]
    assert cost["dollars"] == pytest.approx(60 * study["minutes"]["1"])
    assert cost["joules"] == pytest.approx(600 * study["minutes"]["1"])
    assert "price: " in typed("plan", "--no-calibrate", *paid)[1]
    plain = json.loads(typed("plan", "--no-calibrate", *text, *TINY, "where.workers=1", "--json")[1])["studies"][0]
    assert [cell["run_id"] for cell in plain["cells"]] == [cell["run_id"] for cell in study["cells"]]
    assert (plain["cost"]["dollars"], plain["cost"]["joules"]) == (None, None)
    for command in (("plan", "--no-calibrate"), ("run",)):
        code, _, error = typed(*command, *paid, "where.max_dollars=0.01")
        assert (code, len(error.strip().splitlines())) == (2, 1)
        assert "where.max_dollars=0.01: this would cost" in error
    assert not (tmp_path / "here" / "runs").exists()


@pytest.mark.slow
def test_mode_run_trains_in_this_process(typed, text):
    assert typed("run", *text, *TINY, "hydra.mode=RUN")[0] == 0
    assert json.loads(typed("status", "--json")[1])["counts"]["done"] == 1


@pytest.mark.slow
def test_commas_sweep_and_label_arms(typed, text):
    arms = ("optim.learning_rate=0.01,0.02", "arm=lr${optim.learning_rate}")
    assert typed("run", *text, *TINY, *arms)[0] == 0
    labels = [cell["label"] for cell in json.loads(typed("status", "--json")[1])["cells"]]
    assert [label.split()[0] for label in labels] == ["lr0.01", "lr0.02"]


@pytest.mark.slow
def test_a_diverged_cell_ends_in_exit_code_1(typed, text):
    code, out, _ = typed("run", *text, *TINY, "optim.learning_rate=1e38")
    assert code == 1
    assert "1 diverged" in out
    assert "loss is nan at step" in typed("status")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=quik"], "no experiment 'quik'; did you mean 'quick'?"),
        (["model=d17"], "no model 'd17'; did you mean 'd16'?"),
        (["optim.learning_rat=1"], "unknown key 'optim.learning_rat'; did you mean 'optim.learning_rate'?"),
        (["optim.lr=1"], "did you mean 'optim.learning_rate'?"),
        (["+optim.lr=1"], "did you mean 'optim.learning_rate'?"),
        (["bugdet.flops=1"], "unknown key 'bugdet.flops'; did you mean 'budget'?"),
        (["seed=abc"], "seed=abc: seed takes a whole number, not abc"),
        (["budget.flops=[1"], "[1"),
        (["nonsense"], "nonsense is not in Hydra's grammar"),
        ([], "exactly one of budget.flops, budget.tokens, budget.tokens_per_param; none is given"),
        (["budget.flops=1e9", "budget.tokens=5"], "2 are given: flops, tokens"),
        (["budget.flops=-3"], "budget.flops must be a positive number; not -3.0"),
        (["budget.flops=0"], "must be a positive number; not 0.0"),
        (["budget.flops=1e8", "model.d_model=18", "model.n_head=4"], "d_model=18 is not divisible by model.n_head=4"),
        (["budget.flops=1e15"], "epochs, more than data.max_epochs=4; add text"),
        (["budget.flops=1e9", "schedule.name=wds"], "schedule.name must be one of wsd, cosine, linear, constant; not "),
        (["budget.flops=1e9", "where.workers=0"], "where.workers must be at least 1"),
        (["budget.flops=1e9", "where.device=tpu9"], "where.device=tpu9 cannot be used here"),
        (
            ["model.d_model=16384", "model.n_head=64", "model.n_layer=96", "budget.flops=1e20", "data.max_epochs=1e9"],
            "needs about",
        ),
        (["budget.flops=1e9", "hydra/launcher=nope"], "no hydra/launcher 'nope'"),
        (["experiment=quick", "model=d8"], "override study.sizes=[...]"),
        (["experiment=quick", "seed=3"], "override study.seeds=[...]"),
        (["experiment=quick", "budget.flops=1e9"], "study.budgets and budget.flops are both given"),
        (["experiment=quick", "study.sizes=[d16x]"], "no model size 'd16x'; did you mean 'd16'?"),
        (["data.files=[/nowhere/*.txt]", "budget.flops=1e9"], "'/nowhere/*.txt' matches no file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(typed, text, tmp_path, arguments, message):
    code, out, err = typed("run", *text, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("isoflop: ")
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert not (tmp_path / "here" / "runs").exists()


@pytest.mark.slow
def test_a_corpus_seen_more_than_once_is_warned_of(typed, text):
    code, _, err = typed("run", *text, *TINY, "budget.flops=2e9", "data.max_epochs=1e3")
    assert code == 0
    assert "warning: 1 of 1 cells repeat their corpus" in err


@pytest.mark.slow
def test_a_runs_folder_that_is_none_is_refused_and_left_alone(typed, text, tmp_path):
    (tmp_path / "here" / "thesis").mkdir()
    (tmp_path / "here" / "thesis" / "main.tex").write_text("precious")
    code, _, err = typed("run", *text, *TINY, "runs=thesis")
    assert code == 2
    assert "thesis is not a runs folder (it holds 'main.tex' and no STORE.json)" in err
    assert [p.name for p in (tmp_path / "here" / "thesis").iterdir()] == ["main.tex"]
    code, _, err = typed("status", "thesis")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    code, _, err = typed("status", "nowhere")
    assert (code, "no such folder" in err) == (2, True)


@pytest.mark.slow
def test_a_truncated_run_is_named_with_the_remedy_which_works(typed, text, tmp_path):
    typed("run", *text, *TINY)
    (path,) = (tmp_path / "here" / "runs").glob("cells/*/run.parquet")
    path.write_bytes(path.read_bytes()[:100])
    code, _, err = typed("run", *text, *TINY)
    assert code == 2
    assert f"{path}: missing, truncated or not a run table; delete {path.parent}" in err
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    assert typed("run", *text, *TINY)[0] == 0


@pytest.mark.slow
def test_status_watches_until_nothing_is_left_to_train(typed, text, monkeypatch):
    typed("run", *text, *TINY)
    counts = [dict.fromkeys(STATES, 0) | {state: 1} for state in ("planned", "running", "done", "failed")]
    looks = iter(counts)
    monkeypatch.setattr(
        "isoflop.experiments.sweep.plan.status",
        lambda store: {"runs": "runs", "counts": next(looks), "studies": {}, "cells": []},
    )
    monkeypatch.setattr("isoflop.commands.runs.WATCH_SECONDS", 0.0)
    code, out, _ = typed("status", "--watch")
    assert code == 0
    assert out.count("all") == 3
    assert next(looks)["failed"] == 1, "it looked no further than done"


@pytest.mark.slow
def test_cuda_asked_for_and_absent_is_one_line(typed, text, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for command in ("run", "plan"):
        code, out, err = typed(command, *text, *TINY, "where.device=cuda")
        assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
        assert "where.device=cuda cannot be used here" in err
        assert "use where.device=cpu" in err


@pytest.mark.slow
def test_more_workers_than_cores_are_warned_of(typed, text):
    code, _, err = typed("run", *text, *TINY, "where.workers=64")
    assert code == 0
    assert "warning: 64 workers x 1 threads on" in err
    assert "slow each other down; where.workers=" in err


@pytest.mark.slow
def test_cells_of_few_steps_and_outside_the_window_are_named(typed, text):
    code, _, err = typed("run", *text, *TINY)
    assert code == 0
    assert "1 of 1 cells take fewer than 50 steps, d8 at" in err
    assert "raise their budget at least" in err
    study = ("study.sizes=[d8,d12]", "study.budgets=[1e9]", "study.window.min_steps=60", *TINY[2:])
    code, _, err = typed("run", *text, *study)
    assert code == 0
    assert "study.window leaves out 1 cells of the grid: d12 at 1e+09: 40 steps, fewer than min_steps=60" in err


@pytest.mark.slow
def test_a_store_of_a_newer_version_is_refused(typed, text, tmp_path):
    typed("run", *text, *TINY)
    marker = tmp_path / "here" / "runs" / "STORE.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"version": 99}))
    for command in (["run", *text, *TINY], ["status"], ["clean"], ["retry"]):
        code, out, err = typed(*command)
        assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
        assert "store version 99, this isoflop reads up to 1; upgrade" in err


RATES = str(RESULTS / "lr_transfer.parquet")
REQUESTED = ("--at", "n_params=1e6", "--tokens", "153600")


@pytest.mark.slow
def test_tune_of_a_table_answers_at_a_scale_and_emits_what_a_plan_takes(typed, tmp_path):
    file, own = tmp_path / "conf" / "optim" / "fitted.yaml", ("--config-dir", str(tmp_path / "conf"))
    code, out, err = typed("tune", RATES, *REQUESTED, "--arm", "standard", "--emit", str(file), "--json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert {"optimum", "intervals", "regret", "edges", "law", "findings", "conventions", "emitted"} <= set(answer)
    assert answer["emitted"]["replaced"] is False
    code, out, _ = typed("plan", *own, "experiment=smoke", "optim=fitted", "--no-calibrate", "--json")
    assert code == 0
    rates = {cell["learning_rate"] for cell in json.loads(out)["studies"][0]["cells"]}
    assert rates == {float(f"{answer['optimum']['learning_rate']:.6g}")}
    same = typed("tune", "--table", RATES, *REQUESTED, "--arm", "standard", "--emit", str(file))[1]
    assert "over the file that was there" in same
    assert f"{answer['optimum']['learning_rate']:.4g}" in same


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((str(RESULTS / "quick.parquet"), "--at", "n_params=1e7"), 1, "every run has the learning rate 0.02"),
        (("nosuch.csv", "--at", "n_params=1e7"), 2, "nosuch.csv: no such file or folder"),
        (
            ("experiment=smoke", "--at", "n_params=1e7"),
            2,
            "without a TABLE of runs (isoflop tune TABLE",
        ),
        ((RATES, "experiment=smoke", *REQUESTED), 2, "experiment=smoke: with a TABLE"),
        ((RATES, "--nosuch", *REQUESTED), 2, "--nosuch: with a TABLE"),
        ((RATES, "--at", "n_params=x"), 2, "--at n_params= x: not a number"),
        ((RATES, "--at", "n_params=1", "--at", "n_params=2"), 2, "--at: n_params is given twice"),
        ((RATES, *REQUESTED, "--setting", "rate=1"), 2, "--setting rate=1: not one of peak_learning_rate"),
        ((RATES, *REQUESTED, "--emit", "fitted.yaml"), 1, "choose one with --arm"),
        ((RATES, *REQUESTED, "--emit", "nosuch/\0.yaml"), 2, "--emit"),
        ((RATES, *REQUESTED, "--loss", "nosuch"), 2, "--loss nosuch: no column 'nosuch'"),
        (
            (RATES, *REQUESTED, "--axis", "batch"),
            2,
            "without --at and its like: leave out --axis",
        ),
        (("--table", RATES, "--level", "0.5"), 2, "bowls by width are made: leave out --level"),
        (("experiment=smoke", "--where", "seed == 0"), 2, "bowls by width are made: leave out --where"),
        ((RATES, *REQUESTED, "--by", "nosuch"), 2, "--by nosuch: "),
    ],
)
def test_tune_of_a_table_refuses_in_one_line(typed, tmp_path, words, code, says):
    ended, out, err = typed("tune", *words)
    assert (ended, out) == (code, "")
    (line,) = err.strip().splitlines()
    assert says in line
    assert not (tmp_path / "here" / "fitted.yaml").exists()
