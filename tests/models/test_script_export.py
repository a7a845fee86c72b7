"""Models that transformers has no class for leave as TorchScript that computes their logits, whatever their parts."""

import json

import pytest
import torch

from isoflop.experiments.data.tokenizer import Bytes
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.export import write_folder
from isoflop.models.parametrization import initialize

FAMILIES = {
    "lstm": {"family": "lstm"},
    "tied lstm": {"family": "lstm", "tied": True},
    "gpt2": {"family": "transformer", "norm": "layernorm", "activation": "gelu", "positions": "learned"},
    "tied gpt2": {"family": "transformer", "norm": "layernorm", "positions": "learned", "tied": True},
    "layernorm": {"family": "transformer", "norm": "layernorm"},
    "gelu": {"family": "transformer", "activation": "gelu"},
    "learned": {"family": "transformer", "positions": "learned"},
    "experts": {"family": "transformer", "experts": 4, "experts_per_token": 2},
    "gelu experts": {"family": "transformer", "experts": 3, "experts_per_token": 1, "activation": "gelu"},
}


def random_model(parts):
    model = initialize(
        build_model(ModelConfig(vocab_size=256, context_length=32, n_layer=2, d_model=16, n_head=2, **parts)), 0
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero or one would hide a mistake
            if parameter.dim() == 1 or parameter is model.head:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("parts", FAMILIES.values(), ids=FAMILIES)
def test_logits_are_the_models_at_every_shape_of_input(tmp_path, parts):
    model = random_model(parts)
    write_folder(model, tmp_path / "out", tokenizer=Bytes().json(), card="# x\n", provenance={"run_id": "x"})
    script = torch.jit.load(tmp_path / "out" / "model.pt")
    generator = torch.Generator().manual_seed(2)
    for rows, length in ((1, 1), (3, 7), (2, 32)):
        tokens = torch.randint(0, 256, (rows, length), generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(script(tokens), model(tokens), atol=1e-4, rtol=0)
    assert json.loads((tmp_path / "out" / "isoflop.json").read_text()) == {"run_id": "x"}
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"] == "BPE"
