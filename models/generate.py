"""Text from a model, token by token.

With the cache a token costs one position, without it the whole window; the tokens are the same. Beyond the context the
window moves on by half: the older half is forgotten and the rest is read again, with or without the cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isoflop.models.language_model import LanguageModel

COLDEST = (
    1e-200  # of a temperature above 0: at it any two logits of float32 are infinitely far apart, and none overflows
)


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Temperature 0 takes the likeliest; the others cut the tail of what may be drawn.

    Raises ValueError naming the field that makes no sense.
    """

    temperature: float = 1.0
    top_k: int | None = None  # the k likeliest tokens
    top_p: float = 1.0  # the smallest set of likeliest tokens, of those k, with at least this share of what they have
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (the likeliest token) or positive; not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top-k must be at least 1; not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top-p must lie above 0 and at most at 1; not {self.top_p}")

    def draw(self, logits_V: Tensor, random: torch.Generator) -> int:
        """One token. A draw uses one random number, whatever the logits.

        Likely tokens are drawn in the order of the vocabulary, not of their probabilities, which rounding may swap.
        """
        if self.temperature == 0:
            return int(logits_V.argmax())
        p_V = (logits_V.double() / max(self.temperature, COLDEST)).softmax(-1)
        if self.top_k is not None or self.top_p < 1:
            sorted_V, token_V = p_V.sort(descending=True, stable=True)
            whole = 1.0 if self.top_k is None else float(sorted_V[: self.top_k].sum())
            kept = max(1, int((sorted_V.cumsum(-1) - sorted_V < self.top_p * whole).sum()))
            p_V = p_V.index_fill(0, token_V[min(kept, self.top_k or kept) :], 0.0)
        total_V = p_V.cumsum(-1)
        at = torch.rand((), generator=random, dtype=torch.float64) * total_V[-1]
        last = int(p_V.nonzero()[-1])
        return min(int(torch.searchsorted(total_V, at, right=True)), last)


def generate(
    model: LanguageModel, prompt: Sequence[int], *, max_tokens: int, sampling: Sampling, cached: bool = True
) -> Iterator[int]:
    """Yield `max_tokens` tokens that follow `prompt`.

    Raises ValueError for a prompt that is empty, longer than the context, or has tokens beyond the vocabulary.
    """
    window = list(prompt)
    _check(window, model.config.vocab_size, model.config.context_length)
    random = torch.Generator().manual_seed(sampling.seed)
    read, cache = 0, model.empty_cache() if cached else None
    for _ in range(max_tokens):
        if len(window) > model.config.context_length:
            window = window[-max(1, model.config.context_length // 2) :]
            read, cache = 0, model.empty_cache() if cached else None
        with torch.no_grad():
            logits_V = model(torch.tensor([window[read:]]), cache)[0, -1]
        token = sampling.draw(logits_V, random)
        read = len(window) if cached else 0
        window.append(token)
        yield token


def _check(prompt: Sequence[int], vocab_size: int, context_length: int) -> None:
    if not prompt:
        raise ValueError("the prompt is empty; give at least one token to go on from")
    if len(prompt) > context_length:
        raise ValueError(f"the prompt has {len(prompt)} tokens, more than the context of {context_length}; shorten it")
    if not all(0 <= token < vocab_size for token in prompt):
        raise ValueError(f"the prompt has token {max(prompt)}; the model's vocabulary ends at {vocab_size - 1}")
