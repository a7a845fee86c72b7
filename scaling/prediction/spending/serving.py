"""Compute-optimal sizes when inference counts, or when tokens are scarce.

Inference: training costs k N D, serving D_inf tokens costs 2 N D_inf; the least total for one loss is at a smaller
model trained for longer (Sardana et al. 2024, arXiv 2401.00448). Caps: on all training tokens, or on unique tokens,
whose repeats are worth less and less (Muennighoff et al. 2023, arXiv 2305.16264).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from isoflop.printable import loss_text
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import Law
from isoflop.scaling.prediction.forecast import FAR, LossForecast
from isoflop.scaling.prediction.target import BORROWED, best_run

INFERENCE_FLOPS = 2.0  # per parameter and token served
LITTLE = 0.1  # weight of a law in a forecast: below, an answer by that law alone says so


class ServingError(ValueError):
    """No allocation meets the request; the message names the option and the reason."""

    exit_code = 1


@dataclass(frozen=True)
class Serving:
    """An allocation of parameters and tokens, and its costs in FLOPs.

    `total` is training plus inference; `saved` is 1 - total over the total of the training-optimal model of the same
    loss (0 when nothing is served). `epochs` counts passes over the unique tokens.
    """

    n_params: float
    tokens: float
    loss: float
    training: float
    inference: float
    total: float
    saved: float
    epochs: float
    note: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dict(vars(self))

    def __str__(self) -> str:
        return (
            f"{self.note}: {self.n_params:.4g} parameters on {self.tokens:.4g} tokens "
            f"({self.tokens / self.n_params:.3g} each), loss {loss_text(self.loss)}, {self.training:.3g} FLOPs to train"
            + (f" and {self.inference:.3g} to serve, {self.saved:.1%} saved" if self.inference else "")
            + (f", {self.epochs:.2f} epochs" if self.epochs > 1 else "")
        )


def serve(law: Chinchilla, C: float, inference_tokens: float, cost: Cost = SIX_ND) -> Serving:
    """The allocation that reaches the loss of the training-optimal model at C FLOPs for the least total compute.

    Total is training plus inference of `inference_tokens`. At the optimum, with T the training FLOPs,
    alpha A N^-alpha / (beta B D^-beta) = d ln T / d ln N + 2 N D_inf / T; for C = 6 N D that is 1 + D_inf / (3 D).
    """
    if inference_tokens < 0:
        raise ServingError(f"--inference-tokens {inference_tokens:g}: must not be negative")
    best = law.optimal(C, cost)
    goal = float(best.loss)

    def tokens(log_n: float) -> float:
        """Tokens that a model of this size needs for the goal."""
        rest = (goal - law.E) ** (1 / law.kappa) - law.A * np.exp(-law.alpha * log_n)
        return float((law.B / rest) ** (1 / law.beta)) if rest > 0 else np.inf

    def balance(log_n: float) -> float:
        n, d = np.exp(log_n), tokens(log_n)
        if not np.isfinite(d):
            return np.inf
        ratio = law.alpha * law.A * n**-law.alpha / (law.beta * law.B * d**-law.beta)
        return float(ratio - cost.growth(n) - INFERENCE_FLOPS * n * inference_tokens / cost.flops(n, d))

    from scipy.optimize import brentq  # slow to import, and only this needs it

    smallest = np.log(law.A / (goal - law.E) ** (1 / law.kappa)) / law.alpha
    log_n = (
        float(brentq(balance, smallest + 1e-9, np.log(best.N) + 1e-9)) if inference_tokens else float(np.log(best.N))
    )
    n, d = float(np.exp(log_n)), tokens(log_n)
    training, inference = float(cost.flops(n, d)), INFERENCE_FLOPS * n * inference_tokens
    plain = C + INFERENCE_FLOPS * float(best.N) * inference_tokens
    note = f"cheapest over training and {inference_tokens:.3g} tokens served"
    return Serving(n, d, goal, training, inference, training + inference, 1 - (training + inference) / plain, 0.0, note)


def off_optimum(law: Chinchilla, C: float, factor: float, cost: Cost = SIX_ND) -> tuple[float, float]:
    """The extra loss of a size `factor` times the optimum at C FLOPs, and the factor of compute that it wastes.

    The latter is C over the compute that reaches the same loss at its own optimum; NaN where the best loss is the floor
    itself, to rounding, which no compute lowers.
    """
    if not factor > 0:
        raise ServingError(f"a factor of the optimal size must be positive, not {factor}")
    best = law.optimal(C, cost)
    n = best.N * factor
    loss = float(law(n, cost.tokens(C, n)))
    slope = law.exponents(Cost(slope=float(cost.growth(best.N)) - 1))["frontier"]
    left = float(best.loss) - law.E
    waste = ((loss - law.E) / left) ** (1 / slope) if left > 0 else float("nan")
    return loss - float(best.loss), float(waste)


def capped(law: Chinchilla, C: float, most_tokens: float, cost: Cost = SIX_ND) -> Serving:
    """The best allocation of C FLOPs with at most `most_tokens` tokens, each seen once: larger models if that binds."""
    _check_positive("--token-cap", most_tokens)
    best = law.optimal(C, cost)
    if most_tokens >= best.D:
        n, d, note = float(best.N), float(best.D), "the cap on tokens does not bind"
    else:
        n = float(cost.size(C, tokens=most_tokens))
        d, note = most_tokens, f"all {most_tokens:.3g} tokens, the rest of the compute in size"
    return Serving(n, d, float(law(n, d)), C, 0.0, C, 0.0, 1.0, note)


def repeated(
    law: Law, C: float, unique_tokens: float, cost: Cost = SIX_ND, worths: tuple[float, float] = BORROWED
) -> Serving:
    """The best allocation of C FLOPs with `unique_tokens` unique tokens, whose repeats are worth less and less.

    A law that does not read unique tokens takes the decay `worths`, R_D and R_N; by default the published one, which
    was measured for 1 to about 60 epochs of web text.
    """
    _check_positive("--unique-tokens", unique_tokens)
    note = f"{unique_tokens:.3g} unique tokens, repeats allowed"
    if "U" not in law.inputs:
        whence = "borrowed from Muennighoff et al. 2023" if worths == BORROWED else "fitted to this table"
        note += f", their decay {whence}"
    best = best_run(law, C, cost, unique_tokens, worths)
    epochs = max(float(best.D) / unique_tokens, 0.0)
    return Serving(float(best.N), float(best.D), float(best.loss), C, 0.0, C, 0.0, epochs, note)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ServingError(f"{name} {value:g}: must be positive")


def allocations(
    forecast: LossForecast,
    inference_tokens: float | None = None,
    token_cap: float | None = None,
    unique_tokens: float | None = None,
) -> tuple[list[Serving], dict[str, str], list[str]]:
    """The requested allocations at the compute of a forecast, under its law of the most weight without a break: of
    all its laws where tokens repeat, else of those of Chinchilla's form.

    Also returns, by option, why there is no allocation; and notes on those that no run of the table is like.
    """
    requested: dict[str, tuple[Callable[..., Serving], type[Law], float | None]] = {
        "--inference-tokens": (serve, Chinchilla, inference_tokens),
        "--token-cap": (capped, Chinchilla, token_cap),
        "--unique-tokens": (partial(repeated, worths=forecast.worths), Law, unique_tokens),
    }
    made, failed, notes = [], {}, []
    for option, (allocate, form, value) in requested.items():
        if value is None:
            continue
        try:
            heaviest = forecast.heaviest(form)
            if heaviest is None:
                raise ServingError("no law of Chinchilla's form was fitted: allow one with --laws")
            name, law = heaviest
            found = allocate(law, forecast.target.flops, value, forecast.points.cost)
            if option != "--unique-tokens":
                _check_fresh(found, forecast.target.unique_tokens)
        except ValueError as error:
            failed[option] = str(error)
            continue
        made.append(replace(found, note=f"{found.note} ({_of_one(name, forecast)})"))
        notes += [f"{option}: {note}" for note in _unlike_the_table(found, forecast)]
    return made, failed, notes


def _of_one(law: str, forecast: LossForecast) -> str:
    """What an allocation rests on: one law without a break, with its weight where the answer hardly heeds it."""
    weight = float(forecast.laws.loc[law, "weight"])
    return f"{law} without a break" + f", which has a weight of {weight:.2f} in the answer" * (weight < LITTLE)


def _check_fresh(found: Serving, unique: float | None) -> None:
    if unique is not None and found.tokens > unique:
        raise ServingError(
            f"it counts every token as new, and would train on {found.tokens:.4g} tokens, the {unique:.4g} of "
            f"--unique-tokens {found.tokens / unique:.3g} times: ask for one of the two"
        )


def _unlike_the_table(found: Serving, forecast: LossForecast) -> list[str]:
    """What of an allocation lies beyond every run of the table, where one law alone speaks, without an interval."""
    frame, said = forecast.points.frame, []
    ratio, seen = found.tokens / found.n_params, frame["tokens"] / frame["n_params"]
    if not seen.min() <= ratio <= seen.max():
        said.append(f"{ratio:.3g} tokens per parameter, and the runs have {seen.min():.3g} to {seen.max():.3g}")
    if (reach := found.training / frame["flops"].max()) > FAR:
        said.append(f"a training of {found.training:.3g} FLOPs, {reach:.3g} times the largest compute")
    return [f"{one}: one law carried beyond its data, without an interval" for one in said]


def off_optimum_line(forecast: LossForecast, factors: tuple[float, ...] = (0.25, 0.5, 2.0, 4.0)) -> str:
    """A line on the cost of sizes off the optimum at the compute of a forecast.

    Empty for a target of given size, with repeats, where no law has Chinchilla's form, or where its best loss is its
    floor.
    """
    target = forecast.target
    heaviest = forecast.heaviest(Chinchilla)
    if heaviest is None or not target.optimal or target.unique_tokens is not None:
        return ""
    name, law = heaviest
    costs = [(f, off_optimum(law, target.flops, f, forecast.points.cost)) for f in factors]
    if not np.isfinite([cost for _, cost in costs]).all():
        return ""
    listed = ", ".join(
        f"{f:g}x {loss_text(extra, of=forecast.loss, sign='+')} (compute x{waste:.2f})" for f, (extra, waste) in costs
    )
    return f"  off the best size, in {forecast.points.loss_unit} ({_of_one(name, forecast)}): {listed}"
