"""A trunk and its cooldowns are trained to the same bits alone, together, resumed and in another process."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from isoflop.experiments.config import OptimSpec, ScheduleSpec
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.study.cell import ROW_SHARE, Initial, curve_stride, row_steps, rows_between
from isoflop.experiments.study.check import StudyError, _check_room
from isoflop.experiments.study.engine import engine_name
from isoflop.experiments.training import trainer
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.experiments.training.rows import Measurement, only_guesses, run_rows
from isoflop.experiments.training.trainer import train_trunk
from isoflop.models import build_model
from isoflop.models.config import ModelConfig, count_params
from isoflop.models.parametrization import initialize
from isoflop.models.step import native
from isoflop.scaling.table.evaluations.domains import with_domains
from isoflop.scaling.table.formats.run_columns import NAMES
from isoflop.scaling.table.runs import replicate_columns, same_runs, validate
from tests.support.root import ROOT
from tests.support.training.cells import CHANGES, DATA, OTHERS, WHERE, KilledError, kill_at, make, table, train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepare(DATA, tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def cells(corpus):
    return [make(corpus, steps) for steps in (100, 150, 230)]


@pytest.fixture(scope="module")
def undisturbed(cells, corpus):
    """The rows of the cells by their steps, trained together. A cell that is trained alone has the same."""
    return train(cells, corpus)


def of(runs, *steps):
    """The table of some of the runs."""
    return table({one: runs[one] for one in steps})


@pytest.mark.slow
def test_rows_are_the_run_table(cells, corpus, undisturbed):
    runs = undisturbed
    frame = table(runs)
    assert set(frame) == set(NAMES)
    validate(frame, source="test")
    assert list(runs) == [100, 150, 230]
    for steps, rows in runs.items():
        assert [row["final"] for row in rows] == [False] * (len(rows) - 1) + [True]
        assert [row["step"] for row in rows] == [s for s in row_steps(steps) if s < steps] + [steps]
        assert rows[-1]["tokens"] == rows[-1]["horizon_tokens"] == steps * 64
        assert rows[-1]["flops"] == next(c for c in cells if c.steps == steps).training_flops
        assert rows[-1]["loss"] < rows[0]["loss"] < math.log(16)
        assert rows[-1]["loss"] > corpus.loss_floor == rows[-1]["loss_floor"]
        assert {row["state"] for row in rows} == {"done"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A cell of two languages, and their corpus."""
    languages = {name: {"synthetic": asdict(replace(DATA.synthetic, seed=seed))} for name, seed in (("x", 7), ("y", 8))}
    data = replace(DATA, mixture={"x": 0.75, "y": 0.25}, domains=languages)
    corpus = prepare(data, tmp_path_factory.mktemp("mixed"))
    return [replace(make(corpus, steps), data=data) for steps in (96, 160)], corpus


@pytest.mark.slow
def test_a_mixture_has_its_share_of_each_domain_and_a_loss_of_each(mixed):
    cells, corpus = mixed
    for steps, rows in train(cells, corpus).items():
        last = rows[-1]
        found = json.loads(last["mixture"])
        for one, share in zip(corpus.domains, (0.75, 0.25), strict=True):
            kept = found[one["name"]]
            assert kept["weight"] == share
            assert kept["epochs"] == share * steps * 4 / one["windows"]
            assert kept["unique_tokens"] == one["windows"] * 16
        assert last["loss"] == pytest.approx((found["x"]["loss"] + found["y"]["loss"]) / 2)
        assert found["x"]["loss"] < found["y"]["loss"] < math.log(16)
        frame = with_domains(pd.DataFrame(rows), ValueError)
        assert frame["loss_x"].notna().all()
        assert (frame["weight_x"] + frame["weight_y"] == 1).all()


@pytest.mark.slow
def test_a_mixture_that_is_killed_goes_on_to_the_same_bits_and_its_budgets_share_a_trunk(mixed, tmp_path):
    cells, corpus = mixed
    whole = train(cells, corpus)
    assert same_runs(table(train(cells[:1], corpus)), table({96: whole[96]}))
    often = replace(WHERE, checkpoint_seconds=0.0)
    with pytest.raises(KilledError):
        train(cells, corpus, tmp_path, often, on_progress=kill_at(cells[1].run_id, 100))
    assert same_runs(table(train(cells[1:], corpus, tmp_path, often)), table({160: whole[160]}))


