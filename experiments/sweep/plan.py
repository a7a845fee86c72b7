"""What a study is and what it will cost, and how far a store is: numbers as a dict, and the same as a text."""

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import ExperimentConfig
from isoflop.experiments.cost.cost import Speed, trunk_seconds, trunks_seconds
from isoflop.experiments.cost.memory import gigabytes, worker_bytes
from isoflop.experiments.cost.price import Price, check_cap, price_of
from isoflop.experiments.cost.shape_key import place
from isoflop.experiments.cost.speed_file import known_speed, speed_of_card
from isoflop.experiments.store.store import SETTLED, STATES, Store
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.same_runs import Apart, in_words, told_apart
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.afford import afford, afford_text
from isoflop.experiments.sweep.calibrate import SECONDS, measure, unknown_shapes
from isoflop.experiments.sweep.launch import Launch, load, rounds_price, trained_flops, whole_trunks
from isoflop.experiments.sweep.pool import check_device, devices_of, worker_count
from isoflop.models.config import n_matrices
from isoflop.printable import counted

LISTED = 20  # done cells that a status names unasked
WORKERS = (1, 2, 4, 8, 16)


def plan(launch: Launch, *, minutes: float | None = None, dollars: float | None = None) -> dict:
    """The studies of a launch: every cell with its size, cost and state, and the totals. Trains nothing.

    `rounds` is what those after the study take at most, where it has any. With `minutes` or `dollars`, `affordable`
    says which runs these pay for (`afford`). Raises UsageError where the launch with its rounds, or what of it was
    chosen, would cost more than where.max_dollars.
    """
    apart = told_apart(cell for study in launch.studies for cell in study.cells)
    studies = [_plan_study(study, launch, apart) for study in launch.studies]
    made: dict = {"speed": launch.speed.source, "studies": studies}
    cost = _price([job.cells for job in launch.alone], launch)
    rounds = rounds_price(launch, here=True)
    if rounds is not None:
        made["rounds"] = _rounds(launch, rounds)
    if minutes is not None or dollars is not None:
        made["affordable"] = afford(launch, minutes=minutes, dollars=dollars)
        cost = Price(*(made["affordable"][key] for key in ("devices", "device_hours", "dollars", "joules")))
    check_cap(cost, launch.where, rounds)
    return made


def _rounds(launch: Launch, cost: Price) -> dict:
    """What the rounds that may follow take at most, at the speed of the study's shapes."""
    trunks = whole_trunks(launch)
    share = launch.flops_ahead / trained_flops(trunks)
    minutes = {str(w): share * trunks_seconds(trunks, w, launch.speed) / 60 for w in WORKERS}
    return {"flops": launch.flops_ahead, "cost": vars(cost), "minutes": minutes}


def speed_for(specs: Sequence[ExperimentConfig], calibrate: bool | None, card: str | None = None) -> Speed:
    """The speed of this machine on these studies. Shapes are timed first: always, never, or (None) those not known.

    With `card` that of a GPU whose rates are shipped, whatever is here. Raises UsageError for one that there is not.
    """
    where = specs[0].where
    if card is not None:
        if not where.device.startswith("cuda"):
            raise UsageError(f"--for {card} plans for a GPU: say where.device=cuda, not {where.device}")
        if calibrate:
            raise UsageError(f"--for {card} plans by rates measured elsewhere: leave out --calibrate")
        return speed_of_card(card)
    check_device(where.device)
    if calibrate is not False:
        cells = [cell for spec in specs for cell in load(spec)[0].cells]
        wanted = cells if calibrate else unknown_shapes(cells, where)
        if wanted:
            print(f"timing the shapes of this study here, at most about {round(SECONDS + 5)} s", file=sys.stderr)
            measure(wanted, where)
    return known_speed(place(where), where.threads)


