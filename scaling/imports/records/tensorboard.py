"""TensorBoard's event files, and the CSV that its page gives out: a row per step, a column per scalar and setting."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from isoflop.scaling.imports.columns import read_frame, runs_of_table
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError, reported_loss
from isoflop.scaling.table.columns import floats
from isoflop.scaling.table.curves import SPLITS
from isoflop.scaling.table.ended.diverged import is_measure
from isoflop.scaling.table.meaning import words

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_EVERYTHING = {"scalars": 0, "tensors": 0}
_HPARAMS = "_hparams_/session_start_info"
_KINDS = {"number_value": float, "string_value": str, "bool_value": bool}
_DOWNLOAD = re.compile(r"run-(?P<run>.+?)-tag-(?P<tag>.+)\.csv")
_SPLIT = re.compile(rf"(?:^|[\W_])({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?=$|[\W_])", re.I)

Place = tuple[str, ...]  # the folders of a run below the source


@dataclass(frozen=True)
class _Scalars:
    """What one folder holds: values by step and tag, and hyper-parameters by name."""

    series: Mapping[str, Mapping[int, float]]
    settings: Mapping[str, float | str | bool] = field(default_factory=dict)

    @property
    def is_session(self) -> bool:
        """Whether it is what `add_hparams` writes: settings, and of each metric at most its end."""
        return bool(self.settings) and all(len(points) < 2 for points in self.series.values())


class EventReader:
    """Reads event files, which needs the extra `tensorboard`, and the CSV of TensorBoard's page.

    A folder with event files is a run, or of a run above it a split (train/, loss_val/) or a session of
    hyper-parameters.
    """

    kinds = ("tensorboard",)
    suffixes = ()

    def recognises(self, path: Path) -> bool:
        """Whether a file is an event file or a CSV of its page, or a folder holds events at any depth or such CSV."""
        events = any(path.rglob("*tfevents*")) if path.is_dir() else "tfevents" in path.name
        return events or bool(_downloads(path))

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs at `path`; runs without a scalar are left out. Raises SourceError where tensorboard is absent."""
        runs: list[ForeignRun] = []
        left_out: list[LeftOut] = []
        root = path.resolve()
        for place, frame in _by_run(_downloaded(path, notes) or _logged(path), notes):
            inner = place[1:] if place[:1] == (root.name,) else place
            run = "-".join(inner) or (root.stem if place else root.parent.name)
            if len(frame):
                found, _ = runs_of_table(run, f"{path} {run}", frame.assign(run_id=run), mapping, notes)
                runs += found
            else:
                left_out.append(LeftOut(run, 0, "its event files hold no scalar", whole=True))
        return runs, left_out


EVENTS = EventReader()


def _logged(source: Path) -> dict[Place, _Scalars]:
    """The scalars of a file, or of every folder with event files from `source` on; where a step was written twice, the
    later values. Raises SourceError where tensorboard is absent."""
    if find_spec("tensorboard") is None:
        raise SourceError(f"{source}: reading event files takes pip install 'isoflop[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    held = {}
    for folder in [source] if source.is_file() else sorted({path.parent for path in source.rglob("*tfevents*")}):
        events = EventAccumulator(str(folder), size_guidance=_EVERYTHING).Reload()
        series = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
        series |= {tag: points for tag in events.Tags()["tensors"] if (points := _of_tensors(events, tag))}
        for tag in filter(is_measure, series):
            series[tag] = {step: reported_loss(value) for step, value in series[tag].items()}
        held[(source.resolve().name, *folder.relative_to(source).parts)] = _Scalars(series, _hparams(events))
    return held


def _downloads(source: Path) -> list[Path]:
    """The CSV of TensorBoard's page, run-NAME-tag-TAG.csv: the file itself, or those of a folder without others."""
    files = sorted(source.rglob("*.csv")) if source.is_dir() else [source]
    return files if all(_DOWNLOAD.fullmatch(file.name) for file in files) else []


def _downloaded(source: Path, notes: list[str]) -> dict[Place, _Scalars]:
    """The scalars of such files by the run that their names tell. Raises SourceError for one with other columns."""
    held: dict[Place, dict[str, dict[int, float]]] = {}
    for file in _downloads(source):
        named, frame = _DOWNLOAD.fullmatch(file.name), read_frame(file, notes, {})
        if named is None or not {"Step", "Value"} <= set(frame):
            raise SourceError(f"{file}: named as TensorBoard names a scalar's CSV, but without columns Step and Value")
        values = map(reported_loss, floats(frame["Value"]))
        held.setdefault((named["run"],), {})[named["tag"]] = dict(zip(floats(frame["Step"]), values, strict=True))
    return {place: _Scalars(series) for place, series in held.items()}


def _by_run(held: Mapping[Place, _Scalars], notes: list[str]) -> Iterator[tuple[Place, pd.DataFrame]]:
    """The scalars of each run by step, those of a split under its name (train/loss), with the run's settings."""
    parts: dict[Place, list[Place]] = {}
    for place, scalars in held.items():
        above = place[:-1]
        is_session = scalars.is_session and above in held and bool(held[above].series)
        parts.setdefault(above if is_session else _run_of(place, held), []).append(place)
    for run, places in parts.items():
        series: dict[str, Mapping[int, float]] = {}
        settings: dict[str, set[float | str | bool]] = {}
        for place in places:
            for key, value in held[place].settings.items():
                settings.setdefault(key, set()).add(value)
            split = _SPLIT.search(place[-1]) if place != run else None
            if split or place == run:
                series |= {_named(tag, split and split[1]): points for tag, points in held[place].series.items()}
        if splits := [place[-1] for place in places if place != run and _SPLIT.search(place[-1])]:
            notes.append(f"{', '.join(splits)}: series of one run, named {', '.join(filter(_is_loss, series))}")
        frame = pd.DataFrame(series).rename_axis("step").reset_index().sort_values("step", ignore_index=True)
        agreed = {key: next(iter(values)) for key, values in settings.items() if len(values) == 1}
        yield run, frame.assign(**{key: value for key, value in agreed.items() if key not in frame})


def _run_of(place: Place, held: Mapping[Place, _Scalars]) -> Place:
    """The run of a folder: of a split the one above it, or that of its name without the split where it has several."""
    losses = [tag for tag in held[place].series if _is_loss(tag)]
    if not place or len(_SPLIT.findall(place[-1])) != 1 or any(map(_SPLIT.search, losses)):
        return place  # of a run that is called so, the losses tell
    base = _without_split(place[-1])
    if words(base) in ("", *map(words, held[place].series)):  # as Keras writes them; as `add_scalars` does
        return place[:-1]
    alike = [other for other in held if other[:-1] == place[:-1] and _without_split(other[-1]) == base]
    return (*place[:-1], base) if len(alike) > 1 else place


def _without_split(name: str) -> str:
    return _SPLIT.sub("", name).strip("_-. ")


def _named(tag: str, split: str | None) -> str:
    """The column of a tag: a loss of a split has its name too."""
    return f"{split.lower()}/{tag}" if split and _is_loss(tag) else tag


def _is_loss(tag: str) -> bool:
    return "loss" in words(tag).split("_") or is_measure(tag)


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
