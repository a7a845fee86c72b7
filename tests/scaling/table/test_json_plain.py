"""Values become what JSON holds, without loss of precision and with null for what is not finite."""

import json

import numpy as np
import pandas as pd

from isoflop.scaling.table.json_plain import plain


def test_values_are_pythons_own():
    value = {"a": np.float64(0.1), 2: np.int64(3), "b": np.bool_(True), "c": np.float32(np.nan), "d": -np.inf}
    made = plain(value)
    assert made == {"a": 0.1, "2": 3, "b": True, "c": None, "d": None}
    assert [type(v) for v in made.values()] == [float, int, bool, type(None), type(None)]
    assert plain((1, [np.inf, "x"], None)) == [1, [None, "x"], None]
    assert plain(np.array([[1.0, np.nan]])) == [[1.0, None]]


def test_a_table_is_its_rows():
    frame = pd.DataFrame({"law": ["a", "b"], "n": [1, 2], "x": [0.5, np.nan], "seeds": [[0], [0, 1]]})
    rows = [{"law": "a", "n": 1, "x": 0.5, "seeds": [0]}, {"law": "b", "n": 2, "x": None, "seeds": [0, 1]}]
    assert plain(frame) == rows
    assert json.loads(json.dumps(plain(frame), allow_nan=False)) == rows
    assert plain(pd.DataFrame()) == []
