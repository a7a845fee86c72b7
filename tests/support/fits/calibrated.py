"""What is stated about simulated studies, held against their truth: an outcome per statement.

Each function takes a design and the number of a study, and returns the outcomes of that one study. The same numbers
give the same studies, whatever else is checked.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.approaches import approaches
from isoflop.scaling.arms.joint_fit import frontier
from isoflop.scaling.arms.multiplier import multiplier
from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Law
from isoflop.scaling.prediction.forecast import Target, forecast_losses
from tests.support.fits.linear_studies import LinearStudies
from tests.support.fits.simulated_studies import (
    DESIGNS,
    FIVE,
    FURTHER,
    TRUTH,
    Design,
    Noise,
    Surface,
    data_exponent_bends,
    data_exponent_drifts,
    optimum,
    outside_the_stack,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)
FAR = 10.0  # times the largest budget: where N* and the loss are asked for


@dataclass(frozen=True)
class Outcome:
    """Whether one statement held: `quantity` at a `level` (0 where it has none).

    `place` is where the truth lies in the stated distribution, from 0 to 1, where one is stated; `note` lists codes.
    """

    quantity: str
    level: float
    hit: bool
    place: float = float("nan")
    note: str = ""


def _at(factor: float, what: str) -> Callable[[Law], float]:
    def quantity(law: Law) -> float:
        return float(getattr(law.optimal(factor * DESIGNS[0].largest), what))

    return quantity


QUANTITIES: dict[str, str | Callable[[Law], float]] = {
    "E": "E", "alpha": "alpha", "beta": "beta", "a": "a", "b": "b", "frontier exponent": "frontier",
    "N* at 10x": _at(FAR, "N"), "L* at 10x": _at(FAR, "loss"),
}  # fmt: skip


def fit_intervals(design: Design, study: int) -> Iterator[Outcome]:
    """Jackknife intervals of a fit of the right law."""
    draws = jackknife(fit("chinchilla", design.study(_rng(design, study))))
    exponents = TRUTH.exponents()
    for name, quantity in QUANTITIES.items():
        if callable(quantity):
            true = quantity(TRUTH)
        else:
            true = exponents[quantity] if quantity in exponents else getattr(TRUTH, quantity)
        for level in LEVELS:
            lo, hi = draws.interval(quantity, level)
            yield Outcome(name, level, bool(lo <= true <= hi))


def forecasts(design: Design, study: int, law: Surface = TRUTH) -> Iterator[Outcome]:
    """Forecasts of the best run of 10 and 100 times the largest budget, and of its size."""
    rng = _rng(design, study)
    table = design.study(rng, law)
    targets = {reach: Target(reach * design.largest) for reach in (10, 100)}
    for (reach, target), found in zip(targets.items(), forecast_losses(table, list(targets.values())), strict=True):
        size, loss = optimum(law, target.flops)
        measured = np.log(loss) + design.noise.one(size, float(table["n_params"].min()), rng)
        place = float(found.average.cdf(np.array([measured]))[0])
        for level in LEVELS:
            yield Outcome(f"loss at {reach}x", level, abs(place - 0.5) <= level / 2, place)
        assert found.n_average is not None
        place = float(found.n_average.cdf(np.array([np.log(size)]))[0])
        for level in LEVELS:
            yield Outcome(f"N* at {reach}x", level, abs(place - 0.5) <= level / 2, place)


WRONG = {"size bends": outside_the_stack, "data bends": data_exponent_bends, "drifts": data_exponent_drifts}


def wrong_forecasts(design: Design, study: int) -> Iterator[Outcome]:
    """Forecasts where the truth is outside the catalogue: the surface that the design's name ends with."""
    yield from forecasts(design, study, WRONG[design.name.split(": ")[-1]])


RIVALS = {"m = 1.5": 1.5, "m = 1": 1.0, "m grows": None}


