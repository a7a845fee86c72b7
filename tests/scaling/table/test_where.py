"""`--where` means what it means to pandas on its whole grammar, and is never run: any other text is a TableError."""

import shlex
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling.imports.read_table import read_table as read_source
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.where import MAX_LENGTH, keeping, matching_rows

NUMBERS = ("x", "n", "`a b`", "index")
MISSING = {"isna": "isna", "isnull": "isna", "notna": "notna", "notnull": "notna"}


ROWS = product(
    [0.0, 1.0, -1.5, 2.0, np.nan], range(-2, 3), [0.0, 1.0, -1.5, 2.0, np.nan], ["a", "b", "c d", None], [True, False]
)
EVERY = pd.DataFrame(ROWS, columns=["x", "n", "a b", "s", "flag"]).astype({"s": "str"})
FRAMES = (EVERY.sample(frac=1, random_state=0, ignore_index=True), EVERY[EVERY["s"].isna()], EVERY.tail(1))


def pairs(*texts):
    return st.sampled_from([(text, text) for text in texts])


def joined(between, *parts):
    """Parts, each as we and as pandas write it, with the same text between them."""
    return st.tuples(between, *parts).map(
        lambda found: tuple(found[0].join(part[side] for part in found[1:]) for side in (0, 1))
    )


def comparisons():
    compare = st.sampled_from([" == ", "!=", " < ", "<=", " >", " >= "])
    column, constant = pairs(*NUMBERS), pairs("0", "1.0", "-1.5", "2e0", "+1")
    value = column | constant
    text = pairs("'a'", '"b"', "'c d'", "'nothing'")
    chain = st.tuples(column, compare, value, compare, column).map(
        lambda of: tuple(of[0][side] + of[1] + of[2][side] + of[3] + of[4][side] for side in (0, 1))
    )
    membership = st.tuples(
        st.sampled_from([" in ", " not in ", " == ", " != "]), st.lists(st.sampled_from(["0", "1", "-1.5"]), max_size=3)
    )
    among = st.tuples(column, membership).map(lambda of: (f"{of[0][0]}{of[1][0]}[{', '.join(of[1][1])}]",) * 2)
    missing = st.tuples(st.sampled_from(sorted(MISSING)), st.sampled_from(["x", "n", "`a b`", "s"]), st.booleans()).map(
        lambda of: (f"{of[0]}({of[1]})" if of[2] else f"{of[1]}.{of[0]}()", f"{of[1]}.{MISSING[of[0]]}()")
    )
    return st.one_of(
        joined(compare, column, value), chain, among, missing, pairs("flag", "~flag", "not flag", "flag != False"),
        joined(st.sampled_from([" == ", "!="]), pairs("s"), text), st.just(("flag == true", "flag == True")),
        pairs("s in ['a', 'b']", "s not in ['c d']", "s in []"),
    )  # fmt: skip


def conditions():
    def larger(inner):
        return st.one_of(
            joined(st.sampled_from([" and ", " or "]), inner, inner),
            joined(st.sampled_from([" & ", "|"]), inner, inner),
            inner.map(lambda pair: tuple(f"({one})" for one in pair)),
            inner.map(lambda pair: tuple(f"~({one})" for one in pair)),
            inner.map(lambda pair: tuple(f"not ({one})" for one in pair)),
        )

    return st.recursive(comparisons(), larger, max_leaves=6)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(frame=st.sampled_from(FRAMES), condition=conditions())
def test_every_condition_keeps_the_rows_that_pandas_keeps(frame, condition):
    ours, theirs = condition
    expected = frame.query(theirs, engine="python")
    pd.testing.assert_frame_equal(frame[matching_rows(frame, ours)], expected)


