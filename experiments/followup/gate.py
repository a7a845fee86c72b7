"""A gate on a study: pairs of runs are trained until the change is promoted, rejected, or the FLOPs are spent.

A pair is a cell of the study in every arm, with a seed that no pair had before. Which pairs were chosen stays in the
store as gates/<name>.json, written before they are trained: a launch that was killed goes on with the same ones, and
one that is repeated after a decision trains nothing and says the same. Their runs are kept beside it as
gates/<name>.parquet, of which `isoflop gate` says the same again.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa

from isoflop.experiments.app import RunError, run_study
from isoflop.experiments.compose.compose import as_overrides, compose_all
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.files import check_name, read_kept, write_json
from isoflop.experiments.followup.rounds import digest_of
from isoflop.experiments.store.store import SETTLED, create_store, is_store, open_store
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.sweep.launch import load
from isoflop.scaling.arms.pairs import SAME_BUDGET
from isoflop.scaling.gate.discrepancy import Discrepancy
from isoflop.scaling.gate.estimate import NOTHING, Observations
from isoflop.scaling.gate.gate import Gate, gate, learn_from, reach
from isoflop.scaling.gate.next_pair import Planner
from isoflop.scaling.gate.observations import baseline_slope
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.runs import of_study, read_runs, write_parquet

BASELINE = "baseline"
BATCH = 4  # one more pair at once for so many there are: fewer launches, and looks between them


class PairCell(TypedDict):
    """A pair: a size of `conf/model`, a budget in FLOPs, and the seed of its runs."""

    size: str
    flops: float
    seed: int


class GateFile(TypedDict):
    """What the file of a gate holds: the pairs, a digest of the runs they were chosen among, and the decided arms."""

    pairs: list[PairCell]
    among: NotRequired[str]
    decided: NotRequired[list[str]]


@dataclass(frozen=True)
class Candidates:
    """A study of arms, and what its pairs are chosen from: the sizes at each budget, in order of budget."""

    overrides: tuple[str, ...]
    name: str
    runs: str
    baseline: str
    arms: tuple[str, ...]
    sizes: dict[float, tuple[str, ...]]
    among: str  # a digest of the ids of its runs


def run_gate(
    arguments: Sequence[str],
    *,
    target: float,
    error: float = 0.05,
    least: float = 1.03,
    baseline: str | None = None,
    spend: float | None = None,
    learned: pd.DataFrame | None = None,
    train: Callable[[Sequence[str]], int] = run_study,
) -> Gate:
    """Train pairs of the study that the arguments describe until each of its arms is decided, and return the verdicts.

    `study.arms` are the candidates, and with them the `baseline`: an arm of that name, or the study without a change.
    `spend` is the FLOPs that all pairs may take; None: those of one run at the `target`. Raises UsageError for a study
    that pairs cannot be chosen from, RunError where a run ends without a result, and what `isoflop.gate` does.
    """
    if least < 1:
        raise ValueError(f"--least {least:g}: the multiplier worth having is at least 1")
    study, learnt = _candidates(arguments, baseline), learn_from(learned, "arm")
    _check_reach(study, target, learnt)
    path = Path(study.runs) / "gates" / f"{check_name(study.name, 'study.name')}.json"
    kept = _kept(path, study)
    pairs: list[PairCell] = list(kept["pairs"]) if kept else _first_pairs(study)
    decided = kept.get("decided", []) if kept else []
    allowed, active = target if spend is None else spend, tuple(arm for arm in study.arms if arm not in decided)
    spent, left = _flops(study, pairs, active)
    if left and spent + left > allowed:
        first = "" if kept else "first "
        raise UsageError(f"--spend {allowed:.3g}: the {first}{len(pairs)} pairs take {spent + left:.3g} FLOPs")
    create_store(study.runs)
    while True:
        write_json(path, {"pairs": pairs, "among": study.among, "decided": sorted({*study.arms} - {*active})})
        table = _trained(study, pairs, active, train)
        first = table.sort_values(
            "arm", key=lambda arm: arm != study.baseline, kind="stable"
        )  # the baseline of a table
        write_parquet(path.with_suffix(".parquet"), pa.Table.from_pandas(first, preserve_index=False))
        found = gate(table, target=target, baseline=study.baseline, error=error, least=least, learned=learnt)
        active = tuple(v.arm for v in found.verdicts if v.decision == "undecided")
        more = _chosen(study, pairs, table, target, learnt)
        spent = float(table.loc[table["final"], "flops"].sum())
        _say(found, spent, allowed)
        while more and spent + _flops(study, more, active)[1] > allowed:
            more = more[:-1]  # what is left is spent in a smaller batch
        if not active or not more:
            return found
        pairs = [*pairs, *more]


def _kept(path: Path, study: Candidates) -> GateFile | None:
    """What a gate of this name chose before; None if there was none. Raises UsageError where it was on other runs."""
    kept: GateFile | None = read_kept(path, GateFile)
    if kept is None:
        return None
    elsewhere = any(pair["size"] not in study.sizes.get(pair["flops"], ()) for pair in kept["pairs"])
    if elsewhere or kept.get("among", study.among) != study.among:
        raise UsageError(
            f"study.name={study.name}: the {len(kept['pairs'])} pairs of {path} are of another study (its sizes, "
            "budgets, arms, settings or corpus): give this one a name of its own, study.name=NAME (a run that is the "
            "same is not trained again), or delete that file"
        )
    return kept


def _check_reach(study: Candidates, target: float, learnt: Discrepancy | None) -> None:
    """Raise UsageError for a target that pairs at the budgets of the study could not decide about, however many."""
    largest, known = max(study.sizes), reach(np.log(list(study.sizes)), learnt)
    if np.log(target / largest) > known + SAME_BUDGET:
        raise UsageError(
            f"--target {target:.3g}: pairs at study.budgets of {min(study.sizes):.3g} to {largest:.3g} FLOPs say "
            f"nothing beyond {largest * np.exp(known):.3g}: add a budget nearer to the target, or --learn TABLE from "
            "past changes"
        )


def _say(found: Gate, spent: float, allowed: float) -> None:
    verdicts = ", ".join([*(
        f"{v.arm} {v.decision} ({v.pairs} pairs, multiplier {v.multiplier:.3g} [{v.interval[0]:.3g}, "
        f"{v.interval[1]:.3g}])" for v in found.verdicts
    ), *(f"{arm} without a verdict ({why})" for arm, why in found.failed.items())])  # fmt: skip
    print(f"gate: {verdicts}; {spent:.3g} of {allowed:.3g} FLOPs", file=sys.stderr, flush=True)


def _candidates(arguments: Sequence[str], baseline: str | None) -> Candidates:
    """The study of the arguments with a baseline among its arms. Raises UsageError where there is nothing to judge."""
    overrides = as_overrides(arguments)
    specs = compose_all(overrides)
    if len(specs) > 1:
        raise UsageError(f"a gate is on one study, and these arguments give {len(specs)}")
    arms = specs[0].study.arms
    own = baseline or BASELINE
    if own not in arms:
        if baseline is not None:
            raise UsageError(f"--baseline {baseline}: no arm of that name in study.arms ({', '.join(arms) or 'none'})")
        overrides = [*overrides, f"study.arms.{BASELINE}={{}}"]
    names = tuple(name for name in arms if name != own)
    if not names:
        raise UsageError("a gate needs a candidate: 'study.arms.candidate={optim: {name: muon}}'")
    spec = compose_all(overrides)[0]
    if spec.study.rounds.count:
        raise UsageError("a gate chooses its own runs: leave out study.rounds")
    if not (spec.study.sizes or spec.study.cells):
        raise UsageError("a gate needs study.sizes and study.budgets, from which it chooses pairs")
    if own_sizes := [name for name, patch in spec.study.arms.items() if "study" in (patch or {})]:
        raise UsageError(f"study.arms.{own_sizes[0]}.study: a gate pairs runs of the study's own sizes and budgets")
    cells = load(spec)[0].cells
    sizes: dict[float, tuple[str, ...]] = {}
    for cell in sorted((cell for cell in cells if cell.arm == own), key=_budget):
        before = sizes.get(_budget(cell), ())
        sizes[_budget(cell)] = before if cell.size in before else (*before, cell.size)
    among = digest_of(cell.run_id for cell in cells)
    return Candidates(tuple(overrides), spec.study.name or "gate", spec.runs, own, names, sizes, among)


def _budget(cell: Cell) -> float:
    return float(cell.budget_flops if np.isfinite(cell.budget_flops) else cell.training_flops)


def _first_pairs(study: Candidates) -> list[PairCell]:
    """A pair at each of the two smallest budgets, or two at the only one."""
    budgets = list(study.sizes)
    chosen: list[PairCell] = []
    for flops in (budgets * 2)[:2]:
        chosen.append(_pair(study, flops, chosen))
    return chosen


def _pair(study: Candidates, flops: float, before: Sequence[PairCell]) -> PairCell:
    """One more pair at a budget: its sizes in turn, and the next seed."""
    sizes = study.sizes[flops]
    turn = sum(pair["flops"] == flops for pair in before)
    return {"size": sizes[turn % len(sizes)], "flops": flops, "seed": len(before)}


def _runs_of(study: Candidates, pairs: Sequence[PairCell]) -> tuple[Cell, ...]:
    """The runs of these pairs in every arm."""
    return load(compose_all([*study.overrides, *_cells(pairs)])[0])[0].cells


def _flops(study: Candidates, pairs: Sequence[PairCell], active: Sequence[str]) -> tuple[float, float]:
    """FLOPs of the runs of these pairs that have a result, and of those to train: the baseline's and `active` arms'."""
    runs = _runs_of(study, pairs)
    done = set[str]()
    if is_store(study.runs):
        states = open_store(study.runs).states([run.run_id for run in runs])
        done = set(states.loc[states["state"].isin(SETTLED), "run_id"])
    spent = sum(float(run.training_flops) for run in runs if run.run_id in done)
    due = (run for run in runs if run.arm in (study.baseline, *active) and run.run_id not in done)
    return spent, sum(float(run.training_flops) for run in due)


def _trained(
    study: Candidates, pairs: Sequence[PairCell], active: Sequence[str], train: Callable[[Sequence[str]], int]
) -> pd.DataFrame:
    """The runs of all pairs, after training those that are missing in the baseline and the `active` arms."""
    dropped = [f"~study.arms.{name}" for name in study.arms if name not in active]
    with redirect_stdout(sys.stderr):
        code = train([*study.overrides, *_cells(pairs), *dropped])
    every = _runs_of(study, pairs)
    pair = {cell.run_id: f"{cell.size} {_budget(cell):g} {cell.seed}" for cell in every}
    store = open_store(study.runs)
    wanted = [cell.run_id for cell in every if cell.arm in (study.baseline, *active)]
    states = store.states(wanted).set_index("run_id")["state"]
    if missing := [run_id for run_id in wanted if states[run_id] not in SETTLED]:
        raise RunError(
            f"{len(missing)} of {len(wanted)} runs of the gate have no result ({missing[0]} {states[missing[0]]}, exit "
            f"code {code}); isoflop status {study.runs} says why, and the same command goes on"
        )
    table = of_study(read_runs(store.root), {cell.run_id: cell for cell in every})
    return table.assign(gate_pair=table["run_id"].map(pair), created_at="")


def _cells(pairs: Sequence[PairCell]) -> list[str]:
    listed = ",".join(f"{{size:'{p['size']}',flops:{p['flops']!r},seeds:[{p['seed']}]}}" for p in pairs)
    return ["study.sizes=[]", "study.budgets=[]", "study.replicates=[]", f"study.cells=[{listed}]"]


def _chosen(
    study: Candidates, pairs: Sequence[PairCell], table: pd.DataFrame, target: float, learnt: Discrepancy | None
) -> list[PairCell]:
    """The next pairs: each removes the most variance of ln m at the target per FLOP, after those before it."""
    slope = baseline_slope(points(table[table["arm"] == study.baseline].reset_index(drop=True)), learnt).at
    budgets = np.array(list(study.sizes))
    planner = Planner(budgets, np.asarray(slope(budgets), float), target, learnt)
    chosen = list(pairs)
    for _ in range(max(1, len(pairs) // BATCH)):
        flops = np.array([pair["flops"] for pair in chosen])
        seen = Observations(
            np.zeros(len(flops)), np.asarray(slope(flops), float), np.log(flops / target), np.arange(len(flops))
        )
        chosen.append(_pair(study, float(budgets[planner.first(seen, NOTHING)]), chosen))
    return chosen[len(pairs) :]
