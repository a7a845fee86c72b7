"""A study whose runs are stopped by what they still tell: `study.stop=decided`.

The study is trained in stages (`scaling.stopping.decide`): how far each run is taken is decided before a stage by the
rows that the stages before it have paid for, and by nothing else. So nothing of a decision is kept: a launch that was
killed, or is repeated, decides the same anew and trains what is missing. After the last stage each run that has stopped
gets the forecast of its end as its last row, with its error, by which fits weigh it. The same study without the key
goes on where its runs have stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import ExperimentConfig
from isoflop.experiments.followup.some_done import check_some_done
from isoflop.experiments.store.store import SETTLED, STOPPED, Store, is_over, open_store
from isoflop.experiments.study.cell import Cell, row_steps
from isoflop.experiments.study.check import DECIDED
from isoflop.experiments.study.same_runs import told_apart
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.sweep.train_job import listing
from isoflop.models.config import n_matrices
from isoflop.scaling.stopping.decide import STAGES, Decision, decide
from isoflop.scaling.stopping.forecasts import ForecastEnd, forecast_ends
from isoflop.scaling.stopping.planned_run import Plan, PlannedRun
from isoflop.scaling.table.formats.run_columns import NAMES
from isoflop.scaling.table.runs import is_forecast, read_config, read_runs, run_files, write_run
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.schedule import Schedule

Run = Callable[[Sequence[ExperimentConfig], Mapping[str, int]], int]  # one launch, to these steps; its exit code
ROWS = ["run_id", "step", "loss", "final"]
NONE = np.zeros(0)


def run_decided(specs: Sequence[ExperimentConfig], run: Run) -> int:
    """Train what these studies lack; one with `study.stop=decided` in its stages. Returns the exit code.

    Where runs are named (`isoflop retry`), its stages go through too: what failed is trained as far as it was to be.
    Raises UsageError where several studies are to be stopped at once.
    """
    if not any(spec.study.stop == DECIDED for spec in specs) or specs[0].where.cells is not None:
        return run(specs, {})
    if len(specs) > 1:
        raise UsageError(f"study.stop={DECIDED} decides of one study, and these arguments give {len(specs)}")
    spec = replace(specs[0], where=replace(specs[0].where, only=None))
    study = load(spec)[0]
    plan, extents, code = plan_of(study), dict[str, int](), 0
    for stage in range(len(STAGES)):
        made = decide(plan, *rows_so_far(spec.runs, extents), extents, stage)
        extents = made.extents
        until = {run_id: steps for run_id, steps in extents.items() if steps}
        if stage and _all_over(spec.runs, until):
            continue
        code = max(code, run([spec], until))
        if not _all_over(spec.runs, until):
            return code
        check_some_done(open_store(spec.runs), spec.study.name, until, f"study.stop={DECIDED} has nothing to decide by")
    _conclude(open_store(spec.runs), study, plan, made)
    return code


def plan_of(study: Study) -> Plan:
    """The cells of a study as runs that may stop."""
    return Plan(tuple(_planned(cell) for cell in study.cells))


def _planned(cell: Cell) -> PlannedRun:
    chosen, wsd = cell.schedule, cell.schedule.name == "wsd"
    schedule = Schedule(
        chosen.name, chosen.warmup_steps, chosen.cooldown_fraction, chosen.cooldown_shape, chosen.final_fraction
    )
    bare = CurveRun(
        cell.run_id, float(n_matrices(cell.model)), NONE.astype(int), NONE,
        schedule.rates(cell.steps, cell.optim.learning_rate), False, str(schedule), cell.trunk_id,
        tokens=float(cell.horizon_tokens), arm=cell.arm,
    )  # fmt: skip
    branch = cell.branch_step if wsd else cell.steps
    measured = tuple(step for step in row_steps(branch) if cell.warmup < step < cell.steps)
    return PlannedRun(bare, float(cell.horizon_tokens), float(cell.step_flops), branch, measured)


def rows_so_far(runs: str, extents: Mapping[str, int]) -> tuple[pd.DataFrame, set[str]]:
    """The measured rows of a store, and those of its runs that diverged before they came as far."""
    if not extents or not run_files(open_store(runs).root):
        return pd.DataFrame(columns=ROWS), set()
    table = read_runs(open_store(runs).root)
    last = table[table["state"] == "diverged"].groupby("run_id")["step"].max()
    lost = {str(run_id) for run_id, step in last.items() if extents.get(str(run_id), 0) >= step}
    return table.loc[~is_forecast(table), ROWS], lost


def _all_over(runs: str, until: Mapping[str, int]) -> bool:
    states = open_store(runs).states(list(until))[["run_id", "state", "step"]]
    return all(is_over(state, step, until[run_id]) for run_id, state, step in states.itertuples(index=False))


def _conclude(store: Store, study: Study, plan: Plan, made: Decision) -> None:
    """Write the forecasts of the runs that have stopped, record those that never began, and say what was saved."""
    ends = forecast_ends(plan, *rows_so_far(str(store.root), made.extents), made.extents)
    states = store.states([cell.run_id for cell in study.cells]).set_index("run_id")
    stopped = [cell for cell in study.cells if states.loc[cell.run_id, "state"] not in SETTLED]
    apart = told_apart(study.cells)
    for cell in stopped:
        if cell.run_id in ends and store.run_file(cell.run_id).exists():
            _write_end(store, cell, ends[cell.run_id])
        if states.loc[cell.run_id, "state"] != STOPPED:
            store.record(**{**listing(cell, apart), "state": STOPPED, "step": 0})
    left = (
        f"trained to their ends they would move the exponent of the frontier by about {made.moves:.3f} (one standard "
    )
    left += "deviation, predicted)"
    if np.isnan(made.moves):
        left = "too few ended for a law to say which tell most, so that the cheapest were trained"
    print(
        f"\n{len(stopped)} of {len(study.cells)} cells stopped: {made.flops:.3g} of {made.whole:.3g} FLOPs "
        f"({made.flops / made.whole:.0%}); {left}; isoflop run without study.stop goes on with them",
        flush=True,
    )


def _write_end(store: Store, cell: Cell, end: ForecastEnd) -> None:
    """The rows of a cell that has stopped, with the forecast of its end as the last."""
    path = store.run_file(cell.run_id)
    table = read_runs(path)
    measured = table[~is_forecast(table)]
    rows = measured[list(NAMES)].to_dict("records")
    last = rows[-1]
    unknown = dict.fromkeys(("accuracy", "train_loss", "noise_scale", "learning_rate"), float("nan"))
    bits = end.loss / last["loss"] * last["bits_per_byte"]
    scale = cell.steps / last["step"]
    forecast = {
        "step": cell.steps, "tokens": cell.horizon_tokens, "epochs": last["epochs"] * scale, "final": True,
        "phase": "forecast", "loss": end.loss, "loss_se": end.error, "bits_per_byte": bits,
        "flops": float(cell.training_flops), "flops_6nd": last["flops_6nd"] * scale, "mixture": "",
    }  # fmt: skip
    write_run(path, [*rows, last | unknown | forecast], read_config(path))
