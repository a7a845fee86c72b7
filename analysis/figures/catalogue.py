"""The figures by name: what each needs from the evidence, the data behind it, and what its caption says."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figures.allocation import allocation_frame, comparable, plot_allocation
from isoflop.analysis.figures.bowls import bowl_frame, plot_bowls
from isoflop.analysis.figures.cost import cost_frame, plot_sweep_cost, plot_throughput
from isoflop.analysis.figures.curves import learning_curves, plot_learning_curves
from isoflop.analysis.figures.exponents import exponent_frame, plot_exponents
from isoflop.analysis.figures.isoflop import isoflop_frame, plot_isoflop
from isoflop.analysis.figures.multiplier import multiplier_frame, plot_multiplier
from isoflop.analysis.figures.positions import plot_positions, positions_frame
from isoflop.analysis.figures.prediction import forecast_errors, plot_forecast_errors, plot_prediction, prediction_frame
from isoflop.analysis.figures.residuals import plot_residuals, residual_frame
from isoflop.analysis.figures.scoreboard import plot_scoreboard, scoreboard_frame
from isoflop.analysis.figures.sensitivity import plot_sensitivity
from isoflop.analysis.figures.slope import plot_local_slope, slope_frame
from isoflop.analysis.figures.surface import plot_surface, surface_frame

Draw = Callable[[Evidence, Axes | None], Axes]


@dataclass(frozen=True)
class Figure:
    """`draw(evidence, ax)` and `data(evidence)` raise ValueError with the reason when the table cannot support it."""

    name: str
    caption: str
    draw: Draw
    data: Callable[[Evidence], pd.DataFrame]


def _bowls(e: Evidence) -> pd.DataFrame:
    return bowl_frame(e.ends, params=e.params)


def _cost(e: Evidence) -> pd.DataFrame:
    return cost_frame(e.ends, params=e.params)


def _profiles_or_none(e: Evidence):
    return _optional(lambda: e.profiles) or ()


def _optional(get: Callable):
    try:
        return get()
    except UnsupportedError:
        return None


def _curves(e: Evidence) -> pd.DataFrame:
    return learning_curves(e.table, params=e.params)


def _allocation(quantity: str) -> tuple[Draw, Callable[[Evidence], pd.DataFrame]]:
    def draw(e: Evidence, ax: Axes | None) -> Axes:
        draws, published = _optional(lambda: e.draws), comparable(e.points.frame)
        profiles = _profiles_or_none(e)
        return plot_allocation(e.optimum, draws, quantity=quantity, profiles=profiles, published=published, ax=ax)

    return draw, lambda e: allocation_frame(e.optimum, _optional(lambda: e.draws), quantity=quantity)


def _residuals(by: str) -> Draw:
    return lambda e, ax: plot_residuals(e.fit, by=by, ax=ax)


def _pair(e: Evidence) -> tuple[str, str]:
    """What to show jointly: the two exponents, or the one they are tied to against the floor it trades with."""
    return ("alpha", "E") if e.fit.problem.tied else ("alpha", "beta")


def _prediction(e: Evidence, ax: Axes | None) -> Axes:
    law = e.law_name if e.law_name in e.held_out.forecasts else None
    rival = next((r for r in ("chinchilla", "chinchilla-kappa") if r != law), None)
    return plot_prediction(e.held_out, law=law, rival=rival, ax=ax)


FIGURES: dict[str, Figure] = {
    f.name: f
    for f in (
        Figure(
            "isoflop", "Loss against model size at equal compute. Diamonds: the optimum of each budget.",
            lambda e, ax: plot_isoflop(e.profiles, ax=ax), lambda e: isoflop_frame(e.profiles),
        ),
        Figure("n_star", "The model size that spends compute best, with the law's 90% band.", *_allocation("n_params")),
        Figure("d_star", "The tokens that spend compute best, with the law's 90% band.", *_allocation("tokens")),
        Figure(
            "prediction", "Laws fitted without the largest budget, drawn over its runs.",
            _prediction, lambda e: prediction_frame(e.held_out),
        ),
        Figure(
            "surface", "The law and the runs on one colour scale; white line: the efficient frontier.",
            lambda e, ax: plot_surface(e.fit, ax=ax), lambda e: surface_frame(e.fit),
        ),
        Figure(
            "curves", "Held-out loss along training, darker for larger models.",
            lambda e, ax: plot_learning_curves(_curves(e), envelope=_optional(lambda: e.envelope), ax=ax), _curves,
        ),
        *(
            Figure(
                f"residuals_{by}", f"What the law leaves over, against {by}.", _residuals(by),
                lambda e: residual_frame(e.fit),
            )
            for by in ("flops", "n_params", "tokens")
        ),
        Figure(
            "forecast_errors", "The forecast's error on the runs it was fitted to and on those it was not.",
            lambda e, ax: plot_forecast_errors(e.held_out, ax=ax), lambda e: forecast_errors(e.held_out),
        ),
        Figure(
            "scoreboard", "Laws, a baseline without a law and a stack of all, by their error on the next scale.",
            lambda e, ax: plot_scoreboard(e.scoreboard, ax=ax), lambda e: scoreboard_frame(e.scoreboard),
        ),
        Figure(
            "exponents", "Bootstrap draws of the exponents; contours hold 50% and 90%.",
            lambda e, ax: plot_exponents(e.resamples, names=_pair(e), ax=ax),
            lambda e: exponent_frame(e.resamples, _pair(e)),
        ),
        Figure(
            "local_slope", "Slope of ln loss in ln compute along the frontier: bends when the floor is felt.",
            lambda e, ax: plot_local_slope(e.optimum, _optional(lambda: e.draws), profiles=_profiles_or_none(e), ax=ax),
            lambda e: slope_frame(e.optimum, _optional(lambda: e.draws)),
        ),
        Figure(
            "sensitivity", "The exponent of N* when the analysis is changed.",
            lambda e, ax: plot_sensitivity(e.sensitivity, ax=ax), lambda e: e.sensitivity,
        ),
        Figure(
            "multiplier", "Compute of the baseline over compute of the arm, at equal loss.",
            lambda e, ax: plot_multiplier(e.multipliers, ax=ax), lambda e: multiplier_frame(e.multipliers),
        ),
        Figure(
            "bowls", "Loss against peak learning rate; diamonds: the best rate.",
            lambda e, ax: plot_bowls(_bowls(e), ax=ax), _bowls,
        ),
        Figure(
            "positions", "Loss by position in the window, of each arm's best run.",
            lambda e, ax: plot_positions(positions_frame(e.table), ax=ax), lambda e: positions_frame(e.table),
        ),
        Figure("throughput", "Training speed of each run.", lambda e, ax: plot_throughput(_cost(e), ax=ax), _cost),
        Figure("cost", "Hours of training by budget.", lambda e, ax: plot_sweep_cost(_cost(e), ax=ax), _cost),
    )
}  # fmt: skip


def get_figure(name: str) -> Figure:
    """Raises ValueError listing the figures there are."""
    if name not in FIGURES:
        raise ValueError(f"figure {name!r} is not known; choose one of {', '.join(FIGURES)}")
    return FIGURES[name]