@pytest.mark.slow
def test_a_cell_alone_equals_the_cell_in_a_sweep(cells, corpus, undisturbed):
    for cell in cells:
        assert same_runs(table(train([cell], corpus)), of(undisturbed, cell.steps))


def test_branches_share_the_trunk_and_nothing_of_each_other(undisturbed):
    runs = undisturbed
    trunk = [[row for row in rows if row["step"] <= 80] for rows in runs.values()]
    columns = ["step", "loss", "train_loss", "learning_rate", "phase"]
    assert all(pd.DataFrame(rows)[columns].equals(pd.DataFrame(trunk[0])[columns]) for rows in trunk)
    assert len({row["trunk_id"] for rows in runs.values() for row in rows}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("which", "step"), [(0, 40), (1, 130), (2, 150), (2, 200)])
def test_killed_and_resumed_gives_the_same_bits(cells, corpus, undisturbed, tmp_path, monkeypatch, which, step):
    """Killed on the trunk, in the middle of a cooldown, on the trunk between branches: a checkpoint at every look."""
    monkeypatch.setattr(trainer, "_CHUNK", 7)
    where = replace(WHERE, checkpoint_seconds=0.0)
    finished = {}
    jobs = train_trunk(cells, corpus, folder=tmp_path, where=where, on_progress=kill_at(cells[which].run_id, step))
    with pytest.raises(KilledError):
        finished.update((cell.steps, rows) for cell, rows in jobs)
    seen = []
    left = [cell for cell in cells if cell.steps not in finished]
    finished |= train(left, corpus, tmp_path, where, on_progress=lambda p: seen.append(p["step"]))
    assert seen[0] > step - 8  # resumed, not begun anew
    assert same_runs(table(finished), table(undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_of_cell_resumes_to_the_same_bits(corpus, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(trainer, "_CHUNK", 7)
    cell = replace(make(corpus, 100), **OTHERS[kind])
    undisturbed = train([cell], corpus)
    where = replace(WHERE, checkpoint_seconds=0.0)
    with pytest.raises(KilledError):
        train([cell], corpus, tmp_path, where, on_progress=kill_at(cell.run_id, 60))
    seen = []
    resumed = train([cell], corpus, tmp_path, where, on_progress=lambda p: seen.append(p["step"]))
    assert seen[0] > 52
    assert same_runs(table(resumed), table(undisturbed))
    validate(table(resumed), source=kind)
    assert resumed[100][-1]["flops"] == cell.training_flops


@pytest.mark.slow
def test_sixteen_bits_train_as_float32_does_and_two_far_worse(corpus):
    """Of one seed: the loss of the synthetic corpus moves by some .02 between seeds after so few steps."""
    cell = make(corpus, 60, learning_rate=0.02)
    last = {}
    for bits in (2, 16, 32):
        model = replace(cell.model, weight_bits=bits, activation_bits=bits)
        row = train([replace(cell, model=model)], corpus)[60][-1]
        assert (row["weight_bits"], row["activation_bits"]) == (bits, bits)
        assert row["engine"] == "autograd" or bits == 32
        last[bits] = row["loss"]
    assert last[16] == pytest.approx(last[32], abs=0.002)
    assert last[2] > last[32] + 0.01


@pytest.mark.slow
def test_the_noise_scale_is_logged_on_request_and_leaves_every_loss_as_it_is(
    cells, corpus, undisturbed, tmp_path, monkeypatch
):
    (cell,) = cells[:1]
    requested = replace(WHERE, noise_scale=True, checkpoint_seconds=0.0)
    plain, logged = of(undisturbed, cell.steps), table(train([cell], corpus, where=requested))
    assert plain["noise_scale"].isna().all()
    assert (logged["noise_scale"] > 0).all()
    assert same_runs(plain, logged)
    monkeypatch.setattr(trainer, "_CHUNK", 7)
    with pytest.raises(KilledError):
        train([cell], corpus, tmp_path, requested, on_progress=kill_at(cell.run_id, 60))
    pd.testing.assert_series_equal(
        table(train([cell], corpus, tmp_path, requested))["noise_scale"], logged["noise_scale"]
    )


def test_rows_name_every_engine_that_took_steps(cells, corpus, undisturbed, tmp_path, monkeypatch):
    (cell,) = cells[:1]
    alone = undisturbed[cell.steps][-1]["engine"]
    assert alone == engine_name(cell, WHERE, kernels=native.library() is not None)
    monkeypatch.setattr(trainer, "_CHUNK", 7)
    with pytest.raises(KilledError):
        train([cell], corpus, tmp_path, replace(WHERE, checkpoint_seconds=0.0), on_progress=kill_at(cell.run_id, 60))
    monkeypatch.setattr(Learner, "engine_name", "another")
    assert {row["engine"] for row in train([cell], corpus, tmp_path)[cell.steps]} == {f"another+{alone}"}


def test_steps_of_a_checkpoint_that_names_no_engine_are_unknown(cells, corpus):
    learner = Learner(cells[0], corpus, "cpu")
    learner.advance(3, 100)
    state = learner.state()
    assert state.pop("engines") == [learner.engine_name]
    learner.load(state)
    assert learner.engines == {"unknown"}
    learner.advance(4, 100)
    assert learner.engines == {"unknown", learner.engine_name}


@pytest.mark.slow
def test_a_longer_budget_later_goes_on_from_the_trunk(cells, corpus, undisturbed, tmp_path):
    train(cells[:2], corpus, tmp_path)
    seen = []
    late = train(cells[2:], corpus, tmp_path, on_progress=lambda p: seen.append(p["step"]))
    assert min(seen) > cells[1].branch_step
    assert same_runs(table(late), of(undisturbed, 230))


@pytest.mark.slow
def test_a_budget_in_between_goes_on_from_the_branch_point_below(cells, corpus, undisturbed, tmp_path):
    train([cells[0], cells[2]], corpus, tmp_path)
    seen = []
    between = train([cells[1]], corpus, tmp_path, on_progress=lambda p: seen.append(p["step"]))
    assert cells[0].branch_step < min(seen) < 150
    assert same_runs(table(between), of(undisturbed, 150))


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_and_says_so(cells, corpus, undisturbed, tmp_path, caplog):
    train(cells[:2], corpus, tmp_path)
    (newest,) = tmp_path.glob(f"branch-{cells[1].branch_step}-*.pt")
    newest.write_bytes(newest.read_bytes()[:100])
    late = train(cells[2:], corpus, tmp_path)
    assert "is damaged" in caplog.text
    assert same_runs(table(late), of(undisturbed, 230))


def test_checkpoints_hold_no_code(cells, corpus, tmp_path):
    train(cells[:1], corpus, tmp_path)
    files = list(tmp_path.iterdir())
    assert [f.name.rpartition("-")[0] for f in files] == [f"branch-{cells[0].branch_step}"]
    assert torch.load(files[0], weights_only=True)["step"] == cells[0].branch_step


def test_cosine_trains_each_cell_to_its_own_end(corpus):
    cell = make(corpus, 120, schedule=ScheduleSpec(name="cosine", warmup_steps=10))
    rows = train([cell], corpus)[120]
    assert {row["phase"] for row in rows} == {"decay"}
    assert rows[-1]["learning_rate"] < 1e-4
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_wsd_that_cools_down_from_its_first_step_is_a_straight_line(corpus):
    whole = ScheduleSpec(warmup_steps=0, cooldown_fraction=1.0, cooldown_shape="linear")
    cells = [make(corpus, steps, schedule=whole) for steps in (100, 120)]
    for cell in cells:
        _check_room(cell)
    runs = train(cells, corpus)
    line = train([make(corpus, 120, schedule=ScheduleSpec(name="linear", warmup_steps=0))], corpus)[120]
    assert {row["phase"] for row in runs[120]} == {"cooldown"}
    assert [row["loss"] for row in runs[120]] == [row["loss"] for row in line]
    with pytest.raises(StudyError, match=r"no room for schedule.warmup_steps=1 "):
        _check_room(make(corpus, 120, schedule=replace(whole, warmup_steps=1)))


def test_divergence_is_a_result(corpus, monkeypatch):
    cells = [make(corpus, steps) for steps in (100, 150)]
    original, calls = FlatAdamW.step, []

    def poisoned(self, learning_rate):
        original(self, learning_rate)
        calls.append(1)
        if len(calls) == 50:
            self.weights.fill_(torch.nan)

    monkeypatch.setattr(FlatAdamW, "step", poisoned)
    runs = train(cells, corpus)
    for rows in runs.values():
        assert {row["state"] for row in rows} == {"diverged"}
        assert not any(row["final"] for row in rows)
        assert [math.isfinite(row["loss"]) for row in rows] == [True] * (len(rows) - 1) + [False]
        assert rows[-1]["step"] == 64
    validate(table(runs), source="test")


@pytest.mark.parametrize("learning_rate", [10.0, 1e3])
def test_a_model_that_only_guesses_has_diverged(corpus, learning_rate):
    """At 10 the loss is huge; at 1,000 the logits are all equal and the loss stays at ln V to the digit."""
    cell = make(corpus, 120, learning_rate=learning_rate)
    rows = train([cell], corpus)[120]
    assert {row["state"] for row in rows} == {"diverged"}
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert rows[-1]["loss"] >= 0.999 * math.log(16)


SETTINGS = {
    "optim": {"beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "clip_norm": 0.5, "momentum": 0.9, "base_width": 8,
              "base_depth": 4, "weight_decay": 0.1, "learning_rate": 0.01, "batch_size": 8, "name": "muon",
              "parametrization": "standard"},
    "schedule": {"name": "cosine", "warmup_steps": 20, "cooldown_fraction": 0.5, "cooldown_shape": "linear",
                 "final_fraction": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(("group", "key"), [(group, key) for group, keys in SETTINGS.items() for key in keys])
def test_runs_that_differ_in_a_setting_differ_in_a_column_of_their_rows(corpus, group, key):
    """Runs that no column told apart were taken for seeds of each other."""
    kind = {"momentum": {"name": "muon"}, "base_depth": {"parametrization": "completep"}}.get(key, {})
    one = make(corpus, 120, **kind)
    other = replace(one, **{group: replace(getattr(one, group), **{key: SETTINGS[group][key]})})
    assert one.run_id != other.run_id
    measured = [Measurement(120, 0.1, "", 2.0, 0.01, 0.0, 2.0, 0.0)]
    rows = [pd.DataFrame(run_rows(cell, corpus, measured, state="done", device="cpu")) for cell in (one, other)]
    told = [column for column in replicate_columns(rows[0]) if rows[0][column][0] != rows[1][column][0]]
    assert [c for c in told if c not in ("tokens", "horizon_tokens", "flops", "flops_6nd", "epochs")]


def test_every_setting_of_a_run_is_in_that_table():
    fields = {"optim": asdict(OptimSpec()), "schedule": asdict(ScheduleSpec())}
    named = {f"{group}.{key}" for group, keys in SETTINGS.items() for key in keys}
    rules = {"optim.rule", "optim.beta2_half_life"}  # numbers by then
    assert named == {f"{group}.{key}" for group, keys in fields.items() for key in keys} - rules


def test_a_timid_model_has_not_diverged(corpus):
    rows = train([make(corpus, 120, learning_rate=1e-6)], corpus)[120]
    assert {row["state"] for row in rows} == {"done"}


@pytest.mark.parametrize("learning_rate", [0.0, 1e-9, 1e-5])
def test_a_timid_model_with_a_tied_head_has_not_diverged(corpus, learning_rate):
    """Its first loss is ln V and a little: rates that are too small are no wall above the good ones."""
    cell = replace(make(corpus, 120, learning_rate=learning_rate), model=CHANGES["tied"]["model"], seed=1)
    rows = train([cell], corpus)[120]
    assert rows[-1]["loss"] > math.log(16)
    assert {row["state"] for row in rows} == {"done"}


def test_a_model_with_a_tied_head_that_only_guesses_has_diverged(corpus):
    cell = replace(make(corpus, 120, learning_rate=1e3), model=CHANGES["tied"]["model"])
    assert {row["state"] for row in train([cell], corpus)[120]} == {"diverged"}


def test_a_run_from_the_weights_of_another_text_may_come_down(corpus, monkeypatch):
    """Two rows of it are above ln V."""
    wrong, drawn = build_model(make(corpus, 120).model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in wrong.parameters():
            part.normal_(0, 1.0, generator=drawn)
    monkeypatch.setattr("isoflop.experiments.training.learner.start", lambda cell: wrong)
    cell = replace(make(corpus, 400, learning_rate=1e-3), initial=Initial(Path(), "0", ""))
    rows = train([cell], corpus)[400]
    assert rows[1]["loss"] > math.log(16) > rows[-1]["loss"]
    assert {row["state"] for row in rows} == {"done"}


def test_no_run_diverges_during_its_warm_up(corpus):
    """Its rate is far too large at step 64, and 4 times larger at step 91, the last of its warm-up."""
    cell = make(corpus, 200, learning_rate=10.0, schedule=ScheduleSpec(warmup_steps=91))
    rows = train([cell], corpus)[200]
    assert [row["step"] for row in rows] == [64, 91, 128]
    assert {row["state"] for row in rows} == {"diverged"}


LN_V = math.log(256)
FALLS, CAME_BACK, ALIKE, UP = [9.6, 6.5, 5.6], [5.5, 5.6], [9.6, LN_V], [5.56, 5.58]


@pytest.mark.parametrize(
    ("losses", "first", "lost"),
    [(FALLS, 10.6, False), (CAME_BACK, 10.6, True), (UP, 5.57, True), (UP, LN_V, True), ([5.5], LN_V, False)],
)
def test_what_is_no_better_than_a_guess(losses, first, lost):
    rows = [Measurement(64 + n, 0.1, "", loss, 0.01, 0.0, loss, 0.0) for n, loss in enumerate(losses)]
    assert only_guesses(rows, LN_V, first) == lost


def test_a_model_that_calls_all_tokens_alike_only_guesses():
    rows = [Measurement(64 + n, 0.1, "", loss, 0.01 * (1 - n), 0.0, loss, 0.0) for n, loss in enumerate(ALIKE)]
    assert only_guesses(rows, LN_V, 10.6)
    assert not only_guesses([replace(row, loss_se=0.01) for row in rows], LN_V, 10.6)  # on its way through


def test_divergence_in_one_cooldown_leaves_the_others(corpus, monkeypatch):
    cells = [make(corpus, steps) for steps in (100, 150)]
    original, calls = FlatAdamW.step, []

    def poisoned(self, learning_rate):
        original(self, learning_rate)
        calls.append(1)
        if len(calls) == 90:  # the first cell's cooldown begins at step 80
            self.weights.fill_(torch.nan)

    monkeypatch.setattr(FlatAdamW, "step", poisoned)
    runs = train(cells, corpus)
    assert (runs[100][-1]["state"], runs[150][-1]["state"]) == ("diverged", "done")


@pytest.mark.process
def test_the_same_bits_in_another_process(corpus, undisturbed, tmp_path):
    script = (
        "from pathlib import Path\n"
        "from isoflop.experiments.data.corpus import prepare\n"
        "from tests.support.training.cells import DATA, make, table, train\n"
        f"corpus = prepare(DATA, Path({str(corpus.folder.parent)!r}))\n"
        f"table(train([make(corpus, 100)], corpus)).to_pickle({str(tmp_path / 'rows.pkl')!r})"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=environment)
    assert same_runs(pd.read_pickle(tmp_path / "rows.pkl"), of(undisturbed, 100))


def test_flat_optimizer_equals_torch(corpus):
    config = ModelConfig("transformer", 16, 16, 2, 24, 3)
    ours, theirs = (initialize(build_model(config), 0) for _ in range(2))
    optim = OptimSpec(weight_decay=0.1, clip_norm=0.5)
    flat = FlatAdamW(ours, optim)
    rates = {id(p): (g.lr_multiplier, g.decay_multiplier) for g in flat.groups for p in g.parameters}
    groups = [
        {"params": [b], "lr": 0.02 * rates[id(a)][0], "weight_decay": 0.1 * rates[id(a)][1]}
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad.copy_(torch.randn(a.shape, generator=generator))
            b.grad = a.grad.clone()
        flat.step(0.02)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert len(flat.weights) == sum(count_params(config).values())


def test_cells_of_two_trunks_or_of_another_corpus_are_refused(corpus, cells):
    with pytest.raises(ValueError, match="takes the cells of one trunk; got 2"):
        train([cells[0], make(corpus, 100, learning_rate=0.1)], corpus)
    with pytest.raises(ValueError, match="made for corpus nothing, given corpus"):
        train([replace(cells[0], corpus_id="nothing")], corpus)
    with pytest.raises(ValueError, match=r"optim.name must be one of adamw, muon; not 'sgd'"):
        train([make(corpus, 100, name="sgd")], corpus)
    with pytest.raises(ValueError, match=r"where.device=tpu is not available on this machine"):
        train(cells, corpus, where=replace(WHERE, device="tpu"))


@pytest.mark.slow
def test_denser_rows_change_no_other_row(cells, corpus, undisturbed, monkeypatch):
    monkeypatch.setattr("isoflop.experiments.study.cell.DENSE_SHARE", 100.0)
    few = of(undisturbed, 100, 150)
    many = table(train(cells[:2], corpus, where=replace(WHERE, curve_rows=12)))
    assert set(many["run_id"]) == set(few["run_id"])
    shared = many.merge(few[["run_id", "step"]])
    assert len(many) > len(few) + 10
    assert same_runs(shared[list(few)], few)


def test_rows_between_cost_a_hundredth_at_any_step(cells):
    cell = replace(cells[0], steps=100_000)
    tokens = cell.data.eval_tokens // curve_stride(cell.data.eval_tokens)
    for per_doubling in (2, 8, 64):
        found = rows_between(cell, cell.steps, per_doubling)
        assert found == sorted(set(found) - set(row_steps(cell.steps)))
        for count, step in enumerate(found, start=1):
            assert count * ROW_SHARE * tokens <= 0.01 * step * cell.batch_tokens
    assert rows_between(cell, cell.steps, 2) == []
    assert len(found) > 20
    assert rows_between(cell, 50_000, 64) == [step for step in found if step <= 50_000]


def test_row_grid_depends_on_nothing():
    assert row_steps(200) == [64, 91, 128, 181]
    assert row_steps(1000)[:4] == row_steps(200)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_stopped_and_taken_further_gives_the_same_bits(corpus, tmp_path, monkeypatch, schedule):
    """Stopped on the trunk, at its branch and, without a trunk, anywhere; then each goes on from where it stopped."""
    monkeypatch.setattr(trainer, "_CHUNK", 7)
    cells = [make(corpus, steps, schedule=ScheduleSpec(name=schedule, warmup_steps=10)) for steps in (100, 180)]
    cells = cells if schedule == "wsd" else cells[1:]
    undisturbed = train(cells, corpus)
    until = {cells[0].run_id: 80, cells[-1].run_id: 91} if schedule == "wsd" else {cells[0].run_id: 91}
    stopped = train(cells, corpus, tmp_path, until=until)
    for rows in stopped.values():
        assert {row["state"] for row in rows} == {"stopped"}
        assert not any(row["final"] for row in rows)
        assert max(row["step"] for row in rows) <= 91
    validate(table(stopped), source="stopped")
    seen = []
    further = train(cells[-1:], corpus, tmp_path, on_progress=lambda p: seen.append(p["step"]))
    assert seen[0] > 91
    assert same_runs(table(further), table({180: undisturbed[180]}))
    if schedule == "wsd":  # the shorter one leaves the trunk where it had stopped, though the trunk is further by now
        seen.clear()
        again = train(cells[:1], corpus, tmp_path, on_progress=lambda p: seen.append(p["step"]))
        assert seen[0] > 80
        assert same_runs(table(again), table({100: undisturbed[100]}))
