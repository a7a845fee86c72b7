"""A JSON object of settings (config.json) in the folder of a run's history: constants of that run."""

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from isoflop.read_json import JsonError, read_json
from isoflop.scaling.imports.lookup import NAMES
from isoflop.scaling.table.columns import VALIDATION
from isoflop.scaling.table.formats.json_rows import flat
from isoflop.scaling.table.meaning import meaning

_ALONG = ("step", "train_loss", "wall_seconds", "samples", "epoch")  # of NAMES: what a history reports itself
PEAK = "peak_learning_rate"


def settings_of(path: Path) -> dict[str, object]:
    """The settings in a file, by the path of each (model/n_layer); none where it holds rows, or a loss."""
    try:
        written = read_json(path, dict, nan=True)
    except (JsonError, OSError):
        return {}
    held = flat(written)
    rows = any(isinstance(value, list) and any(isinstance(item, dict) for item in value) for value in written.values())
    if rows or any(_is_loss(key) and not isinstance(value, str) for key, value in (written | held).items()):
        return {}
    return {key: value for key, value in held.items() if isinstance(value, str | int | float) and not _is_measured(key)}


def folders_with_settings(paths: Collection[Path]) -> dict[Path, Path]:
    """Of the files of a source those that hold settings of the others in their folder, by that folder."""
    found: dict[Path, list[Path]] = {}
    for path in paths:
        if path.suffix == ".json" and settings_of(path):
            found.setdefault(path.parent, []).append(path)
    here = [path.parent for path in paths]
    return {folder: files[0] for folder, files in found.items() if len(files) == 1 < here.count(folder)}


def with_settings(frame: pd.DataFrame, settings: Mapping[str, object]) -> pd.DataFrame:
    """The rows of a history with settings as columns, where it has none that say the same."""
    lowered = {str(name).lower() for name in frame}
    known = [name for name, aliases in NAMES.items() if lowered & set(aliases)]
    quantities = {meant.quantity for name in frame if (meant := meaning(str(name)))}
    added: dict[str, object] = {}
    for key, value in settings.items():
        short = key.rsplit("/", 1)[-1].lower()
        named = next((name for name, aliases in NAMES.items() if short in aliases and name != "run_id"), None)
        meant = meaning(key) or meaning(short)
        if named in known or (meant is not None and meant.quantity in quantities) or key.lower() in lowered:
            continue
        quantity = meant.quantity if meant is not None and meant.quantity not in added else None
        added[PEAK if named == "learning_rate" else short if quantity or named else key] = value
    return frame.assign(**added)


def _is_measured(key: str) -> bool:
    """Whether a key is of what a run brings out or how far it goes, which a constant is not."""
    short = key.rsplit("/", 1)[-1].lower()
    meant = meaning(short)
    along = any(short in NAMES[name] for name in _ALONG) or key.lower() in NAMES["run_id"]
    return along or (meant is not None and meant.quantity != "n_params")


def _is_loss(key: str) -> bool:
    meant = meaning(key)
    return bool(VALIDATION.match(key.lower())) or (meant is not None and meant.quantity == "loss")
