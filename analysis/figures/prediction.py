"""The held-out test: a law fitted to the small budgets, drawn over the large one that it has not seen."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figure import Figure
from isoflop.analysis.style import (
    ACCENT,
    INK,
    LEVEL,
    MANY_DOTS,
    MUTED,
    Color,
    ColorScale,
    End,
    Look,
    arm_dots,
    arm_marks,
    flops,
    label_ends,
    log_axis,
    looks_of,
    new_axes,
    note,
)
from isoflop.printable import loss_text
from isoflop.scaling.approaches.isoflop_profiles import budget_numbers
from isoflop.scaling.laws import with_role
from isoflop.scaling.selection.holdout import HeldOutForecast, HoldOut
from isoflop.scaling.table.law_inputs import unlike

MOST_CURVES = 16  # budgets: where there are more, runs have compute of their own
MOST_TARGETS = 3  # held-out budgets then drawn, the largest


def default_law(held_out: HoldOut) -> str:
    """The law chosen below the threshold, else the first that was fitted."""
    return held_out.chosen or next(iter(held_out.forecasts))


def prediction_frame(held_out: HoldOut) -> pd.DataFrame:
    """Every law's forecast of every run held out: measured, predicted, interval, relative_error = predicted / measured
    - 1, and residual = ln(measured / predicted)."""
    cells = [f.cells.assign(law=name) for name, f in held_out.forecasts.items()]
    frame = pd.concat(cells, ignore_index=True)
    frame["error"] *= -1
    frame = frame.rename(columns={"error": "residual"})
    return frame.assign(relative_error=frame["predicted"] / frame["loss"] - 1, chosen=frame["law"] == held_out.chosen)


def plot_prediction(
    held_out: HoldOut, *, law: str | None = None, rival: str | None = None, ax: Axes | None = None
) -> Axes:
    """Loss against size: fitted budgets solid, held-out budgets dashed over their runs, errors written at their ends.

    `rival` is a second law drawn at the held-out budgets for comparison. Raises ValueError if no held-out budget has
    three sizes, and for a law that reads more than a size and tokens.
    """
    law = law or default_law(held_out)
    forecast = held_out.forecasts[law]
    if further := unlike(forecast.fit.law.reads().values()):
        raise ValueError(f"needs a law of model size and tokens; {law} reads {', '.join(c.name for c in further)} too")
    targets = forecast.budgets
    if targets.empty or forecast.cells["n_params"].nunique() < 3:
        raise ValueError("needs a held-out budget with at least three sizes")
    ax = new_axes(ax)
    fitted = _budgeted(forecast.fit.points.frame)
    color = ColorScale([*fitted["budget"], *targets["flops"]])
    looks = looks_of(pd.concat([fitted, forecast.cells]))
    budgets = fitted.groupby("budget")
    drawn = list(budgets.groups)
    if len(drawn) > MOST_CURVES:  # runs at any compute: all of them, and a curve here and there
        drawn = drawn[:: -(-len(drawn) // MOST_CURVES)]
        targets = targets.iloc[-MOST_TARGETS:]
        for runs, size in ((fitted, 12), (forecast.cells, 22)):
            arm_dots(ax, runs, "n_params", "loss", looks=looks, c=color(runs["flops"].to_numpy(float)), s=size,
                     edgecolor="white", linewidth=0.4, zorder=3, rasterized=len(runs) > MANY_DOTS)  # fmt: skip
    ends = [_fitted_curve(ax, forecast, budget, budgets.get_group(budget), color(budget), looks) for budget in drawn]
    ends += [_target_curve(ax, forecast, target, color(target.flops), looks) for target in targets.itertuples()]
    if rival in held_out.forecasts and rival != law and len(budgets) <= MOST_CURVES:
        ends += _rival_curve(ax, held_out.forecasts[rival], rival)
    log_axis(ax.xaxis, "n_params")
    log_axis(ax.yaxis, "loss")
    low, high = ax.get_ylim()
    ax.set_ylim(low / (high / low) ** 0.05, high * (high / low) ** 0.22)  # room for the verdict
    label_ends(ax, ends, size=7)
    last = targets.iloc[-1]
    note(ax, _verdict(law, last, fitted["flops"].max(), arms=len(looks)), where="upper right", color=INK)
    ax.set_title("Held-out prediction")
    arm_marks(ax, looks)
    return ax


def _verdict(law: str, target: pd.Series, largest: float, *, arms: int) -> str:
    seen = np.isfinite(target["loss_opt"])
    measured = target["loss_opt"] if seen else target["best_run_loss"]
    error = target["loss_error"] if seen else target["best_run_error"]
    size = f"N* within a factor {np.exp(abs(np.log(target['n_ratio']))):.2f}" if seen else "N* not measured"
    loss = f"loss {loss_text(target['predicted_loss'])}, measured {loss_text(measured)} ({error:+.1%})"
    pooled = f", {arms} arms together" if arms > 1 else ""
    return f"{law} up to {flops(largest)}{pooled}\n{loss}\n{size}; band {LEVEL:.0%}"


def _budgeted(frame: pd.DataFrame) -> pd.DataFrame:
    """The points with their budget: the mean compute of points that span 10%."""
    frame = frame.sort_values("flops", ignore_index=True)
    group = budget_numbers(frame["flops"].to_numpy(float))
    return frame.assign(budget=np.exp(np.log(frame["flops"]).groupby(group).transform("mean")))


def _along(forecast: HeldOutForecast, budget: float, runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.geomspace(runs["n_params"].min(), runs["n_params"].max(), 100)
    tokens = forecast.fit.cost.tokens(budget, sizes)
    return sizes, forecast.fit.predict(pd.DataFrame({"n_params": sizes, "tokens": tokens, "flops": budget}))


def _fitted_curve(
    ax: Axes, forecast: HeldOutForecast, budget: float, runs: pd.DataFrame, shade: Color, looks: dict[str, Look]
) -> End:
    arm_dots(ax, runs, "n_params", "loss", looks=looks, c=[shade] * len(runs), s=12, edgecolor="white", linewidth=0.4,
             zorder=3, rasterized=len(forecast.fit.points) > MANY_DOTS)  # fmt: skip
    sizes, loss = _along(forecast, budget, runs)
    ax.plot(sizes, loss, color=shade, lw=1.2)
    return sizes[-1], loss[-1], flops(budget), shade


def _target_curve(ax: Axes, forecast: HeldOutForecast, target: Any, shade: Color, looks: dict[str, Look]) -> End:
    """The measured runs, the forecast as a dashed line with its interval, its optimum as an open diamond."""
    runs = _near(forecast.cells, target.flops)
    mean = runs.groupby("n_params", as_index=False)[["lo", "hi"]].mean()
    ax.fill_between(mean["n_params"], mean["lo"], mean["hi"], color=ACCENT, alpha=0.15, lw=0)
    arm_dots(ax, runs, "n_params", "loss", looks=looks, c=[shade] * len(runs), s=22, edgecolor="white", linewidth=0.5,
             zorder=4, rasterized=len(runs) > MANY_DOTS)  # fmt: skip
    sizes, loss = _along(forecast, target.flops, runs)
    ax.plot(sizes, loss, color=ACCENT, lw=1.5, ls=(0, (4, 2)))
    ax.plot(target.predicted_n, target.predicted_loss, "D", ms=6, mfc="white", mec=ACCENT, mew=1.3, zorder=5)
    return sizes[-1], loss[-1], f"{flops(target.flops)} FLOPs, unseen", ACCENT


def _rival_curve(ax: Axes, forecast: HeldOutForecast, name: str) -> list[End]:
    ends = []
    for target in forecast.budgets.itertuples():
        sizes, loss = _along(forecast, target.flops, _near(forecast.cells, target.flops))
        ax.plot(sizes, loss, color=MUTED, lw=1.0, ls=(0, (1, 1.5)))
        error = target.loss_error if np.isfinite(target.loss_error) else target.best_run_error
        ends.append((sizes[-1], loss[-1], f"{name} {error:+.1%}", MUTED))
    return ends


def _near(cells: pd.DataFrame, budget: float) -> pd.DataFrame:
    return cells[np.abs(np.log(cells["flops"] / budget)) < np.log(1.11)].sort_values("n_params")


def forecast_errors(held_out: HoldOut, *, law: str | None = None) -> pd.DataFrame:
    """Error of one law, predicted / measured - 1, for runs it was fitted to and runs held out (with interval)."""
    forecast = held_out.forecasts[law or default_law(held_out)]
    fitted = forecast.fit.points.frame
    seen = fitted.assign(predicted=forecast.fit.predicted, held_out=False)
    unseen = forecast.cells.assign(held_out=True)
    frame = pd.concat([seen, unseen], ignore_index=True)
    columns = ["n_params", "tokens", "flops", "loss", "predicted", "lo", "hi", "held_out"]
    return frame[columns].assign(relative_error=frame["predicted"] / frame["loss"] - 1)


def plot_forecast_errors(held_out: HoldOut, *, law: str | None = None, ax: Axes | None = None) -> Axes:
    """Error of the forecast against compute: fitted runs light, held-out runs dark with their prediction intervals."""
    ax = new_axes(ax)
    law = law or default_law(held_out)
    frame = forecast_errors(held_out, law=law)
    seen, unseen = frame[~frame["held_out"]], frame[frame["held_out"]]
    color = ColorScale(frame["flops"])
    ax.axhline(0, color=INK, lw=0.8)
    ax.axvline(np.sqrt(seen["flops"].max() * unseen["flops"].min()), color=MUTED, lw=0.9, ls=":")
    ax.scatter(_dodged(seen), 100 * seen["relative_error"], s=14, color=color(frame["flops"].min()), label="fitted",
               rasterized=len(frame) > MANY_DOTS)  # fmt: skip
    bars = np.abs(np.array([unseen["lo"], unseen["hi"]]) - unseen["predicted"].to_numpy()) / unseen["loss"].to_numpy()
    ax.errorbar(
        _dodged(unseen), 100 * unseen["relative_error"], yerr=100 * bars, fmt="D", ms=4, elinewidth=0.8,
        color=color(frame["flops"].max()), rasterized=len(frame) > MANY_DOTS,
        label=f"held out, with {LEVEL:.0%} interval",
    )  # fmt: skip
    log_axis(ax.xaxis, "flops")
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.28 * (high - low), high + 0.2 * (high - low))  # room for the legend and the words
    ax.set_ylabel("predicted above measured (%)")
    ax.legend(loc="lower left")
    rms = held_out.forecasts[law].rms_error
    note(ax, f"{law}: rms {rms:.2%} on {len(unseen)} runs held out, "
             f"{held_out.forecasts[law].coverage:.0%} inside their interval", where="upper left")  # fmt: skip
    ax.set_title("Error of the forecast")
    return ax


def _dodged(frame: pd.DataFrame) -> pd.Series:
    """Compute, moved apart in the order of size where runs share a budget, by at most a seventh either way."""
    key = np.log(frame["flops"]).round(1)
    rank = frame.groupby(key)["n_params"].rank(method="first")
    step = np.minimum(np.log(1.3) / rank.groupby(key).transform("count"), np.log(1.035))
    return frame["flops"] * np.exp(step * (rank - rank.groupby(key).transform("mean")))


def _of_report(evidence: Evidence) -> tuple[HoldOut, str]:
    """The hold-out, and the law of the report; where that has no held-out forecast, the law chosen without the runs."""
    held_out = evidence.held_out
    return held_out, evidence.law_name if evidence.law_name in held_out.forecasts else default_law(held_out)


def _with_rival(held_out: HoldOut, law: str, *, ax: Axes | None = None) -> Axes:
    """The law of the report, and the first of approach 3's that is another."""
    rival = next(name for name in with_role("approach 3") if name != law)
    return plot_prediction(held_out, law=law, rival=rival, ax=ax)


FIGURES = (
    Figure(
        "prediction",
        "Laws fitted without the largest budget, drawn over its runs.",
        needs=_of_report,
        frame=lambda held_out, _: prediction_frame(held_out),
        plot=_with_rival,
        place=40,
    ),
    Figure(
        "forecast_errors",
        "The forecast's error on the runs it was fitted to and on those it was not.",
        needs=_of_report,
        frame=lambda held_out, law: forecast_errors(held_out, law=law),
        plot=lambda held_out, law, ax: plot_forecast_errors(held_out, law=law, ax=ax),
        place=80,
    ),
)
