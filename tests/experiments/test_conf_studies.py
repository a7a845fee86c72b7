"""Studies in conf/experiment are what their comments promise; every size in conf/model is a model with exact counts."""

from dataclasses import asdict
from functools import cache
from importlib.resources import files

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.cost.cost import REFERENCE, makespan, trunk_seconds
from isoflop.experiments.study.check import checked_study
from isoflop.experiments.study.sizes import load_size, size_names
from isoflop.experiments.study.study import Study, expand
from isoflop.experiments.sweep.plan import _cell, plan_text
from isoflop.models import build_model
from isoflop.models.config import ModelConfig, count_params, flops_per_token, n_active, n_matrices, n_total
from tests.support.sweep.studies import FakeCorpus

TEXT = {"overnight_cpu": 90_000_000, "gpu_hour": 1_000_000_000}  # bytes that their first lines ask for


@cache
def planned(name: str) -> Study:
    (config,) = compose_all([f"experiment={name}"])
    vocabulary = config.data.synthetic.vocab_size if config.data.source == "synthetic" else 256
    return checked_study(config, FakeCorpus(vocab_size=vocabulary, train_tokens=TEXT.get(name, 10_700_000)))


def minutes(study: Study, workers: int = 2) -> float:
    return makespan([trunk_seconds(cells, REFERENCE) for cells in study.trunks.values()], workers) / 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer_vs_lstm", "optimizer_arms"])
def test_arms_meet_at_every_budget_with_enough_sizes_for_a_profile(name):
    study = planned(name)
    sizes: dict[tuple[str, float], set[str]] = {}
    for cell in study.cells:
        sizes.setdefault((cell.arm, cell.budget_flops), set()).add(cell.size)
    assert len({arm for arm, _ in sizes}) == 2
    assert all(len(found) >= 3 for found in sizes.values())
    assert len({(cell.batch_tokens, cell.schedule.name, cell.warmup) for cell in study.cells}) == 1


@pytest.mark.slow
def test_the_comparison_has_four_budgets_and_two_seeds_at_two_of_them():
    cells = planned("transformer_vs_lstm").cells
    for arm in ("transformer", "lstm"):
        seeds = {b: {c.seed for c in cells if c.arm == arm and c.budget_flops == b} for b in (1e11, 3e11, 1e12, 3e12)}
        assert seeds == {1e11: {0, 1}, 3e11: {0, 1}, 1e12: {0}, 3e12: {0}}
    assert {c.optim.learning_rate for c in cells} == {0.02}


@pytest.mark.slow
def test_transfer_varies_width_alone_and_the_rate_within_both_rules():
    cells = planned("lr_transfer").cells
    assert {c.model.d_model for c in cells} == {16, 32, 64, 128}
    assert {(c.model.n_layer, c.model.head_dim, c.horizon_tokens) for c in cells} == {(2, 8, 153_600)}
    assert {c.optim.parametrization for c in cells} == {c.arm for c in cells} == {"mup", "standard"}


@pytest.mark.slow
def test_plan_tells_runs_of_different_rates_apart():
    (config,) = compose_all(["experiment=lr_transfer"])
    study = {"study": "s", "cells": [], "dropped": [], "warnings": [], "trunks": 0, "flops": 0, "tokens_trained": 1}
    study |= {"tokens_by_cell": 1, "sharing": 1, "done": 0, "minutes": {}, "packs": [], "device": "cpu"}
    study |= {"cost": {"devices": 1, "device_hours": 1.0, "dollars": None, "joules": None}}
    cells = expand(config, FakeCorpus()).cells
    study["cells"] = [_cell(cell, cell.horizon_tokens / 10_000_000, "planned", REFERENCE, {}) for cell in cells]
    rows = [line.split() for line in plan_text({"studies": [study], "speed": ""}).splitlines() if " w128 " in line]
    rates = ("0.005", "0.0071", "0.01", "0.0141", "0.02", "0.0283", "0.04", "0.0566")
    assert [(row[0], row[8]) for row in rows[:8]] == [("mup", rate) for rate in rates]
    assert [row[-3] for row in rows] == ["0-7,16-23"] * 8 + ["0-2"] * 6


