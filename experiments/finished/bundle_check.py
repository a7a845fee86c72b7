"""Verifies a bundle: its files, its table, and the ids of its runs from their configurations; a line per difference."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.answer import Answer
from isoflop.experiments.study.cell import digest
from isoflop.read_json import JsonError
from isoflop.scaling.table.bundle.hub import address, fetch_all, on_hub
from isoflop.scaling.table.bundle.manifest import (
    CONFIGS_FILE,
    CONTENT,
    MANIFEST_FILE,
    TABLE_FILE,
    BundleError,
    Manifest,
    changed,
    file_hash,
    read_configs,
    read_manifest,
    run_hashes,
)
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.formats.read_file import read_file
from isoflop.scaling.table.runs import RunTableError, read_runs, validate

OF_THE_HUB = (".gitattributes", ".git", ".cache")  # what the Hub and its library put beside the files of a data set
SHOWN = 20  # differences of one kind


@dataclass(frozen=True, repr=False, eq=False)
class Check(Answer):
    """What `isoflop share --check` found: a line per difference, none where the bundle verifies."""

    folder: Path | str
    runs: int
    configs: int
    sha256: str
    differences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "folder": str(self.folder), "verifies": not self.differences, "runs": self.runs, "configs": self.configs,
            "sha256": self.sha256, "differences": list(self.differences), "findings": [],
        }  # fmt: skip

    def __str__(self) -> str:
        if self.differences:
            return "\n".join(self.differences)
        ids = f", the ids of {self.configs} follow from their configurations" if self.configs else ", no configurations"
        return f"{self.folder}: verifies: {self.runs} runs{ids}\nSHA-256 of its manifest: {self.sha256}"


class DifferentError(ValueError):
    """A bundle does not verify; its differences were printed before."""

    exit_code = 1


def check_anywhere(place: Path) -> Check:
    """`check_bundle` of a folder, or of hf://datasets/USER/NAME, whose every file is fetched into a passing folder."""
    if not on_hub(place):
        return check_bundle(place)
    with tempfile.TemporaryDirectory() as folder:
        return replace(check_bundle(fetch_all(place, Path(folder))), folder=address(place))


def check_bundle(folder: str | Path) -> Check:
    """What differs between a bundle and its manifest. Raises BundleError where there is no bundle at all.

    >>> import isoflop
    >>> _ = isoflop.share(isoflop.example("quick"), "bundle")
    >>> isoflop.check_bundle("bundle").differences
    ()
    """
    folder = Path(folder)
    if not folder.is_dir() or not (folder / MANIFEST_FILE).exists():
        raise BundleError(f"{folder}: no bundle of runs (no {MANIFEST_FILE} in it)")
    links = [] if not (folder / MANIFEST_FILE).is_symlink() else [f"{MANIFEST_FILE}: is a link"]
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        return Check(folder, 0, 0, "", (*links, str(error)))
    found = [*links, *_files(folder, manifest)]
    table = None
    try:
        table = _table(folder, manifest)
        found += _rows(table, manifest)
    except (RunTableError, TableError) as error:
        found.append(str(error))
    configs: dict[str, dict[str, Any]] = {}
    if CONFIGS_FILE in manifest["files"] and (folder / CONFIGS_FILE).is_file():
        try:
            configs = read_configs(folder)
            found += list(_ids(configs, manifest, table))
        except JsonError as error:
            found.append(str(error))
    return Check(folder, len(manifest["runs"]), len(configs), file_hash(folder / MANIFEST_FILE), _few(found))


