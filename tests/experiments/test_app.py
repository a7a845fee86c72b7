"""Studies from Python: what the command does, twice, without a trace in a process that others use too."""

import logging
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from isoflop.experiments.app import run, run_study
from isoflop.experiments.compose.compose import compose_all, job_overrides, job_spec
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.followup.tune_report import train_and_read
from isoflop.experiments.store.models import find_trained, finished
from isoflop.experiments.store.store import open_store
from isoflop.scaling.table.runs import read_runs

STUDY = (
    "study.name=tiny", "study.sizes=[d6]", "study.budgets=[2e8]", "study.window.min_steps=1",
    "schedule.warmup_steps=3", "data=text", "data.files=[../text/*.txt]", "data.eval_tokens=512",
    "data.held_out_fraction=0.3", "data.context_length=16", "optim.batch_size=32", "hydra/launcher=basic",
)  # fmt: skip


@pytest.fixture
def others_hydra(tmp_path):
    """Hydra, initialised by somebody else with another configuration."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "theirs.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path / "other"), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


@pytest.mark.slow
def test_a_study_runs_twice_and_leaves_the_process_as_it_was(here, others_hydra, capsys):
    root = logging.getLogger()
    start_method = multiprocessing.get_start_method(allow_none=True)
    before = sys.argv, dict(os.environ), os.getcwd(), root.handlers[:], root.level
    assert run_study(STUDY) == 0
    assert run_study(STUDY) == 0
    assert (sys.argv, dict(os.environ), os.getcwd(), root.handlers[:], root.level) == before
    assert multiprocessing.get_start_method(allow_none=True) == start_method
    assert len(compose_all(STUDY)) == 1
    assert compose("theirs").x == 1
    assert (open_store(here / "runs").states()["attempts"] == 1).all()


@pytest.mark.slow
def test_a_default_type_of_the_session_trains_no_other_model(here):
    def losses(runs):
        assert run_study([*STUDY, f"runs={runs}"]) == 0
        return read_runs(here / runs)[["run_id", "loss"]].values.tolist()

    plain = losses("plain")
    torch.set_default_dtype(torch.float64)
    try:
        assert losses("doubles") == plain
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_two_threads_take_turns_at_hydra():
    with ThreadPoolExecutor(4) as pool:
        assert [len(specs) for specs in pool.map(compose_all, [["experiment=smoke"]] * 8)] == [1] * 8


@pytest.mark.slow
def test_what_goes_wrong_is_an_exception_or_a_code_and_never_an_exit(here, others_hydra):
    with pytest.raises(UsageError, match="unknown key 'nonsense'"):
        run_study(["nonsense=1"])
    assert run_study([*STUDY, "optim.learning_rate=1e38"]) == 1
    assert compose("theirs").x == 1


@pytest.mark.slow
def test_a_run_that_two_studies_share_stands_in_the_arm_that_each_has_it_in(here):
    slow = "{optim: {learning_rate: 1e-4}}"

    def arguments(name, base, fast):
        return (*STUDY[1:], f"study.name={name}", f"study.arms.base={base}", f"study.arms.fast={fast}")

    first, second = arguments("one", slow, "{}"), arguments("two", "{}", slow)
    own = run("", first).groupby("arm")["run_id"].first()
    assert (open_store(here / "runs").states()["attempts"] == 1).all()
    for table in (run("", second), train_and_read(second)):
        assert table.groupby("arm")["run_id"].first().to_dict() == {"base": own["fast"], "fast": own["base"]}
    evaluated = finished(open_store(here / "runs"), "two")
    assert {one.final["arm"]: one.run_id for one in evaluated} == {"base": own["fast"], "fast": own["base"]}
    assert find_trained(open_store(here / "runs"), own["base"]).final["arm"] == "base"


def test_the_overrides_of_a_job_say_how_it_runs_and_no_file_is_needed_to_read_them():
    where = WhereSpec(device="cuda:1", pack=None, trackers=["wandb"], only=["12e4"], corpora="it's/here", threads=2)
    overrides = job_overrides(where, "a b/runs")
    assert overrides[0] == "runs='a b/runs'"
    spec = job_spec([*overrides, "where.cells='0123'", "where.trunk='12e4,00'"])
    assert (spec.runs, spec.where.trunk, spec.where.cells) == ("a b/runs", "12e4,00", "0123")
    assert job_overrides(spec.where, spec.runs) == overrides
    (composed,) = compose_all(overrides)  # in a task of SLURM they are read with the configuration
    assert composed.where == where
    assert compose_all([])[0].where == WhereSpec()  # so what is left out of them is the default everywhere


@pytest.mark.slow
def test_sizes_and_studies_of_a_folder_of_ones_own(here, tmp_path):
    for group, name, text in (
        ("model", "mine10", "{n_layer: 2, d_model: 10, n_head: 1}"),
        ("experiment", "own", "# @package _global_\nstudy: {name: own, sizes: [mine10, d6]}\n"),
    ):
        (tmp_path / "mine" / group).mkdir(parents=True)
        (tmp_path / "mine" / group / f"{name}.yaml").write_text(text)
    own = ("--config-dir", "../mine", "experiment=own", *STUDY[2:])
    assert run_study(own) == 0
    assert set(open_store(here / "runs").states()["label"].str.split().str[0]) == {"mine10", "d6"}
    with pytest.raises(ValueError, match=r"no model size 'mine1'; did you mean 'mine10'.*searched .*/mine/model"):
        run_study([*own, "study.sizes=[mine1]"])
    with pytest.raises(UsageError, match=r"no experiment 'onw'; did you mean 'own'.*searched .*/mine/experiment"):
        run_study(["--config-dir", "../mine", "experiment=onw"])
    (tmp_path / "mine" / "model" / "d6.yaml").write_text("{n_layer: 3, d_model: 6, n_head: 1}")
    with pytest.raises(ValueError, match=r"d6.yaml has the name of another size, 'd6' in .*: rename it"):
        run_study(["--config-dir", "../mine", "experiment=own", *STUDY[2:], "study.sizes=[d6]"])
