"""Bundles: a folder of runs as it is published, and how every command reads one.

    README.md              the card, which the Hugging Face Hub shows
    runs.parquet           the rows of all runs
    configs.jsonl          the resolved configuration of each run, where the runs have one
    isoflop-bundle.json    the manifest: SHA-256 and size of each of these, licence, conventions, versions

A bundle is data of somebody else until it is checked: only files of these names are read, and rows that are not those
that the manifest states are refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import pandas as pd

from isoflop.read_json import JsonError, parse_json, read_bytes, read_json, require_regular
from isoflop.scaling.table.columns import TableError

MANIFEST_FILE, TABLE_FILE, CONFIGS_FILE, CARD_FILE = "isoflop-bundle.json", "runs.parquet", "configs.jsonl", "README.md"
CONTENT = (CARD_FILE, CONFIGS_FILE, TABLE_FILE)
FORMAT = 1
HASHED = ("step", "tokens", "flops", "loss")


class File(TypedDict):
    """What a manifest states of a file."""

    sha256: str
    bytes: int


class _Table(TypedDict):
    kind: Literal["run table", "table"]
    rows: int
    columns: list[str]


class Manifest(TypedDict):
    """What isoflop-bundle.json holds; `runs` has a hash of the losses of each run by its id (`rows_hash`)."""

    format: int
    seal: str
    study: str
    licence: str
    table: _Table
    runs: dict[str, str]
    files: dict[str, File]
    conventions: dict[str, str]
    versions: dict[str, str]
    notes: list[str]


class _Config(TypedDict):
    run_id: str
    config: dict[str, Any]


class BundleError(TableError):
    """A bundle cannot be read, or is not what its manifest states."""


def is_bundle(path: str | Path) -> bool:
    """Whether a folder has a manifest."""
    return (Path(path) / MANIFEST_FILE).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle. Raises BundleError naming what is wrong with it."""
    path = folder / MANIFEST_FILE
    try:
        value = read_json(path, Manifest)
    except FileNotFoundError:
        raise BundleError(f"{folder}: no bundle of runs (no {MANIFEST_FILE} in it)") from None
    except JsonError as error:
        raise BundleError(f"{error}; not the manifest of a bundle") from error
    if value["format"] != FORMAT:
        raise BundleError(f"{path}: a bundle of format {value['format']}, this isoflop reads {FORMAT}; upgrade")
    if strange := sorted(set(value["files"]) - set(CONTENT)):
        raise BundleError(f"{path}: it names {strange[0][:120]!r}, and a bundle holds only {', '.join(CONTENT)}")
    if value["seal"] != seal(value):
        raise BundleError(f"{path}: changed since the bundle was written (its seal is broken)")
    return value


def table_of(folder: Path) -> tuple[Path, Manifest]:
    """The table of a bundle, its bytes being those that were shared, and the manifest. Raises BundleError."""
    manifest, path = read_manifest(folder), folder / TABLE_FILE
    if reason := changed(path, manifest["files"].get(TABLE_FILE)):
        raise BundleError(
            f"{folder}: {TABLE_FILE} {reason}; `isoflop share --check {folder}` names every difference: fetch the "
            "bundle again"
        )
    return path, manifest


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The configuration of each run of a bundle by its id; none without a file. Raises JsonError naming the line."""
    found: dict[str, dict[str, Any]] = {}
    try:
        content = read_bytes(folder / CONFIGS_FILE)
        content.decode("utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise JsonError(f"{CONFIGS_FILE}: not UTF-8 (byte {error.start})") from error
    for number, line in enumerate(content.splitlines(), 1):
        value = parse_json(line, _Config, source=f"{CONFIGS_FILE}, line {number}", nan=True)
        if value["run_id"] in found:
            raise JsonError(f"{CONFIGS_FILE}, line {number}: run {value['run_id'][:60]!r} is there twice")
        found[value["run_id"]] = value["config"]
    return found


def changed(path: Path, stated: File | None) -> str:
    """What differs between a file and what the manifest states of it; "" where nothing does."""
    if stated is None:
        return "is not in the manifest"
    try:
        size = require_regular(path).st_size
    except FileNotFoundError:
        return "is missing"
    except (JsonError, OSError):
        return "is no regular file"
    if size != stated["bytes"]:
        return f"has {size} bytes, and {stated['bytes']} were shared"
    if (found := file_hash(path)) != stated["sha256"]:
        return f"has changed since it was shared (SHA-256 {found[:12]}.., shared {stated['sha256'][:12]}..)"
    return ""


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its seal."""
    content = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rows_hash(rows: pd.DataFrame) -> str:
    """A hash of the rows of one run: their steps, tokens, FLOPs and losses in full precision, in any order."""
    numbers = rows[[name for name in HASHED if name in rows]].to_numpy(float)
    lines = sorted(",".join(float(x).hex() for x in row) for row in numbers)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def run_hashes(table: pd.DataFrame) -> dict[str, str]:
    """`rows_hash` of every run of a table by its id; empty where runs have no ids."""
    if "run_id" not in table:
        return {}
    return {str(run_id): rows_hash(rows) for run_id, rows in table.groupby(table["run_id"].astype(str), sort=True)}
