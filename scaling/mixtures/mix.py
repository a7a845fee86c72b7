"""`isoflop mix TABLE`: the best shares of the domains that a run is trained on, and what they gain.

A law of the mixture (`scaling.laws.mixtures.means`) is fitted to each loss of a table of runs over mixtures, with a
Gaussian process on what it leaves; the weighted mean of the losses is minimised under the caps on epochs. Intervals
are of draws of what law and process may be.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from isoflop.arguments import POSITIVE, SEED, SHARE, check, whole
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.laws.law import Array
from isoflop.scaling.mixtures.answer import Mix
from isoflop.scaling.mixtures.member import Member
from isoflop.scaling.mixtures.optimum import best_mixture, flat, within
from isoflop.scaling.mixtures.proxies import BEYOND, candidates, narrowing
from isoflop.scaling.mixtures.surrogate import Surrogate, surrogate
from isoflop.scaling.mixtures.table import WEIGHT, Mixtures, NoMixtureError, mixtures, named_values
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.formats.data_frame import as_frame

DRAWS = 1000  # of the loss: a twentieth of them decide an end of the interval of the gain
OPTIMA = 400  # of them whose best mixture is looked for
PROXIES = 3
LOW_RANK = 0.9  # of Spearman's correlation on mixtures left out


def mix(
    table: pd.DataFrame,
    losses: Mapping[str, float] | Sequence[str] | str = "loss",
    at: Mapping[str, float] | None = None,
    *,
    tokens: float | None = None,
    cap: float | None = None,
    unique: Mapping[str, float] | None = None,
    natural: Mapping[str, float] | None = None,
    normalise: bool = False,
    params: str = "matrices",
    level: float = 0.9,
    proxies: int = PROXIES,
    narrow: Literal["gain", "weights"] = "gain",
    seed: int = 0,
) -> Mix:
    """The best mixture of a table of runs with weight_NAME columns.

    `losses` names columns (or NAME of loss_NAME), with weights where several are minimised together. `at` gives
    n_params and tokens of the run (`tokens` too): those of the largest run where left out. `unique` are the unique
    tokens of domains, else of columns unique_tokens_NAME; with them `cap` bounds epochs. `natural` are the proportions
    that the gain is over: those of the unique tokens where left out, else the mean of the mixtures tried. So many
    `proxies` are named, runs of the largest scale of the table that `narrow` the gain or the best weights most.
    Raises NoMixtureError where the table or the corpora cannot answer, TableError for a table without the columns,
    ValueError for values that mean nothing.

    >>> import isoflop, numpy as np, pandas as pd
    >>> code = np.linspace(0.05, 0.95, 19)
    >>> table = pd.DataFrame({"weight_code": code, "weight_prose": 1 - code})
    >>> table["loss"] = 2 + 0.4 * (code + 0.1) ** -0.3 + 0.4 * (1.1 - code) ** -0.3
    >>> found = isoflop.mix(table)
    >>> bool(abs(found.weights[0] - 0.5) < 0.02)
    True
    """
    wanted = _losses(losses)
    check(POSITIVE, tokens=tokens, cap=cap)
    check(SHARE, level=level)
    check(whole(0), proxies=proxies)
    check(SEED, seed=seed)
    if narrow not in ("gain", "weights"):
        raise ValueError(f"narrow={narrow!r}: choose gain or weights")
    table = as_frame(table)
    runs = mixtures(table, list(wanted), normalise=normalise, params=params)
    scale, notes = _scale(runs, at, tokens)
    limits = _unique(runs, unique)
    if unique and "tokens" not in scale and (natural or np.isnan(limits).any()):
        raise ValueError(
            f"--unique {', '.join(unique)}: nothing follows from it. Add --tokens, of the run, for the epochs of each "
            "domain; or the unique tokens of every domain, to which natural proportions are taken to be equal"
        )
    caps = _caps(runs.domains, limits, cap, scale.get("tokens"))
    origin = _natural(runs, natural, limits, notes)
    total = sum(wanted.values())
    share = dict(zip(runs.losses, (w / total for w in wanted.values()), strict=True))
    made = {name: surrogate(runs.of(name), runs.domains) for name in runs.losses}
    N, D = scale.get("n_params", math.nan), scale.get("tokens", math.nan)

    def loss_of(surrogates: Mapping[str, Surrogate | Member], N: float = N, D: float = D) -> Any:
        return lambda h: sum(share[name] * one.loss(h, N, D) for name, one in surrogates.items())

    loss = loss_of(made)
    starts = np.stack([within(one, caps) for one in np.hstack([runs.shares, origin[:, None]]).T], axis=1)
    draws = _draws(made, seed)
    drawn = [loss_of(one) for one in draws]
    best = best_mixture(loss, starts, caps)
    near = np.hstack([best[:, None], starts])
    ends = np.array([best_mixture(one, near, caps, 1) for one in drawn[:OPTIMA]])
    gains = np.array([float(np.diff(one(np.stack([best, origin], axis=1)))[0]) for one in drawn])
    tails = [0.5 - level / 2, 0.5 + level / 2]
    noise = float(np.sqrt(sum((share[name] * one.noise) ** 2 for name, one in made.items())))
    lo, hi = np.quantile(gains, tails)
    natural_loss = float(loss(origin[:, None])[0])
    largest = [float(runs.frame[name].max()) if name in runs.varies else math.nan for name in ("n_params", "tokens")]
    further = candidates(best, origin, caps, np.random.default_rng([seed, 2]))
    likely = loss_of(made, *largest)(best[:, None])[0]
    losses_of = [loss_of(one, *largest) for one in draws[:OPTIMA]]
    target = gains[:OPTIMA, None] if narrow == "gain" else ends
    proxy_runs = narrowing(target, further, losses_of, noise * float(likely), proxies)
    found = Mix(
        domains=runs.domains, losses=share, at=scale, weights=best, intervals=np.quantile(ends, tails, axis=0).T,
        natural=origin, loss=natural_loss - float(np.median(gains)), natural_loss=natural_loss,
        gain_interval=(float(lo), float(hi)),
        level=level, rise=noise, flatness=flat(loss, best, caps, noise),
        epochs=best * scale.get("tokens", math.nan) / limits, cap=math.nan if cap is None else cap,
        proxies=proxy_runs, narrowed=narrow,
        held_out={name: _judged(runs.frame[name], one.left_out) for name, one in made.items()},
        tried=runs.frame[[WEIGHT + name for name in runs.domains]].assign(
            loss=sum(share[name] * runs.frame[name].to_numpy(float) for name in made),
            predicted=sum(share[name] * one.left_out for name, one in made.items()),
        ), surrogates=made,
        conventions=runs.conventions, notes=(*runs.notes, *notes),
    )  # fmt: skip
    return Mix(**(vars(found) | {"findings": tuple(_findings(found, runs, caps))}))


def _losses(losses: Mapping[str, float] | Sequence[str] | str) -> dict[str, float]:
    if isinstance(losses, str):
        losses = [losses]
    given = dict(losses) if isinstance(losses, Mapping) else dict.fromkeys(losses, 1.0)
    if not given:
        raise ValueError("--loss: name a column of the table")
    for name, weight in given.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"--loss {name}={weight:g}: a weight must be positive and finite")
    return given


def _scale(runs: Mixtures, at: Mapping[str, float] | None, tokens: float | None) -> tuple[dict[str, float], list[str]]:
    """n_params and tokens of the run asked about; what is left out is that of the largest run, if runs have one."""
    given, notes = dict(at or {}), []
    if tokens is not None:
        if "tokens" in given:
            raise ValueError(f"--at tokens={given['tokens']:g} and --tokens {tokens:g}: keep one of them")
        given["tokens"] = tokens
    known = ("n_params", "tokens")
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"--at {name}={value:g}: not one of {', '.join(known)}{hint(name, known)}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--at {name}={value:g}: it must be positive and finite")
    for name in runs.varies:
        if name not in given:
            given[name] = float(runs.frame[name].max())
            notes.append(f"{name} is that of the largest run, {given[name]:.4g}; --at {name}=VALUE asks for another")
    return given, notes


def _unique(runs: Mixtures, unique: Mapping[str, float] | None) -> Array:
    """Unique tokens (k,) of the domains, NaN where they are not known."""
    given = named_values(unique or {}, runs.domains, "--unique")
    return np.array([given.get(name, held) for name, held in zip(runs.domains, runs.unique, strict=True)])


def _caps(domains: tuple[str, ...], unique: Array, cap: float | None, tokens: float | None) -> Array:
    """The largest share (k,) of each domain that `cap` epochs of it allow."""
    if cap is None:
        return np.ones(len(domains))
    if not (math.isfinite(cap) and cap > 0):
        raise ValueError(f"--cap epochs={cap:g}: it must be positive and finite")
    if tokens is None:
        raise ValueError(f"--cap epochs={cap:g}: how many tokens does the run take? Add --tokens")
    if np.isnan(unique).all():
        raise ValueError(
            f"--cap epochs={cap:g}: the unique tokens of no domain are known: add --unique {domains[0]}=TOKENS, or a "
            f"column unique_tokens_{domains[0]}"
        )
    caps = np.where(np.isnan(unique), 1.0, np.minimum(1.0, cap * np.nan_to_num(unique) / tokens))
    if caps.sum() < 1.0:
        needed = tokens / np.nansum(unique)
        raise NoMixtureError(
            f"--cap epochs={cap:g}: all {len(domains)} corpora together hold {np.nansum(unique):.4g} tokens, and "
            f"{tokens:.4g} take {needed:.3g} epochs of them; raise the cap or lower --tokens"
        )
    return caps


def _natural(runs: Mixtures, natural: Mapping[str, float] | None, unique: Array, notes: list[str]) -> Array:
    """The proportions (k,) that a gain is over."""
    if natural:
        given = named_values(natural, runs.domains, "--natural")
        shares = np.array([given.get(name, 0.0) for name in runs.domains])
        if abs(shares.sum() - 1) > BEYOND:
            raise ValueError(f"--natural: the weights add up to {shares.sum():.4g} and not to 1")
        return shares / shares.sum()
    if np.isfinite(unique).all() and unique.sum() > 0:
        return unique / unique.sum()
    notes.append("natural proportions are taken to be the mean of the mixtures tried; --natural NAME=WEIGHT gives them")
    return runs.shares.mean(axis=1)


def _draws(made: Mapping[str, Surrogate], seed: int) -> list[dict[str, Member]]:
    """DRAWS draws of the surrogates of all losses."""
    drawn = {name: one.drawn(DRAWS, np.random.default_rng([seed, i])) for i, (name, one) in enumerate(made.items())}
    return [{name: drawn[name][b] for name in made} for b in range(DRAWS)]


def _judged(loss: pd.Series, predicted: Array) -> tuple[float, float]:
    """Spearman's rank correlation and rms of ln loss on mixtures left out."""
    measured = loss.reset_index(drop=True).astype(float)
    rank = float(pd.Series(predicted).rank().corr(measured.rank()))
    return rank, float(np.sqrt(np.mean(np.log(predicted / measured.to_numpy()) ** 2)))


