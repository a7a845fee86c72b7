"""Text is the same with and without the cache, and draws follow temperature, top-k and top-p."""

from functools import partial

import pytest
import torch

from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.generate import Sampling, generate
from isoflop.models.parametrization import initialize

CONTEXT = 16
GREEDY = Sampling(temperature=0)
PROMPT = [3, 1, 4, 1, 5]


FAMILIES = {
    "transformer": {},
    "lstm": {"family": "lstm"},
    "gpt2": {"norm": "layernorm", "activation": "gelu", "positions": "learned"},
    "experts": {"experts": 4},
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def model(request):
    shape = {"family": "transformer", "vocab_size": 40, "context_length": CONTEXT, "n_layer": 2, "d_model": 16}
    model = initialize(build_model(ModelConfig(**shape | request.param, n_head=2)), 0)
    with torch.no_grad():  # an initial head is zero, every token as likely
        model.head.copy_(torch.randn(model.head.shape, generator=torch.Generator().manual_seed(1)))
    return model


def text(model, **options):
    return list(generate(model, PROMPT, **({"max_tokens": 60, "sampling": GREEDY} | options)))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=3), Sampling(0.7, top_k=5, top_p=0.9, seed=4)])
def test_same_text_with_and_without_cache_also_beyond_the_context(model, sampling):
    with_cache = text(model, sampling=sampling)
    assert len(with_cache) == 60 > CONTEXT
    assert with_cache == text(model, sampling=sampling, cached=False)


def test_the_cache_reads_a_prompt_once_and_then_single_tokens(model, monkeypatch):
    lengths, forward = [], type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, x, cache: lengths.append(x.shape[1]) or forward(self, x, cache)
    )
    text(model, max_tokens=CONTEXT - len(PROMPT) + 1)
    assert lengths == [len(PROMPT)] + [1] * (CONTEXT - len(PROMPT))


def test_cached_logits_are_those_of_the_whole_text(model):
    tokens, cache = torch.randint(0, 40, (1, CONTEXT)), model.empty_cache()
    with torch.no_grad():
        parts = [model(tokens[:, :5], cache)] + [model(tokens[:, i : i + 1], cache) for i in range(5, CONTEXT)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens exceed"):
        model(tokens[:, :1], cache)


def test_greedy_is_the_likeliest_token_each_time(model):
    whole = PROMPT + text(model, max_tokens=8)
    for n in range(len(PROMPT), len(whole)):
        assert whole[n] == int(model(torch.tensor([whole[:n]]))[0, -1].argmax())


@pytest.mark.slow
def test_the_seed_decides(model):
    assert text(model, sampling=Sampling(seed=1)) == text(model, sampling=Sampling(seed=1))
    assert text(model, sampling=Sampling(seed=1)) != text(model, sampling=Sampling(seed=2))
    assert text(model, sampling=Sampling(seed=1, top_k=1)) == text(model)


def frequencies(sampling, logits, n=4000):
    random = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sampling.draw(logits, random) for _ in range(n)])
    return torch.bincount(drawn, minlength=len(logits)) / n


@pytest.mark.slow
def test_draws_follow_temperature_top_k_and_top_p():
    p = torch.tensor([0.1, 0.5, 0.05, 0.35])
    logits = p.log()
    assert (frequencies(Sampling(), logits) - p).abs().max() < 0.03
    sharper = p**2 / (p**2).sum()
    assert (frequencies(Sampling(temperature=0.5), logits) - sharper).abs().max() < 0.03
    few = partial(frequencies, logits=logits, n=500)  # of which 25 are of the rarest
    assert few(Sampling(top_k=2))[[0, 2]].sum() == 0
    assert few(Sampling(top_p=0.84))[[0, 2]].sum() == 0
    assert few(Sampling(top_p=0.86))[0] > 0
    assert few(Sampling(top_p=0.86))[2] == 0
    assert few(Sampling(top_p=0.01))[1] == 1


def test_top_p_is_of_what_top_k_leaves():
    """As other samplers have it: of .4, .3, .2, .1 the first three share .9, of which the first is .44."""
    logits = torch.tensor([0.3, 0.4, 0.1, 0.2]).log()
    cases = [(3, 0.44, {1}), (3, 0.45, {0, 1}), (3, 0.78, {0, 1, 3}), (2, 0.57, {1}), (2, 0.58, {0, 1})]
    for top_k, top_p, left in [*cases, (3, 1.0, {0, 1, 3}), (9, 1.0, {0, 1, 2, 3})]:
        drawn = frequencies(Sampling(top_k=top_k, top_p=top_p), logits, n=400)
        assert set(drawn.nonzero().flatten().tolist()) == left, (top_k, top_p)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([0] * (CONTEXT + 1), f"{CONTEXT + 1} tokens, more than the context of {CONTEXT}"), ([40], "40")],
)
def test_prompts_that_do_not_fit_are_refused(model, prompt, message):
    with pytest.raises(ValueError, match=message):
        next(generate(model, prompt, max_tokens=1, sampling=GREEDY))


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}])
def test_senseless_sampling_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        Sampling(**wrong)


@pytest.mark.parametrize("temperature", [1e-310, 5e-324, 1e-200, 1e-30])
@pytest.mark.parametrize("scale", [1.0, 1e38])
def test_the_coldest_temperature_takes_the_likeliest(temperature, scale):
    logits = scale * torch.tensor([0.1, -3.0, 2.5, 2.4])
    draw = Sampling(temperature=temperature).draw(logits, torch.Generator().manual_seed(0))
    assert draw == 2
