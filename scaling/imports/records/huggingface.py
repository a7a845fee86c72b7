"""`trainer_state.json` of Hugging Face's Trainer: a file, or folders of runs with their checkpoints."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict

import pandas as pd

from isoflop.read_json import read_json
from isoflop.scaling.imports.columns import runs_of_table
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError, reported_loss
from isoflop.scaling.table.ended.diverged import is_measure

FILE = "trainer_state.json"
_SUMMARY = ("train_runtime", "train_samples_per_second", "total_flos")


class _State(TypedDict):
    log_history: list[dict[str, object]]
    global_step: NotRequired[int | None]
    max_steps: NotRequired[int | None]
    total_flos: NotRequired[float | None]


class TrainerStateReader:
    """Reads what Hugging Face's Trainer logs; of a run's checkpoints the last, which holds the whole history."""

    kinds = ("huggingface",)
    suffixes = (FILE,)

    def recognises(self, path: Path) -> bool:
        """Whether a JSON file has the history that the Trainer writes."""
        if not path.is_file() or path.suffix != ".json":
            return False
        try:
            return bool(_state(path))
        except SourceError:
            return False

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The run of one file. Raises SourceError for one without a history of losses."""
        state = _state(path)
        rows = [row for row in state["log_history"] if not _over(row)]
        if not rows:
            raise SourceError(f"{path}: its log_history holds no row of training or evaluation")
        frame = pd.DataFrame([{"train_loss" if key == "loss" else key: _reported(key, v) for key, v in row.items()}
                              for row in rows])  # fmt: skip
        if "step" not in frame or not pd.api.types.is_numeric_dtype(frame["step"]):
            raise SourceError(f"{path}: its log_history reports no step")
        last, flos, horizon = state.get("global_step"), state.get("total_flos"), state.get("max_steps")
        if flos and last:
            frame["total_flos"] = float(flos) * frame["step"] / last
            notes.append("flops: total_flos, at each step its share (the Trainer's 6 x N without embeddings x tokens)")
        runs, left_out = runs_of_table(name, str(path), frame.assign(run_id=name), mapping, notes)
        return [replace(run, horizon_steps=horizon if horizon and horizon > 0 else None) for run in runs], left_out


def _reported(key: str, value: object) -> object:
    return reported_loss(value) if isinstance(value, float) and key.startswith("eval_") and is_measure(key) else value


def _over(row: Mapping[str, object]) -> bool:
    """Whether a row of the history is the summary at the end of training, which is no evaluation."""
    return any(key in row for key in _SUMMARY) and not any(key.startswith("eval_") for key in row)


def _state(path: Path) -> _State:
    """What a file holds. Raises SourceError where it is no trainer_state.json."""
    state: _State = read_json(path, _State, nan=True, error=SourceError)
    return state


def _place(path: Path) -> tuple[int, bool]:
    """How far a state is: its last step, and that of the run's own folder after that of a checkpoint."""
    return _state(path).get("global_step") or 0, not path.parent.name.startswith("checkpoint-")


def newest(paths: list[Path], notes: list[str]) -> list[Path]:
    """Of the trainer_state.json of one run (its folder, and its checkpoint-N folders) the one of the last step."""
    by_run: dict[Path, list[Path]] = {}
    for path in paths:
        folder = path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent
        by_run.setdefault(folder if path.name == FILE else path, []).append(path)
    kept = [max(found, key=_place) if len(found) > 1 else found[0] for found in by_run.values()]
    if len(kept) < len(paths):
        notes.append(f"{len(paths)} {FILE} of {len(kept)} runs: of the checkpoints of a run the last is read")
    return kept


TRAINER_STATE = TrainerStateReader()
