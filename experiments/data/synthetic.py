"""A language whose entropy is known exactly: a Markov chain of any order over a vocabulary.

With a the token before the next one c, b the one before that, z further back, and Z standard normal:

    p(c | ..., z, b, a) ~ exp(bigram Z1[a, c] + skip (Z2[b, c] + Z3[z, c] / 2 + ...) + trigram Z[b, a, c]) / (c + 1)

The trigram part is a random table that a small model cannot store, so its weight is kept low: what remains is learnable
at the sizes of the ladder, and a fitted irreducible loss can be held against the truth. With `rank` every table of
pairs is a product of two matrices of that inner width, which narrow models can hold at vocabularies of hundreds.

Twins of a language are the language with its tokens renamed: each is exactly as hard as any other, so that the best
mixture of them is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from isoflop.experiments.config import SyntheticSpec
from isoflop.experiments.data import CorpusError

LARGEST_TABLE = 2**24  # probabilities: 134 MB
_BLOCK = 2**24  # tokens sampled at once


@dataclass(frozen=True)
class Language:
    """Exact distributions, float64, over k = order tokens in reading order."""

    following: np.ndarray  # p(next | k tokens), (V,) * (k + 1)
    stationary: np.ndarray  # p(k tokens), (V,) * k

    @classmethod
    def draw(cls, spec: SyntheticSpec) -> "Language":
        """The language that `spec.seed` names. Raises CorpusError for a specification that is none."""
        check(spec)
        rng, vocab, order = np.random.default_rng(spec.seed), spec.vocab_size, spec.order
        score = spec.bigram_weight * _pairs(rng, spec)
        for lag in range(2, order + 1):
            far = spec.skip_weight / (lag - 1) * _pairs(rng, spec)
            score = score[None] + far.reshape(vocab, *[1] * (lag - 1), vocab)
        if order > 1:
            score += spec.trigram_weight * rng.standard_normal((vocab, vocab, vocab))
        weight = np.exp(score, out=score)
        weight /= np.arange(1, vocab + 1)
        weight /= weight.sum(-1, keepdims=True)
        return cls(weight, _stationary(weight))

    @property
    def order(self) -> int:
        """How many tokens the next one depends on."""
        return self.stationary.ndim

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.following)

    def entropy(self, seen: int) -> float:
        """Nats/token of the best predictor that sees `seen` tokens; from `order` on that is the entropy rate."""
        if seen >= self.order:
            return float(-(self.stationary[..., None] * self.following * np.log(self.following)).sum())
        return _entropy(self._joint(seen + 1)) - (_entropy(self._joint(seen)) if seen else 0.0)

    def sample(self, *, chains: int, length: int, seed: int) -> Iterator[np.ndarray]:
        """`chains` independent texts of `length` tokens from the stationary distribution, blocks (chains, length)."""
        cumulative = np.cumsum(self.following, -1).astype(np.float32).reshape(-1, self.vocab_size)
        cumulative[:, -1] = 1.0  # a draw above a rounded-down total would fall off the table
        at_once = max(1, _BLOCK // length)
        for block, first in enumerate(range(0, chains, at_once)):
            rng = np.random.default_rng([seed, 1, block] if block else [seed, 1])
            yield self._block(rng, cumulative, min(at_once, chains - first), length)

    def _block(self, rng: np.random.Generator, cumulative: np.ndarray, chains: int, length: int) -> np.ndarray:
        vocab, states = self.vocab_size, self.stationary.size
        tokens = np.empty((length, chains), np.uint16)
        state = rng.choice(states, chains, p=self.stationary.ravel())
        tokens[: self.order] = np.stack(np.unravel_index(state, self.stationary.shape))[:length]
        for position in range(self.order, length):
            draw = rng.random((chains, 1), dtype=np.float32)
            token = (cumulative[state] <= draw).sum(-1)
            state = state * vocab % states + token
            tokens[position] = token
        return np.ascontiguousarray(tokens.T)

    def window_losses(self, windows: np.ndarray) -> np.ndarray:
        """Loss of the exact predictor on windows (W, T + 1), (W, T) nats: target i sees the i + 1 tokens before it."""
        w = windows.astype(np.int64)
        losses = np.empty((len(w), w.shape[1] - 1))
        for seen in range(1, min(self.order, w.shape[1])):
            joint = self._joint(seen + 1)
            given = joint / joint.sum(-1, keepdims=True)
            losses[:, seen - 1] = -np.log(given[tuple(w[:, : seen + 1].T)])
        context = [w[:, i : i - self.order] for i in range(self.order)]
        losses[:, self.order - 1 :] = -np.log(self.following[(*context, w[:, self.order :])])
        return losses

    def twin(self, number: int) -> np.ndarray:
        """The token (V,) that each token is called in a twin of the language; 0 is the language itself."""
        vocab = self.vocab_size
        return np.random.default_rng([vocab, number]).permutation(vocab) if number else np.arange(vocab)

    def reachable_loss(self, windows: np.ndarray) -> float:
        """Nats/token of the exact predictor on the very windows that models are evaluated on: it shares their noise."""
        return float(self.window_losses(windows).mean())

    def _joint(self, tokens: int) -> np.ndarray:
        """p of so many successive tokens, at most `order`."""
        return self.stationary.sum(tuple(range(self.order - tokens)))


def check(spec: SyntheticSpec) -> None:
    """Raise CorpusError naming the key of data.synthetic that cannot be."""
    for name, least in (("vocab_size", 2), ("order", 1), ("chains", 1), ("rank", 1)):
        value = getattr(spec, name)
        if value is not None and value < least:
            raise CorpusError(f"data.synthetic.{name} must be at least {least}; not {value}")
    if spec.vocab_size ** (spec.order + 1) > LARGEST_TABLE:
        raise CorpusError(
            f"data.synthetic: vocab_size={spec.vocab_size} at order={spec.order} is a table of "
            f"{spec.vocab_size ** (spec.order + 1):,} probabilities, above {LARGEST_TABLE:,}; lower one of them"
        )
    if not spec.twins or min(spec.twins) < 0:
        raise CorpusError(f"data.synthetic.twins must be whole numbers from 0 on, one or more; not {spec.twins}")
    if spec.tokens // spec.chains <= spec.order:
        raise CorpusError(
            f"data.synthetic: tokens={spec.tokens} in chains={spec.chains} are {spec.tokens // spec.chains} each, "
            f"no more than order={spec.order}; raise tokens or lower chains"
        )


def _pairs(rng: np.random.Generator, spec: SyntheticSpec) -> np.ndarray:
    """(V, V) of unit variance, of full rank or of spec.rank."""
    if spec.rank is None:
        return rng.standard_normal((spec.vocab_size, spec.vocab_size))
    left, right = (rng.standard_normal((spec.vocab_size, spec.rank)) for _ in range(2))
    return left @ right.T / spec.rank**0.5


def _stationary(following: np.ndarray) -> np.ndarray:
    vocab, shape = len(following), following.shape[:-1]
    by_oldest = following.reshape(vocab, -1, vocab)
    state = np.full(by_oldest.shape[:2], 1.0 / prod(shape))
    for _ in range(1000):
        after = np.einsum("ab,abc->bc", state, by_oldest).reshape(state.shape)
        if np.abs(after - state).max() < 1e-16:
            break
        state = after
    return (after / after.sum()).reshape(shape)


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())
