"""TensorBoard event files as tables: a row per step, a column per scalar, and one per hyper-parameter."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from isoflop.scaling.imports.columns import runs_of_table
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError, reported_loss
from isoflop.scaling.table.formats.diverged import is_measure

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_EVERYTHING = {"scalars": 0, "tensors": 0}
_HPARAMS = "_hparams_/session_start_info"
_KINDS = {"number_value": float, "string_value": str, "bool_value": bool}


class EventReader:
    """Reads TensorBoard event files: a folder with some is a run. Needs the extra `tensorboard`."""

    kinds = ("tensorboard",)
    suffixes = ()

    def recognises(self, path: Path) -> bool:
        """Whether a file is an event file, or a folder holds one at any depth."""
        return any(path.rglob("*tfevents*")) if path.is_dir() else "tfevents" in path.name

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs at `path`; runs without a scalar are left out. Raises SourceError where tensorboard is absent."""
        if find_spec("tensorboard") is None:
            raise SourceError(f"{path}: reading event files takes pip install 'isoflop[tensorboard]'")
        runs: list[ForeignRun] = []
        left_out: list[LeftOut] = []
        for run, frame in _scalars(path):
            if len(frame):
                found, _ = runs_of_table(run, f"{path} {run}", frame.assign(run_id=run), mapping, notes)
                runs += found
            else:
                left_out.append(LeftOut(run, 0, "its event files hold no scalar", whole=True))
        return runs, left_out


EVENTS = EventReader()


def _folders(source: Path) -> list[Path]:
    """The file itself, or every folder under `source` with event files: one run each."""
    if source.is_file():
        return [source]
    return sorted({path.parent for path in source.rglob("*tfevents*")})


def _scalars(source: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The name of each run and its scalars by step; where a step was written twice, the later values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for folder in _folders(source):
        events = EventAccumulator(str(folder), size_guidance=_EVERYTHING).Reload()
        series = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
        series |= {tag: points for tag in events.Tags()["tensors"] if (points := _of_tensors(events, tag))}
        for tag in filter(is_measure, series):
            series[tag] = {step: reported_loss(value) for step, value in series[tag].items()}
        name = folder.stem if folder == source else str(folder.relative_to(source)).replace("/", "-")
        frame = pd.DataFrame(series).rename_axis("step").reset_index().sort_values("step", ignore_index=True)
        yield name, frame.assign(**{key: value for key, value in _hparams(events).items() if key not in frame})


def _of_tensors(events: "EventAccumulator", tag: str) -> dict[int, float]:
    """A series that was written as tensors of one number, by step; empty for text and histograms."""
    from tensorboard.util.tensor_util import make_ndarray

    points = {}
    for event in events.Tensors(tag):
        value = make_ndarray(event.tensor_proto)
        if value.size != 1 or value.dtype.kind not in "fiu":
            return {}
        points[event.step] = float(value.reshape(()))
    return points


def _hparams(events: "EventAccumulator") -> dict[str, float | str | bool]:
    """Hyper-parameters as the plugin of that name stores them."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    if _HPARAMS not in events.summary_metadata:
        return {}
    data = HParamsPluginData.FromString(events.summary_metadata[_HPARAMS].plugin_data.content)
    values = data.session_start_info.hparams
    return {
        key: _KINDS[kind](getattr(v, kind)) for key, v in values.items() if (kind := v.WhichOneof("kind")) in _KINDS
    }
