"""`isoflop tune TABLE --emit`: the file that is written plans a study at that setting, and replaces none unsaid."""

import numpy as np
import pandas as pd
import pytest
import yaml

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.followup.optim_file import emit_optim
from isoflop.experiments.followup.template import NextStudyError
from isoflop.experiments.study.check import checked_study
from isoflop.scaling.table.read import read_table
from isoflop.scaling.tuning.tune import tune
from tests.support.root import RESULTS
from tests.support.sweep.studies import FakeCorpus

pytestmark = pytest.mark.slow


def foreign(**columns: object) -> pd.DataFrame:
    """Bowls at three sizes, with three batches and a constant decay."""
    rng = np.random.default_rng(2)
    rows = [
        (n, 2e8, t, r, 2 + 30 * n**-0.3 + 0.03 * np.log(t / 3e4) ** 2 + 0.05 * np.log(r / 0.002) ** 2)
        for n in (1e6, 1e7, 1e8)
        for t in (8192, 32768, 131072)
        for r in (0.0005, 0.001, 0.002, 0.004, 0.008)
    ]
    frame = pd.DataFrame(rows, columns=["n_params", "tokens", "batch_tokens", "lr", "loss"])
    return frame.assign(loss=frame["loss"] * np.exp(rng.normal(0, 1e-3, len(frame))), **columns)


def test_the_file_of_a_run_table_plans_a_study_at_its_setting(tmp_path):
    table = read_table(RESULTS / "lr_transfer.parquet")
    found = tune(table, {"n_params": 1e6}, arm="standard")
    file = tmp_path / "own" / "optim" / "fitted.yaml"
    written = emit_optim(found, table, file)
    assert (written.file, written.replaced) == (file, False)
    assert f"--config-dir {tmp_path / 'own'} optim=fitted" in written.command
    assert any("optim.weight_decay" in note and "defaults" in note for note in written.notes)
    (config,) = compose_all(["--config-dir", str(tmp_path / "own"), "experiment=smoke", "optim=fitted"])
    study = checked_study(config, FakeCorpus())
    (optim,) = {(c.optim.parametrization, c.optim.learning_rate, c.optim.batch_size) for c in study.cells}
    assert optim == ("standard", float(f"{found.best.optimum.learning_rate:.6g}"), 8)
    assert file.read_text().startswith(f"# isoflop tune {RESULTS / 'lr_transfer.parquet'} --at n_params=1e+06")
    assert emit_optim(found, table, file).replaced
    assert "over the file that was there" in str(emit_optim(found, table, file))
    assert [p.name for p in file.parent.iterdir()] == ["fitted.yaml"]


def test_a_foreign_table_gives_rate_batch_and_decay_as_far_as_it_tells_them(tmp_path):
    table = foreign(seq_len=512, wd=0.1)
    found = tune(table)
    written = emit_optim(found, table, tmp_path / "mine.yaml")
    values = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    batch = found.best.optimum.batch_tokens
    assert values["batch_size"] == round(batch / 512)
    assert values["weight_decay"] == 0.1
    assert (values["name"], values["parametrization"]) == ("adamw", "standard")
    assert values["learning_rate"] == pytest.approx(found.best.optimum.learning_rate, rel=0.05)
    assert written.command.startswith("mkdir -p conf/optim && cp ")
    unknown = foreign()
    emitted = emit_optim(tune(unknown), unknown, tmp_path / "other.yaml")
    assert "batch_size" not in yaml.safe_load((tmp_path / "other.yaml").read_text())
    assert any("not known in sequences without context_length" in note for note in emitted.notes)


@pytest.mark.parametrize("name", ["fitted.txt", "a b.yaml", "a=b.yaml"])
def test_a_name_that_no_run_could_give_is_refused(tmp_path, name):
    table = foreign()
    with pytest.raises(ValueError, match="--emit"):
        emit_optim(tune(table), table, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_several_arms_are_refused_and_nothing_is_written(tmp_path):
    both = pd.concat([foreign(arm="a"), foreign(arm="b")], ignore_index=True)
    with pytest.raises(NextStudyError, match=r"several arms \(.*\): choose one with --arm"):
        emit_optim(tune(both), both, tmp_path / "fitted.yaml")
    assert not list(tmp_path.iterdir())
    one = emit_optim(tune(both, arm="b"), both, tmp_path / "fitted.yaml")
    assert "--arm b" in one.file.read_text()
