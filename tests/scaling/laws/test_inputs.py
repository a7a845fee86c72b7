"""Laws of any column, from the declaration to the answer: a user's own law of a learning rate and of shares."""

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import FitError, LeastSquares, fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws import columns_read
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Box, Law
from isoflop.scaling.prediction.predict import predict, predict_table
from isoflop.scaling.selection.comparison import comparison
from isoflop.scaling.selection.scoreboard import compare
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table
from tests.support.sweep.process import finish

pytestmark = pytest.mark.usefixtures("kept_searches")

SOURCE = """from dataclasses import dataclass
import numpy as np
from isoflop.scaling.laws import Box, Column, Law

@dataclass(frozen=True)
class Tuned(Law):
    E: float; A: float; alpha: float; q: float; best: float; code: float
    inputs = ("N", "eta", "h")
    columns = {"eta": "peak_learning_rate", "h": Column("weight_*", transform="simplex")}
    box = {"E": Box(0, 5), "A": Box(1, 1e4, log=True), "alpha": Box(0.05, 1), "q": Box(1e-3, 1, log=True),
           "best": Box(1e-5, 1, log=True), "code": Box(-2, 2)}

    def __call__(self, N, eta, h):
        return self.E + self.A * N**-self.alpha * np.exp(self.code * h[0]) + self.q / 2 * np.log(eta / self.best) ** 2
"""
TRUE = (1.7, 200.0, 0.3, 0.05, 3.3e-3, -0.4)
namespace: dict = {"__name__": "own"}
exec(SOURCE, namespace)
Tuned = namespace["Tuned"]


def sweep(noise: float = 0.003, **columns: object) -> pd.DataFrame:
    """45 runs over five sizes, three rates and three mixtures, with the losses of `Tuned(*TRUE)`."""
    rows = [
        {"n_params": N, "tokens": 20 * N, "peak_learning_rate": eta, "weight_code": c, "weight_web": round(1 - c, 3)}
        for N in (1e6, 3e6, 1e7, 3e7, 1e8)
        for eta in (1e-3, 3e-3, 1e-2)
        for c in (0.0, 0.3, 0.7)
    ]
    table = pd.DataFrame(rows)
    h = table[["weight_code", "weight_web"]].to_numpy().T
    loss = Tuned(*TRUE)(table["n_params"].to_numpy(), table["peak_learning_rate"].to_numpy(), h)
    noisy = loss * np.exp(np.random.default_rng(1).normal(0, noise, len(table)))
    return table.assign(loss=noisy, **columns)


def test_the_law_of_a_user_is_fifteen_lines():
    assert len([line for line in SOURCE.splitlines() if line.strip()]) <= 15


@pytest.mark.slow
def test_a_law_of_a_rate_and_of_shares_finds_its_parameters_without_a_gradient():
    found = fit(Tuned, sweep(noise=0.0), objective=LeastSquares())
    assert found.converged
    assert np.allclose(found.law.values(), TRUE, rtol=1e-5)


@pytest.mark.slow
def test_intervals_hold_outs_and_forecasts_read_the_columns_that_a_law_declares():
    table = sweep()
    fitted = fit(Tuned, table)
    lo, hi = jackknife(fitted).interval("best", 0.99)
    assert lo < TRUE[4] < hi
    at = {"n_params": 1e9, "peak_learning_rate": 2e-3, "weight_code": 0.2, "weight_web": 0.8}
    true = float(Tuned(*TRUE)(1e9, 2e-3, np.array([0.2, 0.8])))
    sys.modules["own_law"] = type(sys)("own_law")
    sys.modules["own_law"].Tuned = Tuned
    found = predict(table, at=at, laws=["own_law:Tuned"])
    assert found.intervals[0.95][0] < true < found.intervals[0.95][1]
    assert abs(found.loss / true - 1) < 0.02
    assert not found.findings
    far = predict(table, at=at | {"peak_learning_rate": 0.2}, laws=["own_law:Tuned"])
    assert [f.code for f in far.findings] == ["outside_data"]
    held = predict_table(table, table.iloc[::4], ["own_law:Tuned"])
    assert held.rms < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("by", "threshold"), [("n_params", 3e7), ("weight_code", 0.3)])
def test_laws_are_compared_along_any_column(by, threshold):
    sys.modules["own_law"] = type(sys)("own_law")
    sys.modules["own_law"].Tuned = Tuned
    board = compare(sweep(), ["own_law:Tuned", "power-n"], by=by, findings=False)
    assert board.preferred == "own_law:Tuned"
    assert board.origins[-1].threshold == threshold
    assert board.frame.loc["own_law:Tuned", "error"] < 0.02


def test_a_scale_that_the_table_lacks_is_named():
    with pytest.raises(ValueError, match=r"--holdout-by weight_cod: no such column; did you mean 'weight_code'\?"):
        comparison(sweep(), ["power-n"], by="weight_cod")


