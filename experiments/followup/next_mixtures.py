"""From runs on mixtures to a study file with the next ones: those that narrow the best shares most."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.answer import Answer
from isoflop.experiments.followup.sizes import size_of
from isoflop.experiments.followup.study_file import write_file, wrote_text
from isoflop.experiments.followup.template import NextStudyError, source_of, template_of
from isoflop.experiments.study.mixtures import UNIT
from isoflop.scaling.laws.law import Array
from isoflop.scaling.mixtures.answer import Mix
from isoflop.scaling.mixtures.mix import mix
from isoflop.scaling.mixtures.table import mixtures
from isoflop.scaling.table.bundle.manifest import is_bundle
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.runs import final_rows, is_runs

MOST = 30  # mixtures of one suggestion
KEPT = ("weights", "weight_intervals", "losses", "at", "proxies", "conventions", "findings")  # of the answer of mix


@dataclass(frozen=True, repr=False, eq=False)
class NextMixtures(Answer):
    """The next mixtures, the answer that they narrow, what one run of them costs, and the study file."""

    found: Mix
    budget: float
    each: float
    file: Path | None
    command: str
    notes: tuple[str, ...]
    replaced: bool = False  # an earlier study file

    @property
    def spent(self) -> float:
        """FLOPs of all of them."""
        return self.each * len(self.found.proxies)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        answer = self.found.to_dict()
        kept = {name: answer[name] for name in KEPT}
        return plain({
            "goal": "mixture", "budget": self.budget, "spent": self.spent, "flops_each": self.each, **kept,
            "file": str(self.file) if self.file else None, "replaced": self.replaced, "command": self.command,
            "notes": list(self.notes),
        })  # fmt: skip

    def __str__(self) -> str:
        found, names = self.found, self.found.domains
        spans = ", ".join(f"{n} {w:.3f} ({a:.3f} to {b:.3f})"
                          for n, w, (a, b) in zip(names, found.weights, found.intervals, strict=True))  # fmt: skip
        lines = [f"best shares and their {found.level:.0%} intervals: {spans}"]
        lines.append(f"{len(found.proxies)} runs of {self.each:.3g} FLOPs, {self.spent:.3g} of {self.budget:.3g}:")
        lines.append("  " + " ".join(f"{name:>12}" for name in names) + "   variance of the best shares that is gone")
        for proxy in found.proxies:
            lines.append("  " + " ".join(f"{share:>12.4f}" for share in proxy.weights) + f"   {proxy.removes:.0%}")
        lines += [str(finding) for finding in found.findings] + [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *wrote_text(self.file, self.replaced, self.command)])


def next_mixtures(table: pd.DataFrame, *, budget: float, target: float, out: Path | None = None) -> NextMixtures:
    """The mixtures that `budget` FLOPs of runs as the largest of `table` should try, to narrow the best shares.

    The best shares are those of a run of `target` FLOPs: n_params and tokens of the largest run grow alike, or the one
    of them that varies. Raises NextStudyError where no run is affordable or no study can be written, NoMixtureError
    for a table without mixtures.
    """
    known = mixtures(table, ["loss"])
    runs = final_rows(table) if is_runs(table) else table
    if "flops" not in runs or runs["flops"].isna().all():
        raise NextStudyError("--goal mixture: what does a run cost? The table has no flops")
    if out is not None and not is_runs(table):
        raise NextStudyError("--out needs runs that isoflop trained: another table does not say how to train more")
    most = runs.loc[runs["flops"].idxmax()]
    each = float(most["flops"])
    count = min(MOST, math.floor(budget / each))
    if count < 1:
        raise NextStudyError(f"--budget {budget:g}: one run as the largest of the table takes {each:.3g} FLOPs")
    further = (target / each) ** (1 / max(len(known.varies), 1))
    at = {name: float(known.frame[name].max()) * further for name in known.varies}
    found = mix(table, at=at, proxies=count, narrow="weights")
    if at:
        scale = " and ".join(f"{value:.3g} {name}" for name, value in at.items())
        notes = [f"a run of {target:.3g} FLOPs is taken to have {scale}: {further:.3g} times the largest run's"]
    else:
        notes = ["every run has one size and one number of tokens: the best shares are taken to be those of the target"]
    if out is None:
        return NextMixtures(found, budget, each, None, "", tuple(notes))
    path = source_of(table)
    template = template_of(runs, path, apart=("mixture",))
    if "domains" not in template.settings["data"]:
        notes.append("the table does not record the text of its domains: add data.domains to the study file")
    shares = [dict(zip(found.domains, _whole(proxy.weights), strict=True)) for proxy in found.proxies]
    study = {"sizes": [size_of(most, runs, template)], "mixtures": {"shares": shares},
             "vary": {"budget.tokens": [int(most["horizon_tokens"])]}}  # fmt: skip
    what = f"{len(shares)} mixtures suggested to narrow the best shares at {target:.3g} FLOPs"
    store = str(path) if path.is_dir() and not is_bundle(path) else "runs"
    replaced = out.exists()
    command = write_file(out, template, study, what, runs=store)
    return NextMixtures(found, budget, each, out, command, (*notes, *template.notes), replaced)


def _whole(weights: Array) -> list[float]:
    """Shares in whole parts of UNIT, which sum to 1: what is left over goes to the largest."""
    parts = [round(float(w) * UNIT) for w in weights]
    parts[max(range(len(parts)), key=lambda i: parts[i])] += UNIT - sum(parts)
    return [part / UNIT for part in parts]
