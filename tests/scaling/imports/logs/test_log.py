"""What all logs have in common: what no number can be is refused with the name of the file."""

import pytest

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError

NANOCHAT = (
    "Vocab size: 65,536\nNumber of parameters: {params}\nEstimated FLOPs per token: {flops}\n"
    "Total batch size {batch} => gradient accumulation steps: 1\n"
    "Calculated number of iterations from target data: {steps}\n"
    "Step 00100 | Validation bpb: 0.9\n"
)
SOUND = {"params": "1,000,000", "flops": "6.5e+06", "batch": "524,288", "steps": "100"}


@pytest.mark.parametrize(("name", "value"), [
    ("flops", "1.-"), ("flops", "e+5"), ("flops", ".."), ("params", ","), ("batch", ",,"), ("steps", ","),
])  # fmt: skip
def test_what_is_no_number_names_the_file(tmp_path, name, value):
    path = tmp_path / "train.log"
    path.write_text(NANOCHAT.format(**SOUND | {name: value}))
    with pytest.raises(SourceError, match=r"train\.log"):
        import_source(path, "auto", ImportOptions(), {})
    path.write_text(NANOCHAT.format(**SOUND))
    assert import_source(path, "auto", ImportOptions(), {}).table["loss"].iloc[-1] > 0


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
    with pytest.raises(SourceError, match=rf"a\.log: line 2 reports a step of {digits} digits"):
        import_source(tmp_path / "a.log", "auto", ImportOptions(n_params={"": 1e6}), {})


@pytest.mark.parametrize("kind", ["nanogpt", "nanochat", "megatron"])
def test_a_loss_that_is_no_number_in_a_log_is_of_a_run_that_diverged(tmp_path, kind):
    lines = {
        "nanogpt": "step {step}: train loss {loss}, val loss {loss}",
        "nanochat": "Step {step:05d} | Validation bpb: {loss}",
        "megatron": " validation loss at iteration {step} | lm loss value: {loss} | lm loss PPL: 2.0E+01 | ",
    }[kind]
    for loss in ("nan", "inf"):
        message = [lines.format(step=100, loss="3.0"), lines.format(step=200, loss=loss)]
        (tmp_path / "a.log").write_text("number of parameters: 1.00M\n" + "\n".join(message) + "\n")
        with pytest.raises(SourceError, match="its last loss is not a positive number: it diverged"):
            import_source(tmp_path / "a.log", "auto", ImportOptions(n_params={"": 1e6}, batch_tokens={"": 1e4}), {})