@pytest.mark.slow
def test_noise_study_has_five_seeds_everywhere():
    by_cell: dict[tuple, set[int]] = {}
    for cell in planned("seeds_and_noise").cells:
        by_cell.setdefault((cell.size, cell.budget_flops), set()).add(cell.seed)
    assert set(map(len, by_cell.values())) == {5}


@pytest.mark.slow
def test_long_studies_span_two_decades_and_hold_out_the_largest_budget():
    for name in ("overnight_cpu", "gpu_hour"):
        study = planned(name)
        budgets = sorted({cell.budget_flops for cell in study.cells})
        assert budgets[-1] >= 100 * budgets[0]
        assert study.hold_out == (budgets[-1],)
    assert minutes(planned("overnight_cpu")) < 12 * 60


GROUPS = {  # the first that a parameter's name holds
    "norm": ("norm", "bias"),
    "embedding": ("embedding",),
    "position": ("position",),
    "unembedding": ("head",),
    "recurrent": ("layers.weight",),
    "attention": ("qkv", "output"),
    "mlp": ("gate_up", "down", "mlp.up", "router"),
}


def group_of(parameter: str) -> str:
    return next(group for group, words in GROUPS.items() if any(word in parameter for word in words))


@pytest.mark.slow
@pytest.mark.parametrize("name", size_names())
def test_every_size_has_the_parameters_and_flops_that_its_counts_say(name):
    config = ModelConfig(vocab_size=256, context_length=8, **asdict(load_size(name)))
    device = "cpu" if config.experts else "meta"  # where tokens go depends on their values
    with torch.device(device):
        model, tokens = build_model(config), torch.zeros(2, 8, dtype=torch.long)
        counts = dict.fromkeys(count_params(config), 0)
        for parameter_name, parameter in model.named_parameters():
            counts[group_of(parameter_name)] += parameter.numel()
        assert counts == count_params(config)
        assert n_total(config) == sum(counts.values())
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(tokens)
    forward = flops_per_token(config)
    counted = forward["blocks"] + forward["attention_scores_full"] + forward["unembedding"]
    assert counter.get_total_flops() == tokens.numel() * counted
    reported = files("isoflop.conf.model").joinpath(f"{name}.yaml").read_text().splitlines()[0]
    assert f"{n_matrices(config):,} " in reported
    assert n_active(config) == n_matrices(config) or f"{n_active(config):,} of them active" in reported


@pytest.mark.parametrize("text", ["2026-01-01", "5", "x", "[1]", "n_layer: x", "? [1]\n: 2", "\0", "n_layer: [", "''"])
def test_a_file_that_is_no_size_is_named(tmp_path, text):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml: not a model's size"):
        load_size("mine", None, [str(tmp_path)])


@pytest.mark.slow
def test_the_study_of_settings_has_every_rate_in_every_cell_and_leaves_larger_sizes_out():
    cells = planned("hp_law").cells
    assert {c.size for c in cells} == {"d8", "d12", "d16", "d24", "d32"}
    places: dict[tuple, list[float]] = {}
    for cell in cells:
        key = (cell.size, cell.horizon_tokens, cell.batch_tokens, cell.seed)
        places.setdefault(key, []).append(cell.optim.learning_rate)
    assert len(places) == 5 * 2 * 4 * 2
    assert {tuple(rates) for rates in places.values()} == {(0.005, 0.01, 0.02, 0.04, 0.08)}
    assert {c.batch_tokens for c in cells} == {256, 512, 1024, 2048}
    assert max(abs(c.warmup * c.batch_tokens / c.horizon_tokens) for c in cells) <= 0.101