def multipliers(design: Design, study: int) -> Iterator[Outcome]:
    """Multipliers of two arms of one design: constant, 1, and growing with compute."""
    base = design.study(_rng(design, study)).assign(arm="base")
    for name, factor in RIVALS.items():
        rival = _cheaper(factor) if factor else _steeper()
        other = design.study(_rng(design, study, arm=1), rival).assign(arm="rival")
        table = pd.concat([base, other.assign(trunk_id="r" + other["trunk_id"], run_id="r" + other["run_id"])])
        pair = multiplier(table.reset_index(drop=True), by="arm", baseline="base").pairs[0]
        ours, theirs = frontier(rival, Cost()), frontier(TRUTH, Cost())
        loss, flops = (pair.at_loss["loss"].to_numpy(), pair.at_compute["flops"].to_numpy())
        true = {"loss": theirs.compute(loss) / ours.compute(loss), "compute": theirs.compute(ours.loss(flops)) / flops}
        for where, frame in {"loss": pair.at_loss, "compute": pair.at_compute}.items():
            inside = (frame["lo"] <= true[where]) & (true[where] <= frame["hi"])
            for place, hit in zip(("first", "middle", "last"), inside, strict=True):
                yield Outcome(f"{name}, {place} {where}", 0.9, bool(hit))
        if factor == 1.0:
            better = pair.at_compute["p_better"].to_numpy()
            yield Outcome("P > .95 for the rival at m = 1", 0, bool(np.mean(better > 0.95) > 0.5))
            yield Outcome("P > .95 for the base at m = 1", 0, bool(np.mean(better < 0.05) > 0.5))
            codes = [f.code for f in pair.findings]
            yield Outcome("verdicts_disagree at m = 1", 0, "verdicts_disagree" in codes, note=" ".join(codes))


def exponents(design: Design, study: int) -> Iterator[Outcome]:
    """The exponent of N* by every approach, and whether the approaches are said to disagree."""
    found = approaches(design.study(_rng(design, study)))
    true = TRUTH.exponents()["a"]
    for row in found.rows:
        if row.power is not None:
            lo, hi = row.power.n_interval
            yield Outcome(f"a by {row.approach} {row.method}", 0.9, bool(lo <= true <= hi))
        elif row.approach != 1:
            yield Outcome(f"no answer by {row.approach} {row.method}", 0, True)
    yield Outcome("approaches_disagree", 0, bool(found.disagreements))


def clean_findings(design: Design, study: int) -> Iterator[Outcome]:
    """Whether a clean study shows any warning."""
    yield _warned(design.study(_rng(design, study)))


def faulty_findings(design: Design, study: int) -> Iterator[Outcome]:
    """Whether each fault of a study is seen: any warning."""
    for name, damaged in FAULTS.items():
        table = damaged(design, _rng(design, study))
        yield replace(_warned(table), quantity=name)
        if damaged is _one_bad_run:
            named = "outliers" in [f.code for f in diagnose(fit("chinchilla", table), None, table)]
            yield Outcome(f"named: {name}", 0, named)


@cache
def _linear(design: Design) -> LinearStudies:
    return LinearStudies(design)


def linear_departures(design: Design, study: int) -> Iterator[Outcome]:
    """Whether a departure is named, with the law linearised: in a clean study, and for each fault at 1% noise."""
    studies = _linear(design)
    faults = studies.faults if design.noise == Noise(0.01) else {}
    for name, shift in {"clean": 0.0, **faults}.items():
        (named,) = studies.named(design.noise, shift, range(study, study + 1))
        yield Outcome(f"departure, {name}", 0, bool(named), note=named.replace(" ", "_").replace(",_", " "))


def _warned(table: pd.DataFrame) -> Outcome:
    fitted = fit("chinchilla", table)
    codes = sorted({f.code for f in diagnose(fitted, jackknife(fitted), table) if f.severity != "info"})
    return Outcome("any warning", 0, bool(codes), note=" ".join(codes))


