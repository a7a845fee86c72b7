"""A model that transformers has no class for, as TorchScript: the recurrent one, and the decoder with other parts.

    model.pt  tokenizer.json  README.md  isoflop.json

`torch.jit.load("model.pt")` maps token ids (B, T) to logits (B, T, V) without a line of isoflop.
"""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from isoflop.models.export import PROVENANCE_FILE, json_text, replaced_folder

SCRIPT_FILE = "model.pt"


class _WithoutCache(nn.Module):
    """The model as a function of the tokens alone, tied weights stored twice: a trace holds no cache and no sharing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = deepcopy(model).eval()
        if model.config.tied:
            self.model.head = nn.Parameter(model.head.detach().clone())

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model(tokens_BT)


def write_script_folder(model: nn.Module, folder: Path, *, tokenizer: str, card: str, provenance: Mapping) -> None:
    """Write the folder whole, replacing an earlier export. Raises ValueError for a folder with anything else."""
    example = torch.arange(2 * min(8, model.config.context_length)).view(2, -1) % model.config.vocab_size
    with replaced_folder(folder) as new:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the check of the length is not traced, and the tracer's own deprecation
            script = torch.jit.trace(_WithoutCache(model), example, check_trace=False)
            script.save(str(new / SCRIPT_FILE))
        texts = {"tokenizer.json": tokenizer, "README.md": card, PROVENANCE_FILE: json_text(provenance)}
        for name, content in texts.items():
            (new / name).write_text(content, encoding="utf-8")
