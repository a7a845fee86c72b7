"""A small invented file of each kind that others write comes out as what it holds, and what comes out is fitted."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.read_table import read_table as read_whole
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table
from tests.support.root import RESULTS, ROOT
from tests.support.tables.dialects import by_fit, by_import, difference
from tests.support.tables.programs import PROGRAMS

FILES = ROOT / "tests/support/files"
LAW = Chinchilla(E=1.8, A=400.0, B=1200.0, alpha=0.34, beta=0.37)  # of every loss in the files
SIZES = {"small": 1e6, "large": 4e6}


def imported(name: str, **options) -> Imported:
    return import_source(FILES / name, "auto", ImportOptions(**options), {})


# File: the options that it needs, and its runs: name, parameters, tokens.
KINDS = {
    "two_models.log": ({}, [("two_models#1", 0.8e6, 500 * 16_384), ("two_models#2", 25.23e6, 500 * 16_384)]),
    "huggingface": ({}, [("large", 4e6, 200 * 8192), ("small", 1e6, 200 * 8192)]),
    "lightning": (
        {"n_params": SIZES, "batch_tokens": {"": 4096}}, [("large", 4e6, 1000 * 4096), ("small", 1e6, 1000 * 4096)],
    ),
    "litgpt/metrics.csv": ({"n_params": {"": 2e6}}, [("litgpt", 2e6, 100 * 65_536)]),
    "wandb_panel.csv": (
        {"n_params": {"cool-sun-1": 1e6, "big - sea-2": 4e6}, "batch_tokens": {"": 1e4}},
        [("cool-sun-1", 1e6, 2e6), ("big - sea-2", 4e6, 2e6)],
    ),
    "wandb_runs.csv": ({}, [("id0", 1e6, 2e7), ("id1", 1e6, 8e7), ("id2", 4e6, 8e7)]),
    "wandb_api.csv": ({}, [("small", 1e6, 2e7), ("large", 4e6, 2e7)]),
    "mlflow.csv": ({}, [("small", 1e6, 2e7), ("large", 4e6, 2e7)]),
    "mlruns": ({}, [("small", 1e6, 2e7), ("large", 4e6, 2e7)]),
    "levanter": ({}, [("large", 4e6, 2e7), ("small", 1e6, 2e7)]),
    "long.csv": ({"n_params": {"": 1e6}, "batch_tokens": {"": 1e5}}, [("long", 1e6, 2e7)]),
    "along_tokens": ({"n_params": SIZES}, [("large", 4e6, 2e7), ("small", 1e6, 2e7)]),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_comes_out_as_its_runs(name):
    options, runs = KINDS[name]
    ends = imported(name, **options).ends
    assert list(zip(ends["run_id"], ends["n_params"], ends["tokens"], strict=True)) == runs
    expected = [float(LAW(n, tokens)) for _, n, tokens in runs]
    assert ends["loss"].tolist() == pytest.approx(expected, abs=1e-4)
    assert set(ends["loss_unit"]) == {"nats/token"}


def notes(found: Imported) -> str:
    return "\n".join(found.notes)


@pytest.mark.slow
def test_what_was_inferred_is_said():
    assert "of the checkpoints of a run the last is read" in notes(imported("huggingface"))
    assert "2 runs count their steps from 0 (large, small): one was added" in notes(
        imported("lightning", n_params=SIZES, batch_tokens={"": 4096})
    )
    assert "total_tokens (of all devices" in notes(imported("litgpt/metrics.csv", n_params={"": 2e6}))
    assert "names in column Name repeat: runs are named by column ID" in notes(imported("wandb_runs.csv"))
    assert "20 rows along tokens are one run" in notes(imported("along_tokens", n_params=SIZES))
    assert "a long table, a column for each metric: train_loss, val_loss" in notes(
        imported("long.csv", n_params={"": 1e6}, batch_tokens={"": 1})
    )


@pytest.mark.slow
def test_the_summary_of_a_trainer_is_no_evaluation_and_its_flops_are_counted():
    ends = imported("huggingface").ends.set_index("run_id")
    assert ends.loc["small", "flops"] == 6e6 * 200 * 8192
    assert ends.loc["small", "step"] == 200
    alone = imported("huggingface/large/trainer_state.json").ends
    assert alone["run_id"].tolist() == ["large"]
    checkpoint = FILES / "huggingface/small/checkpoint-100/trainer_state.json"
    found = import_source(checkpoint, "auto", ImportOptions(keep_unfinished=True), {})
    assert found.ends[["run_id", "tokens"]].to_numpy().tolist() == [["small", 100 * 8192]]


@pytest.mark.slow
def test_the_results_of_nanochat_are_read_as_they_are(tmp_path):
    table = read_table(FILES / "nanochat_results.csv")
    held = imported("nanochat_results.csv").ends
    for frame in (points(table).frame, held):
        n = table["params_transformer"] + table["params_lm_head"]
        assert frame["n_params"].tolist() == n.tolist()
        assert frame["tokens"].tolist() == table["tokens_trained"].tolist()
        assert frame["flops"].tolist() == table["flops_budget"].tolist()
        assert frame["loss"].tolist() == pytest.approx((LAW(n, frame["tokens"]) / 4.2).tolist(), abs=1e-4)
    assert table.attrs["loss_unit"] == "nats/byte"
    assert any("params_transformer + params_lm_head" in note for note in table.attrs["notes"])


def test_results_of_lm_eval_have_the_loss_of_their_task():
    found = imported("lm_eval", tokens={"": 2e7})
    assert found.ends["n_params"].tolist() == [4e6, 1e6]
    assert found.ends["loss"].tolist() == pytest.approx([float(LAW(n, 2e7)) / 4.2 for n in (4e6, 1e6)], abs=1e-4)
    assert set(found.ends["loss_unit"]) == {"nats/byte"}


@pytest.mark.slow
def test_scores_of_lm_eval_are_columns_that_accuracy_reads(tmp_path, typed):
    for n, acc in ((1e6, 0.3), (4e6, 0.42), (1.6e7, 0.55), (6.4e7, 0.66), (2.56e8, 0.75)):
        bits = float(LAW(n, 2e9)) / 4.2 / np.log(2)
        measured = {"wikitext": {"bits_per_byte,none": bits}, "arc_easy": {"acc,none": acc, "acc_stderr,none": 0.01}}
        measured["gsm8k"] = {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.2}
        held = {"results": measured, "config": {"model_num_parameters": int(n)}, "model_name": f"m{n:g}"}
        (tmp_path / f"results_{n:g}.json").write_text(json.dumps(held))
    found = import_source(tmp_path, "auto", ImportOptions(tokens={"": 2e9}), {})
    ends = found.ends.set_index("run_id")
    assert ends.loc["m4e+06", ["arc_easy acc", "arc_easy acc_se"]].tolist() == [0.42, 0.01]
    filters = ["gsm8k exact_match,strict-match", "gsm8k exact_match,flexible-extract"]
    assert ends.loc["m4e+06", filters].tolist() == [0.1, 0.2]
    found.write(tmp_path / "t.csv")
    code, out, err = typed("accuracy", tmp_path / "t.csv", "--column", "arc_easy acc", "--law", "power-n", "--json")
    assert code == 0, err
    assert json.loads(out)


@pytest.mark.slow
def test_scores_of_lm_eval_beside_the_histories_of_their_runs_are_kept_with_them(tmp_path):
    shutil.copytree(FILES / "huggingface", tmp_path / "runs")
    before = import_source(tmp_path / "runs", "auto", ImportOptions(), {})
    for name, acc in (("small", 0.3), ("large", 0.42), ("nobody", 0.5)):
        held = {"results": {"arc_easy": {"acc,none": acc}}, "config": {}, "model_name": f"out/{name}/checkpoint-200"}
        (tmp_path / "runs" / f"results_{name}.json").write_text(json.dumps(held))
    found = import_source(tmp_path / "runs", "auto", ImportOptions(), {})
    assert found.ends.set_index("run_id")["arc_easy acc"].to_dict() == {"small": 0.3, "large": 0.42}
    assert found.table[list(before.table)].equals(before.table)
    assert [str(one) for one in found.left_out if one not in before.left_out] == [
        "out/nobody/checkpoint-200: the run: scores of lm-eval, and no run of the source has this name"
    ]


def test_scores_in_a_table_are_kept_under_its_own_names(tmp_path):
    path, made = tmp_path / "t.csv", tmp_path / "made.csv"
    frame = pd.DataFrame({"run_id": ["a", "b"], "n_params": [1e6, 2e6], "tokens": [1e8, 1e8], "loss": [3.0, 2.9]})
    scores = {"hellaswag/acc_norm": [0.25, 0.5], "MMLU accuracy": [np.nan, 0.5], "train/accuracy": 0.9}
    frame.assign(**scores, accelerator="a100").to_csv(path, index=False)
    found = import_source(path, "auto", ImportOptions(), {})
    found.write(made)
    kept = pd.read_csv(made)
    assert kept["hellaswag/acc_norm"].tolist() == [0.25, 0.5]
    assert kept["MMLU accuracy"].tolist()[1] == 0.5
    assert "train/accuracy" not in kept
    assert "scores are kept: hellaswag/acc_norm, MMLU accuracy" in found.notes


def test_parameters_that_lm_eval_could_not_count_are_not_reported(tmp_path):
    held = {"results": {"w": {"bits_per_byte": 1.0}}, "config": {"model_num_parameters": -1}}
    (tmp_path / "r.json").write_text(json.dumps(held))
    with pytest.raises(SourceError, match="no run reports its n_params"):
        import_source(tmp_path / "r.json", "auto", ImportOptions(tokens={"": 1e9}), {})


@pytest.mark.slow
@pytest.mark.parametrize("write", PROGRAMS, ids=lambda write: write.__name__)
def test_known_runs_come_back_from_every_program(write, tmp_path):
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        known = write(np.random.default_rng(seed), folder)
        assert difference(known, *by_import(known.path, **known.options)) == "", known.message
        if not known.options:
            assert difference(known, *by_fit(known.path)) == "", known.message


def test_tokens_between_the_steps_that_report_them_rise_with_the_steps(tmp_path):
    rows = ["step,tokens,val_loss", "100,1000,", "150,,4.0", "200,2000,", "250,,3.5"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    found = import_source(tmp_path / "a.csv", "auto", ImportOptions(n_params={"": 1e6}), {})
    assert found.table["tokens"].tolist() == [1500, 2500]


@pytest.mark.slow
def test_curves_are_kept_and_a_fit_takes_their_ends(tmp_path, typed):
    found = imported("curves.csv")
    assert (found.kind, len(found.table), len(found.ends)) == ("curves", 48, 12)
    found.write(tmp_path / "t.csv")
    for path in (FILES / "curves.csv", tmp_path / "t.csv"):
        code, out, _ = typed("fit", path, "--json", "--bootstrap", 0)
        assert code == 0
        fitted = json.loads(out)
        assert fitted["params"]["alpha"] == pytest.approx(LAW.alpha, rel=0.02)
        data = points(read_table(path))
        assert len(data) == 12
        assert any("48 rows are training curves of 12 runs" in note for note in data.notes)


@pytest.mark.parametrize("name", [name for name in KINDS if not name.endswith(".csv")])
def test_a_fit_reads_what_an_import_reads(name, typed):
    """Sources that tell all three quantities are tables for every command; of the others the option is named."""
    code, _, error = typed("compare", FILES / name)
    assert error.strip().splitlines()[-1].startswith("isoflop: ")
    assert code in (1, 2)
    options, _ = KINDS[name]
    if options:
        assert "isoflop import" in error


@pytest.mark.parametrize(("name", "text", "message"), [
    ("trainer_state.json", '{"log_history": [{"step": 1, "train_runtime": 3}]}', "its log_history holds no row"),
    ("trainer_state.json", '{"log_history": [{"eval_loss": 3}]}', "reports no step"),
    ("tracker_metrics.jsonl", '{"config": {}}', "no line holds a summary"),
    ("tracker_metrics.jsonl", '{"config": {}}\n{broken', "line 2"),
    ("results.json", '{"results": {"arc": {"acc,none": 0.3}}, "config": {}}', "no task in it measures a loss"),
    ("a.csv", "step,metric,value\n1,val_loss,3\n1,val_loss,4\n", r"2 values of val_loss at step 1; add a column"),
    ("a.csv", "step,val_loss,kind\n1,3.1,x\n1,3.2,y\n2,2.1,x\n2,2.2,y\n", r"step 1 has the losses 3.1 and 3.2.* kind"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_named_with_the_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=message) as raised:
        import_source(tmp_path / name, "auto", ImportOptions(n_params={"": 1.0}), {})
    assert name in str(raised.value)


def test_equal_names_without_an_id_are_numbered(tmp_path):
    rows = "".join(f"base,{n},{d},{LAW(n, d):.4f}\n" for n in (1e6, 2e6) for d in (1e7, 4e7))
    (tmp_path / "a.csv").write_text("name,n_params,tokens,val_loss\n" + rows)
    found = import_source(tmp_path / "a.csv", "auto", ImportOptions(), {})
    assert "run_id" not in found.table
    assert (found.runs, found.ends["name"].tolist()) == (4, ["base"] * 4)
    assert "they are numbered" in notes(found)


@pytest.mark.slow
def test_samples_epochs_and_flops_are_axes_too(tmp_path):
    k = np.arange(1, 21)
    for axis, values, extra in (("samples", 100 * k, ",512"), ("epoch", k - 1, ""), ("flops", 6e12 * k, "")):
        lines = [f"{axis},val_loss{',seq_len' if extra else ''}"]
        lines += [f"{v},{LAW(1e6, 1e6 * i):.4f}{extra}" for i, v in zip(k, values, strict=True)]
        (tmp_path / f"{axis}.csv").write_text("\n".join(lines))
    for axis, end, options in (
        ("samples", 2000 * 512, {}), ("epoch", 2e7, {"tokens": {"": 2e7}}), ("flops", 2e7, {})
    ):  # fmt: skip
        found = import_source(tmp_path / f"{axis}.csv", "auto", ImportOptions(n_params={"": 1e6}, **options), {})
        assert (len(found.table), found.ends["tokens"].tolist()) == (20, [end])


def test_runs_of_several_sizes_at_rising_tokens_are_no_history(tmp_path):
    sizes = {1e7: 7e7, 2e7: 1.6e8, 4e7: 4.1e8, 8e7: 9e8}
    rows = "".join(f"{d},{6 * n * d},{LAW(n, d):.4f}\n" for d, n in sizes.items())
    (tmp_path / "t.csv").write_text("tokens,flops,val_loss\n" + rows)
    ends = import_source(tmp_path / "t.csv", "auto", ImportOptions(), {}).ends
    assert ends["n_params"].tolist() == pytest.approx(list(sizes.values()))


def test_files_of_mlflow_that_are_no_text_are_named(tmp_path):
    shutil.copytree(FILES / "mlruns", tmp_path / "mlruns")
    file = next((tmp_path / "mlruns").rglob("n_params"))
    file.write_bytes(b"\xa6\xff")
    with pytest.raises(SourceError, match="n_params: not text"):
        import_source(tmp_path / "mlruns", "auto", ImportOptions(), {})


@pytest.mark.parametrize("name", ["nosuch", "los", "loss "])
def test_a_mapping_of_an_unknown_name_is_refused_for_every_kind_of_table(tmp_path, name):
    path = tmp_path / "t.csv"
    path.write_text("n_params,tokens,loss\n1e7,1e9,3.0\n2e7,1e9,2.9\n")
    with pytest.raises(TableError, match=rf"--map {name}=loss: '{name}' is none of"):
        read_whole(path, mapping={name: "loss"})
    with pytest.raises(SourceError, match=rf"t.csv: --map {name}=loss: '{name}' is none of"):
        import_source(path, "auto", ImportOptions(), {name: "loss"})


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_files_whose_names_are_no_text_are_read_and_written(tmp_path, suffix):
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_text("n_params,tokens,loss\n1e7,1e9,3.0\n")
    target = tmp_path / os.fsdecode(b"d\xff") / f"\udcff.{suffix}"
    found = import_source(path, "auto", ImportOptions(), {})
    found.write(target)
    table = read_table(target)
    assert table["loss"].tolist() == [3.0]
    assert table["run_id"].iloc[0].startswith("caf\\udce9")


def test_an_empty_configuration_is_none(tmp_path):
    summary = {"parameter_count": 1e6, "throughput/total_tokens": 2e7, "eval/loss": 3.0}
    (tmp_path / "tracker_metrics.jsonl").write_text(json.dumps({"config": {}, "summary": summary}))
    ends = import_source(tmp_path, "auto", ImportOptions(), {}).ends
    assert ends[["n_params", "tokens", "loss"]].to_numpy().tolist() == [[1e6, 2e7, 3.0]]


def test_a_long_table_with_a_metric_named_like_one_of_its_columns_says_so(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("run,step,metric,value\na,1,loss,3\na,1,run,4\na,2,loss,2\n")
    with pytest.raises(SourceError, match=r"long\.csv: a long table .* has 'run' twice"):
        import_source(path, "auto", ImportOptions(n_params={"": 1e6}, batch_tokens={"": 1e5}), {})


def test_a_condition_that_keeps_no_run_of_a_run_table_is_told_at_once(monkeypatch):
    def imported(*_):
        raise AssertionError("its columns are those of a run table: no other reader finds other rows")

    monkeypatch.setattr("isoflop.scaling.imports.read_table._imported_table", imported)
    with pytest.raises(TableError, match="keeps none"):
        read_whole(RESULTS / "quick.parquet", where="loss < 0")


def trainer_state(folder: Path, name: str, tokens: float) -> Path:
    """A trainer_state.json as the Trainer writes it: without tokens, with the FLOPs of 8e7 other parameters."""
    rows = [{"step": step, "eval_loss": 5 - step / 1000, "eval_runtime": 1.0} for step in (500, 1000)]
    state = {"global_step": 1000, "max_steps": 1000, "total_flos": 6 * 8e7 * tokens, "num_input_tokens_seen": 0}
    path = folder / name / "trainer_state.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(state | {"log_history": rows}))
    return path


def test_the_flops_of_the_trainer_do_not_tell_tokens_by_other_parameters(tmp_path):
    path = trainer_state(tmp_path, "gpt", tokens=1.3e9)
    with pytest.raises(SourceError, match=r"no run reports its tokens \(gpt\); give --batch-tokens VALUE"):
        import_source(path, "auto", ImportOptions(n_params={"": 1.2e8}), {})
    found = import_source(path, "auto", ImportOptions(n_params={"": 1.2e8}, tokens={"": 1.3e9}), {})
    assert found.ends[["n_params", "tokens", "flops"]].to_numpy().tolist() == [[1.2e8, 1.3e9, 6 * 8e7 * 1.3e9]]
    sized = import_source(path, "auto", ImportOptions(tokens={"": 1.3e9}), {})
    assert sized.ends["n_params"].tolist() == pytest.approx([8e7])
    named = import_source(path, "auto", ImportOptions(n_params={"": 8e7}), {"flops": "total_flos"})
    assert named.ends["tokens"].tolist() == pytest.approx([1.3e9])


def test_a_table_with_the_flops_of_the_trainer_does_not_tell_tokens_either(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("run,n_params,total_flos,loss\na,1e8,6e17,3.5\nb,2e8,1.2e18,3.4\n")
    with pytest.raises(TableError, match="say --map flops=total_flos"):
        read_table(path)
    assert points(read_table(path, mapping={"flops": "total_flos"})).frame["tokens"].tolist() == [1e9, 1e9]


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_that_is_read_is_not_written_over(tmp_path, inside, typed):
    runs = tmp_path / "runs.csv"
    runs.write_text("N,D,loss,diary\n1e8,1e9,3.5,good\n2e8,1e9,3.4,bad\n")
    before = runs.read_text()
    code, _, message = typed("import", tmp_path if inside else runs, "-o", runs)
    assert (code, runs.read_text()) == (2, before)
    assert "one of the files that are read; write to another, or move it away" in message
    (tmp_path / "out").mkdir()
    out = tmp_path / "out/made.csv"
    assert typed("import", runs, "-o", out)[1].endswith(f"written to {out}\n")
    assert typed("import", runs, "-o", out)[1].endswith(f"written to {out} over the file that was there\n")
    assert json.loads(typed("import", runs, "-o", out, "--json")[1])["replaced"] is True


def test_a_table_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path, monkeypatch):
    (tmp_path / "runs.csv").write_text("N,D,loss\n1e8,1e9,3.5\n2e8,1e9,3.4\n")
    found = import_source(tmp_path / "runs.csv", "auto", ImportOptions(), {})
    found.write(tmp_path / "made.csv")
    before = (tmp_path / "made.csv").read_text()

    def full(self, target, **options):
        Path(target).write_text("run_id,N")
        raise OSError("No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="No space left"):
        found.write(tmp_path / "made.csv")
    assert (tmp_path / "made.csv").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.csv", "runs.csv"]


@pytest.mark.parametrize("form", [str, dict])
def test_revisions_of_one_model_are_runs_of_one_trunk(tmp_path, form):
    for revision in ("step1000", "step3000", "main"):
        args = {"pretrained": "EleutherAI/pythia-160m", "revision": revision}
        config = {"model_num_parameters": 162322944,
                  "model_args": args if form is dict else ",".join(f"{k}={v}" for k, v in args.items())}  # fmt: skip
        held = {"results": {"wikitext": {"bits_per_byte,none": 1.1}}, "config": config}
        (tmp_path / revision).mkdir()
        path = tmp_path / revision / "results_2024-05-01.json"
        path.write_text(json.dumps(held | {"model_name": "EleutherAI/pythia-160m"}))
    model = "EleutherAI/pythia-160m"
    tokens = {f"{model}@step1000": 2.1e9, f"{model}@step3000": 6.3e9, model: 3e11}
    table = import_source(tmp_path, "auto", ImportOptions(tokens=tokens), {}).table
    assert dict(zip(table["run_id"], table["tokens"], strict=True)) == tokens
    assert set(table["trunk_id"]) == {model}


@pytest.mark.parametrize("name", ["num_input_tokens_seen", "train/num_input_tokens_seen"])
def test_tokens_as_the_trainer_logs_them_are_tokens(tmp_path, name):
    frame = pd.DataFrame({"step": [100, 200], name: [1e8, 2e8], "eval/loss": [4.0, 3.5], "n_params": 1e8})
    frame.to_csv(tmp_path / "history.csv", index=False)
    assert import_source(tmp_path / "history.csv", "auto", ImportOptions(), {}).ends["tokens"].tolist() == [2e8]


@pytest.mark.parametrize("kind", ["auto", "wandb"])
def test_a_folder_of_wandb_is_refused_with_what_can_be_read_and_others_beside_it_are_read(tmp_path, kind):
    own = tmp_path / "out" / "wandb" / "run-20260101_1-abc"
    (own / "files").mkdir(parents=True)
    (own / "run-abc.wandb").write_bytes(b"\x00\xff\xfe\x80")
    (own / "files" / "wandb-metadata.json").write_text('{"state": "running"}')
    (own / "files" / "requirements.txt").write_text("torch==2.0\n")
    for source in (tmp_path / "out", own / "run-abc.wandb"):
        if source.is_dir() or kind == "auto":
            with pytest.raises(SourceError, match=r"run\.scan_history\(\) of its API as a CSV for each run"):
                import_source(source, kind, ImportOptions(), {})
    (tmp_path / "out" / "h.csv").write_text("run,n_params,tokens,val_loss\na,1e7,1e9,3.0\n")
    found = import_source(tmp_path / "out", kind, ImportOptions(), {})
    assert found.ends["run_id"].tolist() == ["a"]
    assert "folders of W&B's are not read: wandb/run-20260101_1-abc" in found.notes


@pytest.mark.parametrize("suffix", ["sqlite", "duckdb", "db"])
def test_a_file_that_is_no_text_names_what_to_save_it_as(tmp_path, suffix):
    (tmp_path / f"r.{suffix}").write_bytes(b"SQLite format 3\x00\xff\xfe\x80")
    with pytest.raises(SourceError, match=r"not text .*; save the rows of such a file as parquet or CSV"):
        import_source(tmp_path / f"r.{suffix}", "auto", ImportOptions(), {})


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        ("run,step,val_loss,n_params,n_tokens_seen", "a,100,3,1e7,1e9", r"did you mean 'n_tokens_seen'\? Use --map"),
        ("run,step,val_loss,tokens,model_size_in_params", "a,100,3,1e9,7", r"mean 'model_size_in_params'\? Use "),
        ("run,step,val_loss,tokens,depth", "a,100,3,1e9,7", r"COLUMN; columns: run, step, val_loss, tokens, depth\)"),
    ],
)  # fmt: skip
def test_a_quantity_that_no_run_reports_is_refused_with_the_columns_that_there_are(tmp_path, head, row, message):
    (tmp_path / "h.csv").write_text(f"{head}\n{row}\n{row.replace('100', '200').replace('1e9', '2e9')}\n")
    with pytest.raises(SourceError, match=message):
        import_source(tmp_path / "h.csv", "auto", ImportOptions(), {})


def test_models_that_a_run_of_mlflow_logged_are_no_runs(tmp_path):
    for place in ("0/abc", "0/models/m-1"):
        (tmp_path / "mlruns" / place / "metrics").mkdir(parents=True)
        (tmp_path / "mlruns" / place / "meta.yaml").write_text("status: 3\nrun_name: d6\n")
        (tmp_path / "mlruns" / place / "metrics" / "val_loss").write_text("1 3.5 100\n2 3.4 200\n")
    options = ImportOptions(n_params={"": 1e7}, batch_tokens={"": 1000})
    found = import_source(tmp_path / "mlruns", "auto", options, {})
    assert (found.runs, found.left_out) == (1, ())
