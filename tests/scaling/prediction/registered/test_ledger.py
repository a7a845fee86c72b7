"""A ledger: forecasts are added before their runs, scored once after them, and none disappears."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.prediction.forecast import Target, forecast_loss
from isoflop.scaling.prediction.registered.ledger import (
    ENOUGH,
    Entry,
    Ledger,
    _hash,
    enter,
    read_ledger,
    register_in,
    score_ledger,
)
from isoflop.scaling.prediction.registered.register import RegistrationError, _seal, register, registration
from isoflop.scaling.prediction.registered.score import score
from tests.support.doors.damage import ODD, damaged
from tests.support.fits.simulated import BESIROGLU, NOISE, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")

LAWS = ("chinchilla-tied",)


@pytest.fixture(scope="module")
def table():
    return isoflop_table(BESIROGLU, seed=5)


@pytest.fixture(scope="module")
def forecasts(table):
    return {flops: forecast_loss(table, Target(flops), LAWS) for flops in (1e21, 1e22)}


def answers(flops: float, factor: float = 1.0) -> pd.DataFrame:
    best = BESIROGLU.optimal(flops)
    sizes = best.N * np.geomspace(0.25, 4, 7)
    made = simulate_points(BESIROGLU, sizes, flops / (6 * sizes), noise=NOISE, seed=9)
    return made.assign(loss=made["loss"] * factor)


@pytest.fixture
def ledger(tmp_path, table, forecasts):
    table.to_csv(tmp_path / "runs.csv", index=False)
    for forecast in forecasts.values():
        register_in(tmp_path / "l.jsonl", forecast, table=tmp_path / "runs.csv")
    return tmp_path / "l.jsonl"


@pytest.mark.slow
def test_forecasts_wait_until_their_runs_exist_and_are_scored_once(ledger):
    before = read_ledger(ledger)
    assert [entry.score for entry in before.entries] == [None, None]
    assert before.summary()["waiting"] == 2
    first = score_ledger(ledger, answers(1e21))
    assert [entry.score is not None for entry in first.entries] == [True, False]
    assert "train the budget, then score" in first.entries[1].reason
    content = ledger.read_text()
    again = score_ledger(ledger, answers(1e21, 1.01))
    assert ledger.read_text() == content
    assert "a forecast is scored once" in again.notes[0]
    assert "a forecast is scored once" in str(again)
    both = score_ledger(ledger, answers(1e22))
    assert both.summary()["scored"] == 2
    assert both.to_dict()["forecasts"] == [e.to_dict() for e in read_ledger(ledger).entries]


def test_a_score_is_that_of_the_registration_with_pit_and_crps_of_its_distribution(ledger, tmp_path, forecasts):
    register(forecasts[1e21], tmp_path / "claim.json", table=tmp_path / "runs.csv")
    alone = score(tmp_path / "claim.json", answers(1e21))
    (entry, _) = score_ledger(ledger, answers(1e21)).entries
    assert entry.score["measured"] == alone.measured
    assert entry.score["z"] == alone.z
    pit = forecasts[1e21].average.cdf(np.log([alone.measured]))[0]
    assert entry.score["pit"] == pytest.approx(float(pit), rel=1e-12)
    assert (
        0 < entry.score["crps"] < abs(np.log(alone.measured / forecasts[1e21].loss)) + forecasts[1e21].average.spread[0]
    )


def test_runs_that_the_forecast_was_fitted_to_never_score(ledger, table):
    found = score_ledger(ledger, table.assign(loss=table["loss"] * 1.001))
    assert found.summary()["scored"] == 0


def test_a_registration_is_entered_from_another_folder_and_finds_its_table(tmp_path, table, forecasts):
    (tmp_path / "v1").mkdir()
    table.to_csv(tmp_path / "v1" / "runs.csv", index=False)
    register(forecasts[1e21], tmp_path / "v1" / "claim.json", table=tmp_path / "v1" / "runs.csv")
    enter(tmp_path / "l.jsonl", tmp_path / "v1" / "claim.json")
    assert score_ledger(tmp_path / "l.jsonl", answers(1e21)).summary()["scored"] == 1
    with pytest.raises(RegistrationError, match="is in it already"):
        enter(tmp_path / "l.jsonl", tmp_path / "v1" / "claim.json")


def test_a_registration_of_before_has_no_distribution_and_scores_by_its_quantiles(tmp_path, table, forecasts):
    from isoflop.scaling.prediction.registered.register import _seal

    table.to_csv(tmp_path / "runs.csv", index=False)
    value = register(forecasts[1e21], tmp_path / "claim.json", table=tmp_path / "runs.csv")
    exact = value.pop("distribution")
    assert exact
    value["seal"] = _seal(value)
    (tmp_path / "claim.json").write_text(json.dumps(value))
    enter(tmp_path / "l.jsonl", tmp_path / "claim.json")
    (entry,) = score_ledger(tmp_path / "l.jsonl", answers(1e21)).entries
    assert entry.to_dict()["exact"] is False
    pit = forecasts[1e21].average.cdf(np.log([entry.score["measured"]]))[0]
    assert entry.score["pit"] == pytest.approx(float(pit), abs=0.05)


def test_a_forecast_taken_out_changed_or_moved_is_noticed(ledger):
    score_ledger(ledger, answers(1e21))
    lines = ledger.read_bytes().splitlines()
    for bad in ([*lines[1:]], [lines[0], lines[2]], [lines[1], lines[0], lines[2]], [*lines, lines[2]]):
        ledger.write_bytes(b"\n".join(bad) + b"\n")
        with pytest.raises(RegistrationError, match=r"l\.jsonl, line \d"):
            read_ledger(ledger)
    ledger.write_bytes(b"\n".join(lines)[:-5])
    with pytest.raises(RegistrationError, match="cut short"):
        read_ledger(ledger)


@pytest.mark.slow
def test_any_other_value_anywhere_and_any_damage_is_refused_by_its_line(ledger):
    score_ledger(ledger, answers(1e21))
    content = ledger.read_bytes()
    last = json.loads(content.splitlines()[-1])
    before = b"\n".join(content.splitlines()[:-1]) + b"\n"
    for key in ("format", "entry", "seal", "measured", "pit", "crps", "previous", "runs", "hash"):
        for value in ODD:
            if type(value) is type(last[key]) or (isinstance(last[key], float) and isinstance(value, int | float)):
                continue
            ledger.write_bytes(before + json.dumps(last | {key: value}).encode() + b"\n")
            with pytest.raises(RegistrationError, match=r"l\.jsonl"):
                read_ledger(ledger)
    random = np.random.default_rng(1)
    for _ in range(60):
        bad = damaged(content, b"[1]\n{}\n", random)
        ledger.write_bytes(bad)
        lines = [line for line in bad.splitlines() if line]
        if lines == content.splitlines()[: len(lines)]:
            continue
        with pytest.raises(RegistrationError, match=r"l\.jsonl") as refused:
            read_ledger(ledger)
        assert "\n" not in str(refused.value)


def entry(pit: float, crps: float = 0.01, z: float = 0.0, sha: str = "a") -> Entry:
    known = {"data": {"sha256": sha}, "target": {"flops": 1e20}, "registered_at": "2026-01-01", "loss": 2.0,
             "sd_log_loss": 0.01, "reach": 3.0, "seal": str(pit), "distribution": []}  # fmt: skip
    return Entry(
        known, ".", {"pit": pit, "crps": crps, "z": z, "measured": 2.0, "error": 0.0, "measured_by": "", "runs": []}
    )


def opened(forecast, high=np.inf):
    """The same with a best size that no run bounds from above."""
    return replace(forecast, n_interval=(forecast.n_interval[0], high))


def test_a_best_size_without_a_bound_is_registered_and_scored(tmp_path, table, forecasts):
    """Null in both files, which is open: an earlier version wrote Infinity, and read back neither."""
    table.to_csv(tmp_path / "runs.csv", index=False)
    forecast = opened(forecasts[1e21])
    register(forecast, tmp_path / "claim.json", table=tmp_path / "runs.csv")
    register_in(tmp_path / "l.jsonl", forecast, table=tmp_path / "runs.csv")
    for name in ("claim.json", "l.jsonl"):
        json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
    assert score(tmp_path / "claim.json", answers(1e21)).n_covered is True
    (entry,) = score_ledger(tmp_path / "l.jsonl", answers(1e21)).entries
    assert entry.score["n_opt"]["covered"] is True
    beyond = opened(forecasts[1e22], forecasts[1e22].n_interval[0])
    register(beyond, tmp_path / "narrow.json", table=tmp_path / "runs.csv")
    assert score(tmp_path / "narrow.json", answers(1e22)).n_covered is False


def test_infinity_that_an_earlier_version_wrote_is_read(tmp_path, table, forecasts):
    table.to_csv(tmp_path / "runs.csv", index=False)
    value = registration(forecasts[1e21], tmp_path, table=tmp_path / "runs.csv")
    value["n_opt_interval"][1] = np.inf
    value["seal"] = _seal(value)
    (tmp_path / "claim.json").write_text(json.dumps(value))
    line = {"format": 1, "entry": "forecast", "folder": ".", "registration": value, "previous": ""}
    (tmp_path / "l.jsonl").write_text(json.dumps(line | {"hash": _hash(line)}) + "\n")
    assert score(tmp_path / "claim.json", answers(1e21)).n_covered is True
    (entry,) = score_ledger(tmp_path / "l.jsonl", answers(1e21)).entries
    assert entry.score["n_opt"]["covered"] is True


def test_a_line_that_could_not_be_read_back_is_not_written(ledger, monkeypatch):
    """A score of NaN would make every later reading of the ledger fail."""
    before = ledger.read_bytes()
    monkeypatch.setattr("isoflop.scaling.prediction.registered.distribution.Mixture.crps", lambda *_: np.nan)
    with pytest.raises(RegistrationError, match=r"l\.jsonl, line 3: 'crps' must be a number"):
        score_ledger(ledger, answers(1e21))
    assert ledger.read_bytes() == before


def test_a_forecast_without_a_finite_loss_is_not_registered(tmp_path, table, forecasts):
    table.to_csv(tmp_path / "runs.csv", index=False)
    for bad in (np.inf, np.nan, 0.0):
        with pytest.raises(RegistrationError, match=r"the forecast from .*runs\.csv: "):
            register(replace(forecasts[1e21], loss=bad), tmp_path / "claim.json", table=tmp_path / "runs.csv")
    assert not (tmp_path / "claim.json").exists()


def test_nothing_is_said_of_calibration_before_there_are_enough(tmp_path):
    few = Ledger(tmp_path, tuple(entry((i + 0.5) / (ENOUGH - 1)) for i in range(ENOUGH - 1)))
    found = few.summary()
    assert found["pit_uniform_p"] is None
    assert [row["interval"] for row in found["inside"].values()] == [None, None]
    assert "too few to say" in str(few)
    enough = Ledger(tmp_path, tuple(entry((i + 0.5) / 40) for i in range(40)))
    found = enough.summary()
    assert found["inside"]["0.5"]["inside"] == 20
    assert found["inside"]["0.9"]["inside"] == 36
    assert found["pit_uniform_p"] > 0.99
    assert "those of one table share its errors" in str(enough)
    sure = Ledger(tmp_path, tuple(entry(p, sha=str(p)) for p in [0.001, 0.999] * 10))
    found = sure.summary()
    assert found["inside"]["0.5"]["p"] < 1e-4
    assert found["pit_uniform_p"] < 1e-2


def test_a_pipe_or_a_folder_in_place_of_a_ledger_is_refused(tmp_path, table, forecasts):
    table.to_csv(tmp_path / "runs.csv", index=False)
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("pipe.jsonl", "folder.jsonl"):
        with pytest.raises(ValueError, match="not a regular file"):
            register_in(tmp_path / name, forecasts[1e21], table=tmp_path / "runs.csv")
        with pytest.raises(RegistrationError, match="not a regular file"):
            read_ledger(tmp_path / name)


def test_an_empty_file_is_no_ledger_and_one_can_begin_there(tmp_path, table, forecasts):
    table.to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "l.jsonl").touch()
    with pytest.raises(RegistrationError, match="the file is empty"):
        read_ledger(tmp_path / "l.jsonl")
    register_in(tmp_path / "l.jsonl", forecasts[1e21], table=tmp_path / "runs.csv")
    assert len(read_ledger(tmp_path / "l.jsonl").entries) == 1


def test_without_a_score_there_is_no_mean(tmp_path):
    held = Ledger(tmp_path, ())
    assert held.summary()["mean_crps"] is None
    assert "no forecast is scored yet" in str(held)


@pytest.mark.slow
def test_the_command_registers_enters_scores_and_prints(tmp_path, table, typed):
    table.to_csv(tmp_path / "runs.csv", index=False)
    later = answers(1e21)
    later.to_csv(tmp_path / "later.csv", index=False)
    path = tmp_path / "l.jsonl"
    options = ("--flops", "1e21", "--laws", "chinchilla-tied")
    assert typed("predict", tmp_path / "runs.csv", *options, "--register", path)[0] == 0
    code, _, error = typed("predict", tmp_path / "runs.csv", *options, "--register", path)
    assert (code, "is in it already" in error) == (1, True)
    code, out, _ = typed("predict", "--ledger", path, "--score", tmp_path / "later.csv", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["summary"]["scored"] == 1
    keys = "seal registered_at target reach loss sd_log_loss exact scored measured error z pit crps measured_by runs"
    assert list(answer["forecasts"][0]) == [*keys.split(), "reason"]
    keys = "forecasts scored waiting tables mean_crps mean_abs_z mean_abs_error inside pit_uniform_p enough"
    assert list(answer["summary"]) == keys.split()
    assert "1 forecast, 1 scored" in typed("predict", "--ledger", path)[1]


@pytest.mark.parametrize(
    ("options", "code", "reported"),
    [
        (("--ledger", "nowhere.jsonl"), 1, "no such ledger"),
        (("t.csv", "--ledger", "l.jsonl"), 2, "leave out TABLE"),
        (("--ledger", "l.jsonl", "--flops", "1e9"), 2, "leave out --flops"),
        (("--ledger", "l.jsonl", "--register", "nowhere.json"), 1, "no such registration"),
        (("--ledger", "l.jsonl", "--score", "nowhere.csv"), 2, "nowhere.csv"),
    ],
)
def test_bad_usage_is_one_line(typed, options, code, reported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, _, error = typed("predict", *options)
    assert (found, len(error.strip().splitlines())) == (code, 1)
    assert reported in error
