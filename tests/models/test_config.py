"""Shapes, parameter counts and training FLOPs of a model, from its configuration alone."""

import dataclasses
import sys
import types

import pytest

from isoflop.models.config import (
    FAMILIES,
    PARAM_GROUPS,
    MatrixShape,
    ModelConfig,
    count_params,
    default_d_ff,
    family_named,
    flops_per_token,
    n_matrices,
    n_total,
    training_flops_per_token,
)
from isoflop.scaling.table.formats import run_columns

SHAPE = {"family": "transformer", "vocab_size": 256, "context_length": 64, "n_layer": 2, "d_model": 16, "n_head": 2}


def test_default_ladder_has_the_documented_sizes():
    ladder = {(8, 2, 1): 3712, (16, 2, 2): 10752, (32, 2, 4): 33280, (48, 3, 6): 95232, (80, 5, 10): 407680}
    for (width, layers, heads), expected in ladder.items():
        assert n_matrices(ModelConfig("transformer", 256, 64, layers, width, heads)) == expected


def test_mlp_width_is_a_multiple_of_eight_just_above_eight_thirds():
    for width in range(2, 400, 2):
        assert default_d_ff(width) % 8 == 0
        assert 0 <= default_d_ff(width) - 8 * width / 3 < 8


def test_training_flops_are_six_per_matrix_weight_and_causal_attention():
    config = ModelConfig(**SHAPE)
    attention = 6 * config.n_layer * config.d_model * (config.context_length + 1)
    assert training_flops_per_token(config) == 6 * n_matrices(config) + attention


def test_causal_scores_tend_to_half_the_square():
    forward = flops_per_token(ModelConfig(**SHAPE | {"context_length": 4096}))
    assert forward["attention_scores"] / forward["attention_scores_full"] == pytest.approx(0.5, rel=1e-3)


def test_groups_are_those_of_the_run_table():
    assert PARAM_GROUPS == run_columns.PARAM_GROUPS
    assert tuple(count_params(ModelConfig(**SHAPE))) == PARAM_GROUPS
    assert {f"flops_token_{g}" for g in flops_per_token(ModelConfig(**SHAPE))} <= set(run_columns.NAMES)


def test_a_tied_matrix_counts_once_and_as_the_head():
    free, tied = ModelConfig(**SHAPE), ModelConfig(**SHAPE, tied=True)
    assert n_total(free) - n_total(tied) == 256 * 16
    assert n_matrices(free) == n_matrices(tied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"d_model": 24, "n_head": 7},
            r"d_model=24 is not divisible by model.n_head=7; n_head may be 1, 2, 3, 4, 6, 12",
        ),
        ({"d_model": 6, "n_head": 2}, "heads of width 3; rotary"),
        ({"n_layer": 0}, "model.n_layer must be a whole number of at least 1; not 0"),
        ({"d_ff": -8}, "model.d_ff"),
        ({"d_model": 16.0}, "model.d_model must be a whole number"),
        ({"family": "mamba"}, f"model.family must be one of {', '.join(FAMILIES)}; not 'mamba'"),
    ],
)
def test_impossible_shapes_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**SHAPE | change)


def test_config_is_a_value():
    config = ModelConfig(**SHAPE)
    assert config == ModelConfig(**SHAPE)
    assert config.d_ff == 48
    assert dataclasses.replace(config, d_ff=None).d_ff == 48


def test_a_family_that_lacks_a_name_is_told_so(monkeypatch):
    half = types.ModuleType("half")
    half.FAMILY = types.SimpleNamespace(module="isoflop.models.lstm:LSTM")
    monkeypatch.setitem(sys.modules, "isoflop.models.families.half", half)
    with pytest.raises(TypeError, match=r"models/families/half.py: its FAMILY has no size_prefix"):
        family_named("half")


def test_a_matrix_of_a_group_that_no_table_counts_is_refused():
    with pytest.raises(TypeError, match="'layer': tables count attention, recurrent, mlp"):
        MatrixShape("layer", 1, 8, 8)
