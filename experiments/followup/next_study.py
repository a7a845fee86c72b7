"""From the runs of a table to a study file with the next ones: sizes that can be run, cells already done, the YAML.

The loop closes through the file: `isoflop suggest` writes it, `isoflop run` reads it, the store knows what is done.
"""

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.files import check_name
from isoflop.experiments.followup.template import NextStudyError, Template, model_of, parts_in, shape_in, template_of
from isoflop.experiments.study.optimizers import optimizer_flops
from isoflop.experiments.study.sizes import load_size, size_names, suggest
from isoflop.models.config import n_matrices, n_total, training_flops_per_token
from isoflop.scaling.design.candidates import CandidateRuns, candidate_runs
from isoflop.scaling.design.design import Design
from isoflop.scaling.design.information import Goal
from isoflop.scaling.design.planning import plan_from_law, plan_from_table, ratios_of
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.published import PUBLISHED
from isoflop.scaling.table.bundle.manifest import is_bundle
from isoflop.scaling.table.conventions import count_params, is_runs
from isoflop.scaling.table.runs import final_rows

MIN_STEPS = 250
GOALS: dict[str, Goal] = {"n_opt": "n_opt", "loss": "loss", "multiplier": "multiplier"}


def runnable(runs: pd.DataFrame, budget: float, template: Template) -> CandidateRuns:
    """Cells of the sizes in conf/model that the budget affords and these final rows have not done.

    Raises NextStudyError for runs that differ in what cells must share.
    """
    for name in ("context_length", "vocab_size"):
        if runs[name].nunique() > 1:
            raise NextStudyError(f"the runs differ in {name} ({sorted(runs[name].unique())}): keep one with --where")
    runs = runs.assign(n_params=count_params(runs, "matrices"))
    sizes = _sizes(runs, template)
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


def _sizes(runs: pd.DataFrame, template: Template) -> pd.DataFrame:
    """Sizes of conf/model with the parts of the runs, of the series that the runs belong to."""
    vocab_size, context_length = int(runs["vocab_size"].iloc[0]), int(runs["context_length"].iloc[0])
    batch_tokens = int(runs["batch_tokens"].mode().iloc[0])
    optim = OptimSpec(**template.settings["optim"])
    rows = []
    for name in size_names():
        spec = load_size(name, template.base)
        if parts_in(spec) != parts_in(template.parts):
            continue
        model = model_of(spec, vocab_size, context_length)
        per_token = training_flops_per_token(model) + optimizer_flops(model, optim) / batch_tokens
        rows.append({
            "size": name, "series": name.rstrip("0123456789"), "n_params": n_matrices(model), "total": n_total(model),
            "flops_token": per_token, "batch_tokens": batch_tokens, "shape": shape_in(model),
        })  # fmt: skip
    sizes = pd.DataFrame(rows)
    run_shapes = set(map(shape_in, runs.itertuples()))
    used = Counter(s.series for s in sizes.itertuples() if s.shape in run_shapes)
    # The fewest series that hold every run's shape that has a name: d16 and w16 are one shape.
    kept = {max(named["series"], key=lambda s: used[s]) for shape in run_shapes
            if len(named := sizes[sizes["shape"] == shape])}  # fmt: skip
    if kept:
        sizes = sizes[sizes["series"].isin(kept)]
    return sizes.drop_duplicates("n_params", ignore_index=True)


