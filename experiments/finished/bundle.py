"""Writes a bundle: the runs of a study, or of any table, as a folder to publish. `bundle_check` verifies one."""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from isoflop.answer import Answer
from isoflop.experiments.finished.private import PERSONAL, refuse_keys, without_folders
from isoflop.printable import code_span, counted, plain_markdown
from isoflop.scaling.table.bundle.manifest import (
    CARD_FILE,
    CONFIGS_FILE,
    FORMAT,
    MANIFEST_FILE,
    TABLE_FILE,
    file_hash,
    is_bundle,
    read_configs,
    run_hashes,
    seal,
)
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.formats.run_columns import COLUMNS, NAMES
from isoflop.scaling.table.meaning import NATS_PER_TOKEN, meaning
from isoflop.scaling.table.runs import (
    RUN_FILE,
    SCHEMA_VERSION,
    code_version,
    is_runs,
    read_config,
    write_parquet,
    write_table,
)

UNSTATED = "unknown"  # what the Hub calls a licence that nobody stated
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True, repr=False, eq=False)
class Bundle(Answer):
    """A bundle that was written: its folder, how many runs and configurations it holds, and what was left out."""

    folder: Path
    runs: int
    configs: int
    sha256: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "folder": str(self.folder), "runs": self.runs, "configs": self.configs, "sha256": self.sha256,
            "notes": list(self.notes), "findings": [],
        }  # fmt: skip

    def __str__(self) -> str:
        configs = counted(self.configs, "configuration") if self.configs else "no configurations (the source has none)"
        lines = [f"{self.folder}: {counted(self.runs, 'run')} and {configs}", f"SHA-256 of its manifest: {self.sha256}"]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"publish it: hf upload USER/NAME {self.folder} --repo-type dataset")
        return "\n".join(lines)


