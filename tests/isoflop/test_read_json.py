"""One reader of JSON that somebody else may have written: what it refuses, and that every message names the place."""

import json
import math
import os
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.read_json import MAX_BYTES, MAX_DEPTH, JsonError, RefusedError, parse_json, read_json


class Inner(TypedDict):
    run_id: str
    step: NotRequired[int]


class Kind(TypedDict):
    cells: list[Inner]
    at: float
    state: Literal["done", "failed"]
    range: tuple[int, int]
    size: int | None
    flag: NotRequired[bool]
    counts: NotRequired[dict[str, int]]


@dataclass
class Shape:
    width: int
    tied: bool = False


GOOD = {
    "cells": [{"run_id": "a", "step": 3}],
    "at": 1,
    "state": "done",
    "range": [0, 5],
    "size": None,
    "more": {"x": 1},
}


@pytest.mark.parametrize("text", [json.dumps(GOOD), json.dumps(GOOD).encode(), "\n" + json.dumps(GOOD) + " "])
def test_what_has_the_shape_comes_back_whole(text):
    assert parse_json(text, Kind, source="f") == GOOD


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"cells": None}, "'cells' must be a list; not None"),
        ({"cells": [5]}, "'cells[0]' must be an object; not 5"),
        ({"cells": [{}]}, "no key 'cells[0].run_id'"),
        ({"cells": [{"run_id": 7}]}, "'cells[0].run_id' must be text; not 7"),
        ({"cells": [{"run_id": "a", "step": 1.5}]}, "'cells[0].step' must be a whole number; not 1.5"),
        ({"cells": [{"run_id": "a", "step": True}]}, "'cells[0].step' must be a whole number; not True"),
        ({"cells": [{"run_id": "a", "step": 2**63}]}, "'cells[0].step' must be a whole number"),
        ({"at": "1"}, "'at' must be a number; not '1'"),
        ({"at": 10**400}, "'at' must be a number"),
        ({"at": False}, "'at' must be a number"),
        ({"state": "gone"}, "'state' must be 'done' or 'failed'; not 'gone'"),
        ({"range": [1]}, "'range' must be a list of 2"),
        ({"range": {"0": 1}}, "'range' must be a list; not an object"),
        ({"size": "x"}, "'size' must be a whole number; not 'x'"),
        ({"flag": 1}, "'flag' must be true or false; not 1"),
        ({"counts": {"a": []}}, "'counts.a' must be a whole number; not a list"),
        ({"at": "x" * 1000}, "'at' must be a number; not 'xxx"),
    ],
)
def test_a_part_of_another_shape_is_named(change, where):
    with pytest.raises(JsonError) as found:
        parse_json(json.dumps(GOOD | change), Kind, source="f.json")
    assert str(found.value).startswith(f"f.json: {where}")
    assert len(str(found.value)) < 200
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe{}", "not UTF-8 (byte 0)"),
        (b'{"a": "\xe9"}', "not UTF-8 (byte 7)"),
        (b"5", "it must be an object; not 5"),
        (b"[]", "it must be an object; not a list"),
        (b"[" * 10**5, f"nested deeper than {MAX_DEPTH} levels"),
        (b'{"a":' * 10**5, f"nested deeper than {MAX_DEPTH} levels"),
        (b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", f"nested deeper than {MAX_DEPTH} levels"),
        (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable as JSON"),
    ],
)
def test_what_is_no_json_of_ours_is_refused(text, why):
    with pytest.raises(JsonError) as found:
        parse_json(text, dict[str, Any], source="f.json")
    assert str(found.value).startswith(f"f.json: {why}")


def test_depth_is_counted_to_the_level():
    nested = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(nested, list, source="f")
    with pytest.raises(RefusedError):
        parse_json(b"[" + nested + b"]", list, source="f")


def test_nan_and_infinity_are_read_where_a_reader_says_so():
    kind = dict[str, float]
    assert math.isnan(parse_json('{"a": NaN}', kind, source="f", nan=True)["a"])
    assert parse_json('{"a": 1e999}', kind, source="f", nan=True)["a"] == math.inf
    with pytest.raises(JsonError, match="'a' must be a number; not inf"):
        parse_json('{"a": 1e999}', kind, source="f")
    with pytest.raises(JsonError, match="whole number"):
        parse_json('{"a": NaN}', dict[str, int], source="f", nan=True)


def test_a_dataclass_takes_its_own_keys_alone():
    assert parse_json('{"width": 5}', Shape, source="f") == {"width": 5}
    with pytest.raises(JsonError, match="f: unknown key 'depth'"):
        parse_json('{"width": 5, "depth": 1}', Shape, source="f")
    with pytest.raises(JsonError, match="f: no key 'width'"):
        parse_json("{}", Shape, source="f")


def test_a_file_is_named_with_the_remedy_and_the_error_of_its_reader(tmp_path):
    class OwnError(ValueError):
        pass

    path = tmp_path / "f.json"
    path.write_text("[]")
    with pytest.raises(OwnError, match=r"f\.json: it must be an object; not a list; delete it$"):
        read_json(path, dict, error=OwnError, remedy="delete it")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", dict, error=OwnError)


def test_a_pipe_a_folder_and_a_file_too_large_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MAX_BYTES + 1)  # takes no room
    for name, why in (("pipe", "not a regular file"), (".", "not a regular file"), ("large", "at most")):
        with pytest.raises(JsonError, match=why):
            read_json(tmp_path / name, dict)


def refusal(content: bytes | str) -> str:
    """The message with which a text is refused; "" where it is read."""
    try:
        value = parse_json(content, Kind, source="f")
    except JsonError as error:
        return str(error)
    assert all(isinstance(cell["run_id"], str) for cell in value["cells"])
    assert isinstance(value["at"], int | float)
    assert math.isfinite(value["at"])
    return ""


_LEAVES = st.sampled_from([None, True, 0, -1, 10**30, 1.5, math.inf, math.nan, "", "x", [], {}, [[]], {"run_id": 1}])


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*GOOD, "flag", "counts"]), _LEAVES | st.lists(_LEAVES, max_size=2)))
def test_any_json_is_of_the_shape_or_refused_in_one_line(change):
    message = refusal(json.dumps(GOOD | change))
    assert message == "" or message.startswith("f: ")
    assert "\n" not in message


@given(st.binary(max_size=40))
def test_bytes_that_hold_no_object_are_refused(content):
    assert refusal(content).startswith("f: ")