def write_study(design: Design, path: Path, template: Template, *, runs: str) -> str:
    """Write the study file of a design; returns the command that runs it.

    A study is found by name as experiment/NAME.yaml in a configuration folder; elsewhere, the command copies it.
    """
    name, folder = path.stem, path.resolve().parent
    if path.suffix != ".yaml":
        raise NextStudyError(f"--out {path}: a study is a .yaml file, for example --out conf/experiment/next.yaml")
    check_name(name, "--out, the name of the study")
    copy = ""
    if folder == Path(str(files("isoflop.conf.experiment"))).resolve():
        where = ""
    elif folder.name == "experiment":
        where = f"--config-dir {shlex.quote(str(folder.parent))} "
    else:
        copy, where = (
            f"mkdir -p conf/experiment && cp {shlex.quote(str(path))} conf/experiment/ && ",
            "--config-dir conf ",
        )
    command = f"{copy}isoflop run {where}experiment={name} runs={shlex.quote(runs)}"
    study = {"name": name, **cells_of(design)}
    lines = [
        "# @package _global_",
        f"# {command}    {len(study['cells'])} cells suggested for {design.goal} at {design.target:.3g} FLOPs",
    ]
    sections = {"model": template.model_section, **template.settings, "study": study}
    for section, value in ((k, v) for k, v in sections.items() if v):
        lines.append(f"{section}:")
        lines += [_yaml_lines(key, entry) for key, entry in value.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return command


def _yaml_lines(key: str, value: Any) -> str:
    """A key of a section: what fits on a line there, a list of mappings one a line."""
    import yaml

    nested = isinstance(value, list) and value and isinstance(value[0], dict)
    flow = [yaml.safe_dump(v, sort_keys=False, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()
            for v in (value if nested else [value])]  # fmt: skip
    return "\n".join([f"  {key}:", *(f"    - {text}" for text in flow)]) if nested else f"  {key}: {flow[0]}"


def cells_of(design: Design) -> dict[str, list]:
    """The cells of a design and the budgets it holds out, as `study` has them."""
    cells = [{"size": c.size, "flops": float(c.budget), "seeds": list(c.seeds)} for c in design.cells.itertuples()]
    held = design.cells[design.cells["role"] == "hold-out"]["budget"]
    alone = [float(b) for b in held if (design.cells["budget"] == b).sum() == 1]
    return {"cells": cells, "hold_out": alone}


@dataclass(frozen=True)
class NextRuns:
    """A design, the study file it went to and the command that runs it."""

    design: Design
    file: Path | None
    command: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        file = str(self.file) if self.file else None
        return self.design.to_dict() | {"file": file, "command": self.command, "setting_notes": list(self.notes)}

    def __str__(self) -> str:
        lines = [str(self.design), *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, f"wrote {self.file}; next: {self.command}"] if self.file else lines)


def next_runs(
    table: pd.DataFrame | None = None,
    *,
    budget: float,
    target: float,
    goal: str = "n_opt",
    out: Path | None = None,
    from_law: str | None = None,
) -> NextRuns:
    """The runs of at most `budget` FLOPs that most narrow `goal` (n_opt, loss or multiplier) at `target` FLOPs.

    They continue the runs of `table`, as `read_table` gives it, or stand alone under the published law `from_law`.
    `out` is the study file to write, any .yaml; the command of the answer runs it. It needs runs that isoflop
    trained. Raises ValueError for numbers or names that mean nothing, NextStudyError where no study can be written.

    >>> import isoflop
    >>> runs = isoflop.suggest(isoflop.example("quick"), budget=1e12, target=1e13)
    >>> runs.design.spent <= 1e12
    True
    """
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
    runs, path = final_rows(table), Path(table.attrs["source"])
    template = template_of(runs, path)
    design = plan_from_table(table, budget=budget, target=target, goal=known, cells=runnable(runs, budget, template))
    store = str(path) if path.is_dir() and not is_bundle(path) else "runs"
    command = write_study(design, out, template, runs=store) if out is not None else ""
    return NextRuns(design, out, command, template.notes)


def checked_goal(budget: float, target: float, goal: str) -> Goal:
    """The goal, as `Goal`. Raises ValueError for one that is not known, or for numbers that are not positive."""
    if goal not in GOALS:
        raise ValueError(f"--goal {goal}: choose {', '.join(GOALS)}")
    if not (0 < budget < math.inf and 0 < target < math.inf):
        raise ValueError(f"--budget {budget:g} and --target {target:g} must be positive and finite")
    return GOALS[goal]


def _published(name: str) -> Chinchilla:
    laws = {key: p.law for key, p in PUBLISHED.items() if isinstance(p.law, Chinchilla)}
    if name not in laws:
        raise ValueError(f"--from-law {name}{suggest(name, laws)}")
    return laws[name]