def test_a_formula_that_is_not_analytic_is_differenced():
    @dataclass(frozen=True)
    class Kinked(Law):
        E: float
        q: float
        best: float

        name, inputs, columns = "kinked", ("eta",), {"eta": Column("peak_learning_rate")}
        box: ClassVar = {"E": Box(0, 5), "q": Box(1e-3, 10), "best": Box(-9.0, -3.0)}

        def __call__(self, eta):
            return self.E + self.q * np.abs(np.log(eta) - self.best) ** 1.5

    eta = np.geomspace(1e-4, 1e-1, 12)
    table = pd.DataFrame({"peak_learning_rate": eta, "loss": Kinked(2.0, 0.1, -6.0)(eta)})
    found = fit(Kinked, table, objective=LeastSquares())
    assert np.allclose(found.law.values(), (2.0, 0.1, -6.0), rtol=1e-3)


def test_a_law_without_size_needs_no_size_and_a_missing_column_names_its_likeness(tmp_path):
    @dataclass(frozen=True)
    class Bowl(Law):
        E: float
        q: float
        best: float

        name, inputs, columns = "bowl", ("eta",), {"eta": Column("peak_learning_rate")}
        box: ClassVar = {"E": Box(0, 5), "q": Box(1e-3, 10), "best": Box(-9.0, -3.0)}

        def __call__(self, eta):
            return self.E + self.q * (np.log(eta) - self.best) ** 2

    eta = np.geomspace(1e-4, 1e-1, 12)
    path = tmp_path / "rates.csv"
    pd.DataFrame({"lr": eta, "loss": Bowl(2.0, 0.1, -6.0)(eta)}).to_csv(path, index=False)
    inputs = columns_read([Bowl])
    with pytest.raises(FitError, match=r"needs the column 'peak_learning_rate'.*did you mean 'lr'\? Use --map"):
        fit(Bowl, read_table(path, inputs=inputs))
    table = read_table(path, mapping={"peak_learning_rate": "lr"}, inputs=inputs)
    assert fit(Bowl, table, objective=LeastSquares()).law.best == pytest.approx(-6.0)
    with pytest.raises(TableError, match="'peak_learning_rate' is none of"):
        read_table(path, mapping={"peak_learning_rate": "lr"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peak_learning_rate": 0.0}, "is what the law reads in every row: no law that reads it fits here"),
        ({"peak_learning_rate": [0.0] + [0.1] * 44}, "peak_learning_rate is zero or negative, and its logarithm"),
        ({"peak_learning_rate": "high"}, "peak_learning_rate is not a number in 45 of 45 rows"),
        ({"weight_code": 0.9, "weight_web": 0.4}, r"weight_\* \(2 columns\) add up to 1.3 and not to 1"),
        ({"weight_code": -0.1, "weight_web": 1.1}, "is no share between 0 and 1"),
        ({"peak_learning_rate": np.nan}, "no row has"),
    ],
)
def test_values_that_an_input_cannot_take_are_named(change, says):
    with pytest.raises(TableError, match=says):
        fit(Tuned, sweep(**change))


def test_rows_without_an_input_are_left_out_and_counted():
    table = sweep()
    table.loc[[3, 7], "peak_learning_rate"] = np.nan
    data = points(table, inputs=columns_read([Tuned]))
    assert len(data) == 43
    assert any("2 of 45 rows are left out: peak_learning_rate is empty in rows 4, 8" in note for note in data.notes)


@pytest.mark.slow
def test_inputs_that_stand_still_or_follow_from_others_are_findings():
    table = sweep()
    with pytest.raises(FitError, match="every data point has the same peak_learning_rate"):
        fit(Tuned, table[table["peak_learning_rate"] == 1e-3])
    tied = table.assign(peak_learning_rate=1e-3 * (table["n_params"] / 1e6) ** -0.3)
    codes = {f.code: f for f in diagnose(fit(Tuned, tied))}
    assert codes["collinear_inputs"].severity == "fail"
    assert not {"collinear_inputs", "input_never_varies"} & {f.code for f in diagnose(fit(Tuned, table))}
    third = table.assign(weight_none=0.0)
    assert "weight_none is 0 in every run" in str([str(f) for f in diagnose(fit(Tuned, third))])


@pytest.mark.slow
@pytest.mark.process
def test_the_command_line_reaches_the_same_law(tmp_path, commands):
    (tmp_path / "mine.py").write_text(SOURCE)
    sweep().rename(columns={"peak_learning_rate": "lr"}).to_csv(tmp_path / "sweep.csv", index=False)
    words = ["predict", "sweep.csv", "--laws", "mine:Tuned", "--map", "peak_learning_rate=lr", "--at", "n_params=1e9",
             "--at", "peak_learning_rate=2e-3", "--at", "weight_code=.2", "--at", "weight_web=.8",
             "--json"]  # fmt: skip
    answer = json.loads(finish(commands.start(words, cwd=tmp_path)))
    assert answer["loss"] == pytest.approx(float(Tuned(*TRUE)(1e9, 2e-3, np.array([0.2, 0.8]))), rel=0.02)
    assert {"findings", "conventions", "intervals"} <= set(answer)
