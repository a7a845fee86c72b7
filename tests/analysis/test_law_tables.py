"""The report's law, parameter by parameter."""

import numpy as np
import pandas as pd
import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.law_tables import UNKNOWN, parameters
from isoflop.scaling.laws.chinchilla import Chinchilla

pytestmark = pytest.mark.usefixtures("kept_searches")


def rows_of(e):
    lines = parameters(e).splitlines()[4:]
    return {name: (value, between) for name, value, between in ([*map(str.strip, r.split("|")[1:-1])] for r in lines)}


@pytest.mark.parametrize("law", ["chinchilla", "chinchilla-tied", "kaplan", "power-d"])
def test_every_parameter_has_its_interval_or_the_reason_why_there_is_none(study_table, law):
    e = Evidence(study_table, law=law, n_draws=50)
    rows = rows_of(e)
    assert list(rows) == [*e.fit.law.parameters(), *e.fit.exponents()]
    for name, (value, between) in rows.items():
        assert float(value) == pytest.approx(float(e.draws.estimate(name)), rel=1e-4)
        if name in e.fit.problem.pinned:
            assert between == "fixed"
        elif "[" in between:
            low, high = e.draws.interval(name)
            assert between.removesuffix(", at its bound") == f"[{low:.4g}, {high:.4g}]"
        else:
            assert law == "chinchilla-tied"
            assert between == ("tied to alpha" if name == "beta" else "by its form")


def test_what_these_runs_do_not_determine_is_not_quoted():
    size = np.geomspace(1e5, 1e8, 24)
    loss = Chinchilla(0.9, 33.0, 332.0, 0.45, 0.5)(size, 20 * size)
    table = pd.DataFrame({"n_params": size, "tokens": 20 * size, "loss": loss * (1 + 0.003 * np.sin(np.arange(24)))})
    rows = rows_of(Evidence(table, law="chinchilla", n_draws=50))
    assert {name for name, (value, _) in rows.items() if value == UNKNOWN} == {"alpha", "beta", "a", "b"}
