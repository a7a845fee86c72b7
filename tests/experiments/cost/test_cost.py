"""Predicted seconds: what they are made of, how they are measured here, and what is done with them."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.cache_folder import private_folder
from isoflop.experiments import app
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec, WhereSpec
from isoflop.experiments.cost import speed_file
from isoflop.experiments.cost.cost import (
    JOB_SECONDS,
    REFERENCE,
    ROUNDED,
    SMALL_STEP,
    Rate,
    Speed,
    curve_tokens,
    kind,
    makespan,
    run_seconds,
    trunk_seconds,
    trunks_seconds,
    work,
)
from isoflop.experiments.cost.shape_key import engine_id, place, shape_key
from isoflop.experiments.cost.speed_file import Measured, card_names, known_speed, speed_of_card, to_speed
from isoflop.experiments.store.store import create_store
from isoflop.experiments.study.cell import Cell, curve_stride
from isoflop.experiments.sweep import calibrate
from isoflop.experiments.sweep.calibrate import CalibrationError, measure, unknown_shapes
from isoflop.experiments.sweep.progress import snapshot
from isoflop.experiments.sweep.train_job import listing
from isoflop.models.config import ModelConfig
from isoflop.models.step import native

DATA = DataSpec(context_length=16, eval_tokens=2048)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Rates of their own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(steps, *, width=8, layers=2, name="wsd"):
    model = ModelConfig("transformer", 16, 16, layers, width, 1)
    return Cell(model, f"d{width}", DATA, OptimSpec(batch_size=4), ScheduleSpec(name), "c", 0, "", steps, math.nan)


def test_a_trunk_costs_its_steps_once_and_its_evaluations():
    cells = [make(100), make(200)]
    speed = Speed(0, 0, 0, "", {shape_key(cells[0]): Rate(step=2.0, token=0.5)})
    # branch points 80 and 160; rows at 64, 91, 128, 181: on the trunk 64 91 128, on the first branch 91, then 181
    row = 2048 // curve_stride(2048)
    assert curve_tokens(cells) == 5 * row
    assert trunk_seconds(cells, speed) == JOB_SECONDS + (160 + 20 + 40) * 2.0 + (5 * row + 2 * 2048) * 0.5
    assert run_seconds(cells[1], speed) == 200 * 2.0 + 4 * row * 0.5


@pytest.mark.slow
def test_the_rows_counted_are_the_rows_written(tmp_path):
    from isoflop.experiments.config import SyntheticSpec
    from isoflop.experiments.data.corpus import prepare
    from isoflop.experiments.training.trainer import train_trunk

    data = replace(DATA, source="synthetic", tokenizer="none", synthetic=SyntheticSpec(16, 60_000, chains=100))
    corpus = prepare(data, tmp_path)
    cells = [replace(make(steps), data=data, corpus_id=corpus.corpus_id) for steps in (100, 200)]
    for cell, rows in train_trunk(cells, corpus, folder=None, where=WhereSpec()):
        assert (len(rows) - 1) * (2048 // curve_stride(2048)) == curve_tokens([cell])


def test_a_shape_is_model_batch_and_optimiser():
    cell = make(100)
    assert shape_key(replace(cell, seed=3, steps=7)) == shape_key(cell)
    assert shape_key(replace(cell, optim=replace(cell.optim, learning_rate=1.0))) == shape_key(cell)
    other = [make(100, width=16), replace(cell, optim=replace(cell.optim, batch_size=8))]
    other.append(replace(cell, optim=replace(cell.optim, name="muon")))
    assert len({shape_key(c) for c in [cell, *other]}) == 4


def test_bits_are_one_shape_and_what_is_rounded_is_not():
    cell = make(100)
    bits = ((4, 32), (2, 32), (32, 3), (4, 8), (16, 16), (32, 32))
    one, same, acts, both, most, none = (shape_key(rounded(cell, *given)) for given in bits)
    assert one == same
    assert both == most
    assert none == shape_key(cell)
    assert len({one, acts, both, none}) == 4


def rounded(cell, weight_bits=4, activation_bits=4):
    return replace(cell, model=replace(cell.model, weight_bits=weight_bits, activation_bits=activation_bits))


@pytest.mark.slow
def test_shapes_are_timed_kept_and_known_again(short):
    cells = [make(100), make(900), make(100, width=16)]
    where = WhereSpec()
    assert [cell.size for cell in unknown_shapes(cells, where)] == ["d8", "d16"]
    measure(cells, where)
    speed = known_speed()
    assert set(speed.rates) == {shape_key(cells[0]), shape_key(cells[2])}
    assert "2 shapes measured here" in speed.source
    assert all(1e-5 < rate.step < 1 and 1e-9 < rate.token < 1e-3 for rate in speed.rates.values())
    assert 0.2 < speed.alone <= 1
    assert 0.2 < speed.start < 120
    assert unknown_shapes([*cells, make(100, width=24)], where) == [make(100, width=24)]


@pytest.fixture
def short(cache, monkeypatch):
    """Little is timed, with the kernels that there are: in an empty cache each process would build them."""
    built, folder = native.library(), private_folder()[0]
    if built and Path(built._name).parent != folder:  # else it was built just now
        shutil.copy2(built._name, folder)
    monkeypatch.setattr(calibrate, "SECONDS", 0.2)
    monkeypatch.setattr(calibrate, "ALONE_SECONDS", 0.1)


def keep(*rates):
    shapes = {shape_key(cell): Measured(rate, work(cell)) for cell, rate in rates}
    speed_file.keep(shapes, start=2.0, alone=0.8, device="cpu", threads=1)


def test_rates_of_another_engine_are_dropped(monkeypatch):
    keep((make(100), Rate(1.0, 1.0)))
    keep((make(100, width=16), Rate(2.0, 1.0)))
    assert sorted(rate.step for rate in known_speed().rates.values()) == [1.0, 2.0]
    assert known_speed(threads=2) is REFERENCE
    monkeypatch.setattr(speed_file, "engine_id", lambda: "a faster one")
    assert known_speed() is REFERENCE
    keep((make(100, width=24), Rate(3.0, 1.0)))
    assert [rate.step for rate in known_speed().rates.values()] == [3.0]
    assert len(engine_id()) == 16


def test_damaged_rates_are_no_rates():
    keep((make(100), Rate(1.0, 1.0)))
    path = speed_file._file("cpu", 1)
    path.write_text(path.read_text()[:-10])
    assert known_speed() is REFERENCE
    path.write_text(json.dumps({"engine": engine_id()}))
    assert known_speed() is REFERENCE


def test_a_shape_in_between_follows_the_formula():
    true = Speed(2e-3, 3e-11, 5e-8, "")
    shapes = [make(100, width=w, layers=n) for w, n in ((8, 2), (16, 2), (32, 2), (48, 3), (64, 4))]
    timed = {shape_key(c): Measured(Rate(true.step(c), 1e-6), work(c)) for c in shapes}
    new = make(100, width=40, layers=3)
    assert to_speed(timed, at=0.0).step(new) == pytest.approx(true.step(new), rel=1e-6)
    twice = {shape_key(c): Measured(Rate(2 * REFERENCE.step(c), 1e-6), work(c)) for c in shapes[:2]}
    assert to_speed(twice, at=0.0).step(new) == pytest.approx(2 * REFERENCE.step(new))


def test_each_precision_has_a_formula_of_its_own():
    slow, fast = Speed(2e-3, 3e-11, 5e-8, ""), Speed(1e-4, 1e-12, 1e-9, "")
    shapes = [make(100, width=w, layers=n) for w, n in ((8, 2), (16, 2), (32, 2), (48, 3), (64, 4))]
    timed = {shape_key(c): Measured(Rate(slow.step(c), 1e-6), work(c)) for c in shapes}
    low = [replace(c, precision="bfloat16") for c in shapes]
    timed |= {shape_key(c): Measured(Rate(fast.step(c), 1e-6), work(c), "bfloat16") for c in low}
    new, found = make(100, width=40, layers=3), to_speed(timed, at=0.0)
    assert found.step(new) == pytest.approx(slow.step(new), rel=1e-6)
    assert found.step(replace(new, precision="bfloat16")) == pytest.approx(fast.step(new), rel=1e-6)
    halved = replace(found, alone=0.5).with_company(1, cores=2)
    assert halved.step(new) == pytest.approx(slow.step(new) / 2, rel=1e-6)


def test_a_step_that_rounds_is_a_kind_with_rates_of_its_own():
    cell = make(100)
    assert (kind(cell), kind(replace(cell, precision="bfloat16")), kind(rounded(cell))) == (
        "float32",
        "bfloat16",
        ROUNDED,
    )
    assert 4 < REFERENCE.step(rounded(cell)) / REFERENCE.step(cell) < 6
    timed = {shape_key(make(100, width=w)): Measured(Rate(3 * REFERENCE.step(make(100, width=w)), 1e-6),
                                                     work(make(100, width=w))) for w in (8, 16, 32, 48)}  # fmt: skip
    unseen = rounded(make(100, width=24))
    assert to_speed(timed, at=0.0).step(unseen) == pytest.approx(3 * REFERENCE.step(unseen))
    timed |= {shape_key(unseen): Measured(Rate(0.5, 1e-6), work(unseen), ROUNDED)}
    found = to_speed(timed, at=0.0)
    near = rounded(make(100, width=26))
    assert found.step(near) == pytest.approx(0.5 * REFERENCE.step(near) / REFERENCE.step(unseen))
    assert found.step(make(100, width=24)) == pytest.approx(3 * REFERENCE.step(make(100, width=24)))
    assert found.with_company(1, cores=2).formulas[ROUNDED] == found.formulas[ROUNDED]


def test_experts_lengthen_a_layer_and_not_its_flops():
    cell = make(100)
    many = [replace(cell, model=replace(cell.model, experts=e, experts_per_token=1)) for e in (1, 4, 8)]
    calls = [work(one)[0] / work(cell)[0] for one in many]
    assert calls == pytest.approx([1.55, 2.0, 2.6])
    assert work(many[2])[1] < 1.1 * work(cell)[1]


def test_small_trunks_side_by_side_share_a_device_and_the_longest_has_no_company_at_its_end():
    small, large = make(1000), replace(make(100), optim=replace(make(100).optim, batch_size=100_000))
    assert small.step_flops < SMALL_STEP < large.step_flops
    rates = {shape_key(small): Rate(0.01, 0.0), shape_key(large): Rate(0.1, 0.0)}
    speed = Speed(0, 0, 0, "", rates, start=5.0, side_by_side=4.0)
    one = 10 + JOB_SECONDS
    assert trunks_seconds([[small]] * 8, 1, speed) == pytest.approx(5 + 8 * one / 4)
    assert trunks_seconds([[small]] * 2, 1, speed) == pytest.approx(5 + one)
    assert trunks_seconds([[large]] * 2, 1, speed) == pytest.approx(5 + 2 * one)
    assert trunks_seconds([[small]] * 8, 2, speed) == pytest.approx(5 + one)


@pytest.mark.slow
def test_a_gpu_that_is_not_here_is_planned_by_rates_that_are_shipped():
    assert "h200" in card_names()
    speed = speed_of_card("h200")
    assert "a GPU of the kind h200" in speed.source
    assert speed.side_by_side > 1
    assert {*speed.formulas} == {"float32", "bfloat16", ROUNDED}
    planned = app.plan("smoke", ["where.device=cuda"], card="h200")["studies"][0]
    assert 0.1 < planned["minutes"]["1"] < 1
    with pytest.raises(UsageError, match=r"--for k80: rates are shipped of h200"):
        app.plan("smoke", ["where.device=cuda"], card="k80")
    with pytest.raises(UsageError, match=r"--for h200 plans for a GPU: say where\.device=cuda, not cpu"):
        app.plan("smoke", card="h200")


def test_how_much_trunks_gain_side_by_side_is_asked_of_the_middle_one_of_the_small(monkeypatch):
    small, large = make(1000), replace(make(100), optim=replace(make(100).optim, batch_size=100_000))
    requested = []
    monkeypatch.setattr(calibrate, "_ask", lambda timer, *given: requested.append(given))
    monkeypatch.setattr(calibrate, "_read", lambda timer: b"5.5")
    assert calibrate._side_by_side(None, [small, small, small, large]) == 5.5
    assert requested == [(calibrate.ALONE_SECONDS, 1, 1)]
    assert calibrate._side_by_side(None, [large]) is None


def test_what_large_shapes_do_not_tell_stays_as_it_was():
    shapes = {shape_key(make(100)): Measured(Rate(1.0, 1.0), work(make(100)))}
    for message, known in ((None, 1.0), (6.0, 6.0), (None, 6.0), (4.0, 4.0)):
        speed_file.keep(shapes, start=2.0, alone=1.0, device="cuda", threads=1, side_by_side=message)
        assert known_speed("cuda").side_by_side == known


def test_company_slows_a_worker_down():
    cell = make(100)
    speed = Speed(0, 0, 0, "", {shape_key(cell): Rate(1.0, 1.0)}, alone=0.5)
    assert [speed.with_company(n, cores=3).step(cell) for n in (1, 2, 3, 9)] == [0.5, 0.75, 1.0, 1.0]
    assert speed.with_company(1, cores=1).step(cell) == 1.0


def test_makespan_is_of_the_longest_first():
    assert makespan([3, 1, 4, 2], 2, start=0.5) == 5.5
    assert makespan([3, 1, 4, 2], 1, start=0.0) == 10


@pytest.mark.slow
def test_a_timing_process_that_fails_is_one_line(short, monkeypatch, commands):
    monkeypatch.setattr("sys.executable", str(commands.bin / "python"))
    broken = replace(make(100), optim=replace(make(100).optim, name="nothing"))
    with pytest.raises(CalibrationError, match=r"optim.name must be one of .*--no-calibrate"):
        measure([broken], WhereSpec())


def test_many_shapes_are_timed_at_the_ends_and_between(monkeypatch):
    cells = [make(100, width=2 * i) for i in range(4, 60)]
    chosen = calibrate._spread(cells)
    assert len(chosen) == calibrate.MOST_SHAPES
    assert (chosen[0], chosen[-1]) == (cells[0], cells[-1])


def test_finished_cells_correct_what_is_left(tmp_path):
    cells = [make(100), make(200), make(100, width=16), make(200, width=16)]
    speed = Speed(0, 0, 0, "", {shape_key(cell): Rate(1.0, 0.0) for cell in cells})
    store = create_store(tmp_path / "runs")
    store.write_study("s", [listing(cell, {}) for cell in cells])
    before = snapshot(store, cells, speed)
    assert math.isnan(before.ratio)
    assert before.left == (220 + JOB_SECONDS, 220 + JOB_SECONDS)
    store.record(cells[0].run_id, "done", step=100, seconds=150.0)
    now = snapshot(store, cells, speed)
    assert now.ratio == 1.5
    line = now.line(60.0, before.share, workers=2)
    assert f"{1.5 * (220 + JOB_SECONDS) / 60:.1f} min left (1.50 of the predicted time a cell)" in line
    found = snapshot(store, cells, speed, settled={cells[0].run_id})
    assert math.isnan(found.ratio), "a cell of an earlier launch says nothing about this one"


def test_rates_of_another_way_to_step_are_others():
    ways = [{}, {"graph": False}, {"compile": True}, {"micro_batch": 2}, {"activation_checkpointing": True}]
    assert len({place(WhereSpec(**way)) for way in ways}) == len(ways)
    assert place(WhereSpec()) == "cpu"
    keep((make(100), Rate(1.0, 1.0)))
    assert unknown_shapes([make(100)], WhereSpec()) == []
    assert unknown_shapes([make(100)], WhereSpec(compile=True)) == [make(100)]


def test_the_cache_is_one_file_a_device_and_thread_count():
    keep((make(100), Rate(1.0, 1.0)))
    (path,) = (os.scandir(os.environ["XDG_CACHE_HOME"] + "/isoflop"),)
    assert [entry.name.endswith("-cpu-1.json") for entry in path] == [True]
