"""A study that stops by what its runs still tell, for real on a tiny one: killed, repeated, and gone on with."""

import shutil

import numpy as np
import pytest

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.followup import decided
from isoflop.experiments.followup.decided import plan_of, run_decided
from isoflop.experiments.followup.template import NextStudyError
from isoflop.experiments.store.store import open_store
from isoflop.experiments.study.check import StudyError
from isoflop.experiments.sweep.launch import load, make_launch, run_launch
from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.stopping import decide as deciding
from isoflop.scaling.stopping.saved import saved
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import final_rows, forecast_rows, read_runs, same_runs
from isoflop.scaling.table.schedules.read_curves import read_curves
from tests.support.sweep.launches import in_process
from tests.support.texts import write_texts

pytestmark = pytest.mark.usefixtures("kept_searches")  # what is decided again is asked again of the same rows

SHARES = (0.3, 0.45, 0.6)  # of the FLOPs: the study is so small that half of them give a law too few ends


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """Arguments of twelve cells in four trunks."""
    folder = write_texts(tmp_path_factory.mktemp("decided") / "text", words=1600)
    return [
        "experiment=smoke", "study.name=tiny", "study.sizes=[d6,d8,d10,d12]", "study.budgets=[3e8,6e8,1.2e9]",
        "study.window.min_steps=1", "schedule.warmup_steps=3", f"data.files=['{folder}/*.txt']", "data.source=files",
        "data.eval_tokens=2048", "data.held_out_fraction=0.3", "data.max_epochs=99",
        "data.context_length=16", "optim.batch_size=8",
        "study.stop=decided", f"where.corpora={folder.parent / 'corpora'}",
    ]  # fmt: skip


def run(overrides, *, dies_at=None):
    """Exit code of a launch, and how many jobs it did."""
    (spec,) = compose_all(overrides)
    done = []

    def before(trunk):
        if len(done) == dies_at:
            raise KeyboardInterrupt
        done.append(trunk)

    def launch(specs, until):
        return run_launch(make_launch(specs, workers=1, until=until), in_process(spec, before=before), typed=overrides)

    return run_decided([spec], launch), done


@pytest.fixture(scope="module")
def study(typed, tmp_path_factory):
    """A study that was stopped: its arguments, store, exit code and jobs."""
    folder = tmp_path_factory.mktemp("decided") / "runs"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deciding, "STAGES", SHARES)
        patched.setattr(decided, "STAGES", SHARES)
        overrides = [*typed, f"runs={folder}"]
        yield overrides, folder, *run(overrides)


@pytest.mark.slow
def test_runs_stop_as_a_state_of_their_own_with_the_forecast_of_their_ends(study):
    overrides, folder, code, _ = study
    assert code == 0
    states = open_store(folder).states().set_index("run_id")
    assert set(states["state"]) == {"done", "stopped"}
    table = read_runs(folder)
    stopped = forecast_rows(table).set_index("run_id")
    plan = plan_of(load(compose_all(overrides)[0])[0])
    for run_id, row in stopped.iterrows():
        rows = table[table["run_id"] == run_id]
        assert list(rows["final"]) == [False] * (len(rows) - 1) + [True]
        assert row["step"] == states.loc[run_id, "steps"]
        assert rows["step"].iloc[-2] <= states.loc[run_id, "step"] < row["step"]
        assert row["loss_se"] > 0
        assert row["tokens"] == row["horizon_tokens"]
    spent = {run_id: int(step) for run_id, step in states["step"].items()}
    assert plan.flops(spent) <= SHARES[-1] * plan.flops(plan.whole)
    assert not set(stopped.index) & set(final_rows(table)["run_id"])


@pytest.mark.slow
def test_fits_weigh_a_forecast_whose_error_exceeds_the_noise_less(study):
    table = read_table(study[1])
    data = points(table)
    error = data.frame["forecast_error"].to_numpy()
    assert 0 < (error > 0).sum() < len(error)
    assert any("were stopped before their ends" in note for note in data.notes)
    fitted, alone = fit("chinchilla", table), fit("chinchilla", data.measured)
    assert fitted.weights == pytest.approx(np.minimum(1, (alone.noise / np.maximum(error, 1e-9)) ** 2))
    assert (fitted.weights[error == 0] == 1).all()
    assert len(alone.points) == (error == 0).sum()
    assert sum(map(len, budget_groups(data))) == len(alone.points)  # profiles are of what was measured
    gained = saved(table, fitted)
    assert gained.stopped == (error > 0).sum()
    assert gained.flops < gained.whole
    assert gained.wider > 1
    assert "were stopped before their ends" in str(gained)
    assert not any(np.isin(run.loss, table.loc[table["phase"] == "forecast", "loss"]).any()
                   for run in read_curves(table).runs)  # fmt: skip


