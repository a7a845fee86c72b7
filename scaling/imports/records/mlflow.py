"""Folders of MLflow's file store (mlruns): a folder a run, a file a metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

from isoflop.scaling.imports.columns import runs_of_table
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError, read_text, reported_loss
from isoflop.scaling.table.ended.diverged import is_measure

_STATUS = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
_NAME = "tags/mlflow.runName"


@dataclass(frozen=True)
class StoreReader:
    """Reads the folders that MLflow writes without a server: each run has meta.yaml, metrics and params."""

    keep_unfinished: bool = False
    kinds: ClassVar[tuple[str, ...]] = ("mlflow",)
    suffixes: ClassVar[tuple[str, ...]] = ()

    def recognises(self, path: Path) -> bool:
        """Whether a folder holds a run at any depth."""
        return path.is_dir() and bool(_runs(path))

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs in a folder; those that did not finish or logged no metric are left out. Raises SourceError."""
        folders = _runs(path)
        if not folders:
            raise SourceError(f"{path}: no run of MLflow here (looked for meta.yaml beside metrics)")
        labels = [_label(folder) for folder in folders]
        runs: list[ForeignRun] = []
        left_out: list[LeftOut] = []
        for folder, label in zip(folders, labels, strict=True):
            run = label if labels.count(label) == 1 else f"{label}-{folder.name[:8]}"
            meta = _meta(folder)
            status = _STATUS.get(meta.get("status", ""), meta.get("status", ""))
            over = status in ("", "FINISHED") or self.keep_unfinished
            if meta.get("lifecycle_stage", "active") != "active":
                status, over = meta["lifecycle_stage"], False  # a run that was deleted stays in the folder
            frame = _history(folder)
            if not over or frame.empty:
                reason = "it logged no metric" if over else f"its state is {status}"
                left_out.append(LeftOut(run, len(frame), reason, whole=True))
                continue
            frame = frame.assign(run_id=run)
            found, out = runs_of_table(run, str(folder), frame, mapping, notes, keep_unfinished=self.keep_unfinished)
            runs += found
            left_out += out
        if len(set(labels)) < len(labels):
            notes.append("names of runs repeat: those have the beginning of their id too")
        return runs, left_out


def _runs(path: Path) -> list[Path]:
    """The folders of runs: not those of the models that they logged, which have metrics too (models/m-*)."""
    folders = [meta.parent for meta in path.rglob("meta.yaml") if (meta.parent / "metrics").is_dir()]
    return sorted(folder for folder in folders if folder.parent.name != "models")


def _label(folder: Path) -> str:
    named = folder / _NAME
    return read_text(named).strip() if named.is_file() else _meta(folder).get("run_name", "") or folder.name


def _meta(folder: Path) -> dict[str, str]:
    """The lines `key: value` of meta.yaml."""
    lines = read_text(folder / "meta.yaml").splitlines()
    pairs = (line.partition(":") for line in lines if not line.startswith(" "))
    return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}


def _history(folder: Path) -> pd.DataFrame:
    """A row per step, a column per metric; parameters as columns of one value."""
    series: dict[str, dict[int, float]] = {}
    root = folder / "metrics"
    for file in sorted(file for file in root.rglob("*") if file.is_file()):
        points: dict[int, float] = {}
        for number, line in enumerate(read_text(file).splitlines(), 1):
            try:
                _, value, *step = line.split()
                points[int(step[0]) if step else 0] = float(value)
            except ValueError:
                raise SourceError(f"{file}: line {number} is no `time value step`: {line[:60]!r}") from None
        name = str(file.relative_to(root))
        series[name] = {at: reported_loss(value) for at, value in points.items()} if is_measure(name) else points
    frame = pd.DataFrame(series).rename_axis("step").reset_index().sort_values("step", ignore_index=True)
    held = {file.name: read_text(file).strip() for file in sorted((folder / "params").glob("*")) if file.is_file()}
    return frame.assign(**{key: value for key, value in held.items() if key not in frame})


STORE = StoreReader()
