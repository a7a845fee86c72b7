"""What public functions return: it goes through pickle, is equal to itself, and shows its text."""

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.analysis.evidence import Evidence

pytestmark = pytest.mark.usefixtures("kept_searches")


def experts():
    law = isoflop.laws.LAWS["experts-joint"](1.4, 40, 40, 0.19, 0.18, -0.2, 0.1, 0.005, -0.005)
    grid = [(n, d, m) for n in (1e7, 3e7, 1e8, 3e8) for d in (1e9, 4e9, 16e9) for m in (1, 2, 4, 8)]
    runs = pd.DataFrame(grid, columns=["n_params", "tokens", "experts"])
    return runs.assign(loss=law(runs["n_params"], runs["tokens"], runs["experts"]))


def shares():
    code = np.linspace(0.05, 0.95, 12)
    loss = 2 + 0.4 * (code + 0.1) ** -0.3 + 0.4 * (1.1 - code) ** -0.3
    return pd.DataFrame({"weight_code": code, "weight_prose": 1 - code, "loss": loss})


def batches():
    table = pd.DataFrame({"n_params": 1e8, "batch_tokens": [1e4, 1e5, 1e6, 1e7]})
    return table.assign(steps_to_target=2000 * (1 + 4e5 / table["batch_tokens"]))


QUICK = isoflop.example("quick")
ARMS = isoflop.example("transformer_vs_lstm")
RESULTS = {
    "approaches": lambda: isoflop.approaches(QUICK, laws=("chinchilla",)),
    "batch": lambda: isoflop.batch(batches()),
    "bootstrap": lambda: isoflop.bootstrap(isoflop.fit("chinchilla", QUICK), 20),
    "compare": lambda: isoflop.compare(QUICK, ["kaplan"]),
    "fit": lambda: isoflop.fit("chinchilla", QUICK),
    "gate": lambda: isoflop.gate(ARMS, target=1e12, baseline="transformer"),
    "hold_out": lambda: isoflop.hold_out(QUICK, laws=("chinchilla",)),
    "jackknife": lambda: isoflop.jackknife(isoflop.fit("chinchilla", QUICK)),
    "mix": lambda: isoflop.mix(shares()),
    "multiplier": lambda: isoflop.multiplier(ARMS),
    "predict": lambda: isoflop.predict(QUICK, flops=1e13, laws="chinchilla"),
    "predict_memory": lambda: isoflop.predict_memory(experts(), flops=1e20, memory=4e9),
    "predict_run": lambda: isoflop.predict_run(QUICK, "4e1d317d8ef8", until=7000),
    "suggest": lambda: isoflop.suggest(budget=1e19, target=1e21, from_law="besiroglu-2024"),
    "tune": lambda: isoflop.tune(isoflop.example("lr_transfer"), arm="mup"),
}
OTHERS = {  # that return a table, a list, a dictionary, a module, or what tests of their own look at
    "Huber", "LeastSquares", "check_bundle", "diagnose", "example", "laws", "ledger", "plan", "plot", "read_table",
    "report", "run", "share", "status",
}  # fmt: skip


def test_every_function_is_among_these():
    assert {*RESULTS} | OTHERS == {*isoflop.__all__}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_goes_through_pickle_is_equal_to_itself_and_shows_its_text(name):
    found = RESULTS[name]()
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is type(found)
    if hasattr(found, "to_dict"):
        assert repr(again.to_dict()) == repr(found.to_dict())
    assert found == found
    assert found != again
    assert repr(found) == str(found)
    assert len(repr(found)) < 10_000
    assert "object at 0x" not in repr(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_no_arithmetic_of_ours_raises_where_a_session_has_numpy_raise(name):
    with np.errstate(all="raise"):
        RESULTS[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isoflop", "exponents", "prediction", "forecast_errors"])
def test_no_figure_of_ours_does(name):
    with np.errstate(all="raise"):
        plt.close(getattr(isoflop.plot, name)(Evidence(QUICK, law="chinchilla", n_draws=1000)).figure)


def test_draws_take_one_compute_or_several():
    draws = isoflop.jackknife(isoflop.fit("chinchilla", QUICK))
    assert draws.optimal(1e13).N.shape == (len(draws), 1)
    assert draws.optimal([1e12, 1e13]).N[:, 1:].tolist() == draws.optimal(1e13).N.tolist()


def unlike(table: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """The table, of which the longer half of the runs (of the last arm) has another value in a column."""
    length = next(name for name in ("horizon_tokens", "tokens", "batch_tokens", "weight_code") if name in table)
    part = table["arm"] == table["arm"].iloc[-1] if "arm" in table else pd.Series(True, index=table.index)
    late = part & (table[length] > table.loc[part, length].median())
    held = table[column] if column in table else pd.Series("usual", index=table.index)
    return table.assign(**{column: held.where(~late, value)})


def sweep():
    grid = [(n, r) for n in (1e7, 1e8) for r in (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)]
    runs = pd.DataFrame(grid, columns=["n_params", "peak_learning_rate"])
    loss = 2 + 0.1 * np.log(runs["peak_learning_rate"] / 4e-3) ** 2 * (1 + 0.1 * np.log(runs["n_params"]))
    return runs.assign(tokens=20 * runs["n_params"], loss=loss)


DRAWN = {  # of a table, whose runs one answer is drawn from
    "batch": (isoflop.batch, batches()),
    "compare": (lambda t: isoflop.compare(t, ["kaplan"]), QUICK),
    "gate": (lambda t: isoflop.gate(t, target=1e12), ARMS),
    "hold_out": (lambda t: isoflop.hold_out(t, laws=("chinchilla",)), QUICK),
    "mix": (isoflop.mix, shares()),
    "multiplier": (isoflop.multiplier, ARMS),
    "predict": (lambda t: isoflop.predict(t, flops=1e13, laws="chinchilla"), QUICK),
    "predict_memory": (lambda t: isoflop.predict_memory(t, flops=1e20, memory=4e9), experts()),
    "predict_run": (lambda t: isoflop.predict_run(t, "4e1d317d8ef8", until=7000), QUICK),
    "suggest": (lambda t: isoflop.suggest(t, budget=1e12, target=1e14), QUICK),
    "tune": (isoflop.tune, sweep()),
}


@pytest.mark.parametrize(("column", "code"), [("eval_id", "mixed_conventions"), ("optimizer", "mixed_experiment")])
@pytest.mark.parametrize("name", DRAWN)
def test_an_answer_from_runs_that_are_not_alike_says_so(name, column, code):
    answer, table = DRAWN[name]
    assert f"{code}:" not in str(answer(table))
    assert f"{code}:" in str(answer(unlike(table, column, "another")))


@pytest.mark.parametrize("name", DRAWN)
def test_an_answer_from_rows_given_twice_says_so(name):
    answer, table = DRAWN[name]
    twice = pd.concat([table, table], ignore_index=True)
    text = str(answer(twice))
    assert any(word in text for word in ("duplicate_rows:", "that repeat another", "written twice"))