@pytest.mark.slow
def test_a_repeated_launch_decides_the_same_and_trains_nothing(study):
    overrides, folder, _, _ = study
    before = read_runs(folder)
    code, jobs = run(overrides)
    assert (code, jobs) == (0, [])
    assert same_runs(read_runs(folder), before)


@pytest.mark.slow
def test_a_launch_that_was_killed_goes_on_to_the_same_decisions_and_bits(study, typed, tmp_path):
    """Killed in its first stage, and taken up in a later one."""
    overrides = [*typed, f"runs={tmp_path / 'runs'}"]
    assert len(study[3]) > 6
    for dies_at in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run(overrides, dies_at=dies_at)
    code, jobs = run(overrides)
    assert code == 0
    assert jobs
    assert same_runs(read_runs(tmp_path / "runs"), read_runs(study[1]))
    message = [
        open_store(folder).states().set_index("run_id")[["state", "step"]] for folder in (tmp_path / "runs", study[1])
    ]
    assert message[0].equals(message[1].loc[message[0].index])


@pytest.mark.slow
def test_a_task_of_another_machine_that_leaves_its_cells_stopped_has_succeeded(study, tmp_path):
    """It is told what to train by the file that the launch wrote, and where to stop by nothing else."""
    overrides, folder, *_ = study
    store = open_store(shutil.copytree(folder, tmp_path / "runs"))
    before = store.states()
    trunk = before.query("state == 'stopped'")["trunk_id"].iloc[0]
    written = max(store.trunk_folder(trunk).glob("cells-*.json"), key=lambda path: path.stat().st_mtime_ns)
    task = (f"runs={store.root}", f"where.trunk='{trunk}'", f"where.cells='{written.stem.removeprefix('cells-')}'")
    assert run([*overrides[:-1], *task])[0] == 0
    assert store.states()[["run_id", "state", "step"]].equals(before[["run_id", "state", "step"]])


@pytest.mark.slow
def test_without_the_key_the_same_study_goes_on_to_its_end(study, typed, tmp_path):
    """Its runs have the ids and the bits that they have when nothing is stopped."""
    overrides, folder, *_ = study
    full = [one for one in overrides if not one.startswith("study.stop")]
    alone = [*(one for one in typed if not one.startswith("study.stop")), f"runs={tmp_path / 'alone'}"]
    ids = [[cell.run_id for cell in load(compose_all(o)[0])[0].cells] for o in (overrides, full)]
    assert ids[0] == ids[1]
    shutil.copytree(folder, tmp_path / "runs")
    full = [*(one for one in full if not one.startswith("runs=")), f"runs={tmp_path / 'runs'}"]
    for arguments in (full, alone):
        code, jobs = run(arguments)
        assert code == 0
        assert jobs
    assert same_runs(read_runs(tmp_path / "runs"), read_runs(tmp_path / "alone"))
    assert (open_store(tmp_path / "runs").states()["state"] == "done").all()


@pytest.mark.parametrize(("given", "why"), [
    ("study.sizes=[]", "needs a study with a name and sizes"),
    ("study.name=''", "needs a study with a name and sizes"),
    ("study.hold_out=[6e8]", "measured, not forecast"),
    ("+study.vary={optim.learning_rate: [.01, .02]}", "launch one"),
    ("study.rounds={count: 1, budget: 1e9, target: 1e11}", "keep one of them"),
])  # fmt: skip
def test_what_cannot_be_decided_is_refused(typed, tmp_path, given, why):
    extra = ["study.budgets=[]", "budget.flops=1e9"] if given == "study.sizes=[]" else []
    with pytest.raises((StudyError, UsageError), match=why):
        run([*typed, f"runs={tmp_path}", given.removeprefix("+"), *extra])


@pytest.mark.slow
def test_several_studies_at_once_are_refused(typed, tmp_path):
    specs = compose_all([*typed, f"runs={tmp_path}", "optim.learning_rate=.01,.02"])
    with pytest.raises(UsageError, match="decides of one study"):
        run_decided(specs, lambda *_: 0)


def test_nothing_is_decided_of_a_study_whose_cells_all_diverged(typed, tmp_path):
    with pytest.raises(NextStudyError, match=r"none of its \d+ cells is done, all diverged: study.stop=decided has"):
        run([*typed, "study.sizes=[d6,d8]", f"runs={tmp_path / 'runs'}", "optim.learning_rate=1e38"])
