"""One law of the mixture fitted to the runs of a table, and what it leaves: a member of the average of such.

Parameters have a prior (`prior.py`): exponents of effective data are near one half. A law of one term is fitted first.
Where the rows are many enough for more terms, these are fitted with each domain alone as a small part of a run, whose
loss the first fit says: where no run is near, they stay near it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.laws.law import Array, Law
from isoflop.scaling.laws.mixtures.means import MixtureLaw, effective_data, joint, mixture_law
from isoflop.scaling.mixtures.prior import HUBER, Posterior, Prior
from isoflop.scaling.mixtures.residual import Residual, clipped, residual_of
from isoflop.scaling.mixtures.table import NoMixtureError

MOST_TERMS, MANY = 4, 5  # of effective data; mixtures a parameter of so many terms for laws to be averaged
FEW_TERMS, ROWS_PER_PARAMETER = 3, 2  # where the rows are fewer; rows for a second and a third
ALONE_COUNTS = 0.1  # of a run: each domain alone, by the first fit
EVEN_COUNTS = 0.1  # of a run: each domain alone as in the mean of all
FOLDS = 4
ENOUGH, MOST_STEPS = 1e-7, 60
LEAST_NOISE = 1e-9  # of ln loss: losses of a formula have none
ROUNDS = 3  # of the noise and the parameters by turns


@dataclass(frozen=True)
class Member:
    """The loss at any mixture, size and tokens: `law`'s, times the exponential of `residual` where there is one.

    `rows` are how many of the points of the `posterior` are runs: they come first. `theta` is where it is highest,
    and `law` the law there, or that of a draw.
    """

    domains: tuple[str, ...]
    posterior: Posterior
    theta: Array
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
        return self.posterior.problem.columns["h"][:, : self.rows]

    @cached_property
    def left(self) -> Array:
        """ln loss of the runs less the law's (n,), at `theta`."""
        return -self.posterior.problem.residuals(self.theta[None])[0][0, : self.rows]

    @property
    def left_over(self) -> Array:
        """ln loss of the runs less the member's (n,)."""
        return self.left - (self.residual(self.mixtures) if self.residual else 0.0)

    @property
    def evidence(self) -> float:
        """ln of the likelihood of the runs by the law alone, over its prior (Laplace's approximation)."""
        posterior, prior = self.posterior, np.diag(self.posterior.prior.width**-2.0)
        noise = posterior.noise
        slopes = posterior.problem.residuals(self.theta[None])[1][0] * np.sqrt(posterior.weights)
        information = np.linalg.slogdet(slopes @ slopes.T / noise**2 + prior)[1] - np.linalg.slogdet(prior)[1]
        fit = float(posterior.value(self.theta[None])[0]) / noise**2
        return -self.rows * np.log(noise) - fit - 0.5 * float(information)

    def without(self, out: Array) -> "list[Member]":
        """The member refitted without the runs of each row of a mask (B, n), from where it is."""
        counts = np.hstack([~out, np.ones((len(out), len(self.posterior.weights) - self.rows), bool)])
        ends = self.posterior.highest(np.repeat(self.theta[None], len(out), axis=0), counts)
        return [self._at(law, lambda process, left, keep=~row: process.of(left, keep))
                for law, row in zip(self.posterior.problem.laws(ends), out, strict=True)]  # fmt: skip

    def drawn(self, count: int, lots: np.random.Generator) -> "list[Member]":
        """So many draws of what the member may be: of the law's parameters, and of the process given each, in pairs
        that move opposite ways (antithetic variates).

        Parameters follow Student's t about the highest posterior with the inverse of their information: that of the
        runs, of each domain alone as it was fitted, and of the prior. Runs of a mixture that err alike count as fewer.
        """
        residual, gradient, _ = self.posterior.problem.residuals(self.theta[None])
        slopes, rest, left = gradient[0, :, : self.rows], gradient[0, :, self.rows :], clipped(self.left)
        inverse = np.eye(self.rows) if self.residual is None else np.linalg.inv(self.residual.covariance)
        runs, prior = slopes @ inverse @ slopes.T, np.diag(self.posterior.prior.width**-2.0)
        variance = max(float(left @ inverse @ left) / self.rows, LEAST_NOISE**2)
        for _ in range(ROUNDS):
            free = self.rows - np.trace(np.linalg.solve(runs + variance * prior, runs))
            variance = max(float(left @ inverse @ left) / max(free, 1.0), LEAST_NOISE**2)
        variance *= _alike(left, self.mixtures)
        near = np.abs(residual[0, self.rows :]) <= HUBER * self.posterior.noise  # others pull, and say nothing
        weights = near * self.posterior.weights[self.rows :] / self.posterior.noise**2
        information = runs / variance + (rest * weights) @ rest.T + prior
        # Neither units nor the names of domains decide which lot moves what: coordinates are in the order of how far
        # they are from the prior, in its standard deviations.
        order = np.argsort((self.theta - self.posterior.prior.middle) / self.posterior.prior.width, kind="stable")
        pairs = -(-count // 2)
        lot = lots.standard_normal((pairs, len(order)))
        lot *= np.sqrt(max(free, 1.0) / lots.chisquare(max(free, 1.0), (pairs, 1)))  # the noise is estimated
        moves = np.empty((pairs, len(order)))
        moves[:, order] = np.linalg.solve(np.linalg.cholesky(information[np.ix_(order, order)]).T, lot.T).T
        thetas = np.stack([self.theta + moves, self.theta - moves], axis=1).reshape(2 * pairs, -1)[:count]
        laws = self.posterior.problem.laws(np.clip(thetas, self.posterior.lower, self.posterior.upper))
        found: list[Member] = []
        for k, law in enumerate(laws):
            twin = found[-1].residual if k % 2 else None
            found.append(self._at(law, lambda process, left, twin=twin: process.drawn(left, lots, twin)))
        return found

    def _at(self, law: Law, process: Callable[..., Residual]) -> "Member":
        """The member with another law, and what `process` makes of its residual and the residuals of that law."""
        assert isinstance(law, MixtureLaw)
        if self.residual is None:
            return replace(self, law=law)
        problem = self.posterior.problem
        columns = [problem.columns[k][..., : self.rows] for k in law.inputs]
        left = problem.log_loss[: self.rows] - np.log(law(*columns))
        return replace(self, law=law, residual=process(self.residual, left))


def members(frame: pd.DataFrame, domains: tuple[str, ...]) -> list[Member]:
    """The laws of one term and more of a frame with weight_NAME, loss, and n_params, tokens if they vary.

    All of them, to a term a domain, where the mixtures are many; else the likeliest.
    Raises NoMixtureError where the rows are fewer than the parameters of a law.
    """
    columns = "".join(k for k, name in (("N", "n_params"), ("D", "tokens")) if name in frame)
    form = joint(domains, columns) if columns else effective_data(domains)
    if len(frame) < len(form.parameters()):
        raise NoMixtureError(
            f"{len(frame)} runs for the {len(form.parameters())} parameters of a law of {len(domains)} domains: "
            "train more mixtures"
        )
    shares = [f"weight_{name}" for name in domains]
    even = _alone(frame, shares, np.full(len(shares), np.exp(np.log(frame["loss"]).mean())))
    first = _fitted(form, domains, frame, even, EVEN_COUNTS)
    found = [first]
    middle = [float(np.exp(np.log(frame[name]).mean())) if name in frame else np.nan for name in ("n_params", "tokens")]
    forms = [mixture_law(domains, (*form.terms, *form.terms[-1:] * further)) for further in range(1, MOST_TERMS)]
    many = len(frame[shares].drop_duplicates()) >= MANY * len(forms[-1].parameters())
    for more in forms[: (len(domains) if many else FEW_TERMS) - 1]:
        if len(frame) < ROWS_PER_PARAMETER * len(more.parameters()):
            break
        alone = _alone(frame, shares, first.smooth(np.eye(len(shares)), *middle))
        found.append(_fitted(more, domains, frame, alone, ALONE_COUNTS))
    found = found if many else [max(found, key=lambda one: one.evidence)]
    return [replace(one, residual=residual_of(one.law, one.mixtures, one.left)) for one in found]


def _fitted(
    form: type[MixtureLaw], domains: tuple[str, ...], frame: pd.DataFrame, more: pd.DataFrame, counts: float
) -> Member:
    """The member of a form at its highest posterior, with further rows that count as `counts` of a run."""
    whole = pd.concat([frame, more], ignore_index=True)
    columns = {symbol: whole[read.name].to_numpy(float) for symbol, read in form.reads().items() if symbol != "h"}
    columns["h"] = whole[[f"weight_{name}" for name in domains]].to_numpy(float).T
    problem = FitProblem(form, columns, whole["loss"].to_numpy(float), {})
    weights = np.concatenate([np.ones(len(frame)), np.full(len(more), counts)])
    scale = {symbol: float(np.log(values).mean()) for symbol, values in columns.items() if symbol != "h"}
    prior = Prior.of(form, float(frame["loss"].min()), scale)
    begin = problem.reduce(form.propose(problem.x, problem.loss, weights))
    at = minimise(problem, begin, delta=np.inf, weights=weights, max_steps=MOST_STEPS, tolerance=ENOUGH)
    begin = np.concatenate([at.theta[np.argsort(at.value)[:2]], begin])
    left = np.abs(problem.residuals(begin[:1])[0][0, : len(frame)])
    for _ in range(ROUNDS):
        noise = max(1.4826 * float(np.median(left)), LEAST_NOISE)
        posterior = Posterior(problem, prior, weights, noise)
        ends = posterior.highest(begin, np.ones((len(begin), len(weights))))
        theta = ends[int(np.argmin(posterior.value(ends)))]
        begin, left = theta[None], np.abs(problem.residuals(theta[None])[0][0, : len(frame)])
    law = problem.laws(theta[None])[0]
    assert isinstance(law, MixtureLaw)
    return Member(domains, posterior, theta, len(frame), law, None)


def held_out(made: Member, frame: pd.DataFrame) -> Array:
    """The loss (n,) of every row of the frame of a member, refitted without rows of its mixture: FOLDS folds.

    Mixtures are numbered by their losses, whatever the names of domains.
    """
    shares = frame[[f"weight_{name}" for name in made.domains]]
    number = frame["loss"].groupby([shares[name] for name in shares]).transform("mean").rank(method="dense")
    number = number.to_numpy(int) - 1
    fold = (np.random.default_rng(0).permutation(number.max() + 1) % FOLDS)[number]
    out = fold == np.unique(fold)[:, None]
    found = np.full(len(frame), np.nan)
    for one, rows in zip(made.without(out), out, strict=True):
        given = {"N": frame.get("n_params"), "D": frame.get("tokens")}
        N, D = (np.nan if v is None else v.to_numpy(float)[rows] for v in given.values())
        found[rows] = one.loss(shares.to_numpy(float)[rows].T, N, D)
    return found


def _alike(left: Array, h: Array) -> float:
    """The variance of a mean over that of runs which err apart: above 1 where runs of one mixture err alike."""
    number = np.unique(h, axis=1, return_inverse=True)[1].ravel()
    sums = np.bincount(number, weights=left)
    return max(1.0, float(sums @ sums / (left @ left))) if left.any() else 1.0


def _alone(frame: pd.DataFrame, shares: list[str], loss: Array) -> pd.DataFrame:
    """A row for each domain alone with these losses (k,); N and D in the middle of those of the runs."""
    rows = pd.DataFrame(np.eye(len(shares)), columns=shares).assign(loss=loss)
    for name in ("n_params", "tokens"):
        if name in frame:
            rows[name] = float(np.exp(np.log(frame[name]).mean()))
    return rows
