"""What a fit says of itself."""

import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import fit
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
