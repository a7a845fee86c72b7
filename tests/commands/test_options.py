"""Every option of every command refuses values that mean nothing: one line that names it, and nothing is written."""

import os
import zlib

import pytest

from isoflop.__main__ import LONGEST, one_line
from tests.support.doors.options import FREE, SOUND, SOUND_FOR, TEXTS, Option, options, write_neighbours
from tests.support.doors.typed import typed_forked, typed_here

pytestmark = pytest.mark.usefixtures("kept_searches")

OPTIONS = list(options())
STARTS = ("run", "plan", "prepare", "serve")  # they train, time, write corpora, or wait for requests


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory):
    """A folder with what the commands read, and the id of the run in its store."""
    folder = tmp_path_factory.mktemp("doors")
    return folder, write_neighbours(folder)


def faults(option: Option, values, folder, run_id) -> list[str]:
    before = sorted(folder.rglob("*"))
    found = []
    for value in values:
        answer = typed_here(option.words(value, run_id))
        fault = answer.fault(option.names(value)) or (sorted(folder.rglob("*")) != before and "something was written")
        found += [f"{value[:60]!r}: {fault}"] if fault else []
    return found


def test_every_text_option_has_values_that_mean_nothing_or_takes_any():
    for option in OPTIONS:
        assert option.bad_values() or option.flag in FREE, option
    assert len(OPTIONS) > 100
    assert {key.rpartition(" ")[2] for key in TEXTS} <= {option.flag or option.name for option in OPTIONS}


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.command}{option.flag or '-' + option.name}")
def test_one_value_of_each_option(option, neighbours, monkeypatch):
    """Which one is drawn by the option's name; all values of all are typed by tests.proofs.doors.malformed."""
    folder, run_id = neighbours
    monkeypatch.chdir(folder)
    values = option.bad_values()
    drawn = values[zlib.crc32(f"{option.command} {option.name}".encode()) % len(values)] if values else None
    assert faults(option, [drawn] if values else [], folder, run_id) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in SOUND if name not in STARTS])
def test_the_line_that_a_bad_value_is_put_into_is_sound(command, neighbours, monkeypatch):
    folder, run_id = neighbours
    monkeypatch.chdir(folder)
    monkeypatch.setattr("isoflop.analysis.evidence.candidates", lambda points: ("chinchilla", "power-n"))
    monkeypatch.setattr("isoflop.analysis.report.save", lambda *_: None)  # figures are drawn, not kept
    for words in (SOUND[command], *(line for key, line in SOUND_FOR.items() if key.split()[0] == command)):
        answer = typed_forked([command, *(run_id if word == "RUN" else word for word in words)], folder)
        assert (answer.code, answer.traceback) == (0, ""), answer.err


@pytest.mark.parametrize(
    ("words", "code", "reported"),
    [
        (("fit", "arms.csv", "--fix", "E=1", "--fix", "A=1", "--fix", "B=1", "--fix", "alpha=.3", "--fix", "beta=.3",
          "--fix", "kappa=1", "--bootstrap", "0"), 2, "--fix: every parameter of chinchilla is fixed"),
        (("fit", "arms.csv", "--nosuch", "1"), 2, "--nosuch"),
        (("fit",), 2, "'table'"),
        (("nosuch",), 2, "nosuch"),
        (("approaches", "one.csv"), 1, "no answer for"),
        (("tune", "--table", "arms.csv"), 2, "arms.csv: no column"),
        (("accuracy", "arms.csv", "--metric", "acc"), 2, "--metric needs --task"),
        (("predict", "arms.csv"), 2, "--flops"),
        (("fit", "arms.csv", "--fix", "E=1", "--fix", "E=2"), 2, "--fix: E is given twice (E=1, E=2)"),
        (("fit", "arms.csv", "--map", "loss=loss", "--map", "loss=tokens"), 2, "--map: loss is given twice"),
        (("fit", "arms.csv", "--objective", "least-squares", "--delta", "1"), 2, "--delta 1 is of Huber's objectives"),
        (("import", "arms.csv", "--out", "x.csv", "--n-params", "1", "--n-params", "2"), 2, "run is given twice"),
        (("import", "arms.csv", "--out", "x.csv", "--tokens", "a=1", "--tokens", "a=2"), 2, "a is given twice"),
        (("accuracy", "runs", "--task", "t", "--column", "c"), 2, "--task names the score: leave out --column"),
        (("evaluate", "nosuch", "--study", "s"), 2, "--study s names the runs: leave out RUN_IDS"),
        (("evaluate", "nosuch", "--items", "9"), 2, "without --tasks no questions are put: leave out --items"),
        (("tune", "rates.parquet", "--table", "arms.csv", "--at", "n_params=1e6"), 2, "leave out --table"),
        (("tune", "experiment=smoke", "--table", "rates.parquet"), 2, "experiment=smoke: with a TABLE"),
        (("predict", "--from-law", "kaplan-2020", "--flops", "1", "--params", "matrices"), 2, "leave out --params"),
        (("compact", "table.csv", "--out", "x.parquet"), 2, "table.csv: no runs of isoflop"),
        (("compact", "runs", "--out", "x.csv"), 2, "x.csv: its name must end in .parquet"),
        (("positions", "runs", "--out", "x.json"), 2, "x.json: its name must end in .parquet or .csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_is_missing_or_too_much_is_named_in_one_line(words, code, reported, neighbours, monkeypatch):
    folder, _ = neighbours
    monkeypatch.chdir(folder)
    (folder / "one.csv").write_text("n_params,tokens,loss\n1e7,1e9,3.0\n")
    answer = typed_here(words)
    os.remove(folder / "one.csv")
    assert answer.code == code
    assert answer.fault([reported]) == ""


def test_no_message_breaks_its_line_or_moves_the_cursor():
    assert one_line("a\nb\tc\x1b[31md\re\u2028f\x00\ud800") == "a b c\\x1b[31md\\re\\u2028f\\x00\\ud800"
    assert len(one_line("x" * 10**6)) < LONGEST + 10
    assert one_line("na\u00efve \u65e5") == "na\u00efve \u65e5"