def _findings(found: Mix, runs: Mixtures, caps: Array) -> Iterator[Finding]:
    yield from runs.findings
    tried = runs.shares
    for name, weight, row in zip(found.domains, found.weights, tried, strict=True):
        if not row.min() - BEYOND <= weight <= row.max() + BEYOND:
            yield Finding(
                "outside_data", "warn",
                f"the best share of {name} is {weight:.3f}, and those tried are {row.min():.3f} to {row.max():.3f}",
                "train mixtures beyond it, as the proxies say",
            )  # fmt: skip
    for name in ("n_params", "tokens"):
        if name in found.at and name in runs.varies:
            low, high = runs.frame[name].min(), runs.frame[name].max()
            if not low <= found.at[name] * 1.001 or not found.at[name] <= high * 1.001:
                yield Finding(
                    "outside_data", "info", f"{name} {found.at[name]:.4g} is beyond the runs, {low:.4g} to {high:.4g}",
                    "add runs towards it: a best mixture may move with scale",
                )  # fmt: skip
        elif name in found.at:
            known = (
                f" has {runs.frame[name].iloc[0]:.4g}" if name in runs.frame and runs.frame[name].notna().all() else ""
            )
            yield Finding(
                "scale_not_varied", "warn",
                f"every run{known or ' is of one scale'}: that the order of mixtures is the same at {name} "
                f"{found.at[name]:.4g} is assumed",
                f"train some mixtures at another {name}",
            )  # fmt: skip
    for name, weight, most, epochs in zip(found.domains, found.weights, caps, found.epochs, strict=True):
        if math.isfinite(found.cap) and most < 1 and weight >= most - 1e-4:
            yield Finding(
                "epochs_capped", "info", f"{name} is held at {weight:.3f} by the cap: {epochs:.3g} epochs of it",
                "more text of it, or a higher cap, would lower the loss",
            )  # fmt: skip
    if math.isnan(found.cap) and np.nan_to_num(found.epochs).max() > 4:
        at = int(np.argmax(np.nan_to_num(found.epochs)))
        yield Finding(
            "epochs_not_capped", "warn", f"{found.domains[at]} would be repeated {found.epochs[at]:.3g} times",
            "bound repeats with --cap epochs=4: the law knows nothing of them",
        )  # fmt: skip
    if found.gain_interval[0] <= 0:
        yield Finding(
            "gain_not_clear", "warn", "the interval of the gain holds 0", "run the proxies, or more seeds of them"
        )
    for name, (rank, _) in found.held_out.items():
        if not rank >= LOW_RANK:
            yield Finding(
                "mixtures_not_ranked", "warn", f"{name} of mixtures left out is ranked with Spearman {rank:.2f} only",
                "run more mixtures, or longer ones",
            )  # fmt: skip
