"""Sizes as files of numbers and words, read as OmegaConf reads them."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from isoflop.experiments.config import ModelSpec
from isoflop.experiments.study import sizes
from isoflop.experiments.study.sizes import load_size, size_names

TIED = replace(ModelSpec(), norm="layernorm", tied=True, d_ff=64)


@pytest.mark.parametrize("name", ["d16", "g640", "gpt2-d24", "lstm-d40", "moe-d32"])
def test_a_size_of_the_package_needs_no_omegaconf(name, monkeypatch):
    read = load_size(name, TIED)
    monkeypatch.setattr(sizes, "_plain", lambda text, base: None)
    sizes._load.cache_clear()
    assert read == load_size(name, TIED)
    monkeypatch.undo()


def test_no_size_of_the_package_is_read_the_slow_way():
    files = sizes._files(())
    assert set(files) == set(size_names())
    assert all(sizes._plain(path.read_text(), ModelSpec()) for (path,) in files.values())


@pytest.mark.parametrize(
    "text",
    [
        "n_layer: 2\nn_layer: 3\n", "family: true\n", "norm: null\n", "tied: true\n", "n_layer: 0\n", "n_layer: 010\n",
        "n_layer: two\n", "width: 12\n", "n_layer: 2  # two\n", "n_layer: 2\r\n", "n_layer:  2\n", "", "# none",
        "n_layer: 2\x0bd_model: 3", "d_ff: null\n", "norm: \u0661", "n_layer: 2\n\nd_model: 8\n",
    ],
)  # fmt: skip
def test_any_other_text_is_left_to_omegaconf(text):
    assert sizes._plain(text, ModelSpec()) is None


@pytest.mark.parametrize("text", ["n_layer: 7", "# a size\nd_ff: 40\nnorm: layernorm\n", "experts: 4\nfamily: lstm\n"])
def test_plain_texts_are_read_alike(text):
    slow = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TIED), OmegaConf.create(text)))
    assert sizes._plain(text, TIED) == slow
