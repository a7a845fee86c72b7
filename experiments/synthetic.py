"""A language whose entropy is known exactly: a Markov chain of order two over a small vocabulary.

p(c | a, b) ~ exp(bigram Z1[b, c] + skip Z2[a, c] + trigram Z3[a, b, c]) / (c + 1), Z standard normal.

The trigram part is a random table that a small model cannot store, so its weight is kept low: what remains is
learnable at the sizes of the ladder, and a fitted irreducible loss can be held against the truth.
"""

from dataclasses import dataclass

import numpy as np

from experiments.config import SyntheticSpec


@dataclass(frozen=True)
class Language:
    """Exact distributions, float64. V = vocabulary, indices in reading order."""

    next_VVV: np.ndarray  # p(c | a, b)
    pair_VV: np.ndarray  # stationary p(a, b)
    bigram_VV: np.ndarray  # p(b | a)

    @classmethod
    def draw(cls, spec: SyntheticSpec) -> "Language":
        """The language that `spec.seed` names."""
        rng, vocab = np.random.default_rng(spec.seed), spec.vocab_size
        score = spec.bigram_weight * rng.standard_normal((vocab, vocab))[None]
        score = score + spec.skip_weight * rng.standard_normal((vocab, vocab))[:, None]
        score = score + spec.trigram_weight * rng.standard_normal((vocab, vocab, vocab))
        weight = np.exp(score) / np.arange(1, vocab + 1)
        following = weight / weight.sum(-1, keepdims=True)
        pair = _stationary(following)
        return cls(following, pair, pair / pair.sum(1, keepdims=True))

    @property
    def unigram_entropy(self) -> float:
        """Nats/token of a predictor that sees nothing."""
        return _entropy(self.pair_VV.sum(1))

    @property
    def bigram_entropy(self) -> float:
        """Nats/token of the best predictor that sees one token."""
        return _entropy(self.pair_VV) - self.unigram_entropy

    @property
    def entropy_rate(self) -> float:
        """Nats/token of the best predictor that sees two tokens or more: the irreducible loss."""
        return float(-(self.pair_VV[..., None] * self.next_VVV * np.log(self.next_VVV)).sum())

    def sample(self, *, chains: int, length: int, seed: int) -> np.ndarray:
        """`chains` independent texts of `length` tokens from the stationary distribution, (chains, length) uint16."""
        rng, vocab = np.random.default_rng([seed, 1]), len(self.pair_VV)
        cumulative = np.cumsum(self.next_VVV, -1).astype(np.float32)
        cumulative[..., -1] = 1.0  # a draw above a rounded-down total would fall off the table
        tokens = np.empty((length, chains), np.uint16)
        a, b = np.unravel_index(rng.choice(vocab**2, chains, p=self.pair_VV.ravel()), self.pair_VV.shape)
        tokens[:2] = np.stack([a, b])[:length]
        for position in range(2, length):
            draw = rng.random((chains, 1), dtype=np.float32)
            a, b = b, (cumulative[a, b] <= draw).sum(-1)
            tokens[position] = b
        return np.ascontiguousarray(tokens.T)

    def reachable_loss(self, windows: np.ndarray) -> float:
        """Mean loss of the exact predictor on windows of T + 1 tokens, the first target seeing one token only.

        Nats/token on the very tokens that models are evaluated on, so that sampling noise is shared.
        """
        w = windows.astype(np.int64)
        first = np.log(self.bigram_VV[w[:, 0], w[:, 1]]).sum()
        rest = np.log(self.next_VVV[w[:, :-2], w[:, 1:-1], w[:, 2:]]).sum()
        return float(-(first + rest) / w[:, 1:].size)


def _stationary(following: np.ndarray) -> np.ndarray:
    vocab = len(following)
    pair = np.full((vocab, vocab), vocab**-2.0)
    for _ in range(1000):
        after = np.einsum("ab,abc->bc", pair, following)
        if np.abs(after - pair).max() < 1e-16:
            break
        pair = after
    return after / after.sum()


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())
