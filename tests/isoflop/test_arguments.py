"""Numbers and tables that public functions take: what means nothing is refused by its name, as commands do."""

import inspect
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, get_args

import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.arguments import AT_LEAST_ONE, NOT_NEGATIVE, PART, POSITIVE, SEED, SHARE, check, whole
from isoflop.scaling.table.columns import TableError

NEVER = (math.nan, math.inf, -math.inf, -1, "foo", "1", (1.0,), True, np.float64("nan"))
RUNS = isoflop.example("quick")
FITTED = isoflop.fit("chinchilla", RUNS)
GIVEN: dict[str, dict[str, Any]] = {  # what each function is called with beside the number
    "batch": {"table": RUNS},
    "bootstrap": {"fit": FITTED},
    "compare": {"table": RUNS},
    "diagnose": {"fit": FITTED},
    "fit": {"form": "chinchilla", "data": RUNS},
    "gate": {"table": RUNS, "target": 1e12},
    "hold_out": {"table": RUNS},
    "mix": {"table": RUNS},
    "multiplier": {"table": RUNS},
    "plan": {},
    "predict": {"table": RUNS},
    "predict_memory": {"table": RUNS, "flops": 1e12, "memory": 1e9},
    "predict_run": {"table": RUNS, "run": "x"},
    "report": {"table": RUNS, "out": "nowhere"},
    "suggest": {"table": RUNS, "budget": 1e12, "target": 1e13},
    "tune": {"table": RUNS},
}