def _plan_study(study: Study, launch: Launch, apart: Apart) -> dict:
    states = {cell.run_id: launch.states[cell.run_id] for cell in study.cells}
    jobs = [job for job in launch.jobs if job.cells[0].run_id in states]
    left = [one.cells for job in jobs for one in job.parts or (job,)]
    cells = [
        _cell(cell, study.epochs(cell), states[cell.run_id], launch.speed, apart.get(cell.run_id, {}))
        for cell in study.cells
    ]
    return {
        "study": study.name,
        "cells": cells,
        "dropped": [vars(dropped) for dropped in study.dropped],
        "warnings": list(study.warnings),
        "hold_out": list(study.hold_out),
        "trunks": len(study.trunks),
        "flops": sum(cell.training_flops for cell in study.cells),
        "tokens_trained": study.tokens_trained,
        "tokens_by_cell": study.tokens_by_cell,
        "sharing": study.tokens_by_cell / study.tokens_trained,
        "done": sum(state in SETTLED for state in states.values()),
        "packs": [len(job.parts) for job in jobs if job.parts],
        "device": launch.where.device,
        "cost": vars(_price(left, launch)),
        "minutes": {str(workers): trunks_seconds(left, workers, launch.speed) / 60 for workers in WORKERS},
    }


def _price(trunks: Sequence[Sequence[Cell]], launch: Launch) -> Price:
    """What these trunks cost with the workers that a run on this machine would have."""
    workers = worker_count(launch.where)
    return price_of(trunks, workers, devices_of(launch.where, workers), launch.where, launch.speed)


def _cell(cell: Cell, epochs: float, state: str, speed: Speed, settings: Mapping[str, Any]) -> dict:
    return {
        "run_id": cell.run_id,
        "trunk_id": cell.trunk_id,
        "size": cell.size,
        "arm": cell.arm,
        "learning_rate": cell.optim.learning_rate,
        "seed": cell.seed,
        "budget_flops": None if math.isnan(cell.budget_flops) else cell.budget_flops,
        "n_params": n_matrices(cell.model),
        "tokens": cell.horizon_tokens,
        "tokens_per_param": cell.tokens_per_param,
        "settings": dict(settings),
        "epochs": epochs,
        "steps": cell.steps,
        "flops": cell.training_flops,
        "seconds": trunk_seconds([cell], speed),
        "memory_bytes": round(worker_bytes(cell)),
        "state": state,
    }


def plan_text(value: dict) -> str:
    """A plan as lines for a reader."""
    afforded = [afford_text(value["affordable"])] if "affordable" in value else []
    rounds = [_rounds_text(value["rounds"])] if "rounds" in value else []
    return "\n\n".join([*map(_study_text, value["studies"]), *rounds, *afforded, f"speed: {value['speed']}"])


def _rounds_text(rounds: dict) -> str:
    return "\n".join([
        f"plus rounds of study.rounds: at most {rounds['flops']:.3g} FLOPs, at the speed of the shapes above",
        f"predicted minutes of the rounds by workers: {_by_workers(rounds['minutes'])}",
        *_price_text(rounds["cost"]),
    ])  # fmt: skip


def _by_workers(minutes: dict[str, float]) -> str:
    return ", ".join(f"{m:.1f} with {w}" for w, m in minutes.items())


def _price_text(cost: dict) -> list[str]:
    return [f"price: {Price(**cost)}"] if cost["dollars"] or cost["joules"] else []


def _study_text(study: dict) -> str:
    cells, trunks = counted(len(study["cells"]), "cell"), counted(study["trunks"], "trunk")
    head = f"{study['study'] or 'single cell'}: {cells} in {trunks}"
    lines = [f"{head}, {study['flops']:.3g} FLOPs, {study['done']} done already", ""]
    numbers = ("n_params", "tokens", "tok/param", "epochs", "steps", "FLOPs", "rate", "minutes")
    columns = ("size", *numbers, "seeds", "state")
    rows = [_row(list(same)) for _, same in groupby(study["cells"], key=_but_for_seed)]
    lines += _columns([columns, *rows])
    lines += [f"left out: {d['size']} at {d['budget_flops']:g}: {d['reason']}" for d in study["dropped"]]
    lines += [f"warning: {warning}" for warning in study["warnings"]]
    minutes = _by_workers(study["minutes"])
    shared = f"{study['tokens_trained']:,} tokens to train, {study['tokens_by_cell']:,} with a run per cell"
    return "\n".join(
        [
            *lines,
            "",
            f"{shared}: {study['sharing']:.2f} times less by shared trunks",
            f"memory of a worker, at most: {gigabytes(max(c['memory_bytes'] for c in study['cells']))}",
            f"predicted minutes by workers, a {'core' if study['device'] == 'cpu' else 'GPU'} each: {minutes}",
            *_price_text(study["cost"]),
            *_packs_text(study["packs"]),
        ]
    )


def _packs_text(packs: Sequence[int]) -> list[str]:
    return [f"side by side: {sum(packs)} trunks in {len(packs)} processes"] if packs else []


