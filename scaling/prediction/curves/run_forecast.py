"""`isoflop predict --run`: what a run will reach, by its curve so far and those of its siblings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import PART, check, whole
from isoflop.printable import counted, loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.settings import unlike_runs
from isoflop.scaling.prediction.curves.curve_model import CurveModel, Forecast, curve_model
from isoflop.scaling.prediction.forecast import PredictError
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.meaning import NATS_PER_TOKEN, words
from isoflop.scaling.table.runs import is_runs
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import HORIZONS, NAMED, by_name, read_curves
from isoflop.scaling.table.schedules.schedule import Schedule

LEVELS = (0.5, 0.8, 0.9, 0.95)
BAND = 0.9
POINTS = 24  # of a band
MOST_STEPS = 10_000_000
FAR = 4.0  # times its steps: a forecast further on is said to be far
FEW = 3  # siblings: with fewer the shape of the curve is mostly that of published runs
MAY_VARY = ("schedule", "device")  # among the runs of one law of curves, which reads rates
SAME_RATE = 0.01  # of the peak


@dataclass(frozen=True, repr=False, eq=False)
class RunForecast(Answer):
    """The loss of a run at a step to come, with intervals that hold the noise of seeds and of the evaluation.

    `intervals` by level; `band` has a row per step from the last measured one on: step, loss, lo, hi (at 90%), rate.
    """

    run_id: str
    loss: float
    intervals: dict[float, tuple[float, float]]
    at_step: int
    schedule: str
    band: pd.DataFrame
    last_step: int
    last_loss: float
    siblings: int
    law: str
    notes: tuple[str, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "run": self.run_id, "loss": self.loss, "at_step": self.at_step, "schedule": self.schedule,
            "intervals": {f"{level:g}": list(ends) for level, ends in self.intervals.items()},
            "band": plain(self.band), "law": self.law, "last_step": self.last_step, "last_loss": plain(self.last_loss),
            "siblings": self.siblings, "notes": list(self.notes),
            "conventions": dict(self.conventions), "findings": [f.to_dict() for f in self.findings],
        }  # fmt: skip

    def __str__(self) -> str:
        lo, hi = self.intervals[BAND]
        so_far = f"loss {loss_text(self.last_loss)} at step {self.last_step:,}" if self.last_step else "no row yet"
        lines = [
            f"run {self.run_id}: {so_far}; at step {self.at_step:,} ({self.schedule}) a loss of {loss_text(self.loss)} "
            f"(90%: {loss_text(lo)} to {loss_text(hi)})",
            f"  by the law {self.law} over {self.siblings} other runs of the table, with the run's own level",
        ]
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])


def find_run(runs: Sequence[CurveRun], name: str) -> CurveRun:
    """The run of that id, or whose id begins so. Raises PredictError for none and for several."""
    exact = [run for run in runs if run.run_id == name]
    found = exact or [run for run in runs if run.run_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    ids = [run.run_id for run in runs]
    if not found:
        raise ValueError(f"--run {name}: no run with a curve has that id{hint(name, ids)}")
    raise ValueError(f"--run {name}: {len(found)} runs begin so ({', '.join(run.run_id for run in found[:4])}, ...)")


def predict_run(
    table: pd.DataFrame,
    run: str,
    *,
    schedule: str | None = None,
    cooldown: float | None = None,
    final_fraction: float | None = None,
    at: int | None = None,
    until: int | None = None,
    law: str = "multi_power",
    params: str = "matrices",
) -> RunForecast:
    """Forecast the loss of one run of a table at its end, or at step `at`, from its curve so far.

    The table is a runs folder or file of ours, or curves of another program with learning rates in a column. `schedule`
    (constant, cosine, linear, wsd, wsdld, wsdcon) and `cooldown` (share of the steps) say how the run goes on, in place
    of how it was to: "what if it decays now"; and what runs follow, from their first step to their last, of which the
    table tells no rate. Its rate then falls to `final_fraction` of its peak (None: what the table's decayed runs end
    at, in the middle; zero where no rate is told). `until` takes only the rows up to that step. Raises PredictError
    where the table cannot answer, ValueError for an unknown run, schedule, or a step that is behind the run.

    >>> import isoflop
    >>> found = isoflop.predict_run(isoflop.example("quick"), "4e1d317d8ef8", until=7000)
    >>> found.at_step
    14099
    """
    check(PART, cooldown=cooldown, final_fraction=final_fraction)
    check(whole(1), at=at, until=until)
    table = as_frame(table)
    named = None if schedule is None and cooldown is None else _chosen(schedule, 0, cooldown, final_fraction)
    found = read_curves(table, otherwise=named, params=params)
    target = find_run(found.runs, run)
    if until is not None:
        target = begun(target, until)
    if named is not None and at is not None and target.schedule == by_name(named) and _has_no_plan(table, target, at):
        target = replace(target, rates=named.rates(at, float(target.rates.max())), done=False)
        schedule = cooldown = final_fraction = None
    others = [other for other in found.runs if other.run_id != target.run_id]
    model = curve_model([*others, target], law)
    notes = [note for note in found.notes if not note.startswith("run ") or note.startswith(f"run {target.run_id}:")]
    if schedule is not None:
        notes = [note for note in notes if not note.startswith("run ")]
    if named is not None and (told := [one.run_id for one in found.runs if one.schedule == by_name(named)]):
        names = ", ".join(told[:NAMED]) + (", ..." if len(told) > NAMED else "")
        notes.append(
            f"the table tells no learning rate of {counted(len(told), 'run')} ({names}): taken to "
            f"follow {named}, to {named.final_fraction:g} of the peak and without a warm-up, over their own steps"
        )
    ahead = forecast_run(
        model, target, schedule=schedule, cooldown=cooldown, final_fraction=final_fraction, at=at,
        siblings=len(others), notes=notes,
    )  # fmt: skip
    unlike = unlike_runs(table, may_vary=MAY_VARY)
    return replace(ahead, conventions=conventions_of(table, params), findings=tuple(unlike))


def _has_no_plan(table: pd.DataFrame, run: CurveRun, at: int) -> bool:
    """Whether a run may be on its way to a step beyond its rows, as the table does not say where it was to end."""
    return at > run.horizon and not any(words(str(name)) in HORIZONS for name in table)


def conventions_of(table: pd.DataFrame, params: str) -> dict[str, str]:
    """What counts as parameters, and the unit of the loss: what every answer states."""
    counted = params if is_runs(table) else "as given"
    return {"params": counted, "loss_unit": table.attrs.get("loss_unit") or NATS_PER_TOKEN}


def begun(run: CurveRun, until: int) -> CurveRun:
    """A run as it was after `until` updates."""
    kept = run.steps + 1 <= until
    ends = None if run.ends is None else run.ends[kept]
    return replace(run, steps=run.steps[kept], loss=run.loss[kept], ends=ends, done=run.done and bool(kept.all()))


def forecast_run(
    model: CurveModel,
    run: CurveRun,
    *,
    schedule: str | None = None,
    cooldown: float | None = None,
    final_fraction: float | None = None,
    at: int | None = None,
    siblings: int = 0,
    notes: Sequence[str] = (),
) -> RunForecast:
    """The forecast of a run of a model; see `predict_run`."""
    last = int(run.steps[-1]) + 1 if len(run.steps) else 0
    end = at if at is not None else run.horizon
    if end <= last:
        what = f"--at {end}" if at is not None else f"its end, step {end:,}"
        more = "" if at is not None else "; --at STEP asks for a later one, --schedule NAME how it would go on"
        raise PredictError(f"run {run.run_id} is at step {last:,}: {what} is behind it{more}")
    said = list(notes)
    if end > MOST_STEPS:
        raise PredictError(f"step {end:,} of run {run.run_id} is too far: a curve is followed for {MOST_STEPS:,} steps")
    rates, named = goes_on(run, end, last, schedule, cooldown, said, final_fraction, model.runs)
    if siblings < FEW:
        said.append(
            f"{siblings} other runs: the shape of the curve is mostly that of published ones, and seed noise is assumed"
        )
    if last and end > FAR * last:
        said.append(f"{end / last:.1f} times as many steps as were taken")
    steps = np.unique(np.round(np.geomspace(max(last, 1), end, POINTS)).astype(int)) - 1
    steps = np.unique(np.append(steps[steps >= max(last - 1, 0)], end - 1))
    ends = (steps == end - 1) & any(r.ends is not None and r.ends.any() for r in model.runs)
    path = model.forecast(run, steps, ends=ends, rates=rates)
    lo, hi = path.interval(BAND)
    band = pd.DataFrame({"step": steps + 1, "loss": path.loss, "lo": lo, "hi": hi, "learning_rate": rates[steps]})
    return RunForecast(
        run.run_id, float(path.loss[-1]), intervals(path, -1), end, named, band, last,
        float(run.loss[-1]) if len(run.loss) else float("nan"), siblings, model.fit.form.name, tuple(said),
    )  # fmt: skip


def intervals(path: Forecast, row: int) -> dict[float, tuple[float, float]]:
    """The intervals of one row by level."""
    ends = {level: path.interval(level) for level in LEVELS}
    return {level: (float(lo[row]), float(hi[row])) for level, (lo, hi) in ends.items()}


def goes_on(
    run: CurveRun,
    end: int,
    last: int,
    schedule: str | None,
    cooldown: float | None,
    notes: list[str],
    final_fraction: float | None = None,
    others: Sequence[CurveRun] = (),
) -> tuple[np.ndarray, str]:
    """The rates (end,) of a run that goes on from its last step, and the schedule in words.

    A rate that falls ends at `final_fraction` of its peak, or where those of `others` end that fall.
    """
    if schedule is None and cooldown is None:
        if final_fraction is not None:
            raise ValueError("--final-fraction is of another way to go on: name it with --schedule")
        if end <= run.horizon:
            return run.rates[:end], run.schedule
        longer = np.append(run.rates, np.full(end - run.horizon, run.rates[-1]))
        notes.append(f"beyond its end, step {run.horizon:,}, the rate is taken to stay at {run.rates[-1]:.3g}")
        return longer, run.schedule
    peak = float(run.rates.max())
    warmup = int(np.argmax(run.rates >= 0.999 * peak))
    chosen = _chosen(schedule, warmup, cooldown, final_fraction, others)
    final = chosen.final_fraction
    wanted = chosen.rates(end, peak)
    taken = run.rates[: min(last, end)]
    if len(taken) and np.abs(wanted[: len(taken)] - taken).max() > SAME_RATE * peak:
        notes.append(f"the run so far did not follow {chosen}: it is taken to follow it from step {last:,} on")
    if schedule == "constant":
        return np.concatenate([taken, wanted[len(taken) :]]), str(chosen)
    if final_fraction is None:
        notes.append(
            f"the rate falls to {final:.3g} of its peak, as in the runs of the table that decay: --final-fraction "
            "says another"
            if final
            else "the rate falls to zero: --final-fraction says another end"
        )
    return np.concatenate([taken, wanted[len(taken) :]]), f"{chosen}, to {final * peak:.3g}"


def _chosen(
    schedule: str | None,
    warmup: int,
    cooldown: float | None,
    final_fraction: float | None,
    others: Sequence[CurveRun] = (),
) -> Schedule:
    """The schedule that the user names. Raises ValueError for what it does not take, or lacks."""
    if cooldown is not None and schedule not in (None, "wsd", "wsdld", "wsdcon"):
        raise ValueError(f"--cooldown is of the schedules wsd, wsdld and wsdcon, not of {schedule}")
    if schedule == "constant" and final_fraction is not None:
        raise ValueError("--final-fraction is of a schedule whose rate falls, not of constant")
    if schedule == "wsdcon" and final_fraction is None:
        raise ValueError(
            "--schedule wsdcon falls to a rate at which it stays: say to what share of the peak with --final-fraction"
        )
    final = _final_fraction(others) if final_fraction is None else final_fraction
    return Schedule(schedule or "wsd", warmup, 0.2 if cooldown is None else cooldown, final_fraction=final)


def _final_fraction(runs: Sequence[CurveRun]) -> float:
    """The share of their peaks that the rates of runs which fall end at, in the middle; 0 below SAME_RATE."""
    ends = np.array([run.rates[-1] / run.rates.max() for run in runs if len(run.rates)])
    fallen = ends[ends < 1 - SAME_RATE]
    middle = float(np.median(fallen)) if len(fallen) else 0.0
    return middle if middle > SAME_RATE else 0.0
