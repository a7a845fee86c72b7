"""What others logged comes out as they logged it, under a named convention, with a reason for every row left out."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.logs.nanogpt import nanogpt_shape
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import count_params, is_runs, points
from isoflop.scaling.table.read import read_table

LAW = Chinchilla(E=1.8, A=400.0, B=1500.0, alpha=0.34, beta=0.36)


def imported(source: Path, kind: str = "auto", mapping=None, **options) -> Imported:
    return import_source(source, kind, ImportOptions(**options), mapping or {})


def left_out(found: Imported) -> dict[tuple[str, str], int]:
    return {(one.run, one.reason): one.rows for one in found.left_out}


# Each writer prints what the program of its name prints, line for line.


def nanogpt_log(
    path: Path, *, d=384, layers=6, block=256, vocab=65, max_iters=5000, stop=None, loss=lambda step: 2.0, shape=True
) -> Path:
    shown = nanogpt_shape(layers, 6, d, block, vocab, bias=False)
    lines = ["Overriding config with config/train_shakespeare_char.py:", "# a miniature model, out-dir and all", ""]
    lines += ["out_dir = 'out-shakespeare-char'", "eval_interval = 250 # keep frequent because we'll overfit"]
    lines += ["log_interval = 10 # don't print too too often", "wandb_log = False # override via command line", ""]
    lines += ["dataset = 'shakespeare_char'", "gradient_accumulation_steps = 1 * 1", "batch_size = 64"]
    lines += [f"block_size = {block} # context of up to {block} previous characters"] if shape else []
    lines += [f"n_layer = {layers}", "n_head = 6", f"n_embd = {d}", "dropout = 0.2"] if shape else []
    lines += ["learning_rate = 1e-3 # with baby networks can afford to go a bit higher", f"max_iters = {max_iters}"]
    lines += [f"lr_decay_iters = {max_iters} # make equal to max_iters usually", "min_lr = 1e-4", "warmup_iters = 100"]
    lines += ["", f"tokens per iteration will be: {64 * block:,}"]
    lines += [f"found vocab_size = {vocab} (inside data/shakespeare_char/meta.pkl)"]
    lines += ["Initializing a new model from scratch"]
    lines += [f"number of parameters: {(shown.total - shown.params['position']) / 1e6:.2f}M"]
    lines += ["num decayed parameter tensors: 26, with 10,740,096 parameters", "using fused AdamW: True"]
    for step in range(0, (stop or max_iters) + 1, 250):
        lines += [f"step {step}: train loss {loss(step) - 0.1:.4f}, val loss {loss(step):.4f}"]
        lines += ["saving checkpoint to out-shakespeare-char"] if step else []
        lines += [f"iter {step}: loss {loss(step) - 0.1:.4f}, time 24.61ms, mfu 14.23%"]
    path.write_text("\n".join(lines) + "\n")
    return path


def nanochat_log(path: Path, *, matrices=84_934_656, head=50_331_648, steps=1000, bpb=0.9, stop=None) -> Path:
    counts = {"wte": head, "value_embeds": 3 * head, "lm_head": head, "transformer_matrices": matrices, "scalars": 24}
    lines = ["GPU: NVIDIA H100 80GB HBM3 | Peak FLOPS (BF16): 9.89e+14", "Vocab size: 65,536", "Model config:", "{"]
    lines += ['  "sequence_len": 2048,', '  "n_layer": 12', "}", "Parameter counts:"]
    lines += [f"{key:24s}: {value:,}" for key, value in (counts | {"total": sum(counts.values())}).items()]
    lines += ["Estimated FLOPs per token: 1.016586e+09", "Scaling LRs by 1.0000 for batch size 524,288"]
    lines += [f"Calculated number of iterations from target data:param ratio: {steps:,}"]
    lines += [f"Total number of training tokens: {524_288 * steps:,}"]
    lines += ["Tokens / micro-batch / rank: 32 x 2048 = 65,536", "Tokens / micro-batch: 524,288"]
    lines += ["Total batch size 524,288 => gradient accumulation steps: 1"]
    for step in range(0, (stop or steps) + 1, 250):
        lines += [f"Step {step:05d} | Validation bpb: {bpb + 1 / (1 + step):.6f}"]
        if step < steps:
            share = 100 * step / steps
            rest = "lrm: 1.00 | dt: 450.12ms | tok/sec: 1,164,774 | bf16_mfu: 47.90 | epoch: 1 pq: 0 rg: 12"
            lines += [f"step {step:05d}/{steps:05d} ({share:.2f}%) | loss: 3.123456 | {rest} | total time: 0.00m"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_nanogpt_counts_are_those_of_its_modules():
    from torch import nn

    for bias in (False, True):
        d, layers, block, vocab = 48, 3, 32, 65
        blocks = [nn.Linear(d, 3 * d, bias=bias), nn.Linear(d, d, bias=bias), nn.Linear(d, 4 * d, bias=bias)]
        blocks += [nn.Linear(4 * d, d, bias=bias), *(nn.LayerNorm(d, bias=bias) for _ in range(2))]
        once = [nn.Embedding(vocab, d), nn.Embedding(block, d), nn.LayerNorm(d, bias=bias)]
        counted = layers * sum(p.numel() for m in blocks for p in m.parameters())
        counted += sum(p.numel() for m in once for p in m.parameters())
        assert nanogpt_shape(layers, 6, d, block, vocab, bias=bias).total == counted
    small, gpt2 = (nanogpt_shape(*dims, bias=False) for dims in ((6, 6, 384, 256, 65), (12, 12, 768, 1024, 50304)))
    assert f"{(small.total - small.params['position']) / 1e6:.2f}" == "10.65"  # what nanoGPT prints for the two
    assert f"{(gpt2.total - gpt2.params['position']) / 1e6:.2f}" == "123.59"


def test_a_nanogpt_log_is_a_run_table_with_parameters_by_group(tmp_path):
    found = imported(nanogpt_log(tmp_path / "a.log", loss=lambda step: 4.0 if not step else 1 + 100 / step))
    assert found.kind == "run table"
    last = found.table[found.table["final"]].iloc[0]
    assert (last["run_id"], last["step"], last["loss"], last["tokens"]) == ("a", 5000, 1.02, 5000 * 64 * 256)
    assert (last["n_layer"], last["d_model"], last["tied"], last["corpus_id"]) == (6, 384, True, "shakespeare_char")
    assert (last["warmup_tokens"], last["schedule"], last["peak_learning_rate"]) == (100 * 16_384, "cosine", 1e-3)
    matrices = 12 * 6 * 384**2 + 65 * 384
    assert count_params(found.table, "matrices").unique().tolist() == [matrices]
    assert last["flops"] == pytest.approx(last["tokens"] * (6 * matrices + 6 * 6 * 384 * 257))
    assert left_out(found) == {("a", "training loss alone (an iter line)"): 21, ("a", "before the first step"): 1}
    assert any("unique_tokens is not reported" in note for note in found.notes)


def test_defaults_of_nanogpt_count_only_where_its_own_count_confirms_them(tmp_path):
    path = nanogpt_log(tmp_path / "a.log", shape=False)
    found = imported(path)
    assert found.kind == "curves"
    assert found.table["n_params"].tolist() == [10.65e6] * 20
    assert found.ends["params_convention"].tolist() == ["nanoGPT: total less the position embedding, to 0.01M"]
    gpt2 = path.read_text().replace("10.65M", "123.59M").replace(
        "found vocab_size = 65 (inside data/shakespeare_char/meta.pkl)",
        "defaulting to vocab_size of GPT-2 to 50304 (50257 rounded up for efficiency)",
    )  # fmt: skip
    path.write_text(gpt2)
    assert imported(path).table["d_model"].unique().tolist() == [768]


def test_two_nanogpt_runs_in_one_file_and_one_that_resumed(tmp_path):
    first, second = (nanogpt_log(tmp_path / name, max_iters=500).read_text() for name in ("a", "b"))
    (tmp_path / "both.log").write_text(first + second)
    assert imported(tmp_path / "both.log").table["run_id"].unique().tolist() == ["both#1", "both#2"]
    resumed = [
        line for line in second.splitlines() if line.startswith(("step 250", "step 500", "iter 250", "iter 500"))
    ]
    (tmp_path / "again.log").write_text(first + "\n".join(resumed))
    found = imported(tmp_path / "again.log")
    assert left_out(found)["again", "reported again later, after a restart"] == 2
    assert found.table["step"].tolist() == [250, 500]


def test_a_run_that_stopped_early_is_left_out_unless_it_is_requested(tmp_path):
    nanogpt_log(tmp_path / "whole.log", max_iters=1000)
    nanogpt_log(tmp_path / "short.log", max_iters=1000, stop=500)
    found = imported(tmp_path)
    assert found.table["run_id"].unique().tolist() == ["whole"]
    (reason,) = [str(one) for one in found.left_out if one.whole]
    assert reason == "short: the run: its last evaluation is at step 500 of 1000: the schedule had not ended"
    assert set(imported(tmp_path, keep_unfinished=True).table["run_id"]) == {"whole", "short"}


def test_nanochat_logs_keep_their_conventions(tmp_path):
    nanochat_log(tmp_path / "d12.log")
    found = imported(tmp_path / "d12.log")
    row = found.ends.iloc[0]
    assert (row["step"], row["tokens"], row["n_params"]) == (1000, 524_288_000, 84_934_656 + 50_331_648)
    assert (row["params_convention"], row["loss_unit"]) == ("matrices", "nats/byte")
    assert row["loss"] == pytest.approx((0.9 + 1 / 1001) * math.log(2), abs=1e-6)
    assert row["flops"] == pytest.approx(1.016586e9 * 524_288_000)
    assert row["compute_convention"].startswith("nanochat")
    total = imported(tmp_path / "d12.log", params="total", bytes_per_token=4.2).ends.iloc[0]
    assert total["n_params"] == 84_934_656 + 5 * 50_331_648 + 24
    assert (total["loss_unit"], total["loss"]) == ("nats/token", pytest.approx(row["loss"] * 4.2))
    nanochat_log(tmp_path / "short.log", stop=500)
    assert any(one.run == "short" and "at step 500 of 1000" in one.reason for one in imported(tmp_path).left_out)


def history(n: float, steps=(100, 200, 300), batch=1024) -> list[dict]:
    rows = []
    for step in steps:
        rows.append({"_step": step - 50, "_runtime": step / 10, "_timestamp": 1.7e9 + step, "train/loss": 3.0})
        loss = float(LAW(n, step * batch))
        rows.append({"_step": step, "_runtime": step / 10, "_timestamp": 1.7e9 + step, "val/loss": loss})
    return rows


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
    ("mapping", "told"),
    [
        ({}, r"no validation loss; only a training loss: use it with --map loss=train/loss"),
        ({"loss": "los"}, r"--map loss=los: no column 'los'; did you mean 'train/loss'\?"),
        ({"loss": "train/loss", "n_params": "x"}, r"--map n_params=x: no column 'x'"),
    ],
)
def test_a_column_that_may_mean_something_else_must_be_named(tmp_path, mapping, told):
    pd.DataFrame({"step": [1, 2], "train/loss": [3.0, 2.0]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SourceError, match=told):
        imported(tmp_path / "t.csv", mapping=mapping)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.log",
            "hello\n",
            "not recognised as any of tensorboard, .*, wandb, .*nanochat; name its kind with --from",
        ),
        ("a.log", b"\xff\xfe\x00", "not text"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "step,val_loss\n", "the table has no rows"),
        ("a.jsonl", "{broken", "cannot be read as jsonl"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
        ("a.log", "iter 10: loss 3.1234, time 1.00ms, mfu 1.00%\n", "no evaluation with a loss"),
    ],
)
def test_a_source_that_is_none_is_one_clear_line(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=told):
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
    told = json.loads(done("import", logs, "--out", tmp_path / "t.parquet", "--json"))
    assert (told["kind"], told["runs"]) == ("run table", 15)
    assert sum(one["rows"] for one in told["left_out"]) == (told["rows"] + 15) + 15  # an iter line each, and step 0
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
def test_a_report_reads_what_was_imported(tmp_path, done):
    write_study(tmp_path / "logs", (96, 192, 384), (1000, 3000))
    done("import", tmp_path / "logs", "--out", tmp_path / "t.parquet")
    done("report", tmp_path / "t.parquet", "--out", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").exists()


def test_bad_options_are_one_line(typed, tmp_path):
    nanogpt_log(tmp_path / "a.log")
    for arguments, told in (
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
        assert told in error


def test_a_row_without_the_name_of_its_run_is_refused_as_by_fit(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("run_id,n_params,tokens,loss\na,1e6,1e8,4\n,2e6,1e8,3.9\n")
    with pytest.raises(SourceError, match=r"'run_id' is empty in 1 rows \(row 2\)"):
        import_source(path, "auto", ImportOptions(), {})
    with pytest.raises(TableError, match="empty"):
        points(read_table(path))


@pytest.mark.parametrize("digits", [16, 400, 5000])
@pytest.mark.parametrize("kind", ["nanogpt", "nanochat", "megatron"])
def test_a_step_of_more_digits_than_any_count_has_is_named(tmp_path, kind, digits):
    step = "9" * digits
    line = {
        "nanogpt": f"step {step}: train loss 3.1, val loss 3.2",
        "nanochat": f"Step {step} | Validation bpb: 1.2",
        "megatron": f" validation loss at iteration {step} | lm loss value: 3.0E+00 | lm loss PPL: 2.0E+01 | ",
    }[kind]
    (tmp_path / "a.log").write_text(f"number of parameters: 1.00M\n{line}\n")
    with pytest.raises(SourceError, match=rf"a\.log: line 2 tells a step of {digits} digits"):
        import_source(tmp_path / "a.log", "auto", ImportOptions(n_params={"": 1e6}), {})


@pytest.mark.parametrize("kind", ["nanogpt", "nanochat", "megatron"])
def test_a_loss_that_is_no_number_in_a_log_is_of_a_run_that_diverged(tmp_path, kind):
    lines = {
        "nanogpt": "step {step}: train loss {loss}, val loss {loss}",
        "nanochat": "Step {step:05d} | Validation bpb: {loss}",
        "megatron": " validation loss at iteration {step} | lm loss value: {loss} | lm loss PPL: 2.0E+01 | ",
    }[kind]
    for loss in ("nan", "inf"):
        told = [lines.format(step=100, loss="3.0"), lines.format(step=200, loss=loss)]
        (tmp_path / "a.log").write_text("number of parameters: 1.00M\n" + "\n".join(told) + "\n")
        with pytest.raises(SourceError, match="its last loss is not a positive number: it diverged"):
            import_source(tmp_path / "a.log", "auto", ImportOptions(n_params={"": 1e6}, batch_tokens={"": 1e4}), {})


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
