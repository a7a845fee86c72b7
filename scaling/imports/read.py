"""Which reader a source is for, and the table that comes out: what `isoflop import` does."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from isoflop.scaling.imports.assemble import Asked, ForeignRun, Imported, LeftOut, SourceError, assemble
from isoflop.scaling.imports.columns import SUFFIXES, read_frame, runs_of_table
from isoflop.scaling.imports.logs import is_nanochat, is_nanogpt, nanochat_runs, nanogpt_runs

KINDS = ("auto", "tensorboard", "wandb", "nanogpt", "nanochat", "olmo", "table")
_TABLES = ("wandb", "olmo", "table")
_LOGS = (".log", ".txt", ".out")


def import_source(source: Path, kind: str, asked: Asked, mapping: Mapping[str, str]) -> Imported:
    """The runs at `source` as one table. Raises SourceError naming the file, what is missing and the option for it."""
    if kind not in KINDS:
        raise SourceError(f"--from {kind}: not one of {', '.join(KINDS)}")
    if not source.exists():
        raise SourceError(f"{source}: no such file or folder")
    notes: list[str] = []
    runs, left_out = [], []
    for path in _files(source, kind):
        found, out = _read(path, kind, mapping, notes)
        runs += found
        left_out += out
    made = assemble(runs, asked, tuple(left_out))
    return Imported(made.table, made.kind, made.left_out, (*notes, *made.notes))


def _files(source: Path, kind: str) -> list[Path]:
    """What to read: the source itself, or the files in a folder that a reader is for."""
    if source.is_file() or kind == "tensorboard" or (kind == "auto" and any(source.rglob("*tfevents*"))):
        return [source]
    wanted = SUFFIXES if kind in _TABLES else _LOGS if kind in ("nanogpt", "nanochat") else (*SUFFIXES, *_LOGS)
    found = sorted(path for path in source.rglob("*") if path.suffix in wanted and path.is_file())
    if not found:
        raise SourceError(f"{source}: nothing to import (no event files, no {', '.join(wanted)})")
    return found


def _read(
    path: Path, kind: str, mapping: Mapping[str, str], notes: list[str]
) -> tuple[list[ForeignRun], list[LeftOut]]:
    if kind == "tensorboard" or (kind == "auto" and (path.is_dir() or "tfevents" in path.name)):
        return _events(path, mapping, notes)
    if kind in _TABLES or (kind == "auto" and path.suffix in SUFFIXES):
        return runs_of_table(path.stem, str(path), read_frame(path), mapping, notes)
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not text ({error.reason} at byte {error.start})") from error
    for name, fits, read in (("nanogpt", is_nanogpt, nanogpt_runs), ("nanochat", is_nanochat, nanochat_runs)):
        if kind in (name, "auto") and fits(text):
            return read(path, text), []
    told = "nanogpt nor nanochat" if kind == "auto" else kind
    raise SourceError(f"{path}: no line in it is {'neither ' * (kind == 'auto')}{told}'s; name its kind with --from")


def _events(path: Path, mapping: Mapping[str, str], notes: list[str]) -> tuple[list[ForeignRun], list[LeftOut]]:
    if find_spec("tensorboard") is None:
        raise SourceError(f"{path}: reading event files takes pip install 'isoflop[tensorboard]'")
    from isoflop.scaling.imports.tensorboard import runs_of_events

    runs: list[ForeignRun] = []
    left_out: list[LeftOut] = []
    for name, frame in runs_of_events(path):
        if len(frame):
            found, _ = runs_of_table(name, f"{path} {name}", frame.assign(run_id=name), mapping, notes)
            runs += found
        else:
            left_out.append(LeftOut(name, 0, "its event files hold no scalar", whole=True))
    return runs, left_out
