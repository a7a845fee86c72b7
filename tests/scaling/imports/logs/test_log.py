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
