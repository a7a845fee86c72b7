"""nanoGPT's logs: its counts of parameters, its defaults, runs that resumed and runs that stopped early."""

from pathlib import Path

import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.logs.nanogpt import nanogpt_shape
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.table.conventions import count_params
from tests.support.tables.nanogpt_log import nanogpt_log


def imported(source: Path, kind: str = "auto", **options) -> Imported:
    return import_source(source, kind, ImportOptions(**options), {})


def left_out(found: Imported) -> dict[tuple[str, str], int]:
    return {(one.run, one.reason): one.rows for one in found.left_out}


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_that_stopped_early_is_left_out_unless_it_is_requested(tmp_path):
    nanogpt_log(tmp_path / "whole.log", max_iters=1000)
    nanogpt_log(tmp_path / "short.log", max_iters=1000, stop=500)
    found = imported(tmp_path)
    assert found.table["run_id"].unique().tolist() == ["whole"]
    (reason,) = [str(one) for one in found.left_out if one.whole]
    assert reason == (
        "short: the run: its last evaluation is at step 500 of 1000, below 90% of its schedule; "
        "`isoflop import --keep-unfinished` keeps it"
    )
    assert set(imported(tmp_path, keep_unfinished=True).table["run_id"]) == {"whole", "short"}