def _files(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name in CONTENT:
        stated, path = manifest["files"].get(name), folder / name
        if path.is_symlink():
            yield f"{name}: is a link"
        elif stated is not None and (reason := changed(path, stated)):
            yield f"{name}: {reason}"
    known = {*manifest["files"], MANIFEST_FILE, *OF_THE_HUB}
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            yield f"{path.name[:120]!r}: was added; the manifest does not name it"
    for name in (TABLE_FILE, "README.md"):
        if name not in manifest["files"]:
            yield f"{MANIFEST_FILE}: it does not name {name}"


def _table(folder: Path, manifest: Manifest) -> pd.DataFrame:
    """The rows of a bundle, whether or not they are those that were shared."""
    path = folder / TABLE_FILE
    if path.is_symlink() or not path.is_file():
        raise TableError(f"{TABLE_FILE}: no rows to compare")
    if manifest["table"]["kind"] == "table":
        return read_file(path, [])
    table = read_runs(path)
    validate(table, source=TABLE_FILE)
    return table


def _rows(table: pd.DataFrame, manifest: Manifest) -> Iterator[str]:
    stated = manifest["table"]
    if len(table) != stated["rows"]:
        yield f"{TABLE_FILE}: {len(table)} rows, and {stated['rows']} were shared"
    names = [str(name) for name in table]
    missing = [name for name in stated["columns"] if name not in names]
    added = [name for name in names if name not in stated["columns"]] if stated["kind"] == "table" else []
    yield from (f"{TABLE_FILE}: column {name!r} is missing" for name in missing)
    yield from (f"{TABLE_FILE}: column {name!r} was added" for name in added)
    try:
        hashes = run_hashes(table)
    except (ValueError, TypeError) as error:
        yield f"{TABLE_FILE}: a step, tokens, FLOPs or loss is no number ({error})"
        return
    yield from (f"run {run_id}: its rows are missing" for run_id in manifest["runs"] if run_id not in hashes)
    yield from (f"run {run_id}: was added" for run_id in hashes if run_id not in manifest["runs"])
    for run_id in sorted(set(hashes) & set(manifest["runs"])):
        if hashes[run_id] != manifest["runs"][run_id]:
            yield f"run {run_id}: its steps, tokens, FLOPs or losses are not those that were shared"


def _ids(configs: Mapping[str, Mapping[str, Any]], manifest: Manifest, table: pd.DataFrame | None) -> Iterator[str]:
    """Runs whose id does not follow from their configuration, or whose rows have other settings."""
    yield from (
        f"run {run_id}: no configuration in {CONFIGS_FILE}" for run_id in manifest["runs"] if run_id not in configs
    )
    last = {} if table is None else {str(r["run_id"]): r for r in table.groupby("run_id").tail(1).to_dict("records")}
    for run_id, config in configs.items():
        what = config.get("what")
        if run_id not in manifest["runs"]:
            yield f"{CONFIGS_FILE}: run {run_id[:60]!r} is not in the manifest"
        elif not isinstance(what, dict):
            yield f"run {run_id}: its configuration does not say what it is"
        elif (own := digest(what)) != run_id:
            yield f"run {run_id}: its configuration is that of run {own}"
        elif run_id in last:
            yield from (f"run {run_id}: {text}" for text in _settings(what, last[run_id]))


def _settings(what: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    """Where a run's row and what determines its losses say different things."""
    parts = {
        name: part if isinstance(part := what.get(name), dict) else {}
        for name in ("model", "data", "optim", "schedule")
    }
    model, optim = parts["model"], parts["optim"]
    stated = {key: model.get(key) for key in ("family", "n_layer", "d_model", "n_head", "d_ff", "vocab_size",
                                              "context_length", "tied")}  # fmt: skip
    stated |= {"corpus_id": parts["data"].get("corpus_id"), "optimizer": optim.get("name"), "seed": what.get("seed")}
    stated |= {"parametrization": optim.get("parametrization"), "peak_learning_rate": optim.get("learning_rate")}
    stated |= {"schedule": parts["schedule"].get("name")}
    if isinstance(optim.get("batch_size"), int) and isinstance(model.get("context_length"), int):
        stated["batch_tokens"] = optim["batch_size"] * model["context_length"]
        if isinstance(what.get("steps"), int):
            stated["horizon_tokens"] = stated["batch_tokens"] * what["steps"]
    for name, value in stated.items():
        if value is not None and name in row and row[name] != value:
            yield f"column {name} says {row[name]}, its configuration {value}"


def _few(lines: list[str]) -> tuple[str, ...]:
    """The lines, of each beginning at most SHOWN and how many more there are."""
    kept: dict[str, list[str]] = {}
    for line in lines:
        kept.setdefault(line.split(" ")[0], []).append(line)
    shown = []
    for group in kept.values():
        shown += group[:SHOWN]
        if len(group) > SHOWN:
            shown.append(f"and {len(group) - SHOWN} more of these")
    return tuple(shown)
