"""What others logged comes out as they logged it, under a named convention, with a reason for every row left out."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.logs.nanogpt import nanogpt_shape
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import is_runs
from tests.support.tables.nanogpt_log import nanogpt_log

pytestmark = pytest.mark.usefixtures("kept_searches")

LAW = Chinchilla(E=1.8, A=400.0, B=1500.0, alpha=0.34, beta=0.36)


def imported(source: Path, kind: str = "auto", mapping=None, **options) -> Imported:
    return import_source(source, kind, ImportOptions(**options), mapping or {})


def left_out(found: Imported) -> dict[tuple[str, str], int]:
    return {(one.run, one.reason): one.rows for one in found.left_out}


def history(n: float, steps=(100, 200, 300), batch=1024) -> list[dict]:
    rows = []
    for step in steps:
        rows.append({"_step": step - 50, "_runtime": step / 10, "_timestamp": 1.7e9 + step, "train/loss": 3.0})
        loss = float(LAW(n, step * batch))
        rows.append({"_step": step, "_runtime": step / 10, "_timestamp": 1.7e9 + step, "val/loss": loss})
    return rows


def test_a_number_for_every_run_is_for_those_that_lack_it(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("run_id,n_params,tokens,loss\na,1e6,1e8,3\nb,4e6,4e8,2\n")
    with pytest.raises(SourceError, match=r"--n-params 5: the source reports 2 different ones \(a, b\); leave it out"):
        imported(path, n_params={"": 5.0})
    assert (
        "--params total is not used: the source names no such count of parameters"
        in imported(path, params="total").notes
    )
    assert imported(path, n_params={"b": 5e6}).ends["n_params"].tolist() == [1e6, 5e6]
    path.write_text("run_id,n_params,tokens,loss\na,1e6,1e8,3\nb,,4e8,2\n")
    assert imported(path, n_params={"": 5e6}).ends["n_params"].tolist() == [1e6, 5e6]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_wandb_history_of_one_run(tmp_path, suffix):
    path = tmp_path / f"run-a{suffix}"
    frame = pd.DataFrame(history(1e6))
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in history(1e6)))
    with pytest.raises(SourceError, match=r"no run reports its n_params \(run-a\); give --n-params VALUE"):
        imported(path, "wandb")
    with pytest.raises(SourceError, match=r"no run reports its tokens \(run-a\); give --batch-tokens VALUE"):
        imported(path, "wandb", n_params={"": 1e6})
    found = imported(path, "wandb", n_params={"": 1e6}, batch_tokens={"run-a": 1024})
    assert not [note for note in found.notes if "not used" in note]
    row = found.ends.iloc[0]
    assert (row["run_id"], row["tokens"], row["loss"]) == ("run-a", 300 * 1024, pytest.approx(LAW(1e6, 300 * 1024)))
    assert row["params_convention"] == "--n-params"
    assert left_out(found) == {("run-a", "no validation loss"): 3}


def test_a_panel_exported_by_wandb_holds_a_run_per_column(tmp_path):
    path = tmp_path / "wandb_export.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file, quoting=csv.QUOTE_ALL)
        ranges = ("", "__MIN", "__MAX")
        out.writerow(["Step", *(f"{run} - val/loss{r}" for run in ("cool-sun-1", "big - sea-2") for r in ranges)])
        for step in (100, 200):
            out.writerow([step, *[2.0 + 1 / step] * 3, *([""] * 3 if step == 200 else [2.5] * 3)])
    sizes = {"cool-sun-1": 1e6, "big - sea-2": 2e6}
    found = imported(path, n_params=sizes, batch_tokens={"": 1000})
    assert found.ends.set_index("run_id")["loss"].to_dict() == {"cool-sun-1": 2.005, "big - sea-2": 2.5}
    assert found.ends.set_index("run_id")["tokens"].to_dict() == {"cool-sun-1": 2e5, "big - sea-2": 1e5}
    assert left_out(found) == {("big - sea-2", "no validation loss"): 1}


def test_the_list_of_runs_that_wandb_exports(tmp_path):
    frame = pd.DataFrame(
        {
            "Name": ["a", "b", "c", "d"], "State": ["finished", "crashed", "finished", "finished"], "Notes": "-",
            "User": "me", "Tags": "", "Created": "2026-01-01T00:00:00.000Z", "Runtime": [9, 3, 9, 9], "Sweep": "",
            "lr": 1e-3, "n_params": [1e6, 1e6, None, 3e6], "seed": 1, "_step": 100,
            "train/tokens": [2e7, 1e7, 2e7, 2e7], "val/loss": [3.0, 9.0, 3.0, "NaN"],
        }
    )  # fmt: skip
    frame.to_csv(tmp_path / "runs.csv", index=False)
    found = imported(tmp_path / "runs.csv")
    assert found.table["run_id"].tolist() == ["a"]
    reasons = {one.run: one.reason for one in found.left_out if one.whole}
    assert reasons["b"] == "its state is crashed"
    assert reasons["c"].startswith("it does not report its n_params; give --n-params")
    assert reasons["d"] == "no evaluation with a loss"


@pytest.mark.slow
def test_olmo_metrics_with_its_own_keys(tmp_path):
    for size, n in (("190M", 190e6), ("370M", 370e6)):
        steps = np.array([1000, 2000, 3000])
        tokens = steps * 786_432
        pd.DataFrame(
            {
                "_step": steps, "throughput/total_tokens": tokens,
                "throughput/total_training_Gflops": 6.3 * n * tokens / 1e9,
                "eval/c4_en-validation/CrossEntropyLoss": LAW(n, tokens), "train/CrossEntropyLoss": 3.0,
                "optim/learning_rate_group0": [1e-3, 5e-4, 1e-5], "batch_size_in_tokens": 786_432,
            }
        ).to_csv(tmp_path / f"{size}-1xC.csv", index=False)  # fmt: skip
    found = imported(tmp_path, "olmo", n_params={"190M-1xC": 190e6, "370M-1xC": 370e6})
    ends = found.ends.set_index("run_id")
    assert ends.loc["370M-1xC", "flops"] == pytest.approx(6.3 * 370e6 * 3000 * 786_432)
    assert ends.loc["190M-1xC", "loss"] == pytest.approx(LAW(190e6, 3000 * 786_432))
    assert ends["compute_convention"].tolist() == ["the column throughput/total_training_Gflops"] * 2
    assert ends["peak_learning_rate"].tolist() == [1e-3] * 2
    second = pd.read_csv(tmp_path / "190M-1xC.csv").assign(**{"eval/pile-validation/CrossEntropyLoss": 2.0})
    second.to_csv(tmp_path / "190M-1xC.csv", index=False)
    with pytest.raises(SourceError, match=r"2 validation losses \(eval/c4_en.*\); name one with --map loss=COLUMN"):
        imported(tmp_path / "190M-1xC.csv")
    mapped = {"loss": "eval/pile-validation/CrossEntropyLoss"}
    assert imported(tmp_path / "190M-1xC.csv", mapping=mapped, n_params={"": 1.0}).ends["loss"].tolist() == [2.0]


@pytest.mark.slow
def test_tensorboard_event_files_of_others(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for n in (1e6, 4e6):
        for purge in (None, 200):  # a run that went on from step 200 after a restart
            with SummaryWriter(tmp_path / "logs" / f"n{n:.0f}", purge_step=purge) as writer:
                for step in range(100, 300 if purge is None else 500, 100):
                    if purge is None or step >= purge:
                        writer.add_scalar("loss/val", LAW(n, step * 1024), step, new_style=n > 1e6)
                        writer.add_scalar("loss/train", 3.0, step)
    found = imported(tmp_path / "logs", n_params={"n1000000": 1e6, "n4000000": 4e6}, batch_tokens={"": 1024})
    assert found.ends["loss"].tolist() == pytest.approx([LAW(n, 400 * 1024) for n in (1e6, 4e6)])
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match="nothing to import"):
        imported(tmp_path / "none")


@pytest.mark.slow
def test_our_own_event_files_come_back_as_they_went(tmp_path):
    from tests.support.training.tracked import FIRST, SECOND, track

    rows = {cell.run_id: track(tmp_path, ["tensorboard"], cell)[-1] for cell in (FIRST, SECOND)}
    table = imported(tmp_path / "tensorboard").ends
    assert len(table) == 2
    for _, found in table.iterrows():
        row = rows[found["run_id"].rsplit("-", 1)[1]]
        assert found["loss"] == pytest.approx(row["loss"], rel=1e-6)
        assert (found["tokens"], found["flops"]) == pytest.approx((row["tokens"], row["flops"]), rel=1e-6)
        assert found["params_convention"] == "matrices"


def test_any_table_with_a_map_and_a_reason_for_every_row(tmp_path):
    frame = pd.DataFrame({"model": list("abcde"), "size": [1e6, 2e6, 3e6, None, 5e6], "D": 1e8})
    frame["ppl"] = [3.0, 2.9, None, 2.7, -1.0]
    frame.to_parquet(tmp_path / "t.parquet")
    mapping = {"run_id": "model", "n_params": "size", "tokens": "D", "loss": "ppl"}
    found = imported(tmp_path / "t.parquet", mapping=mapping, arm="mine")
    assert found.table[["run_id", "arm"]].to_numpy().tolist() == [["a", "mine"], ["b", "mine"]]
    reasons = {one.run: one.reason for one in found.left_out if one.whole}
    assert set(reasons) == {"c", "d", "e"}
    rows = {(one.run, one.reason) for one in found.left_out if not one.whole}
    assert rows == {("c", "no validation loss"), ("e", "the loss is not a positive number")}


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 2])
def test_a_history_whose_only_loss_is_called_loss_is_read_as_fit_reads_it(tmp_path, runs):
    one = pd.DataFrame({"step": [10, 20, 30], "tokens": [1e6, 2e6, 3e6], "loss": [4.0, 3.5, 3.25], "n_params": 1e6})
    frame = pd.concat([one.assign(run=f"r{k}", n_params=1e6 * (k + 1)) for k in range(runs)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = import_source(tmp_path / "t.csv", "auto", ImportOptions(), {})
    assert found.ends[["tokens", "loss"]].to_numpy().tolist() == [[3e6, 3.25]] * runs
    assert "loss: column loss, the only one; the file does not say of which text it is" in found.notes
    assert points(read_table(tmp_path / "t.csv")).frame["loss"].tolist() == [3.25] * runs
    frame.assign(train_loss=9.0).to_csv(tmp_path / "t.csv", index=False)
    found = import_source(tmp_path / "t.csv", "auto", ImportOptions(), {})
    assert found.ends["loss"].tolist() == [3.25] * runs
    assert not any("which text" in note for note in found.notes)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, r"no validation loss; only a training loss: use it with --map loss=train/loss"),
        ({"loss": "los"}, r"--map loss=los: no column 'los'; did you mean 'train/loss'\?"),
        ({"loss": "train/loss", "n_params": "x"}, r"--map n_params=x: no column 'x'"),
    ],
)
def test_a_column_that_may_mean_something_else_must_be_named(tmp_path, mapping, message):
    pd.DataFrame({"step": [1, 2], "train/loss": [3.0, 2.0]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SourceError, match=message):
        imported(tmp_path / "t.csv", mapping=mapping)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.log",
            "hello\n",
            "not recognised as any of tensorboard, .*, wandb, .*nanochat.*; name its kind with --from",
        ),
        ("a.log", b"\xff\xfe\x00", "not text"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "step,val_loss\n", "the table has no rows"),
        ("a.jsonl", "{broken", "cannot be read as jsonl"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
        ("a.log", "iter 10: loss 3.1234, time 1.00ms, mfu 1.00%\n", "no evaluation with a loss"),
    ],
)
def test_a_source_that_is_none_is_one_clear_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=message):
        imported(path)


@pytest.fixture
def done(typed):
    """Type a command that succeeds; returns its output."""

    def run(*arguments) -> str:
        code, out, _ = typed(*arguments)
        assert code == 0
        return out

    return run


def write_study(folder: Path, widths, horizons) -> Path:
    """A nanoGPT log for every width and horizon, its losses those of LAW."""
    folder.mkdir()
    for d in widths:
        shape = nanogpt_shape(6, 6, d, 256, 65, bias=False)
        n = shape.total - shape.params["position"] - shape.params["norm"]
        for steps in horizons:
            name = folder / f"d{d}-{steps}.log"
            nanogpt_log(name, d=d, max_iters=steps, loss=lambda step, n=n: float(LAW(n, max(step, 1) * 64 * 256)))
    return folder


@pytest.mark.slow
def test_the_command_writes_a_table_that_a_fit_reads(tmp_path, done):
    logs = write_study(tmp_path / "logs", (96, 144, 192, 288, 384), (1000, 3000, 9000))
    answer = json.loads(done("import", logs, "--out", tmp_path / "t.parquet", "--json"))
    assert (answer["kind"], answer["runs"]) == ("run table", 15)
    assert sum(one["rows"] for one in answer["left_out"]) == (answer["rows"] + 15) + 15  # an iter line each, and step 0
    table = read_table(tmp_path / "t.parquet")
    assert is_runs(table)
    assert points(table, params="total").params == "total"
    fitted = json.loads(done("fit", tmp_path / "t.parquet", "--json", "--bootstrap", 0))
    assert fitted["params"]["alpha"] == pytest.approx(LAW.alpha, rel=0.1)
    done("import", logs, "--out", tmp_path / "plain.csv", "--n-params", "d96-1000=1e6")
    plain = read_table(tmp_path / "plain.csv")
    assert set(plain) >= {"n_params", "tokens", "loss", "params_convention"}
    assert any(note.startswith("params_convention: --n-params, nanoGPT") for note in points(plain).notes)


@pytest.mark.slow
def test_a_report_reads_what_was_imported(tmp_path, done, monkeypatch):
    monkeypatch.setattr("isoflop.analysis.evidence.candidates", lambda points: ("chinchilla", "power-n"))
    write_study(tmp_path / "logs", (96, 192, 384), (1000, 3000))
    done("import", tmp_path / "logs", "--out", tmp_path / "t.parquet")
    done("report", tmp_path / "t.parquet", "--law", "chinchilla", "--bootstrap", 0, "--out", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").exists()


def test_bad_options_are_one_line(typed, tmp_path):
    nanogpt_log(tmp_path / "a.log")
    for arguments, message in (
        (["--out", "x.txt"], "--out x.txt: write to a .parquet or a .csv"),
        (["--out", "x.csv", "--from", "wandbx"], "--from wandbx: not one of auto"),
        (["--out", "x.csv", "--n-params", "b=1e6"], "--n-params b=...: no such run in the source (there are: a)"),
        (["--out", "x.csv", "--n-params", "many"], "--n-params many: not a number"),
        (["--out", "x.csv", "--batch-tokens", "-5"], "not a positive number"),
        (["--out", "x.csv", "--params", "all"], "--params all: not one of matrices"),
        (["--out", "x.csv", "--map", "loss"], "write it as --map NAME=VALUE"),
    ):
        code, _, error = typed("import", tmp_path / "a.log", *arguments)
        assert (code, len(error.strip().splitlines())) == (2, 1)
        assert message in error


def test_a_row_without_the_name_of_its_run_is_refused_as_by_fit(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("run_id,n_params,tokens,loss\na,1e6,1e8,4\n,2e6,1e8,3.9\n")
    with pytest.raises(SourceError, match=r"'run_id' is empty in 1 rows \(row 2\)"):
        import_source(path, "auto", ImportOptions(), {})
    with pytest.raises(TableError, match="empty"):
        points(read_table(path))


@pytest.mark.parametrize("config", ["{[1]: 2}", "{{1: 2}: 3}", "{(): [}", "{1: " + "[" * 5000])
def test_a_cell_that_only_looks_like_a_dictionary_stays_a_text(tmp_path, config):
    frame = pd.DataFrame({"name": ["a", "b"], "summary": ["{'val_loss': 3.0, 'tokens': 1e8, 'n_params': 1e6}"] * 2})
    frame.assign(config=config).to_csv(tmp_path / "t.csv", index=False)
    assert import_source(tmp_path / "t.csv", "auto", ImportOptions(), {}).ends["loss"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("column", ["lr", "_runtime", "train/loss", "seed", "batch_tokens", "hellaswag acc"])
def test_a_whole_number_beyond_all_floats_in_a_cell_is_no_traceback(tmp_path, column):
    rows = [{"run_id": f"r{k}", "n_params": 1e6, "tokens": 1e8, "loss": 3.0, column: 10 ** (400 * k)} for k in (0, 1)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    found = import_source(tmp_path / "t.json", "auto", ImportOptions(), {})
    assert found.ends["loss"].tolist() == [3.0, 3.0]
    found.write(tmp_path / "made.csv")
    found.write(tmp_path / "made.parquet")


@pytest.mark.parametrize("given", [io.StringIO("n_params,tokens,loss\n1e6,1e7,4\n"), io.BytesIO(), 5, None])
def test_what_is_no_path_is_refused_with_what_reads_it(given):
    with pytest.raises(TypeError, match=r"by its path, and not a .*pandas\.read_csv makes a table"):
        isoflop.read_table(given)


def test_an_empty_path_is_not_this_folder():
    with pytest.raises(TableError, match=r"the path is empty; '\.' is this folder"):
        isoflop.read_table("")
