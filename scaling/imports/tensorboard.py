"""TensorBoard event files as tables: a row per step, a column per scalar, and one per hyper-parameter."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

_EVERYTHING = {"scalars": 0, "tensors": 0}
_HPARAMS = "_hparams_/session_start_info"
_KINDS = {"number_value": float, "string_value": str, "bool_value": bool}


def event_folders(source: Path) -> list[Path]:
    """Every folder under `source` (or the file itself) that holds event files: one run each."""
    if source.is_file():
        return [source]
    return sorted({path.parent for path in source.rglob("*tfevents*")})


def runs_of_events(source: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """(name of the run, its scalars by step). A step told twice keeps what was written last."""
    for folder in event_folders(source):
        events = EventAccumulator(str(folder), size_guidance=_EVERYTHING).Reload()
        series = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
        series |= {tag: points for tag in events.Tags()["tensors"] if (points := _of_tensors(events, tag))}
        name = folder.stem if folder == source else str(folder.relative_to(source)).replace("/", "-")
        frame = pd.DataFrame(series).rename_axis("step").reset_index().sort_values("step", ignore_index=True)
        yield name, frame.assign(**{key: value for key, value in _hparams(events).items() if key not in frame})


def _of_tensors(events: EventAccumulator, tag: str) -> dict[int, float]:
    """A scalar that was written as a tensor of one number; nothing for text and histograms."""
    points = {}
    for event in events.Tensors(tag):
        value = make_ndarray(event.tensor_proto)
        if value.size != 1 or value.dtype.kind not in "fiu":
            return {}
        points[event.step] = float(value.reshape(()))
    return points


def _hparams(events: EventAccumulator) -> dict[str, float | str | bool]:
    if _HPARAMS not in events.summary_metadata:
        return {}
    data = HParamsPluginData.FromString(events.summary_metadata[_HPARAMS].plugin_data.content)
    values = data.session_start_info.hparams
    return {
        key: _KINDS[kind](getattr(v, kind)) for key, v in values.items() if (kind := v.WhichOneof("kind")) in _KINDS
    }
