"""`tracker_metrics.jsonl` of levanter and marin: the configuration and the last metrics of a run."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from isoflop.read_json import JsonError, parse_json, read_bytes
from isoflop.scaling.imports.columns import runs_of_table
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError
from isoflop.scaling.table.formats.json_rows import flat

FILE = "tracker_metrics.jsonl"
_EVENTS = ("hparams", "summary")  # what an event of the JSON tracker holds besides the metrics of a step


class TrackerReader:
    """Reads a line with config and summary, as W&B's tracker leaves it, or the lines of events of the JSON tracker."""

    kinds = ("levanter",)
    suffixes = (FILE,)

    def recognises(self, path: Path) -> bool:
        """Whether a file has the name that levanter gives it."""
        return path.is_file() and path.name == FILE

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The run of one file: its logged steps, else its last line with a summary. Raises SourceError without any."""
        lines = _lines(path)
        summaries = [held for held in lines if isinstance(held.get("summary"), dict)]
        steps = [held for held in lines if held.get("event") == "log" and isinstance(held.get("metrics"), dict)]
        if steps:
            constants: dict[str, object] = {}
            for held in lines:
                constants |= next((flat(held[key]) for key in _EVENTS if isinstance(held.get(key), dict)), {})
            table = pd.DataFrame([{"step": held.get("step")} | flat(held["metrics"]) for held in steps])
            table = (
                table.groupby("step", sort=False).last().reset_index()
            )  # the metrics of a step come in several lines
            constants = {key: value for key, value in constants.items() if key not in table}
            table = table.assign(run_id=name, **{k: v for k, v in constants.items() if not isinstance(v, list)})
            return runs_of_table(name, str(path), table, mapping, notes)
        if not summaries:
            raise SourceError(f"{path}: no line holds a summary")
        row = {"run_id": name, "summary": summaries[-1]["summary"], "config": summaries[-1].get("config") or {}}
        return runs_of_table(name, str(path), pd.DataFrame([row]), mapping, notes)


def _lines(path: Path) -> list[dict]:
    """The objects of a file, one a line. Raises SourceError naming the line that is none."""
    try:
        lines = list(enumerate(read_bytes(path).splitlines(), 1))
        return [parse_json(line, dict, source=f"{path}: line {k}", nan=True) for k, line in lines if line.strip()]
    except JsonError as error:
        raise SourceError(str(error)) from error


TRACKER = TrackerReader()
