"""GPT-2's parts in the Transformer's places: each has the counts, the causality and the gradients that it should."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.models import build_model
from isoflop.models.config import PLAIN, ModelConfig, count_params, flops_per_token, hidden_shapes, n_total
from isoflop.models.language_model import LanguageModel
from isoflop.models.parametrization import initialize, parameter_groups
from isoflop.models.step.training_step import choose
from isoflop.models.transformer import Transformer
from isoflop.models.variants import Variant
from tests.support.sweep.studies import only, single

PLAIN_CONFIG = ModelConfig("transformer", vocab_size=32, context_length=12, n_layer=2, d_model=16, n_head=2)
GPT2 = replace(PLAIN_CONFIG, norm="layernorm", activation="gelu", positions="learned", d_ff=None)
MIXES = [
    replace(PLAIN_CONFIG, norm=norm, activation=activation, positions=positions, d_ff=None, tied=tied)
    for norm, activation, positions, tied in product(
        ("rmsnorm", "layernorm"), ("swiglu", "gelu"), ("rotary", "learned"), (False, True)
    )
]


def model(config: ModelConfig = GPT2) -> LanguageModel:
    return initialize(build_model(config), 0)


def with_head(config: ModelConfig = GPT2) -> LanguageModel:
    """A model whose head and positions are no longer zero, its gradients allocated."""
    built = model(config)
    FlatAdamW(built, OptimSpec())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        built.head.copy_(torch.randn(built.head.shape, generator=generator))
        if getattr(built, "position", None) is not None:
            built.position.copy_(torch.randn(built.position.shape, generator=generator))
    return built


def text(length: int = 12) -> torch.Tensor:
    return torch.randint(32, (3, length + 1), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("config", MIXES, ids=str)
def test_counts_are_numel_by_group_and_flops_are_torchs(config):
    with torch.device("meta"):
        built, inputs = build_model(config), torch.zeros(3, 12, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            built(inputs)
    found = dict.fromkeys(count_params(config), 0)
    for name, parameter in built.named_parameters():
        last = name.split(".")[-1]
        groups = {"embedding": "embedding", "head": "unembedding", "position": "position", "qkv": "attention",
                  "output": "attention", "up": "mlp", "gate_up": "mlp", "down": "mlp"}  # fmt: skip
        found[groups.get(last, "norm")] += parameter.numel()
    if config.tied:
        found["embedding"], found["unembedding"] = 0, found["embedding"]
    assert count_params(config) == found
    assert n_total(config) == sum(p.numel() for p in built.parameters())
    forward = flops_per_token(config)
    per_token = forward["blocks"] + forward["attention_scores_full"] + forward["unembedding"]
    assert counter.get_total_flops() == inputs.numel() * per_token


def test_gpt2_mlp_is_four_times_as_wide_and_has_swiglus_parameters():
    assert GPT2.d_ff == 64
    wide = replace(GPT2, d_model=96, n_head=12, d_ff=None)
    gated = replace(PLAIN_CONFIG, d_model=96, n_head=12, d_ff=None)
    assert count_params(wide)["mlp"] == count_params(gated)["mlp"]


def test_only_an_option_leaves_the_hand_written_step():
    assert type(build_model(PLAIN_CONFIG)) is Transformer
    for config in MIXES[2:]:
        assert type(build_model(config)) is Variant


def test_default_parts_built_as_options_compute_what_the_default_model_does():
    """The two files hold one model twice: held together here."""
    plain = with_head(PLAIN_CONFIG)
    same = Variant(PLAIN_CONFIG)
    rename = {"attention_norm": "attention_norm.gain", "mlp_norm": "mlp_norm.gain", "qkv": "attention.qkv",
              "output": "attention.output", "gate_up": "mlp.up", "down": "mlp.down", "norm": "norm.gain"}  # fmt: skip
    parts = ((*name.rpartition("."), value) for name, value in plain.state_dict().items())
    same.load_state_dict({f"{head}{dot}{rename.get(last, last)}": value for head, dot, last, value in parts})
    torch.testing.assert_close(same(text()[:, :-1]), plain(text()[:, :-1]))


@pytest.mark.parametrize("position", [0, 5, 11])
def test_output_depends_on_the_past_alone(position):
    built = with_head()
    first = text()[:, :-1]
    changed = first.clone()
    changed[:, position] = (changed[:, position] + 1) % 32
    moved = (built(first) - built(changed)).abs().amax((0, 2)) > 0
    assert not moved[:position].any()
    assert moved[position:].all()


@pytest.mark.parametrize("config", MIXES[::5], ids=str)
@torch.no_grad()
def test_token_by_token_with_a_cache_is_the_same_as_at_once(config):
    built, read = with_head(config), text()[:1, :-1]
    cache = built.empty_cache()
    pieces = [built(piece, cache) for piece in (read[:, :5], *read[:, 5:].split(1, 1))]
    torch.testing.assert_close(torch.cat(pieces, 1), built(read))
    with pytest.raises(ValueError, match="13 tokens exceed the model's context_length=12"):
        built(read[:, :1], cache)


def test_learned_positions_tell_equal_tokens_apart():
    same = torch.zeros(1, 12, dtype=torch.long)
    assert (with_head()(same).std(1) > 0).all()
    assert torch.equal(model()(same)[0, 0], model()(same)[0, 11])  # positions start at zero


def test_first_loss_is_that_of_a_uniform_guess():
    built = model()
    FlatAdamW(built, OptimSpec())
    assert choose(built).loss_and_gradients(text()[:, :-1], text()[:, 1:]).item() == pytest.approx(math.log(32))


@pytest.mark.parametrize("config", MIXES[2:6], ids=str)
def test_gradients_are_those_of_torch_whatever_was_left_in_the_buffer(config):
    built = with_head(config)
    for parameter in built.parameters():
        parameter.grad.fill_(3.0)
    choose(built).loss_and_gradients(text()[:, :-1], text()[:, 1:])
    loss = torch.nn.functional.cross_entropy(logits_with_graph(built), text()[:, 1:].flatten())
    for parameter, expected in zip(
        built.parameters(), torch.autograd.grad(loss, list(built.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, expected)
    torch.testing.assert_close(choose(built).logits(text()[:, :-1]).flatten(0, 1), logits_with_graph(built))


def logits_with_graph(built: LanguageModel) -> torch.Tensor:
    return built(text()[:, :-1]).flatten(0, 1)


def test_every_parameter_has_a_group_and_shapes_are_closed_form():
    built = model()
    grouped = [id(p) for group in parameter_groups(built, "mup", base_width=8) for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in built.parameters())
    found: dict[tuple[int, int], int] = {}
    for matrix in built.hidden_matrices():
        shape = (len(matrix.weight) // matrix.parts, matrix.weight.shape[1])
        found[shape] = found.get(shape, 0) + matrix.parts
    assert found == {(rows, columns): count for count, rows, columns in hidden_shapes(GPT2)}


@pytest.mark.parametrize("name", ["norm", "activation", "positions"])
def test_an_option_is_refused_by_name_and_heeded_by_the_run_id(name):
    with pytest.raises(ValueError, match=rf"model\.{name} must be one of {PLAIN[name]}, \w+; not 'other'"):
        replace(PLAIN_CONFIG, **{name: "other"})
    base = single(flops=3e9)
    changed = replace(base, model=replace(base.model, **{name: getattr(GPT2, name)}))
    assert only(base).run_id != only(changed).run_id


def test_learned_positions_allow_heads_of_odd_width():
    assert replace(GPT2, d_model=15, n_head=3, d_ff=None).head_dim == 5
    with pytest.raises(ValueError, match="rotary positions need an even width"):
        replace(PLAIN_CONFIG, d_model=15, n_head=3, d_ff=None)
