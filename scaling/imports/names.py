"""Names of runs that come from files: by the file, or by the folders where files are named alike."""

import re
from collections.abc import Sequence
from pathlib import Path

from isoflop.printable import printable

# Names that a program gives to every run's file or folder: they tell no run from another.
_FILES = {
    "metrics", "trainer_state", "tracker_metrics", "stats", "log", "logs", "train", "train_log", "history",
    "training_log", "results", "result", "output", "stdout", "stderr", "summary", "run", "progress", "loss", "losses",
}  # fmt: skip
_FOLDERS = re.compile(
    r"csv|logs?|lightning_logs|csv_logs|metrics|checkpoints?|outputs?|results?|eval|version_0|checkpoint-\d+|\.|"
)
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def run_names(paths: Sequence[Path], source: Path) -> dict[Path, str]:
    """A name for the run in each file under `source`.

    By the file's name where that tells files apart; else by the parts of its path that are not the same for all. One
    file alone with a name that a program gives to every run's is named by its folder. Bytes that are no
    text are escaped.
    """
    return {path: printable(name) for path, name in _names(paths, source).items()}


def _names(paths: Sequence[Path], source: Path) -> dict[Path, str]:
    stems = [path.stem for path in paths]
    if len(paths) == 1:
        return {paths[0]: _alone(paths[0], source)}
    if len(set(stems)) == len(stems):
        return dict(zip(paths, stems, strict=True))
    parts = [_parts(path, source) for path in paths]
    runs = [tuple(part for part in held if not _CHECKPOINT.fullmatch(part)) for held in parts]
    parts = runs if len(set(runs)) == len(runs) else parts
    common = set.intersection(*map(set, parts))
    names = ["-".join(part for part in held if part not in common) for held in parts]
    if len(set(names)) < len(names) or not all(names):
        names = ["-".join(held) for held in parts]
    return dict(zip(paths, names, strict=True))


def _parts(path: Path, source: Path) -> tuple[str, ...]:
    inner = path.relative_to(source) if source.is_dir() else path
    return (*inner.parent.parts, inner.stem)


def _alone(path: Path, source: Path) -> str:
    if path.stem.lower() not in _FILES:
        return path.stem
    folders = [part for part in path.absolute().parent.parts[1:] if not _FOLDERS.fullmatch(part.lower())]
    version = path.parent.name if re.fullmatch(r"version_\d+", path.parent.name) else ""
    name = "-".join([*folders[-1:], *([version] if version and version not in folders[-1:] else [])])
    return name or path.stem
