"""The cells of a trunk as a launch resolved them, in a file beside the trunk's claim: what a job trains.

    trunks/<trunk_id>/cells-<key>.json    study, held-out budgets, every field of every cell, and its run id

The key is a hash of the whole study, so that launches of different studies that share a trunk do not disturb each
other. Whoever reads a file computes the run ids anew: a file of another version, or one that was edited, is refused.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypedDict, get_args, get_type_hints

from isoflop.experiments.files import check_name, read_kept, write_json
from isoflop.experiments.store.store import Store, StoreError
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.study import Study


class CellsFile(TypedDict):
    """What the cell file of a trunk holds."""

    study: str
    hold_out: list[float]
    cells: list[dict[str, Any]]


def study_key(study: Study) -> str:
    """Hash of a study's name, its held-out budgets and every field of its cells: which cell files are its own."""
    whole = json.dumps([study.name, study.hold_out, [to_plain(cell) for cell in study.cells]], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def write_cells(store: Store, study: Study, key: str, trunk_ids: Iterable[str]) -> None:
    """Write the cell files of these trunks of a study. The same study gives the same files, byte by byte."""
    for trunk_id in trunk_ids:
        cells = [to_plain(cell) for cell in study.trunks[trunk_id]]
        write_json(_file(store, trunk_id, key), {"study": study.name, "hold_out": study.hold_out, "cells": cells})


def read_cells(store: Store, trunk_ids: Iterable[str], key: str) -> Study:
    """The part of a study that these trunks are.

    Raises StoreError naming the file that is not there, cannot be read, or holds cells of other run ids than it says.
    """
    name, hold_out, cells = "", (), []
    for trunk_id in trunk_ids:
        path = _file(store, trunk_id, key)
        value = read_kept(path, CellsFile, "isoflop run writes it anew")
        if value is None:
            raise StoreError(
                f"{path}: no such file, and it holds the cells to train; is {store.root} the folder of the launch? "
                "isoflop run writes the file anew"
            )
        try:
            name, hold_out = str(value["study"]), tuple(value["hold_out"])
            if name:
                check_name(name, "study")
            found = [(plain["run_id"], _from_plain(Cell, _without_id(plain))) for plain in value["cells"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: not the cells of a trunk ({error}); isoflop run writes the file anew") from error
        for run_id, cell in found:
            if (cell.run_id, cell.trunk_id) != (run_id, trunk_id):
                raise StoreError(
                    f"{path}: its run {run_id} of trunk {trunk_id} has the settings of run {cell.run_id} of trunk "
                    f"{cell.trunk_id}: edited, or written by another version of isoflop; isoflop run writes it anew"
                )
        cells += [cell for _, cell in found]
    return Study(name, tuple(cells), hold_out=hold_out)


def to_plain(cell: Cell) -> dict[str, Any]:
    """Every field of a cell as JSON knows it: dictionaries, lists, text, numbers; NaN as null; and its run id."""
    plain = asdict(cell) | {"run_id": cell.run_id}
    if cell.initial:
        plain["initial"] |= {"folder": str(cell.initial.folder)}
    return plain | {"budget_flops": None if math.isnan(cell.budget_flops) else cell.budget_flops}


def _without_id(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key != "run_id"}


def _from_plain(kind: Any, value: Any) -> Any:
    """The value of type `kind` that `to_plain` wrote: dataclasses by their fields, null as NaN where a float stands."""
    if isinstance(kind, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    elif value is None and kind is float:
        return math.nan
    if value is None:
        return None
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{key: _from_plain(kinds[key], part) for key, part in value.items()})  # type: ignore[operator]
    return Path(value) if kind is Path else value


def _file(store: Store, trunk_id: str, key: str) -> Path:
    return store.trunk_folder(trunk_id) / f"cells-{check_name(key, 'where.cells')}.json"