def _mistuned(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    table = design.study(rng)
    for size, excess in zip(np.unique(table["n_params"]), (0.03, 0.02, 0.01), strict=False):
        table.loc[table["n_params"] == size, "loss"] *= 1 + excess
    return table


def _largest_low(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    table = design.study(rng)
    return table.assign(loss=table["loss"] * np.where(table["budget"] == table["budget"].max(), 0.99, 1.0))


def _one_side(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    table = replace(design, sizes=2 * design.sizes).study(rng)
    best = TRUTH.optimal(table["flops"].to_numpy()).N
    return table[table["n_params"] > 1.2 * best].reset_index(drop=True)


def _unnamed_trunks(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    noise = replace(design.noise, trunk=0.7)
    return replace(design, noise=noise).study(rng).drop(columns=["trunk_id", "run_id"])


def _one_bad_run(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    table = design.study(rng)
    table.loc[rng.integers(len(table)), "loss"] *= 1.05
    return table


KAPPA = Chinchilla(E=0.0, A=1393.6, B=25817.0, alpha=0.641, beta=0.680, kappa=0.355)
FAULTS: dict[str, Callable[[Design, np.random.Generator], pd.DataFrame]] = {
    "kappa law": lambda design, rng: design.study(rng, KAPPA),
    "bent law": lambda design, rng: replace(design, largest=1e12).study(rng, outside_the_stack),
    "three smallest sizes mistuned by 3, 2, 1%": _mistuned,
    "largest budget 1% low": _largest_low,
    "sizes above the optimum alone": _one_side,
    "unnamed trunks, 70% of the variance": _unnamed_trunks,
    "one run 5% high": _one_bad_run,
}


def _cheaper(factor: float) -> Chinchilla:
    """TRUTH for a constant factor less compute."""
    half = np.sqrt(factor)
    a, b = TRUTH.A * half**-TRUTH.alpha, TRUTH.B * half**-TRUTH.beta
    return Chinchilla(TRUTH.E, a, b, TRUTH.alpha, TRUTH.beta)


def _steeper() -> Chinchilla:
    """Exponents 12% larger than those of TRUTH, equal in loss in the middle of the designs' budgets."""
    best = TRUTH.optimal(DESIGNS[0].largest / 12)
    alpha, beta = 1.12 * TRUTH.alpha, 1.12 * TRUTH.beta
    a, b = TRUTH.A * best.N ** (alpha - TRUTH.alpha), TRUTH.B * best.D ** (beta - TRUTH.beta)
    return Chinchilla(TRUTH.E, float(a), float(b), alpha, beta)


def _rng(design: Design, study: int, arm: int = 0) -> np.random.Generator:
    return np.random.default_rng([study, arm, *design.name.encode()])


EMBEDDED = tuple(replace(DESIGNS[3], name=f"35 runs, 1%, embedded: {name}", largest=1e12) for name in WRONG)
CLEAN = tuple(
    Design(f"clean: {name}", 5, 7, noise, replicated=4)
    for name, noise in {
        "iid .5%": Noise(0.005), "iid 1%": Noise(0.01), "iid 2.6%": Noise(0.026), "trunk 1%": Noise(0.01, trunk=0.7),
        "2.6% falling": Noise(0.026, falling=0.35), "t(3) 1%": Noise(0.01, heavy=True),
    }.items()
)  # fmt: skip
FAULTY = (replace(CLEAN[1], name="faults: iid 1%"),)


@dataclass(frozen=True)
class Part:
    """One part of the proof: what is asked of each study, on which designs, by default so many studies.

    `bars` holds (least, most) of the share of hits by level, or by the beginning of the quantity's name; `shared`
    those where seeds share noise between sizes, None where that is not looked at.
    """

    outcomes: Callable[[Design, int], Iterator[Outcome]]
    designs: tuple[Design, ...]
    studies: int
    bars: dict[float | str, tuple[float, float]]
    shared: dict[float | str, tuple[float, float]] | None = None


PARTS = {
    "fit": Part(fit_intervals, DESIGNS + FURTHER, 400, {0.9: (0.86, 0.96)}, {0.9: (0.86, 1.0)}),
    "predict": Part(forecasts, (DESIGNS[3], DESIGNS[5], DESIGNS[9]), 200, {0.5: (0.42, 0.58), 0.9: (0.86, 0.96)}),
    "predict, wrong law": Part(wrong_forecasts, EMBEDDED, 200, {"N* at 100x": (0.8, 1.0), "loss": (0.86, 1.0)}),
    "multiplier": Part(
        multipliers, (DESIGNS[3], DESIGNS[4], DESIGNS[7], DESIGNS[9]), 200,
        {0.9: (0.86, 0.96), "P > .95": (0.0, 0.06), "verdicts": (0.0, 0.08)},
    ),
    "approaches": Part(exponents, FIVE, 300, {"a by 2": (0.86, 0.96), "no answer": (0.0, 1.0)}),
    "departures, linearised": Part(
        linear_departures, CLEAN, 1000,
        {"departure, clean": (0.0, 0.13), "departure, three": (0.36, 1.0), "departure, largest": (0.24, 1.0),
         "departure, bent": (0.7, 1.0)},
    ),
    "clean findings": Part(clean_findings, CLEAN, 300, {"any warning": (0.0, 0.15)}),
    "power": Part(
        faulty_findings, FAULTY, 300,
        {"kappa": (0.9, 1.0), "bent": (0.7, 1.0), "three smallest": (0.8, 1.0), "largest": (0.7, 1.0),
         "sizes above": (0.9, 1.0), "unnamed": (0.8, 1.0), "one run": (0.9, 1.0),
         "named: one run": (0.9, 1.0)},
    ),
}  # fmt: skip
