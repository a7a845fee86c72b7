"""A few of the malformed inputs that tests/proofs/doors/malformed.py types by the thousand are refused in one line."""

import random
from pathlib import Path

import pytest

from tests.support.doors.drawn.degenerate import degenerate
from tests.support.doors.drawn.generated import wrong_with
from tests.support.doors.drawn.on_committed import on_committed
from tests.support.doors.drawn.on_damaged import on_damaged
from tests.support.doors.inputs import inputs
from tests.support.doors.malformed_case import check
from tests.support.doors.options import write_neighbours
from tests.support.doors.typed import Answer
from tests.support.root import ROOT

DRAWN = 16


@pytest.mark.slow
@pytest.mark.process
def test_malformed_inputs_drawn_from_all_are_refused_as_they_should_be(tmp_path):
    (tmp_path / "sound").mkdir()
    run_id = write_neighbours(tmp_path / "sound")
    every = list(inputs(run_id))
    assert len(every) >= 2000
    drawn = random.Random(5).sample(every, DRAWN)
    wrong = {one.name: fault for one in drawn if (fault := check(one, tmp_path, 600.0))}
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize(  # of those that tests/proofs/doors/degenerate.py makes; from 734 on, what once failed
    "number", [1, 24, 77, 734, 5245, 20515, 20767, 20807, 21048, 21049, 21085, 40620, 40893, 41433]
)
def test_a_degenerate_table_is_answered_or_refused_by_name_without_a_warning(number, tmp_path):
    assert wrong_with(degenerate(number, tmp_path), ("runs.csv", "--")) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "command"),
    [
        ("mixture_known", "suggest --budget 1e12 --target 1e14"),
        ("optimizer_rates", "predict --flops 2.43e19 --where seed==0 --json"),
        ("known_answer", "predict --flops 1e30"),
        ("vocabulary", "predict --flops 1.53e19 --where seed==0 --params total --json"),
        ("vocabulary", "multiplier --by d_model"),
        ("vocabulary", "fit --law data-constrained --json"),
        ("transformer_vs_lstm", "plot --figure slices --out figure.pdf"),
    ],
)
def test_what_once_failed_on_a_committed_table_is_answered_or_refused_by_name(table, command):
    name, *options = command.split()
    path = ROOT / "experiments" / "results" / f"{table}.parquet"
    assert wrong_with([name, str(path), *options], (path.name, "--")) == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))  # of those that tests/proofs/doors/on_committed.py makes
def test_a_command_on_a_committed_table_is_answered_or_refused_by_name_without_a_warning(number, tmp_path):
    words = on_committed(number, tmp_path)
    assert wrong_with(words, (Path(words[1]).name, "--")) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [21, 42, 79, 154]
)  # of those that tests/proofs/doors/on_damaged.py makes: once failed
def test_a_command_on_a_damaged_table_is_answered_or_refused_by_name_without_a_warning(number, tmp_path):
    assert wrong_with(on_damaged(number, tmp_path), ("runs.csv", "--")) == ""


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(2, "", "isoflop: --x: no\n"), ""),
        (Answer(0, "5", ""), "accepted"),
        (Answer(2, "", "isoflop: no\n"), "names none"),
        (Answer(2, "", "isoflop: --x: a\nb\n"), "2 lines"),
        (Answer(1, "", "isoflop: --x\n", "Traceback ...\nKeyError: 'x'"), "traceback"),
        (Answer(-1, "", "", "hang: no answer within 60 s"), "traceback: hang"),
    ],
)
def test_what_is_wrong_with_an_answer_is_seen(answer, fault):
    assert answer.fault(["--x"]).startswith(fault)
    assert bool(answer.fault(["--x"])) == bool(fault)
