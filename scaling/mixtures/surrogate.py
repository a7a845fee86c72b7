"""The loss as a function of the mixture: a law fitted to the runs of a table, and what it leaves.

A law of effective data is fitted first. Where the rows are many enough for two of its terms, these are fitted with each
domain alone as a small part of a run, whose loss the first fit says: where no run is near, they stay near it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit, fit
from isoflop.scaling.fitting.solver import minimise
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.mixtures.means import MixtureLaw, effective_data, joint
from isoflop.scaling.mixtures.residual import Residual, residual_of

ROWS_PER_PARAMETER = 4  # for a second term
ALONE_COUNTS = 0.1  # of a run: each domain alone, by the first fit
EVEN_COUNTS = 0.1  # of a run: each domain alone as in the mean of all
FOLDS = 4
ENOUGH, MOST_STEPS = 1e-6, 40  # of refits to resamples: far below what resamples differ by


@dataclass(frozen=True)
class Surrogate:
    """The loss at any mixture, size and tokens: that of `fit`, times the exponential of `residual` where there is one.

    `rows` are how many of the points of the fit are runs: they come first. `law` is `fit`'s, or that of a resample.
    """

    domains: tuple[str, ...]
    fit: Fit
    rows: int
    law: MixtureLaw
    residual: Residual | None

    def loss(self, h: Array, N: float = np.nan, D: float = np.nan) -> Array:
        """The loss (n,) in nats/token at mixtures h (k, n), N parameters and D tokens (where the law reads them)."""
        found = self.smooth(h, N, D)
        return found if self.residual is None else found * np.exp(self.residual(h))

    def smooth(self, h: Array, N: float = np.nan, D: float = np.nan) -> Array:
        """The loss (n,) by the law alone."""
        given = {"N": N, "D": D, "h": h}
        return np.asarray(self.law(*(given[symbol] for symbol in self.law.inputs)), dtype=float)

    @cached_property
    def mixtures(self) -> Array:
        """The mixtures (k, n) of the runs."""
        return self.fit.problem.columns["h"][:, : self.rows]

    @property
    def noise(self) -> float:
        """Robust standard deviation of ln loss about the surrogate."""
        left = self.fit.residuals[: self.rows]
        left = left - (self.residual(self.mixtures) if self.residual else 0.0)
        return float(1.4826 * np.median(np.abs(left)))

    def resampled(self, counts: Array) -> "list[Surrogate]":
        """The surrogate refitted with its runs counted so often: one for each row of counts (B, n)."""
        whole = np.hstack([counts, np.ones((len(counts), len(self.fit.weights) - self.rows))])
        begin = np.repeat(self.fit.theta[None], len(counts), axis=0)
        ends = minimise(
            self.fit.problem, begin, delta=self.fit.deltas, weights=whole * self.fit.weights, tolerance=ENOUGH,
            max_steps=MOST_STEPS, damping=1e-3,
        )  # fmt: skip
        laws = self.fit.problem.laws(ends.theta)
        found = []
        for law, count in zip(laws, counts, strict=True):
            assert isinstance(law, MixtureLaw)
            one = Surrogate(self.domains, self.fit, self.rows, law, None)
            if self.residual is not None:
                columns = [self.fit.problem.columns[k][..., : self.rows] for k in law.inputs]
                left = np.log(self.fit.problem.loss[: self.rows]) - np.log(law(*columns))
                one = Surrogate(self.domains, self.fit, self.rows, law, self.residual.on(left, count))
            found.append(one)
        return found


def surrogate(frame: pd.DataFrame, domains: tuple[str, ...]) -> Surrogate:
    """The surrogate of a frame with weight_NAME of every domain, which add up to 1, loss, and n_params, tokens if varied.

    Raises FitError where the rows are too few for a law.
    """
    columns = "".join(k for k, name in (("N", "n_params"), ("D", "tokens")) if name in frame)
    form = joint(domains, columns) if columns else effective_data(domains)
    shares = [f"weight_{name}" for name in domains]
    frame = frame[[*shares, "loss", *(name for name in ("n_params", "tokens") if name in frame)]].reset_index(drop=True)
    first = fit(form, frame)
    even = _alone(frame, shares, first, even=True)
    first = fit(form, pd.concat([frame, even], ignore_index=True), weights=_counts(len(frame), len(even), EVEN_COUNTS))
    fitted, law = first, first.law
    assert isinstance(law, MixtureLaw)
    two = effective_data(domains, 2)
    if not columns and len(frame) >= ROWS_PER_PARAMETER * len(two.parameters()):
        alone = _alone(frame, shares, first)
        weights = _counts(len(frame), len(alone), ALONE_COUNTS)
        fitted = fit(two, pd.concat([frame, alone], ignore_index=True), weights=weights)
    best = fitted.law
    assert isinstance(best, MixtureLaw)
    h = frame[shares].to_numpy(float).T
    return Surrogate(domains, fitted, len(frame), best, residual_of(law, h, fitted.residuals[: len(frame)]))


def held_out(frame: pd.DataFrame, domains: tuple[str, ...]) -> Array:
    """The loss (n,) of every row by the surrogate of the rows of other mixtures, FOLDS folds of them."""
    shares = frame[[f"weight_{name}" for name in domains]]
    number = shares.groupby(list(shares)).ngroup().to_numpy()
    fold = (np.random.default_rng(0).permutation(number.max() + 1) % FOLDS)[number]
    found = np.full(len(frame), np.nan)
    for k in range(FOLDS):
        out = fold == k
        if out.any():
            made = surrogate(frame[~out], domains)
            given = {"N": frame.get("n_params"), "D": frame.get("tokens")}
            N, D = (np.nan if v is None else v.to_numpy(float)[out] for v in given.values())
            found[out] = made.loss(shares.to_numpy(float)[out].T, N, D)
    return found


def _alone(frame: pd.DataFrame, shares: list[str], first: Fit, *, even: bool = False) -> pd.DataFrame:
    """A row for each domain alone with the loss that a law gives it, or the mean of those; N and D in the middle."""
    rows = pd.DataFrame(np.eye(len(shares)), columns=shares)
    for name in ("n_params", "tokens"):
        if name in frame:
            rows[name] = float(np.exp(np.log(frame[name]).mean()))
    loss = first.predict(rows)
    return rows.assign(loss=np.exp(np.log(loss).mean()) if even else loss)


def _counts(rows: int, more: int, count: float) -> Array:
    return np.concatenate([np.ones(rows), np.full(more, count)])
