"""What a table is read as is said, and the unit of its loss is printed, by every command that reads one."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isoflop.__main__ import app
from tests.support.fits.simulated import BESIROGLU, cheaper, isoflop_table, two_arms

pytestmark = pytest.mark.usefixtures("kept_searches")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A table in millions of parameters, billions of tokens and bits per byte, with a run that crashed."""
    known = isoflop_table(BESIROGLU, seed=0)
    frame = pd.DataFrame({
        "Params (M)": known["n_params"] / 1e6, "btokens": known["tokens"] / 1e9, "val_bpb": known["loss"] / np.log(2),
        "state": ["crashed", *["finished"] * (len(known) - 1)],
    })  # fmt: skip
    path = tmp_path_factory.mktemp("tables") / "foreign.csv"
    frame.to_csv(path, index=False)
    return path


GUESSES = (
    "n_params: column Params (M) (times 1e+06)", "tokens: column btokens (times 1e+09)",
    "loss: column val_bpb (bits times ln 2: nats/byte)", "1 of 35 rows are left out",
)  # fmt: skip


def call(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("fit", "--bootstrap", "0"), ("approaches",), ("compare", "--laws", "chinchilla,kaplan"),
        ("predict", "--flops", "1e22", "--laws", "chinchilla"),
        ("suggest", "--budget", "1e21", "--target", "1e23"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_guess_is_said_on_stderr_and_in_json(foreign, command):
    name, *options = command
    places = [*options, foreign] if name == "suggest" else [foreign, *options]
    result = call(name, *places, "--json")
    (line,) = result.stderr.splitlines()
    answer = json.loads(result.stdout)
    for guess in GUESSES:
        assert guess in line
        assert any(guess in note for note in answer["notes"])
    assert "nats/token" not in result.stdout
    assert "nats/byte" in result.stdout
    assert "nats/token" not in call(name, *places).stdout


@pytest.mark.slow
def test_no_axis_or_sentence_of_a_report_names_another_unit(foreign, tmp_path, monkeypatch):
    monkeypatch.setattr("isoflop.analysis.evidence.candidates", lambda points: ("chinchilla", "power-n"))
    call("report", foreign, "--out", tmp_path, "--law", "chinchilla", "--bootstrap", "20")
    text = (tmp_path / "report.md").read_text()
    assert "nats/byte" in text
    drawn = [tmp_path / "report.md", *tmp_path.glob("*.svg"), *tmp_path.glob("report.html")]
    assert [path.name for path in drawn if "nats/token" in path.read_text()] == []


@pytest.mark.slow
def test_an_arm_called_none_is_the_baseline_that_was_named(tmp_path):
    arms = two_arms(cheaper(1.5), seed=0)
    names = {"base": "None", "rival": "NA"}
    path = tmp_path / "arms.csv"
    arms.assign(optimizer=arms["arm"].map(names)).drop(columns="arm").to_csv(path, index=False)
    answer = json.loads(call("multiplier", path, "--by", "optimizer", "--baseline", "None", "--json").stdout)
    assert [(pair["baseline"], pair["arm"]) for pair in answer["pairs"]] == [("None", "NA")]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("n_params,tokens,loss\n1e6,1e8,4\n2e6,many,3\n", [], "tokens is not a number in 1 of 2 rows (row 2): 'many'"),
        ("a,b\n1,2\n", [], "no column 'loss'"),
        ("N,n_tokens,D,loss\n1e6,1e8,2e8,4\n2e6,1e8,3e8,3\n", [], "2 columns may be tokens (n_tokens, D)"),
        ("N,D,loss\n1e6,1e8,4\n", ["--sheet", "one"], "--sheet one is for a spreadsheet"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "import"])
def test_what_cannot_be_read_is_one_line_and_exit_2(tmp_path, content, options, message, command):
    path = tmp_path / "runs.csv"
    path.write_text(content)
    out = ["-o", tmp_path / "out.csv"] if command == "import" else []
    result = CliRunner().invoke(app, [command, str(path), *options, *map(str, out)])
    assert message in str(result.exception)
