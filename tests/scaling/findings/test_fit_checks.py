"""What a fit says of itself."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.findings.finding import Case, Finding
from isoflop.scaling.findings.fit_checks import plausible, unnamed_floor
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.fitting.objective import Huber, LeastSquares
from isoflop.scaling.laws import LAWS
from isoflop.scaling.laws.law import Box, Law
from isoflop.scaling.table.read import read_table
from tests.support.root import RESULTS, ROOT


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


@dataclass(frozen=True)
class Amplitudes(Law):
    """Chinchilla's law with its amplitudes called as the exponents of a best size are."""

    E: float
    a: float
    b: float
    alpha: float
    beta: float

    box: ClassVar = {
        "E": Box(0, 10), "a": Box(1e-3, 1e5, log=True), "b": Box(1e-3, 1e5, log=True), "alpha": Box(0.01, 3),
        "beta": Box(0.01, 3),
    }  # fmt: skip

    def __call__(self, N, D):
        return self.E + self.a * N**-self.alpha + self.b * D**-self.beta


@pytest.fixture(scope="module")
def surface():
    rng = np.random.default_rng(0)
    table = pd.DataFrame([(n, d) for n in (1e6, 1e7, 1e8) for d in (1e8, 1e9, 1e10)], columns=["n_params", "tokens"])
    loss = Amplitudes(1.8, 400, 900, 0.35, 0.37)(table["n_params"], table["tokens"])
    return table.assign(loss=loss * np.exp(rng.normal(0, 0.003, len(table))))


def unusual(form, table) -> list[str]:
    found = plausible(Case(fit(form, table, n_starts=4), None, table, None, 0.9))
    return [finding.message for finding in found]


def test_an_amplitude_called_a_is_not_taken_for_the_exponent_of_the_best_size(surface):
    assert unusual(Amplitudes, surface) == []

    class Ranged(Amplitudes):
        usual: ClassVar = Law.usual | {"a": (0.1, 0.2)}

    assert len(unusual(Ranged, surface)) == 1


def unnamed(form, table, **kwargs) -> list[Finding]:
    return list(unnamed_floor(Case(fit(form, table, n_starts=4, **kwargs), None, table, None, 0.9)))


@pytest.mark.parametrize("objective", [Huber("auto"), LeastSquares("raw")], ids=str)
@pytest.mark.parametrize("box", [Box(0, 10), Box(1e-3, 10, log=True)])
def test_a_floor_that_a_law_does_not_name_is_found(box, objective, surface):
    class Nameless(Amplitudes):
        box: ClassVar = Amplitudes.box | {"E": Box(0, 10)}

    class Named(Nameless):
        floor_name: ClassVar = "E"

    Nameless.box["E"] = box
    (found,) = unnamed(Nameless, surface, objective=objective)
    assert "E is added to every loss" in found.message
    assert 'floor_name = "E"' in found.remedy
    assert unnamed(Named, surface, objective=objective) == []
    assert unnamed(Nameless, surface, objective=objective, fixed={"E": 1.8}) == []


@pytest.mark.parametrize("name", [name for name, form in LAWS.items() if form.floor_name is None])
def test_no_law_of_the_catalogue_leaves_its_floor_unnamed(name):
    form = LAWS[name]
    rng = np.random.default_rng(0)
    columns = {k: read.typical * np.exp(rng.normal(0, 1, 30)) for k, read in form.reads().items()}
    law = form(*form.typical)
    table = pd.DataFrame({read.name: columns[k] for k, read in form.reads().items()})
    for column in ("n_params", "tokens"):
        table[column] = table.get(column, 1e9)
    assert unnamed(name, table.assign(loss=law(*columns.values()))) == []


def test_the_examples_of_a_law_of_ones_own_name_their_floor():
    page = (ROOT / "docs" / "choosing-a-law.md").read_text()
    examples = [block for block in re.findall(r"^```python title.*?^```", page, re.S | re.M) if "(Law)" in block]
    assert len(examples) == 2
    assert all(re.search(r'floor_name.* = "E"', block) for block in examples)
