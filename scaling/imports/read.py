"""`isoflop import`: the reader that a source is for, and the table that comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from isoflop.scaling.imports.assemble import Imported, ImportOptions, assemble, listed
from isoflop.scaling.imports.columns import TABLES, TableReader
from isoflop.scaling.imports.kept import KEPT, is_kept
from isoflop.scaling.imports.logs.megatron import MEGATRON
from isoflop.scaling.imports.logs.nanochat import NANOCHAT
from isoflop.scaling.imports.logs.nanogpt import NANOGPT
from isoflop.scaling.imports.lookup import NAMES
from isoflop.scaling.imports.names import run_names
from isoflop.scaling.imports.records.huggingface import TRAINER_STATE, newest
from isoflop.scaling.imports.records.levanter import TRACKER
from isoflop.scaling.imports.records.lm_eval import RESULTS, measures_a_loss, named_scores
from isoflop.scaling.imports.records.mlflow import STORE, StoreReader
from isoflop.scaling.imports.records.settings_file import folders_with_settings
from isoflop.scaling.imports.records.tensorboard import EVENTS
from isoflop.scaling.imports.source import WANDB, ForeignRun, LeftOut, Reader, SourceError
from isoflop.scaling.table.columns import OPTIONAL, hint
from isoflop.scaling.table.formats.read_file import is_table_file
from isoflop.scaling.table.meaning import QUANTITIES
from isoflop.scaling.table.runs import no_file

READERS: tuple[Reader, ...] = (
    EVENTS,
    STORE,
    TRAINER_STATE,
    TRACKER,
    RESULTS,
    TABLES,
    NANOGPT,
    MEGATRON,
    NANOCHAT,
)  # in the order in which "auto" tries them
_WHOLE = ("trainer_state.json", "tracker_metrics.jsonl")
KINDS = ("auto", *(kind for reader in READERS for kind in reader.kinds))


def import_source(
    source: Path, kind: str, options: ImportOptions, mapping: Mapping[str, str], sheet: str | None = None
) -> Imported:
    """The runs of a file or a folder as one table.

    `kind` is one of KINDS, `mapping` the columns that the user named (ours -> the source's), `sheet` one
    of a spreadsheet. Raises SourceError naming
    the file, what is missing and the option that gives it.
    """
    if kind not in KINDS:
        raise SourceError(f"--from {kind}: not one of {', '.join(KINDS)}")
    if not source.exists():
        raise SourceError(no_file(source))
    known = tuple(dict.fromkeys((*QUANTITIES, *OPTIONAL, *NAMES, *KEPT)))
    for ours, theirs in mapping.items():
        if ours not in known and not is_kept(ours):
            raise SourceError(
                f"{source}: --map {ours}={theirs}: {ours!r} is none of {', '.join(known)}{hint(ours, known)}"
            )
    readers = [reader for reader in READERS if kind in ("auto", *reader.kinds)]
    unfinished = options.keep_unfinished
    chosen_by: dict[Reader, Reader] = {
        TABLES: TableReader(sheet, keep_unfinished=unfinished), STORE: StoreReader(unfinished),
    }  # fmt: skip
    readers = [chosen_by.get(reader, reader) for reader in readers]
    notes: list[str] = []
    runs: list[ForeignRun] = []
    left_out: list[LeftOut] = []
    paths = _paths(source, readers, notes)
    if any(path.name == "trainer_state.json" for path in paths):
        paths = newest(paths, notes)
    chosen = {path: _reader(path, readers) for path in paths}
    tables = {path for path in paths if isinstance(chosen[path], TableReader)}
    beside = {folder: file for folder, file in folders_with_settings(paths).items() if file in tables}
    paths = [path for path in paths if path not in beside.values()]
    chosen |= {path: TableReader(sheet, beside, unfinished) for path in tables}
    scored = [path for path in paths if chosen[path] is RESULTS]
    scored = scored if len(scored) < len(paths) else []
    names = run_names([path for path in paths if path not in scored], source) | run_names(scored, source)
    for path in [*(path for path in paths if path not in scored), *scored]:
        if path in scored and (done := _scored(path, source, runs, notes)) is not None:
            left_out += done
            continue
        found, out = chosen[path].read(path, names[path], mapping, notes)
        runs += found
        left_out += out
    notes = list(dict.fromkeys(notes))
    try:
        made = assemble(runs, options, tuple(left_out))
    except SourceError as error:  # of the runs, by their names
        raise error if str(source) in str(error) else SourceError(f"{source}: {error}") from error
    return replace(made, notes=(*notes, *made.notes), sources=tuple(paths))


def _scored(path: Path, source: Path, runs: list[ForeignRun], notes: list[str]) -> list[LeftOut] | None:
    """Give a run of `runs` the scores that a file of lm-eval beside it holds; what is left out where it has no run.

    A model is a run by its name, or by a folder in its path or in that of the file. None where the file is of a run of
    its own, since it reports a loss.
    """
    model, scores = named_scores(path)
    named = {model, *Path(model).parts, *path.relative_to(source).parts[:-1]}
    known = [k for k, run in enumerate(runs) if run.name in named]
    if len(known) == 1 and runs[known[0]].shape is not None:
        return [LeftOut(model, 1, "scores of lm-eval: a run table has no column for them")]
    if len(known) == 1:
        runs[known[0]] = replace(runs[known[0]], scores={**runs[known[0]].scores, **scores})
        notes.append("scores of lm-eval are kept with the run of their model")
        return []
    if measures_a_loss(scores):
        return None
    return [LeftOut(model or path.name, 1, "scores of lm-eval, and no run of the source has this name", whole=True)]


def is_foreign(path: Path) -> bool:
    """Whether a reader other than that of tables recognises a file."""
    try:
        return any(reader.recognises(path) for reader in READERS if reader is not TABLES)
    except SourceError:
        return False


def _paths(source: Path, readers: Sequence[Reader], notes: list[str]) -> list[Path]:
    """What to read: the source itself, or the files in a folder that a reader is for, but hidden ones and copies that
    editors keep."""
    suffixes = tuple(dict.fromkeys(suffix for reader in readers for suffix in reader.suffixes))
    if source.is_file() or not suffixes or any(reader.recognises(source) for reader in readers):
        return [source]
    tables = any(isinstance(reader, TableReader) for reader in readers)
    found = sorted(path for path in source.rglob("*") if path.is_file()
                   and ({path.suffix, path.name} & set(suffixes) or (tables and is_table_file(path))))  # fmt: skip
    if hidden := [inner for path in found if _is_hidden(inner := path.relative_to(source))]:
        notes.append(f"hidden files are not read: {listed(list(map(str, hidden)))}")
        found = [path for path in found if path.relative_to(source) not in hidden]
    found = _without_wandb(source, found, notes)
    states = [path for path in found if path.name in _WHOLE]  # beside them lie other files of the same runs
    results = [path for path in found if path.name.startswith("results") and path.suffix == ".json"]
    found = states + results if states else found
    if not found:
        but = f"; {notes[-1]}" if hidden else ""
        raise SourceError(f"{source}: nothing to import (no event files, no {', '.join(suffixes)}){but}")
    return found


def _without_wandb(source: Path, found: list[Path], notes: list[str]) -> list[Path]:
    """The files outside the folders in which W&B keeps runs. Raises SourceError where there are no others."""
    own = {file.parent for file in source.rglob("*.wandb")}
    inside = [path for path in found if not own.isdisjoint(path.parents)]
    if inside and len(inside) == len(found):
        raise SourceError(f"{source}: a folder of W&B's; {WANDB}")
    if inside:
        notes.append(
            f"folders of W&B's are not read: {listed([str(folder.relative_to(source)) for folder in sorted(own)])}"
        )
    return [path for path in found if path not in inside]


def _is_hidden(path: Path) -> bool:
    """Whether a file in a folder is no source of its own: hidden, in a hidden folder, or the lock of a sheet."""
    return path.name.startswith("~$") or any(part.startswith(".") for part in path.parts)


def _reader(path: Path, readers: Sequence[Reader]) -> Reader:
    """The one reader that was chosen, or the first that recognises the path; that of tables by what a file holds."""
    if len(readers) == 1:
        return readers[0]
    failed = None
    for reader in readers:
        try:
            if reader.recognises(path):
                return reader
        except SourceError as error:  # no text, say: packed tables are none either
            failed = failed or error
    table = next((reader for reader in readers if isinstance(reader, TableReader)), None)
    if table is not None and path.is_file() and table.holds_a_table(path):
        return table
    if failed is not None:
        raise failed
    kinds = ", ".join(kind for reader in readers for kind in reader.kinds)
    raise SourceError(f"{path}: not recognised as any of {kinds}; name its kind with --from")
