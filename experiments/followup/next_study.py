"""From the runs of a table to a study file with the next ones: sizes that can be run, cells already done, the YAML.

The loop closes through the file: `isoflop suggest` writes it, `isoflop run` reads it, the store knows what is done.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import POSITIVE, check
from isoflop.experiments.followup.next_mixtures import NextMixtures, next_mixtures
from isoflop.experiments.followup.sizes import sizes_like
from isoflop.experiments.followup.study_file import write_file, wrote_text
from isoflop.experiments.followup.template import NextStudyError, Template, source_of, template_of
from isoflop.experiments.study.sizes import suggest
from isoflop.scaling.design.candidates import CandidateRuns, candidate_runs
from isoflop.scaling.design.design import Design
from isoflop.scaling.design.information import Goal
from isoflop.scaling.design.planning import plan_from_law, plan_from_table, ratios_of
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.published import PUBLISHED
from isoflop.scaling.table.bundle.manifest import is_bundle
from isoflop.scaling.table.conventions import count_params
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.read import check_values
from isoflop.scaling.table.runs import final_rows, is_runs

MIN_STEPS = 250
GOALS: dict[str, Goal] = {"n_opt": "n_opt", "loss": "loss", "multiplier": "multiplier"}
MIXTURE = "mixture"  # the goal of next_mixtures


def runnable(runs: pd.DataFrame, budget: float, template: Template) -> CandidateRuns:
    """Cells of the sizes in conf/model that the budget affords and these final rows have not done.

    Raises NextStudyError for runs that differ in what cells must share, TableError for a text of no tokens.
    """
    for name in ("context_length", "vocab_size"):
        if runs[name].nunique() > 1:
            raise NextStudyError(f"the runs differ in {name} ({sorted(runs[name].unique())}): keep one with --where")
    check_values(runs, ("unique_tokens", "epochs"), source=str(runs.attrs.get("source", "table")))
    runs = runs.assign(n_params=count_params(runs, "matrices"))
    sizes = sizes_like(runs, template)
    sizes = sizes[sizes["n_params"] >= 0.9 * runs["n_params"].min()]  # no law was fitted below the smallest run
    named = dict(zip(sizes["n_params"], sizes["size"], strict=True))
    done = runs.assign(size=runs["n_params"].map(named)).dropna(subset=["size"])[["size", "tokens"]]
    ends = {name: template.trained[n] for name, n in zip(sizes["size"], sizes["total"], strict=True)
            if n in template.trained}  # fmt: skip
    most = float(runs["unique_tokens"].min() * max(1.0, runs["epochs"].max()))
    return candidate_runs(
        sizes, budget, runs=done, cooldown=template.cooldown, trained=ends, min_steps=MIN_STEPS, max_tokens=most,
        ratios=ratios_of(runs),
    )  # fmt: skip


def write_study(design: Design, path: Path, template: Template, *, runs: str) -> str:
    """Write the study file of a design; returns the command that runs it, as of `command_of`."""
    study = cells_of(design)
    what = f"{len(study['cells'])} cells suggested for {design.goal} at {design.target:.3g} FLOPs"
    return write_file(path, template, study, what, runs=runs)


def cells_of(design: Design) -> dict[str, list]:
    """The cells of a design and the budgets it holds out, as `study` has them."""
    cells = [{"size": c.size, "flops": float(c.budget), "seeds": list(c.seeds)} for c in design.cells.itertuples()]
    held = design.cells[design.cells["role"] == "hold-out"]["budget"]
    alone = [float(b) for b in held if (design.cells["budget"] == b).sum() == 1]
    return {"cells": cells, "hold_out": alone}


@dataclass(frozen=True, repr=False, eq=False)
class NextRuns(Answer):
    """A design, the study file it went to (over an earlier one, where `replaced`) and the command that runs it."""

    design: Design
    file: Path | None
    command: str
    notes: tuple[str, ...]
    replaced: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        file = str(self.file) if self.file else None
        written = {"file": file, "replaced": self.replaced, "command": self.command, "setting_notes": list(self.notes)}
        return self.design.to_dict() | written

    def __str__(self) -> str:
        lines = [str(self.design), *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, *wrote_text(self.file, self.replaced, self.command)])


@overload
def next_runs(
    table: pd.DataFrame | None = None,
    *,
    budget: float,
    target: float,
    goal: Goal = "n_opt",
    out: str | Path | None = None,
    from_law: str | None = None,
) -> NextRuns: ...


@overload
def next_runs(
    table: pd.DataFrame | None = None,
    *,
    budget: float,
    target: float,
    goal: str,
    out: str | Path | None = None,
    from_law: str | None = None,
) -> NextRuns | NextMixtures: ...


def next_runs(
    table: pd.DataFrame | None = None,
    *,
    budget: float,
    target: float,
    goal: str = "n_opt",
    out: str | Path | None = None,
    from_law: str | None = None,
) -> NextRuns | NextMixtures:
    """The runs of at most `budget` FLOPs that most narrow `goal` at `target` FLOPs: n_opt, loss, multiplier or mixture.

    They continue the runs of `table`, as `read_table` gives it, or stand alone under the published law `from_law`.
    `out` is the study file to write, any .yaml; the command of the answer runs it. It needs runs that isoflop
    trained. Raises ValueError for numbers or names that mean nothing, NextStudyError where no study can be written.

    >>> import isoflop
    >>> runs = isoflop.suggest(isoflop.example("quick"), budget=1e12, target=1e13)
    >>> runs.design.spent <= 1e12
    True
    """
    table, out = None if table is None else as_frame(table), None if out is None else Path(out)
    if goal == MIXTURE:
        check(POSITIVE, budget=budget, target=target)
        if table is None or from_law is not None:
            raise ValueError("--goal mixture goes on from a table of runs on mixtures, and from no published law")
        return next_mixtures(table, budget=budget, target=target, out=out)
    known = checked_goal(budget, target, goal)
    if (table is None) == (from_law is None):
        raise ValueError("give a table of runs, or --from-law NAME when there are none yet")
    if table is None:
        if out is not None:
            raise NextStudyError("--out needs a table of runs: its settings and sizes make the study")
        made = plan_from_law(_published(str(from_law)), budget=budget, target=target, goal=known)
        return NextRuns(made, None, "", ())
    if not is_runs(table):
        if out is not None:
            raise NextStudyError("--out needs a table of runs: sizes of conf/model mean nothing in another table")
        return NextRuns(plan_from_table(table, budget=budget, target=target, goal=known), None, "", ())
    runs, path = final_rows(table), source_of(table)
    if runs.empty:
        raise NextStudyError(f"{path}: no run has finished; isoflop status shows what its runs are doing")
    template = template_of(runs, path)
    design = plan_from_table(table, budget=budget, target=target, goal=known, cells=runnable(runs, budget, template))
    store = str(path) if path.is_dir() and not is_bundle(path) else "runs"
    replaced = out is not None and out.exists()
    command = write_study(design, out, template, runs=store) if out is not None else ""
    return NextRuns(design, out, command, template.notes, replaced)


def checked_goal(budget: float, target: float, goal: str) -> Goal:
    """The goal, as `Goal`. Raises ValueError for one that is not known, or for numbers that are not positive."""
    if goal not in GOALS:
        raise ValueError(f"--goal {goal}: choose {', '.join((*GOALS, MIXTURE))}")
    check(POSITIVE, budget=budget, target=target)
    return GOALS[goal]


def _published(name: str) -> Chinchilla:
    laws = {key: p.law for key, p in PUBLISHED.items() if isinstance(p.law, Chinchilla)}
    if name not in laws:
        raise ValueError(f"--from-law {name}{suggest(name, laws)}")
    return laws[name]
