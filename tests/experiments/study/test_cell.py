"""A cell comes back from JSON field by field, or is refused."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from isoflop.experiments.config import DataSpec, HubSpec, OptimSpec
from isoflop.experiments.study.cell import Cell, Initial, from_plain, to_plain
from tests.support.sweep.studies import cell_of_width


def special() -> Cell:
    """A cell with something other than the default in every kind of field."""
    data = DataSpec(files=["a/*.txt", "it's.txt"], hub=HubSpec(name="x", max_bytes=3), clean=["strip"], unique_tokens=9)
    initial = Initial(Path("/some/where"), "0123", "")
    optim = OptimSpec(learning_rate=0.1 + 0.2, batch_size=8, beta2=0.999)
    return replace(
        cell_of_width(16), data=data, optim=optim, budget_flops=1e9 / 3, initial=initial, precision="bfloat16"
    )


@pytest.mark.parametrize("cell", [cell_of_width(8), special()], ids=["plain", "special"])
def test_every_field_comes_back(cell):
    other = from_plain(json.loads(json.dumps(to_plain(cell))))
    assert (other.run_id, other.trunk_id) == (cell.run_id, cell.trunk_id)
    assert math.isnan(other.budget_flops) == math.isnan(cell.budget_flops)
    assert replace(other, budget_flops=0.0) == replace(cell, budget_flops=0.0)
    assert repr(asdict(other)) == repr(asdict(cell))  # types too: 1.0 is not 1


def test_settings_that_are_not_those_of_the_run_are_refused():
    plain = to_plain(cell_of_width(8))
    with pytest.raises(ValueError, match=rf"its run {plain['run_id']} has the settings of run"):
        from_plain(plain | {"seed": 5})
    with pytest.raises(TypeError, match="steps"):
        from_plain({key: value for key, value in plain.items() if key != "steps"})