def is_number(hint: object) -> bool:
    """Whether an annotation is of one number, or of one or None."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return bool({int, float} & set(kinds))


def numbers(name: str) -> list[str]:
    """The arguments of a public function that are numbers, by its annotations."""
    function = inspect.unwrap(getattr(isoflop, name))
    return [n for n, argument in inspect.signature(function).parameters.items() if is_number(argument.annotation)]


FUNCTIONS = [name for name in isoflop.__all__ if inspect.isfunction(getattr(isoflop, name)) and numbers(name)]
ARGUMENTS = [(name, argument) for name in FUNCTIONS for argument in numbers(name)]


def test_every_function_with_a_number_is_among_these():
    assert sorted(GIVEN) == sorted(FUNCTIONS)


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_number_that_means_nothing_is_refused_by_its_name(name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in NEVER:
        with pytest.raises(ValueError, match=rf"^(--)?{argument}[= ]{re.escape(_shown(value))}: it must "):
            getattr(isoflop, name)(**GIVEN[name] | {argument: value})
    assert not list(tmp_path.iterdir())


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


@pytest.mark.parametrize("value", [1.0, 95, 0, 0.0])
@pytest.mark.parametrize(("name", "argument"), [one for one in ARGUMENTS if one[1] in ("level", "error")])
def test_a_level_lies_between_its_ends(name, argument, value):
    with pytest.raises(ValueError, match=f"^{argument}={value:g}: it must lie between 0 and 1"):
        getattr(isoflop, name)(**GIVEN[name] | {argument: value})


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (POSITIVE, (1e-300, 3, np.float32(2), np.int64(4)), (0, -0.0)),
        (NOT_NEGATIVE, (0, 0.0, 1e300), (-1e-300,)),
        (SHARE, (1e-9, 0.5, np.float64(0.9)), (0, 1)),
        (PART, (0, 1, 0.5), (1.0001, -0.1)),
        (AT_LEAST_ONE, (1, 1.03), (0.999,)),
        (SEED, (0, 2**63 - 1, np.int32(7)), (2**63, 0.0, 1.5)),
        (whole(2, 4), (2, 4), (1, 5, 3.0)),
    ],
)
def test_a_kind_holds_its_numbers_and_no_others(kind, good, bad):
    check(kind, a=None)
    for value in good:
        check(kind, value=value)
    for value in itertools.chain(bad, NEVER):
        with pytest.raises(ValueError, match=r"value=.*it must"):
            check(kind, value=value)


def test_a_table_is_not_needed_to_see_that_a_number_is_wrong():
    with pytest.raises(ValueError, match="level=95: it must lie between 0 and 1"):
        isoflop.compare(pd.DataFrame(), level=95)


TAKE_A_TABLE = {
    name: next(iter(parameters)) if name != "fit" else "data"
    for name in isoflop.__all__
    if callable(getattr(isoflop, name))
    and name != "diagnose"  # its table is the one that was fitted
    and {"table", "data"} & {*(parameters := inspect.signature(inspect.unwrap(getattr(isoflop, name))).parameters)}
}
MORE = {
    "predict": {"flops": 1e13}, "report": {"out": "out"}, "share": {"folder": "out"}, "approaches": {},
}  # fmt: skip
WRONG = {"a path": "runs.csv", "a Path": Path("runs.csv"), "a Series": RUNS["loss"], "an array": np.ones((3, 3)),
         "a list": [1, 2], "none": 5, "a fit": object()}  # fmt: skip


def call(name, table):
    return getattr(isoflop, name)(**GIVEN.get(name, {}) | MORE.get(name, {}) | {TAKE_A_TABLE[name]: table})


@pytest.mark.parametrize("name", TAKE_A_TABLE)
def test_what_is_no_table_is_refused_by_its_type(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for table in WRONG.values():
        with pytest.raises(TypeError, match=r"a table is a DataFrame.*isoflop\.read_table\("):
            call(name, table)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TAKE_A_TABLE)
def test_a_table_without_rows_and_one_with_a_column_twice_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TableError, match="the table has no rows"):
        call(name, RUNS.iloc[:0])
    with pytest.raises(TableError, match=r"several columns are called loss; keep one.*columns\.duplicated"):
        call(name, pd.concat([RUNS, RUNS[["loss"]]], axis=1))


@dataclass(frozen=True)
class Harmonic(isoflop.laws.Law):
    """The law of the documentation, as a class of a session."""

    E: float
    A: float
    r: float
    g: float

    formula = "L = E + A (1/N + r/D)^g"
    floor_name = "E"
    box: ClassVar = {
        "E": isoflop.laws.Box(0.0, 1e3), "A": isoflop.laws.Box(1e-8, 1e4, log=True),
        "r": isoflop.laws.Box(1e-3, 1e4, log=True), "g": isoflop.laws.Box(0.05, 2.0),
    }  # fmt: skip

    def __call__(self, N, D):
        return self.E + self.A * np.power(1 / N + self.r / D, self.g)


TAKE_LAWS = {
    "approaches": ("laws", {}), "compare": ("laws", {}), "fit": ("form", {}), "hold_out": ("laws", {}),
    "predict": ("laws", {"n_params": 1e6, "tokens": 1e9}), "report": ("law", {"out": "out", "n_draws": 0}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKE_LAWS)
@pytest.mark.parametrize("law", ["chinchilla", Harmonic])
def test_a_law_is_named_alone_or_given_as_a_class(name, law, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argument, more = TAKE_LAWS[name]
    table = {"data" if name == "fit" else "table": RUNS}
    found = getattr(isoflop, name)(**table, **more, **{argument: law})
    if name == "report":
        assert (tmp_path / "out" / "report.md").exists()
    assert "is not known" not in str(found)


def _law(**facts):
    return dataclass(frozen=True)(type("Own", (isoflop.laws.Law,), {"__annotations__": {"E": float}, **facts}))


@pytest.mark.parametrize(
    ("law", "says"),
    [
        (_law(), "gives no search box for E: add them to its `box`"),
        (_law(box={"E": isoflop.laws.Box(10.0, 0.0)}), r"its box of E goes from 10 to 0: write Box\(low, high\)"),
        (type("Own", (isoflop.laws.Law,), {}), "is not a dataclass of its parameters"),
        (int, "is not a subclass of"),
    ],
)
def test_a_class_that_is_no_law_is_refused_as_a_name_is(law, says):
    for name, (argument, more) in TAKE_LAWS.items():
        table = {"data" if name == "fit" else "table": RUNS}
        with pytest.raises(ValueError, match=says):
            getattr(isoflop, name)(**table, **more, **{argument: law})


def test_an_arm_that_is_a_number_is_named_by_it():
    arms = isoflop.example("transformer_vs_lstm")
    arms["arm"] = (arms["arm"] == "lstm").astype(int)
    assert isoflop.multiplier(arms, baseline=0).pairs[0].arm == "1"
