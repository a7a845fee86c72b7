"""The README holds what the repository does: its numbers, its commands, its code, its query."""

import re
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pytest
from typer.main import get_command

from isoflop.__main__ import app
from isoflop.analysis.evidence import Evidence
from isoflop.analysis.readme import BLOCKS, FURTHER, rewrite, seeds
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import read_runs, write_run
from tests.support.root import ROOT

README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "experiments" / "results" / "quick.parquet"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def block(text: str, name: str) -> str:
    return text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def made() -> str:
    return rewrite(README, Evidence(read_table(RESULTS)), RESULTS.parent)


@pytest.mark.parametrize("name", [*BLOCKS, *FURTHER])
def test_numbers_are_those_of_the_committed_results(made: str, name: str):
    printed, now = block(README, name), block(made, name)
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", now), "run make figures"
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, now)]
    assert len(numbers[0]) > 3
    np.testing.assert_allclose(*numbers, rtol=0.01, atol=0.011, err_msg="run make figures")


def test_a_number_that_is_off_is_seen(made: str):
    off = block(README, "laws").replace("0.", "0.9", 1)
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (off, block(made, "laws"))]
    assert len(numbers[0]) != len(numbers[1]) or not np.allclose(*numbers, rtol=0.01, atol=0.011)


def test_the_noise_of_seeds_has_its_interval():
    """Two seeds a cell of sd .02 are 12 degrees of freedom of 12 cells: 12 s^2 over chi-square's quantiles."""
    noise = pd.DataFrame({"seeds": [2] * 12, "sd": [0.02] * 12})
    told = seeds(SimpleNamespace(seed_noise=noise))
    lo, hi = (f"{0.02 * np.sqrt(12 / quantile):.1%}" for quantile in (21.0261, 5.2260))
    assert f"2.00% [{lo}, {hi}] (sd, 12 cells, 12 degrees of freedom)" in told


def test_every_command_exists():
    known = set(get_command(app).commands)
    used = set(re.findall(r"isoflop ([a-z]+)", README))
    assert used - known == set()
    assert len(used) >= 5


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets | {"figures"}


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    (code,) = fenced("python")
    final = read_table(RESULTS).query("final")
    table = final.rename(columns={"n_params_total": "n_params"})[["n_params", "tokens", "loss"]]
    table.to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # the README's own words
    printed = capsys.readouterr().out
    assert "chinchilla" in printed
    assert re.search(r"\(.*\d.*, .*\d.*\)", printed.splitlines()[-1])


def test_query_reads_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    query = re.search(r'duckdb -c "(.*?)"', README)[1]
    table = read_runs(RESULTS)
    kept = list(table["run_id"].unique()[:3])
    for run_id in kept:
        rows = table[table["run_id"] == run_id].to_dict("records")
        write_run(tmp_path / "runs" / "cells" / run_id / "run.parquet", rows, {})
        other = pd.DataFrame({"position": [0], "loss": [5.0]})  # a store holds other tables too
        other.to_parquet(tmp_path / "runs" / "cells" / run_id / "evaluation.parquet")
    monkeypatch.chdir(tmp_path)
    rows = duckdb.sql(query).fetchall()
    finals = table[table["final"] & table["run_id"].isin(kept)].set_index("run_id")
    assert {row[0] for row in rows} == set(kept)
    for run_id, n_params, tokens, loss in rows:
        assert (n_params, tokens, loss) == tuple(finals.loc[run_id, ["n_params_total", "tokens", "loss"]])


def test_study_example_is_a_study(tmp_path: Path):
    import yaml

    from isoflop.experiments.config import StudySpec

    (study,) = fenced("yaml")
    assert set(yaml.safe_load(study)["study"]) <= set(StudySpec.__dataclass_fields__)


def test_committed_results_are_small_and_whole():
    table = pd.read_parquet(RESULTS)
    assert RESULTS.stat().st_size < 1_000_000
    assert table["run_id"].nunique() == table["final"].sum() >= 30


def test_readme_fits_a_screen_or_three():
    assert len(README.splitlines()) <= 160
