"""Magnitudes that no parameters, tokens or FLOPs have are a Finding in every command that reads a table."""

import pandas as pd
import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.scaling.approaches.approaches import approaches
from isoflop.scaling.arms.multiplier import multiplier
from isoflop.scaling.design.planning import plan_from_table
from isoflop.scaling.findings.diagnose import diagnose_approaches
from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.findings.verdict import verdict
from isoflop.scaling.prediction.predict import predict
from isoflop.scaling.selection.comparison import comparison
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated import BESIROGLU, cheaper, isoflop_table, two_arms

pytestmark = pytest.mark.usefixtures("kept_searches")

ONE_RUN = {"n_params": 1e8, "tokens": 2e9, "flops": 1.2e18, "loss": 3.0}


def found(**changes) -> list[str]:
    frame = pd.DataFrame([ONE_RUN | changes]).dropna(axis=1)
    return [f.message for f in unit_findings(points(frame)) if f.code == "units" and f.remedy]


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"n_params": 7.0, "flops": None}, "n_params is 7 to 7 in 1 of 1 rows"),
        ({"tokens": 0.005, "flops": None}, "tokens is 0.005 to 0.005 in 1 of 1 rows"),
        ({"n_params": 100.0}, "n_params is 100 to 100"),
        ({"n_params": 1.24e14, "flops": None}, "n_params is 1.24e+14 to 1.24e+14 in 1 of 1 rows, too many"),
        ({"tokens": 2.5e18, "flops": None}, "tokens is 2.5e+18 to 2.5e+18 in 1 of 1 rows, too many"),
        ({"tokens": None, "flops": 1.8e30}, "tokens is 3e+21 to 3e+21 in 1 of 1 rows, too many"),
        ({"flops": 1.2e9}, "flops are 1e-09 times 6 x n_params x tokens"),
        ({"flops": 1.2e19}, "flops are 10 times"),
        ({"loss": 17.05}, "every loss is above 17"),
    ],
)
def test_numbers_in_another_unit_are_told(changes, reported):
    assert any(message.startswith(reported) for message in found(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flops": 8e18},
        {"flops": 2e17},
        {"n_params": 1e3, "tokens": 1e3, "flops": 6e6},
        {"n_params": 1e13, "tokens": 1e16, "flops": None},
    ],
)
def test_what_may_be_so_is_not_objected_to(changes):
    assert found(**changes) == []


def in_millions(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(n_params=frame["n_params"] / 1e6, tokens=frame["tokens"] / 1e9)


@pytest.fixture(scope="module")
def table():
    return in_millions(isoflop_table(BESIROGLU, seed=0)).drop(columns="run_id", errors="ignore")


def codes(answer: dict) -> list[str]:
    return [f["code"] for f in answer["findings"]]


@pytest.mark.slow
def test_every_command_that_answers_from_such_a_table_says_so(table):
    top = float((6 * table["n_params"] * table["tokens"]).max())
    assert "units" in codes(verdict(table, resamples=0).to_dict())
    assert "units" in [f.code for f in diagnose_approaches(approaches(table))]
    assert "units" in codes(predict(table, flops=3 * top, laws=["chinchilla"]).to_dict())
    assert "[fail] units" in str(predict(table, flops=3 * top, laws=["chinchilla"]))
    assert "units" in codes(comparison(table, ["chinchilla", "kaplan"]).to_dict())
    assert "units" in codes(plan_from_table(table, budget=top, target=10 * top).to_dict())
    assert "units" in [f.code for f in Evidence(table, law="chinchilla", n_draws=20).findings]


@pytest.mark.slow
def test_arms_in_another_unit():
    arms = two_arms(cheaper(1.5), seed=0)
    assert codes(multiplier(arms).to_dict()) == []
    answer = multiplier(in_millions(arms))
    assert "units" in codes(answer.to_dict())
    assert "[fail] units" in str(answer)
