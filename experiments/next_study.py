"""From the runs of a table to a study file with the next ones: the sizes that can be run, what is done, the YAML.

The loop closes through the file: `isoflop suggest` writes it, `isoflop run` reads it, the store knows what is done.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.config import DataSpec, ExperimentConfig, OptimSpec, ScheduleSpec
from experiments.names import load_size, size_names, suggest
from models.config import ModelConfig, n_matrices, training_flops_per_token
from scaling.accounting import count_params, is_runs
from scaling.design import Design
from scaling.lattice import Lattice, lattice
from scaling.laws import Chinchilla
from scaling.planning import plan_from_law, plan_from_table, ratios_of
from scaling.published import PUBLISHED
from scaling.runs import RUN_FILE, final_rows, read_config
from scaling.tables import read_table

MIN_STEPS = 250
GOALS = ("n_opt", "loss", "multiplier")
SECTIONS = {"data": DataSpec, "optim": OptimSpec, "schedule": ScheduleSpec}
LOOKS = ("family", "context_length", "vocab_size", "batch_tokens")


class NextStudyError(ValueError):
    """No study can be written for these runs."""

    exit_code = 1


@dataclass(frozen=True)
class Setting:
    """What the runs of a table have in common: settings to repeat, and notes on what could not be told."""

    settings: dict[str, dict[str, Any]]
    cooldown: float
    notes: tuple[str, ...]


def setting_of(path: Path) -> Setting:
    """Data, optimiser and schedule of most runs in a runs folder; the defaults, said so, where files hold none."""
    configs = [read_config(file) for file in sorted(Path(path).glob(f"cells/*/{RUN_FILE}"))]
    found = [_sections(c) for c in configs if "what" in c]
    if not found:
        note = "the table does not hold the runs' settings: the study file uses the defaults of conf/"
        return Setting({}, ScheduleSpec().cooldown_fraction, (note,))
    texts = Counter(yaml.safe_dump(f) for f in found)
    settings = yaml.safe_load(texts.most_common(1)[0][0])
    notes = (
        () if len(texts) == 1 else (f"runs differ in settings; the study file repeats the most common of {len(texts)}",)
    )
    schedule = settings["schedule"]
    cooldown = schedule.get("cooldown_fraction", 1.0) if schedule["name"] == "wsd" else 1.0
    return Setting(settings, cooldown, notes)


def _sections(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of one run that are not the schema's own defaults, by section; names always."""
    what = config["what"]
    told = {"data": config["data"], "optim": what["optim"], "schedule": what["schedule"]}
    kept = {}
    for section, spec in SECTIONS.items():
        default = asdict(spec())
        kept[section] = {k: v for k, v in told[section].items() if k == "name" or v != default.get(k)}
    return kept


def runnable(table: pd.DataFrame, budget: float, setting: Setting) -> Lattice:
    """Cells of the sizes in conf/model that the budget affords and the runs of the table have not done.

    Raises NextStudyError for a table that is not of runs, or of runs that differ in what cells must share.
    """
    if not is_runs(table):
        raise NextStudyError("a study file needs a table of runs: sizes of conf/model mean nothing in another table")
    runs = final_rows(table)
    looks = {name: sorted(runs[name].unique()) for name in LOOKS}
    for name in ("family", "context_length", "vocab_size"):
        if len(looks[name]) > 1:
            raise NextStudyError(f"the runs differ in {name} ({looks[name]}): keep one kind with --where")
    sizes = _sizes(looks["family"][0], int(looks["context_length"][0]), int(looks["vocab_size"][0]))
    sizes["batch_tokens"] = int(runs["batch_tokens"].mode().iloc[0])
    runs = runs.assign(n_params=count_params(runs, "matrices"))
    sizes = sizes[sizes["n_params"] >= 0.9 * runs["n_params"].min()]  # no law was fitted below the smallest run
    named = dict(zip(sizes["n_params"], sizes["size"], strict=True))
    done = runs.assign(size=runs["n_params"].map(named)).dropna(subset=["size"])[["size", "tokens"]]
    most = float(runs["unique_tokens"].min() * max(1.0, runs["epochs"].max()))
    return lattice(
        sizes, budget, runs=done, cooldown=setting.cooldown, min_steps=MIN_STEPS, max_tokens=most,
        ratios=ratios_of(runs),
    )  # fmt: skip


