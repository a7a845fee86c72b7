"""Rounds after a study: fit what it trained, ask for the next cells, train those, ask again.

A round is the same configuration with other cells. What it requested and what was chosen stay in the store as
rounds/<name>.json, written before its first cell is trained: a launch that was killed goes on with the same cells, and
one that is repeated asks for nothing and trains nothing.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from isoflop.experiments.compose.compose import as_overrides, compose_all
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import ExperimentConfig, RoundsSpec
from isoflop.experiments.files import write_json
from isoflop.experiments.followup.next_study import cells_of, checked_goal, runnable
from isoflop.experiments.followup.some_done import check_some_done
from isoflop.experiments.followup.template import template_of
from isoflop.experiments.store.rounds import kept_round, requested, round_file, round_name
from isoflop.experiments.store.store import SETTLED, Store, open_store
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.check import check_rounds
from isoflop.experiments.sweep.launch import load, make_launch
from isoflop.scaling.design.planning import plan_from_table
from isoflop.scaling.table.runs import final_rows, of_study, read_runs

ArgumentSet = tuple[list[str], ExperimentConfig]  # overrides, and the configuration that they give
Compose = Callable[[list[str]], ExperimentConfig]
Run = Callable[[Sequence[ExperimentConfig]], int]  # one launch of these; returns its exit code


def run_rounds(sets: Sequence[ArgumentSet], compose: Compose, run: Run) -> int:
    """Train what these argument sets describe, then the rounds that `study.rounds` requests; returns the exit code.

    Rounds stop at a cell without a result: the same command goes on from there. Raises UsageError for a request that is
    incomplete, and DesignError or NoLawError, with the runs so far kept, when there is nothing to ask for.
    """
    if not any(spec.study.rounds.count for _, spec in sets):
        return run([spec for _, spec in sets])
    overrides, spec = _only(sets)
    request = spec.study.rounds
    done = [spec]
    if spec.where.only is not None:  # a retry: whichever round these runs belong to, and no new one
        answered = (_answer(open_store(spec.runs), _name(spec, k), request, None) for k in range(1, request.count + 1))
        return run([spec, *(compose(_overrides(overrides, spec, k, a)) for k, a in enumerate(answered, 1) if a)])
    code = run([spec])
    for k in range(1, request.count + 1):
        store = open_store(spec.runs)
        known = {cell.run_id: cell for one in done for cell in load(one)[0].cells}
        if not store.states(known)["state"].isin(SETTLED).all():
            return code
        check_some_done(store, spec.study.name, known, "no round can follow")
        name = _name(spec, k)
        answer = _answer(store, name, request, known) or _ask(store, name, request, known)
        print(f"\nround {k} of {request.count}: {answer['said']}\n", flush=True)
        done.append(compose(_overrides(overrides, spec, k, answer)))
        code = max(code, run(done[-1:]))
    return code


def check_can_begin(arguments: Sequence[str]) -> None:
    """Raise what a launch with these arguments, a retry among them, would raise before its first cell; trains nothing.

    What the corpora lack is prepared, as `isoflop plan` does.
    """

    def launch(specs: Sequence[ExperimentConfig]) -> int:
        make_launch(specs, workers=None)
        return 0

    sets = [(as_overrides(arguments), spec) for spec in compose_all(arguments)]
    run_rounds(sets, lambda overrides: compose_all(overrides)[0], launch)


def _only(sets: Sequence[ArgumentSet]) -> ArgumentSet:
    """The one argument set that rounds can follow."""
    if len(sets) > 1:
        raise UsageError(f"study.rounds follow one study, and these arguments give {len(sets)}: launch them one by one")
    request = sets[0][1].study.rounds
    check_rounds(sets[0][1].study)
    assert request.budget is not None
    assert request.target is not None
    checked_goal(request.budget, request.target, request.goal)
    return sets[0]


def _name(spec: ExperimentConfig, k: int) -> str:
    return round_name(spec.study.name, k)


def _answer(store: Store, name: str, request: RoundsSpec, known: Iterable[str] | None) -> Mapping[str, Any] | None:
    """The cells that this round chose before, if it had this request and the `known` runs."""
    kept = kept_round(store, name, request)
    return kept if kept is None or known is None or kept["known"] == digest_of(known) else None


def _ask(store: Store, name: str, request: RoundsSpec, known: Mapping[str, Cell]) -> dict[str, Any]:
    """Fit the known runs, each in its arm and at its budget, choose the next cells and keep the answer."""
    table = of_study(read_runs(store.root), known)
    runs = final_rows(table)
    budget, target = request.budget, request.target
    assert budget is not None  # `_only` refuses a study without them
    assert target is not None
    cells = runnable(runs, budget, template_of(runs, store.root))
    goal = checked_goal(budget, target, request.goal)
    design = plan_from_table(table, budget=budget, target=target, goal=goal, cells=cells)
    answer = {"requested": requested(request), "known": digest_of(known), **cells_of(design), "said": str(design)}
    write_json(round_file(store, name), answer)
    return answer


def digest_of(run_ids: Iterable[str]) -> str:
    """A short name of a set of runs."""
    return hashlib.sha256(" ".join(sorted(run_ids)).encode()).hexdigest()[:12]


def _overrides(overrides: list[str], spec: ExperimentConfig, k: int, answer: Mapping[str, Any]) -> list[str]:
    """The arguments of a round: those of the study with the answer's cells in the place of its own."""
    cells = ",".join(f"{{size:'{c['size']}',flops:{c['flops']!r},seeds:{c['seeds']}}}" for c in answer["cells"])
    return [
        *overrides,
        f"study.name='{_name(spec, k)}'",
        "study.sizes=[]",
        "study.budgets=[]",
        "study.replicates=[]",
        f"study.cells=[{cells}]",
        f"study.hold_out={answer['hold_out']}",
        "study.rounds.count=0",
    ]
