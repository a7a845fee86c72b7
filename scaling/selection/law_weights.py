"""Weights of laws from their forecasts at rolling origins, and the law that those prefer."""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.scaling.fitting.fit import Fit, FitError
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.selection.rolling_origins import HoldOutError, fit_at
from isoflop.scaling.selection.scoreboard import CompareError, compare
from isoflop.scaling.table.conventions import Points

NOT_JOINT = "it does not weigh n_params against tokens"


class NoLawError(ValueError):
    """No law of both N and D can be fitted to a table."""

    exit_code = 1


@dataclass(frozen=True)
class WeightedLaws:
    """Fits of laws of both N and D, each with its weight by held-out runs; the weights sum to 1.

    `preferred` is the one to quote by itself, `discrepancy` the standard deviation of ln loss that its forecasts missed
    per unit of ln(scale) extrapolated (see Scoreboard). `refused` names the laws left out, with the reason.
    """

    fits: dict[str, Fit]
    weights: dict[str, float]
    preferred: str
    discrepancy: float
    refused: dict[str, str]
    notes: tuple[str, ...]


def weigh_laws(data: Points, laws: Sequence[str], objective: Objective, *, joint: bool = True) -> WeightedLaws:
    """Weigh laws by their forecasts at rolling origins, or equally where the table is too small to hold anything out.

    Raises NoLawError when no law of both N and D can be fitted; without `joint`, no law at all.
    """
    data = data.in_order()
    try:
        board = compare(data, laws, objective=objective, findings=False)
        every = {law: e.fit for law, e in board.entrants.items()}
        fits, refused = _surfaces(every, board.refused, joint)
        if fits:
            preferred = board.preferred if board.preferred in fits else min(fits, key=lambda f: board.frame["error"][f])
            weights = {law: board.weights[law] for law in fits}
            if not sum(weights.values()):
                weights = dict.fromkeys(fits, 1.0 / len(fits))
            return WeightedLaws(fits, weights, preferred, board.discrepancy, refused, _left_out(refused))
    except (HoldOutError, CompareError):
        pass
    every, failed = {}, {}
    for law in laws:
        try:
            every[law] = fit_at(law, data, objective)
        except FitError as error:
            failed[law] = str(error)
    fits, refused = _surfaces(every, failed, joint)
    if not fits:
        of_reason: dict[str, list[str]] = {}
        for law, why in refused.items():
            of_reason.setdefault(why.replace(f"law {law} ", "it "), []).append(law)
        reasons = "; ".join(f"{', '.join(named)}: {why}" for why, named in of_reason.items())
        kind = "law of n_params and tokens" if joint else "law"
        raise NoLawError(f"no {kind} can be fitted: {reasons or 'no law was requested'}")
    note = "too few scales to test the laws on: the interval does not know how far forecasts miss"
    weights = dict.fromkeys(fits, 1.0 / len(fits))
    return WeightedLaws(fits, weights, next(iter(fits)), 0.0, refused, (*_left_out(refused), note))


def _surfaces(fits: dict[str, Fit], refused: dict[str, str], joint: bool) -> tuple[dict[str, Fit], dict[str, str]]:
    """The fits of laws of both N and D, where the others are to join those refused (`joint`); else all."""
    if not joint:
        return fits, refused
    flat = {law: NOT_JOINT for law, f in fits.items() if not {"N", "D"} <= set(f.law.inputs)}
    return {law: f for law, f in fits.items() if law not in flat}, refused | flat


def _left_out(refused: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{law} is left out: {why}" for law, why in refused.items())
