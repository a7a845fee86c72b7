"""Which law of tuning a sweep can tell: the columns that vary on their own, and the exponents that they decide."""

from dataclasses import dataclass, replace

import numpy as np

from isoflop.scaling.fitting.fit import Fit, FitError, fit
from isoflop.scaling.laws.axes.tuning import RATE, RateBowl, rate_bowl
from isoflop.scaling.laws.special_functions import fdtrc
from isoflop.scaling.tuning.sweep import CLIFF, Sweep, levels

COLUMN = {"N": "n_params", "D": "tokens", "T": "batch_tokens", "W": "weight_decay"}
USUAL = {"alpha": 0.35, "beta": 0.35, "g": 0.5}  # exponents where a sweep has too few values to tell them
FEW = 3  # values of a column: fewer tell no exponent, and no optimum
JUMPS = 0.01  # level at which losses far from the lowest are found to follow another bowl than those near it
SKEWED = 2e-3  # level at which a bowl is found to be skewed: one symmetric one in five hundred
EXACT = 1e-9  # of ln loss: losses without noise
ALONG = 0.1  # of ln: a column that varies by less apart from others is not distinguished from those


@dataclass(frozen=True)
class Choice:
    """The law to fit, its exponents that are held, and why a column that varies is no input (`along`, by its name)."""

    form: type[RateBowl]
    held: dict[str, float]
    along: dict[str, str]
    several_batches: bool  # enough for a best one


def choose(sweep: Sweep) -> Choice:
    """The law of tuning with as many inputs, powers and exponents as a sweep can tell."""
    inputs, along = _inputs(sweep)
    counts = {k: len(sweep.values(name)) for k, name in COLUMN.items()}
    powers: list[str] = [k for k in ("N", "D") if k in inputs and not (k == "D" and "T" in inputs)]
    if "T" in inputs:
        both = counts["T"] >= FEW or "D" in inputs
        powers += ["S", "T"] if both else ["S" if _larger_batch_is_worse(sweep) else "T"]
    names = [k for k in ("N", "D", "T") if k in inputs]
    labels = [levels(sweep.rows[COLUMN[k]].to_numpy(float)) for k in names]
    cells = len(np.unique(np.column_stack(labels), axis=0)) if names else 1
    identified = {
        "alpha": counts["N"] >= FEW,
        "beta": counts["D"] >= FEW or ("T" in inputs and counts["T"] >= FEW + 1),
        "g": counts["T"] >= FEW + 1 or (counts["T"] >= FEW and "D" in inputs),
    }
    spare = cells - 1 - len(powers)  # levels of cells beyond a floor and amplitudes
    held = {}
    for k in powers:
        exponent = {"N": "alpha", "D": "beta", "S": "beta", "T": "g"}[k]
        if identified[exponent] and spare > 0:
            spare -= 1
        else:
            held[exponent] = USUAL[exponent]
    if len(sweep.values("weight_decay")) >= FEW:
        inputs.append("W")
    return Choice(
        rate_bowl((*inputs, "r"), tuple(powers)), held, along, {"S", "T"} <= set(powers) and counts["T"] >= FEW
    )


def skewed(choice: Choice) -> Choice:
    """The same law with a bowl that rises faster above its bottom than below it; itself where decays have a bowl too.

    >>> from isoflop.scaling.laws.axes.tuning import rate_bowl
    >>> skewed(Choice(rate_bowl(("r",), ()), {}, {}, False)).form.formula
    'L = E + q (e^(s x) - s x - 1)/s^2, x = ln(r/best)'
    """
    form = choice.form
    if "W" in form.inputs:
        return choice
    return replace(choice, form=rate_bowl(form.inputs, tuple(k for _, _, k in form.terms), skewed=True))


def fit_bowl(sweep: Sweep) -> tuple[Sweep, Choice, Fit]:
    """The law of tuning of a sweep with its fit, and the runs that it was fitted to.

    Where the loss rises faster above the best rate than below it, as before runs diverge, a parabola through a wide
    range of rates has its bottom too low: the bowl is then skewed. It is of the rates near the lowest loss alone where
    those beyond them do not follow it, as where losses jump (Chow 1960, the test of further observations).
    Raises FitError where no law can be fitted.
    """
    choice = choose(sweep)
    fitted = fit(choice.form, sweep.points, fixed=choice.held)
    other, near = skewed(choice), sweep.within(CLIFF)
    if other.form is choice.form or _tried(sweep) <= len(other.form.parameters()):
        return sweep, choice, fitted
    try:
        steep = fit(other.form, sweep.points, fixed=other.held)
    except FitError:
        return sweep, choice, fitted
    if not _is_better(steep, fitted):
        return sweep, choice, fitted
    if _tried(near) <= len(other.form.parameters()):
        return sweep, other, steep
    try:
        close = fit(other.form, near.points, fixed=other.held)
    except FitError:
        return sweep, other, steep
    return (near, other, close) if _jumps(steep, close) else (sweep, other, steep)


def _is_better(steep: Fit, fitted: Fit) -> bool:
    """Whether one more parameter, the skew, takes up more than chance (F test; with few rates it takes up much)."""
    freedom = len(steep.points) - len(steep.free)
    if freedom < 1:
        return False
    ratio = (_spread(fitted) / _spread(steep)) ** 2
    return bool(fdtrc(1, freedom, max(ratio - 1, 0.0) * freedom) < SKEWED)


def _jumps(whole: Fit, near: Fit) -> bool:
    """Whether the runs of `whole` that `near` lacks scatter more around the law than those of `near` allow."""
    further, freedom = len(whole.points) - len(near.points), len(near.points) - len(near.free)
    if further < 1 or freedom < 1:
        return True
    inside = max(float(np.sum(near.residuals**2)), len(near.points) * EXACT**2)
    outside = float(np.sum(whole.residuals**2)) - inside
    return bool(fdtrc(further, freedom, max(outside, 0.0) / further / (inside / freedom)) < JUMPS)


def _tried(sweep: Sweep) -> int:
    """How many rates were tried over all cells."""
    return len(sweep.rows[["cell", RATE.name]].drop_duplicates())


def _spread(fitted: Fit) -> float:
    return max(float(np.sqrt(np.mean(fitted.residuals**2))), EXACT)


def _inputs(sweep: Sweep) -> tuple[list[str], dict[str, str]]:
    """The columns of size, tokens and batch that vary apart from those before them; why others are none."""
    found: list[str] = []
    along: dict[str, str] = {}
    design = np.ones((len(sweep.rows), 1))
    for k in ("N", "D", "T"):
        if len(sweep.values(COLUMN[k])) < 2:
            continue
        log = np.log(sweep.rows[COLUMN[k]].to_numpy(float))
        own = log - design @ np.linalg.lstsq(design, log, rcond=None)[0]
        if np.std(own) < ALONG:
            along[COLUMN[k]] = " and ".join(COLUMN[other] for other in found)
            continue
        found.append(k)
        design = np.column_stack([design, log])
    return found, along


def _larger_batch_is_worse(sweep: Sweep) -> bool:
    batch = sweep.rows["batch_tokens"].to_numpy(float)
    lowest = sweep.rows.assign(large=batch > np.sqrt(batch.min() * batch.max())).groupby("large")["loss"].min()
    return bool(lowest[True] > lowest[False])