TEXT = """
x n s flag index a b loss and or not in is lambda import __import__ os true None isna notna query eval @x @pd `a b` ( )
[ ] { } , . : ; = == != < > <= & && | ~ + - * ** / % ^ ! ' " ` \\ 0 1 1.5 1e999 0x1 1_0 9999 'a' "b" # $
"""
WORDS = st.sampled_from([*TEXT.split(), "\n", " "])


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    text=st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30) | st.lists(WORDS, max_size=9).map("".join)
)
def test_any_other_text_is_a_table_error(text):
    frame = pd.DataFrame({"x": [1.0, np.nan], "n": [1, 2], "s": ["a", None], "flag": [True, False], "a b": [1, 2]})
    try:
        rows = matching_rows(frame, text)
    except TableError:
        return
    assert rows.dtype == bool
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("@pd.io.common.os.system('touch {P}') == 0", "at character 1, "),
        ("loss.to_csv('{P}')", "at character 6, 'to_csv'"),
        ("loss.to_csv('{P}').isna()", "at character 6"),
        ("`loss`.map(print) > 1", "at character 8, 'map'"),
        ("__import__('os').system('touch {P}') == 0", "no such column"),
        ("loss > open('{P}', 'w')", "'open': no such column"),
        ("isna(loss.to_csv('{P}'))", "expected ')'"),
        ("loss = 3", "at character 6, '=': write == to compare"),
        ("lss < 3", "at character 1, 'lss': no such column; did you mean 'loss'?"),
        ("loss + 1 > 3", "at character 6, '+'"),
        ("loss > 3 and", "at character 13, the end: expected a number"),
        ("arm == 'a", "the ' is not closed"),
        ("arm < 3", "at character 5, '<': these cannot be compared"),
        ("not loss", "'loss': is not true or false"),
        ("1 < 2", "compares no column"),
        ("loss not 3", "expected 'in'"),
        ("loss in 3", "expected a list such as"),
        ("loss < [1]", "followed by a list"),
        ("loss > 1" + "0" * 200, "more than 100 characters"),
        ("(" * 100_000, "at most"),
        ("not " * 1000 + "loss > 1", "more than 50 parentheses or negations"),
        ("~" * 1000 + "(loss > 1)", "more than 50 parentheses or negations"),
        ("x" * MAX_LENGTH, "no such column"),
    ],
)
def test_what_is_no_condition_is_named_with_its_place(tmp_path, condition, message):
    pd.DataFrame({"n_params": [1e6, 2e6], "tokens": 1e7, "loss": [3.0, 2.0], "arm": "a"}).to_csv(tmp_path / "t.csv")
    with pytest.raises(TableError) as error:
        read_table(tmp_path / "t.csv", where=condition.replace("{P}", str(tmp_path / "P")))
    assert "--where" in str(error.value)
    assert message in str(error.value)
    assert len(str(error.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("values", [[1, 2], [[1], [2]], [{"a": 1}, {"a": 2}], [b"a", b"b"], [True, False]])
@pytest.mark.parametrize("condition", ["x in ['a', 1]", "x in ['a']", "x not in [1.5]", "x == 'a'", "x < 1"])
def test_columns_of_arrow_are_compared_or_refused(values, condition):
    table = pd.DataFrame({"x": pd.Series(values, dtype=pd.ArrowDtype(pa.array(values).type))})
    refused = ""
    try:
        kept = matching_rows(table, condition)
    except TableError as error:
        refused = str(error)
    else:
        assert set(kept.index) <= {0, 1}
    assert not refused or "cannot be compared" in refused


def test_values_that_are_missing_in_pandas_own_types_fulfil_nothing():
    frame = pd.DataFrame({"n": pd.array([1, None], "Int64"), "flag": pd.array([True, None], "boolean")})
    for condition in ("n == 1", "not n != 1", "flag", "flag and n < 2", "n in [1]"):
        assert matching_rows(frame, condition).tolist() == [True, False], condition


@pytest.mark.parametrize("column", ["split", "eval split", "and", "true", "1st", "a-b"])
@pytest.mark.parametrize("value", ["val", "it's", 'a "b"', "a\\b", "$HOME", "`x`", 3, 2.5, True])
def test_an_advised_option_is_typed_in_a_shell_as_it_stands(column, value):
    frame = pd.DataFrame({column: pd.Series([value, 7.0 if isinstance(value, str) else "other"], dtype=object)})
    option, condition = shlex.split(keeping({column: value}))
    assert option == "--where"
    assert matching_rows(frame, condition).tolist() == [True, False]


def test_text_compared_with_a_number_is_named_and_the_columns_of_numbers(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("Params,Tokens,Loss\n124M,2.5B,3.37\n355M,2.5B,3.1\n")
    with pytest.raises(TableError, match=r"column Params holds texts \('124M'\), .*n_params"):
        read_source(path, where="Params > 2e8")
    assert len(read_source(path, where="n_params > 2e8")) == 1


TEXTS = ["a", "it's", 'say "x"', "a\\b", "$HOME", "`id`"]


@pytest.mark.parametrize("name", ["arm", "batch size", "index", "and", "isna", "loss-of", "\u00e9t\u00e9"])
@pytest.mark.parametrize("values", [TEXTS, [1, 2], [0.1, -3e-5], [True, False], [1.5, np.nan]])
def test_the_option_that_keeps_a_value_keeps_its_rows_when_a_shell_reads_it(name, values):
    table = pd.DataFrame({name: values, "n": range(len(values))})
    for k, value in enumerate(table[name]):
        option, condition = shlex.split(keeping({name: value, "n": k}))
        assert option == "--where"
        assert matching_rows(table, condition).tolist() == [i == k for i in range(len(values))]


@pytest.mark.parametrize(
    ("text", "value"), [("400K", 4e5), ("124M", 1.24e8), ("1.3B", 1.3e9), ("2T", 2e12), ("1_000M", 1e9), (".5B", 5e8)]
)
def test_numbers_may_be_written_as_cells_write_them(text, value):
    frame = pd.DataFrame({"n_params": [value * 0.9, value, value * 1.1], "M": 1.0})
    assert matching_rows(frame, f"n_params >= {text}").tolist() == [False, True, True]
    assert matching_rows(frame, f"n_params in [{text}]").tolist() == [False, True, False]
    for wrong in (f"{text}B", f"{text}x", "124m"):
        with pytest.raises(TableError, match="not a number"):
            matching_rows(frame, f"n_params > {wrong}")
