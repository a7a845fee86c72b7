"""`tracker_metrics.jsonl` of levanter and marin: the configuration and the last metrics of a run."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from isoflop.read_json import JsonError, parse_json, read_bytes
from isoflop.scaling.imports.columns import runs_of_table
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError

FILE = "tracker_metrics.jsonl"


class TrackerReader:
    """Reads what levanter's tracker writes at the end of a run: a line with config and summary."""

    kinds = ("levanter",)
    suffixes = (FILE,)

    def recognises(self, path: Path) -> bool:
        """Whether a file has the name that levanter gives it."""
        return path.is_file() and path.name == FILE

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The run of one file: its last line with a summary. Raises SourceError without one."""
        lines = [held for held in _lines(path) if isinstance(held.get("summary"), dict)]
        if not lines:
            raise SourceError(f"{path}: no line holds a summary")
        row = {"run_id": name, "summary": lines[-1]["summary"], "config": lines[-1].get("config") or {}}
        return runs_of_table(name, str(path), pd.DataFrame([row]), mapping, notes)


def _lines(path: Path) -> list[dict]:
    """The objects of a file, one a line. Raises SourceError naming the line that is none."""
    try:
        lines = list(enumerate(read_bytes(path).splitlines(), 1))
        return [parse_json(line, dict, source=f"{path}: line {k}", nan=True) for k, line in lines if line.strip()]
    except JsonError as error:
        raise SourceError(str(error)) from error


TRACKER = TrackerReader()