def write_bundle(table: pd.DataFrame, folder: str | Path, *, licence: str = UNSTATED) -> Bundle:
    """Write the runs of a table, as `read_table` gives it, to the new folder `folder`.

    `licence` is that of the numbers, as the Hub names it: cc-by-4.0, mit, ... The configurations are those of the runs
    folder, or the bundle, that the table was read from. Paths keep their last part alone; columns that name a person or
    a machine are left out. Raises ValueError, having written nothing, for a folder that is not empty and where
    something looks like a key.

    >>> import isoflop
    >>> shared = isoflop.share(isoflop.example("quick"), "bundle", licence="cc-by-4.0")
    >>> shared.runs, shared.configs
    (44, 0)
    >>> isoflop.read_table("bundle").equals(isoflop.example("quick"))
    True
    """
    if not _LICENCE.fullmatch(licence):
        raise ValueError(f"--licence {licence[:100]}: write it as the Hub names it, for example cc-by-4.0, mit, other")
    table = as_frame(table)
    study, folder = str(table.attrs.get("study") or ""), Path(folder)
    notes: list[str] = []
    is_study = is_runs(table) and set(NAMES) <= set(table)
    shown = table[list(NAMES)].reset_index(drop=True) if is_study else _plain(table, notes)
    shown = _without_folders(shown, notes)
    configs = _configs(shown, Path(table.attrs.get("source", "nowhere"))) if is_study else {}
    refuse_keys((f"column {name}", value) for name in _texts(shown) for value in shown[name].unique())
    refuse_keys((f"the configuration of run {run_id}", config) for run_id, config in configs.items())
    refuse_keys([("the study's name", study), ("a note", notes)])
    with _new_folder(folder) as new:
        if is_study:
            write_table(shown, new / TABLE_FILE)
        else:
            write_parquet(new / TABLE_FILE, pa.Table.from_pandas(shown, preserve_index=False).replace_schema_metadata())
        if configs:
            lines = (
                json.dumps({"run_id": run_id, "config": config}, sort_keys=True) for run_id, config in configs.items()
            )
            (new / CONFIGS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        conventions = _conventions(table, is_study)
        (new / CARD_FILE).write_text(_card(shown, study, licence, conventions, bool(configs), notes), encoding="utf-8")
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "study": study,
            "licence": licence,
            "table": {
                "kind": "run table" if is_study else "table",
                "rows": len(shown),
                "columns": list(map(str, shown)),
            },
            "runs": run_hashes(shown),
            "files": {p.name: {"sha256": file_hash(p), "bytes": p.stat().st_size} for p in sorted(new.iterdir())},
            "conventions": conventions,
            "versions": _versions(),
            "notes": notes,
        }
        manifest["seal"] = seal(manifest)
        (new / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    n_runs = shown["run_id"].nunique() if "run_id" in shown else len(shown)
    return Bundle(folder, int(n_runs), len(configs), file_hash(folder / MANIFEST_FILE), tuple(notes))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when it is full. Raises ValueError where something is there."""
    folder = Path(os.path.abspath(folder))
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--to {folder}: something is there already; name a new folder")
    new = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rmdir()
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _plain(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """A table of others in columns that are read back as they are: each quantity under our name alone."""
    notes += [str(note) for note in table.attrs.get("notes", ())]
    names = [str(name) for name in table]
    repeated = [
        n for n in names if (meant := meaning(n)) is not None and meant.quantity != n and meant.quantity in names
    ]
    personal = [name for name in names if name.lower() in PERSONAL]
    if repeated:
        notes.append(f"left out, since other columns hold the same under our names: {', '.join(repeated)}")
    if personal:
        notes.append(f"left out, since they may name a person or a machine: {', '.join(personal)}")
    shown = table[[name for name in table if str(name) not in (*repeated, *personal)]].reset_index(drop=True)
    shown.columns = [str(name) for name in shown]
    unit = table.attrs.get("loss_unit", NATS_PER_TOKEN)
    if unit != NATS_PER_TOKEN:
        shown["loss_unit"] = unit
    for name in _texts(shown):
        try:
            pa.array(shown[name], from_pandas=True)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            shown[name] = shown[name].map(lambda value: None if value is None else str(value))
            notes.append(f"column {name} holds values of several kinds: shared as text")
    shown.attrs = {}
    return shown


def _texts(table: pd.DataFrame) -> list[str]:
    """The columns that may hold text."""
    return [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]


def _without_folders(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table with no path of this machine in any text, and a note that counts the texts that had one."""
    changed = {}
    for name in _texts(table):
        new = table[name].map(without_folders)
        if moved := int((new.fillna("") != table[name].fillna("")).sum()):
            changed[name] = new
            notes.append(f"column {name}: of the paths in {moved} rows only the last part is shared")
    table = table.assign(**changed)
    table.attrs = {}
    notes[:] = [str(without_folders(note)) for note in notes]
    return table


def _configs(table: pd.DataFrame, source: Path) -> dict[str, dict[str, Any]]:
    """The configuration of each run of a runs folder; `what` a run is stays as it is, paths lose their folders."""
    if is_bundle(source):
        known = read_configs(source)
        return {run_id: known[run_id] for run_id in sorted(set(table["run_id"])) if run_id in known}
    found = {}
    for run_id in sorted(map(str, table["run_id"].unique())):
        path = source / "cells" / run_id / RUN_FILE
        if path.is_file():
            config = read_config(path)
            found[run_id] = without_folders(config) | {"what": config.get("what")}
    return found


def _conventions(table: pd.DataFrame, is_study: bool) -> dict[str, str]:
    unit = str(table.attrs.get("loss_unit", NATS_PER_TOKEN))
    if not is_study:
        return {"loss": unit, "n_params": "as the source counted them", "flops": "as the source counted them"}
    return {
        "loss": "held-out cross-entropy, nats/token",
        "n_params": "by group; isoflop's default N counts weight matrices with the head and no embedding lookup",
        "flops": "exact forward and backward, causal attention, with the head; flops_6nd: 6 x parameters x tokens",
        "run_id": "the first 12 hexadecimal digits of a SHA-256 over everything that determines the losses",
    }


def _versions() -> dict[str, str]:
    return {
        "isoflop": code_version(), "run_table": str(SCHEMA_VERSION), "python": platform.python_version(),
        "pyarrow": pa.__version__, "pandas": pd.__version__,
    }  # fmt: skip


def _card(
    table: pd.DataFrame, study: str, licence: str, conventions: dict[str, str], has_configs: bool, notes: list[str]
) -> str:
    """The data set's card: front matter for the Hub, then a page for people."""
    title = study or "runs"
    n_runs = table["run_id"].nunique() if "run_id" in table else len(table)
    units = {column.name: (column.unit, column.meaning) for column in COLUMNS}
    columns = [f"| {code_span(n)} | {' | '.join(units.get(n, ('', '')))} |" for n in map(str, table)]
    bullets = [f"- {name}: {plain_markdown(text)}" for name, text in conventions.items()]
    facts = [f"| {name} | {plain_markdown(value)} |" for name, value in _facts(table).items()]
    stated = "not stated by whoever shared them: ask before using them" if licence == UNSTATED else f"`{licence}`"
    section = ["## Notes", "", *(f"- {plain_markdown(note)}" for note in notes), ""] if notes else []
    files = [f"- `{TABLE_FILE}`: {len(table):,} rows of {n_runs:,} runs"]
    files += [f"- `{CONFIGS_FILE}`: the resolved configuration of every run, from which its id follows"] * has_configs
    files += [f"- `{MANIFEST_FILE}`: SHA-256 of every file, versions, conventions"]
    return "\n".join([
        "---", f"license: {licence}", f"pretty_name: {json.dumps(f'isoflop {title}')}",
        "tags: [isoflop, scaling-laws]", f"size_categories: [{_size_category(len(table))}]", "configs:",
        "- config_name: default", f"  data_files: {TABLE_FILE}", "---", "",
        f"# {plain_markdown(title)}", "", "Training runs of language models, measured to fit scaling laws.", "",
        "| | |", "|---|---|", *facts, "",
        "## Read it", "", "```", "isoflop share --check DIR         # nothing was changed", "isoflop fit DIR",
        "isoflop fit hf://datasets/USER/NAME", "```", "", *files, "",
        "## Licence", "",
        f"The licence of these numbers: {stated}. The text that the models were trained on is not in here; its licence "
        "is its owner's.", "",
        "## Conventions", "", *bullets, "", *section,
        "## Columns", "", "| column | unit | meaning |", "|---|---|---|", *columns, "",
    ])  # fmt: skip


def _facts(table: pd.DataFrame) -> dict[str, str]:
    facts = {}
    quantities = {"n_params_total": "parameters", "n_params": "parameters", "tokens": "tokens", "flops": "FLOPs"}
    for name, what in (quantities | {"loss": "loss"}).items():
        if name in table and pd.api.types.is_numeric_dtype(table[name]):
            facts[what] = f"{table[name].min():.4g} to {table[name].max():.4g}"
    for name in ("arm", "family", "optimizer", "corpus_id", "tokenizer_id"):
        if name in table and (values := [str(v) for v in table[name].dropna().unique() if str(v)]):
            facts[name] = ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
    return facts


def _size_category(rows: int) -> str:
    for limit, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"
