"""What a fit says of itself."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.laws.law import Box, Law
from isoflop.scaling.table.read import read_table
from tests.support.root import RESULTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "params", "twice"),
    [("vocabulary", "matrices", True), ("vocabulary", "total", True), ("vocabulary", "no-embedding", False),
     ("chinchilla", "matrices", False)],
)  # fmt: skip
def test_the_parameters_of_a_vocabulary_count_once(law, params, twice):
    table = read_table(RESULTS / "vocabulary.parquet", mapping={"loss": "bits_per_byte"})
    fitted = fit(law, table, params=params, n_starts=2)
    (found,) = [f for f in diagnose(fitted, None, table) if f.code == "counted_twice"] or [None]
    assert (found is not None) is twice
    if twice:
        assert found.severity == "fail"
        assert f"({params})" in found.message
        assert found.remedy.endswith("--params no-embedding")


@dataclass(frozen=True)
class Narrow(Law):
    """A floor and a power of tokens, whose floor may be 5 at most."""

    E: float
    B: float
    beta: float

    name: ClassVar[str] = "narrow"
    inputs: ClassVar[tuple[str, ...]] = ("D",)
    floor_name: ClassVar[str | None] = "E"
    box: ClassVar[dict[str, Box]] = {"E": Box(0.0, 5.0), "B": Box(1e-2, 1e6, log=True), "beta": Box(0.01, 2.0)}

    def __call__(self, D):
        return self.E + self.B * D**-self.beta


@pytest.mark.parametrize(("floor", "named"), [(50.0, "upper bound 5"), (0.0, "bound 0")])
def test_a_floor_at_its_bound_names_the_bound_that_it_met(floor, named):
    d = np.geomspace(1e6, 1e10, 24)
    bent = np.where(np.arange(24) % 2, 1.002, 0.998) * (1 - 0.02 * (floor == 0) * np.log10(d / 1e6))
    table = pd.DataFrame({"n_params": 1e7, "tokens": d, "loss": (floor + 400 * d**-0.3) * bent})
    fitted = fit(Narrow, table)
    assert "E" in fitted.bounds_hit
    (found,) = [f for f in diagnose(fitted, None, table) if f.code == "unidentified"]
    assert named in found.message
    assert ("divide them by a constant" in found.remedy) == (floor > 0)
