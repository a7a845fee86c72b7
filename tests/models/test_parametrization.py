"""Initial spreads and learning rates follow width and depth as muP and CompleteP say."""

import pytest
import torch

from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import initialize, parameter_groups


def model(width=64, layers=3, tied=False):
    return build_model(ModelConfig("transformer", 256, 64, layers, width, width // 8, tied=tied))


def test_initial_spread():
    net = initialize(model(), 0)
    block = net.blocks[1]
    residual = 6**-0.5
    assert net.embedding.std().item() == pytest.approx(1, rel=0.03)
    assert block.qkv.std().item() == pytest.approx(64**-0.5, rel=0.03)
    assert block.gate_up.std().item() == pytest.approx(64**-0.5, rel=0.03)
    assert block.output.std().item() == pytest.approx(residual * 64**-0.5, rel=0.05)
    assert block.down.std().item() == pytest.approx(residual * block.down.shape[1] ** -0.5, rel=0.05)
    assert (net.head == 0).all()
    assert (block.attention_norm == 1).all()
    assert (net.norm == 1).all()


def test_the_seed_decides():
    first, again, other = (initialize(model(), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding"], other["embedding"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["mup", "completep", "standard"])
def test_groups_cover_every_parameter_once(name, tied):
    net = model(tied=tied)
    grouped = [id(p) for group in parameter_groups(net, name, base_width=16) for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


def test_rates_follow_the_width_in_hidden_matrices_and_head_only():
    net = model(width=64)
    vectors, matrices = parameter_groups(net, "mup", base_width=16)
    assert (vectors.lr_multiplier, matrices.lr_multiplier) == (1.0, 0.25)
    assert {id(net.head), id(net.blocks[0].down)} <= {id(p) for p in matrices.parameters}
    assert {id(net.embedding), id(net.norm)} <= {id(p) for p in vectors.parameters}
    assert vectors.decay_multiplier == 0
    for group in (matrices, *parameter_groups(net, "standard", base_width=16)[1:]):
        assert group.lr_multiplier * group.decay_multiplier == 1  # decay keeps its pace whatever the width
    assert {g.lr_multiplier for g in parameter_groups(net, "standard", base_width=16)} == {1.0}


def test_completep_scales_branches_by_depth_in_spread_and_rate_alike():
    """Under Adam a factor f on a matrix's spread and rate is the same as f in front of the branch."""
    shallow, deep = (
        initialize(model(layers=layers), 0, parametrization="completep", base_depth=2) for layers in (2, 8)
    )
    for name in ("output", "down"):
        ratio = getattr(deep.blocks[0], name).std() / getattr(shallow.blocks[0], name).std()
        assert ratio.item() == pytest.approx(0.25, rel=0.05)
    groups = parameter_groups(deep, "completep", base_width=16, base_depth=2)
    rates = {id(p): g.lr_multiplier for g in groups for p in g.parameters}
    block = deep.blocks[3]
    assert [rates[id(p)] for p in (block.qkv, block.gate_up, deep.head)] == [0.25] * 3
    assert [rates[id(p)] for p in (block.output, block.down)] == [0.0625] * 2


def logits_after_one_step(name, width):
    net = initialize(model(width=width, layers=2), 0)
    data = torch.randint(256, (8, 64), generator=torch.Generator().manual_seed(0))
    groups = parameter_groups(net, name, base_width=16)
    optimizer = torch.optim.Adam([{"params": g.parameters, "lr": 0.01 * g.lr_multiplier} for g in groups])
    torch.nn.functional.cross_entropy(net(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten()).backward()
    optimizer.step()
    return net(data[:, :-1]).abs().max().item()


@pytest.mark.slow
def test_the_first_update_does_not_grow_with_the_width_as_it_does_without_the_rule():
    assert logits_after_one_step("mup", 256) / logits_after_one_step("mup", 16) == pytest.approx(1, rel=0.25)
    assert logits_after_one_step("standard", 256) / logits_after_one_step("standard", 16) > 10


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"optim\.parametrization must be one of mup, completep, standard; not 'ntk'"):
        parameter_groups(model(), "ntk", base_width=16)