def _but_for_seed(cell: dict) -> tuple:
    return cell["size"], cell["arm"], cell["steps"], cell["learning_rate"], cell["epochs"], in_words(cell["settings"])


def _further(cell: dict) -> str:
    """The settings that tell a cell from others of its size, budget and rate, in words."""
    return in_words({key: value for key, value in cell["settings"].items() if key != "optim.learning_rate"})


def _row(cells: list[dict]) -> tuple[str, ...]:
    """One line for the seeds of one size and budget."""
    c = cells[0]
    states = {cell["state"]: sum(other["state"] == cell["state"] for other in cells) for cell in cells}
    text = " ".join(f"{n} {state}" if len(cells) > 1 else state for state, n in states.items())
    return (
        f"{c['arm']} {c['size']} {_further(c)}".strip(),
        f"{c['n_params']:,}", f"{c['tokens']:,}", f"{c['tokens_per_param']:.3g}",
        f"{c['epochs']:.2f}", f"{c['steps']:,}", f"{c['flops']:.3g}", f"{c['learning_rate']:.3g}",
        f"{c['seconds'] / 60:.2f}",
        _ranges(sorted({cell["seed"] for cell in cells})), text,
    )  # fmt: skip


def status(store: Store) -> dict:
    """How many cells are in which state, in all and by study, and each cell that is not simply done or planned."""
    states = store.states()
    studies = {name: _counts(states, [c["run_id"] for c in study["cells"]]) for name, study in store.studies().items()}
    states["heartbeat_age"] = time.time() - states["heartbeat"]
    cells = states.astype(object).where(states.notna(), None).to_dict("records")
    return {"runs": str(store.root), "counts": _counts(states, states["run_id"]), "studies": studies, "cells": cells}


def _counts(states: pd.DataFrame, run_ids: Iterable[str]) -> dict[str, int]:
    counts = states.loc[states["run_id"].isin(list(run_ids)), "state"].value_counts()
    return {state: int(counts.get(state, 0)) for state in STATES}


def status_text(value: dict, *, every: bool = False) -> str:
    """The state of a store as lines for a reader: counts, cells at work or that went wrong, and those stopped or done.

    Of more than LISTED cells that ended so, `every` one is listed where that is requested.
    """
    table = [("study", *STATES), *((name, *map(str, counts.values())) for name, counts in value["studies"].items())]
    lines = _columns([*table, ("all", *map(str, value["counts"].values()))])
    for cell in value["cells"]:
        if cell["state"] in ("running", "failed", "diverged", "lost"):
            place = f"step {cell['step']}/{cell['steps']}, attempt {cell['attempts']}"
            beat = "" if cell["heartbeat_age"] is None else f", heartbeat {cell['heartbeat_age']:.0f} s ago"
            lines.append(
                f"{cell['state']:9} {cell['run_id']}  {cell['label']}  {place}{beat}  {_reason(cell)}".rstrip()
            )
    ended = [line for state in ("stopped", "done") for line in _ended(value, state, every=every)]
    return "\n".join([f"{value['runs']}", *lines, *ended])


def _ended(value: dict, state: str, *, every: bool) -> list[str]:
    """The lines of the cells in a state that needs nothing to be done."""
    cells = [cell for cell in value["cells"] if cell["state"] == state]
    if len(cells) > LISTED and not every:
        return [f"{state:9} {len(cells)} cells, whose ids isoflop status {value['runs']} --runs lists"]
    step = "  step {step}/{steps}" if state == "stopped" else ""
    return [f"{state:9} {cell['run_id']}  {cell['label']}{step.format(**cell)}" for cell in cells]


def _reason(cell: dict) -> str:
    if cell["error"]:
        return cell["error"].strip().splitlines()[-1]
    return "no process is at work on it: isoflop run or isoflop retry goes on" if cell["state"] == "lost" else ""


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text columns: the first and the last to the left, numbers between them to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    pad = [str.ljust if i in (0, last) and not rows[-1][i].isdigit() else str.rjust for i in range(len(widths))]
    return ["  ".join(f(cell, w) for f, cell, w in zip(pad, row, widths, strict=True)).rstrip() for row in rows]


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted whole numbers, three or more in a row by their ends: 0-7,16,18."""
    parts: list[str] = []
    for _, group in groupby(enumerate(numbers), key=lambda at: at[1] - at[0]):
        run = [number for _, number in group]
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
    return ",".join(parts)