def _sizes(family: str, context_length: int, vocab_size: int) -> pd.DataFrame:
    rows = []
    for name in size_names():
        spec = load_size(name)
        if spec.family != family:
            continue
        model = ModelConfig(vocab_size=vocab_size, context_length=context_length, **asdict(spec))
        rows.append({"size": name, "n_params": n_matrices(model), "flops_token": training_flops_per_token(model)})
    return pd.DataFrame(rows).drop_duplicates("n_params", ignore_index=True)


def write_study(design: Design, path: Path, setting: Setting, *, runs: str) -> str:
    """Write the study file of a design; returns the command that runs it."""
    name, folder = path.stem, path.resolve().parent
    if folder.name != "experiment" or path.suffix != ".yaml":
        raise NextStudyError(
            f"--out {path}: isoflop run finds a study as experiment/NAME.yaml in a configuration folder"
        )
    shipped = folder == Path(str(files("conf.experiment"))).resolve()
    where = "" if shipped else f"--config-dir {folder.parent} "
    command = f"isoflop run {where}experiment={name} runs={runs}"
    cells = [{"size": c.size, "flops": float(c.budget), "seeds": list(c.seeds)} for c in design.cells.itertuples()]
    held = design.cells[design.cells["role"] == "hold-out"]["budget"]
    alone = [float(b) for b in held if (design.cells["budget"] == b).sum() == 1]
    study = {"name": name, "cells": cells, "hold_out": alone}
    lines = [
        "# @package _global_",
        f"# {command}    {len(cells)} cells suggested for {design.goal} at {design.target:.3g} FLOPs",
    ]
    sections = {k: v for k, v in setting.settings.items() if v and k in ExperimentConfig.__dataclass_fields__}
    for section, value in [*sections.items(), ("study", study)]:
        lines.append(yaml.safe_dump({section: value}, sort_keys=False, default_flow_style=None, width=110).rstrip())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return command


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
    table: Path | None, *, budget: float, target: float, goal: str, out: Path | None, from_law: str | None
) -> NextRuns:
    """The runs to make next, from a table of runs or from a published law; `out` is the study file to write."""
    if goal not in GOALS:
        raise ValueError(f"--goal {goal}: choose {', '.join(GOALS)}")
    if not (budget > 0 and target > 0):
        raise ValueError(f"--budget {budget:g} and --target {target:g} must be positive")
    if (table is None) == (from_law is None):
        raise ValueError("give a table of runs, or --from-law NAME when there are none yet")
    if from_law is not None:
        if out is not None:
            raise NextStudyError("--out needs a table of runs: its settings and sizes make the study")
        return NextRuns(plan_from_law(_published(from_law), budget=budget, target=target, goal=goal), None, "", ())
    data = read_table(table)
    if not is_runs(data):
        if out is not None:
            raise NextStudyError("--out needs a table of runs: sizes of conf/model mean nothing in another table")
        return NextRuns(plan_from_table(data, budget=budget, target=target, goal=goal), None, "", ())
    setting = setting_of(table)
    cells = runnable(data, budget, setting)
    design = plan_from_table(data, budget=budget, target=target, goal=goal, cells=cells)
    store = str(table) if Path(table).is_dir() else "runs"
    command = write_study(design, out, setting, runs=store) if out is not None else ""
    return NextRuns(design, out, command, setting.notes)


def _published(name: str) -> Chinchilla:
    laws = {key: p.law for key, p in PUBLISHED.items() if isinstance(p.law, Chinchilla)}
    if name not in laws:
        raise ValueError(f"--from-law {name}{suggest(name, laws)}")
    return laws[name]
