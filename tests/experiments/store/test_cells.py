"""The cells that a launch writes beside a trunk's claim come back field by field, or their file is refused by name."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from isoflop.experiments.config import DataSpec, HubSpec, OptimSpec
from isoflop.experiments.store.cells import read_cells, study_key, write_cells
from isoflop.experiments.store.store import StoreError, create_store
from isoflop.experiments.study.cell import Cell, Initial
from isoflop.experiments.study.study import Study
from tests.support.sweep.studies import cell_of_width


def written(tmp_path, *cells: Cell):
    """A store with the cell files of a study, the study, and its key."""
    store, study = create_store(tmp_path / "runs"), Study("s", cells, hold_out=(1e9,))
    key = study_key(study)
    write_cells(store, study, key, study.trunks)
    return store, study, key


def special() -> Cell:
    """A cell with something other than the default in every kind of field."""
    data = DataSpec(files=["a/*.txt", "it's.txt"], hub=HubSpec(name="x", max_bytes=3), clean=["strip"], unique_tokens=9)
    initial = Initial(Path("/some/where"), "0123", "")
    optim = OptimSpec(learning_rate=0.1 + 0.2, batch_size=8, beta2=0.999)
    return replace(
        cell_of_width(16), data=data, optim=optim, budget_flops=1e9 / 3, initial=initial, precision="bfloat16"
    )


@pytest.mark.parametrize("cell", [cell_of_width(8), special()], ids=["plain", "special"])
def test_every_field_comes_back(tmp_path, cell):
    store, study, key = written(tmp_path, cell)
    back = read_cells(store, study.trunks, key)
    (other,) = back.cells
    assert (back.name, back.hold_out) == ("s", (1e9,))
    assert (other.run_id, other.trunk_id) == (cell.run_id, cell.trunk_id)
    assert math.isnan(other.budget_flops) == math.isnan(cell.budget_flops)
    assert replace(other, budget_flops=0.0) == replace(cell, budget_flops=0.0)
    assert repr(asdict(other)) == repr(asdict(cell))  # types too: 1.0 is not 1


def test_other_studies_that_share_a_trunk_have_files_of_their_own(tmp_path):
    short, long = cell_of_width(8), replace(cell_of_width(8), steps=20)
    assert short.trunk_id == long.trunk_id
    store, _, one = written(tmp_path, short)
    _, _, two = written(tmp_path, short, long)
    assert one != two
    assert len(read_cells(store, [short.trunk_id], one).cells) == 1
    assert [cell.steps for cell in read_cells(store, [short.trunk_id], two).cells] == [9, 20]


def test_a_file_that_was_changed_is_refused_by_name(tmp_path):
    store, study, key = written(tmp_path, cell_of_width(8))
    (path,) = store.root.glob("trunks/*/cells-*.json")
    whole = json.loads(path.read_text())
    whole["cells"][0]["seed"] = 5
    path.write_text(json.dumps(whole))
    with pytest.raises(StoreError, match=rf"{path}: its run {study.cells[0].run_id} of .* has the settings of run"):
        read_cells(store, study.trunks, key)
    del whole["cells"][0]["steps"]
    path.write_text(json.dumps(whole))
    with pytest.raises(StoreError, match=rf"{path}: not the cells of a trunk .*steps.*writes the file anew"):
        read_cells(store, study.trunks, key)
    path.unlink()
    with pytest.raises(StoreError, match=rf"{path}: no such file.*is .* the folder of the launch"):
        read_cells(store, study.trunks, key)
