"""nanochat's logs: matrices and nats per byte, and the total and nats per token where they are asked for."""

import math
from pathlib import Path

import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source


def imported(source: Path, **options) -> Imported:
    return import_source(source, "auto", ImportOptions(**options), {})


def nanochat_log(path: Path, *, matrices=84_934_656, head=50_331_648, steps=1000, bpb=0.9, stop=None) -> Path:
    """What nanochat prints, line for line."""
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


@pytest.mark.slow
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
