"""Every key of the configuration says what it takes, and how its value is typed."""

from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest

from isoflop.experiments.config import ExperimentConfig
from isoflop.experiments.study.takes import named_value, refused


def keys(kind=ExperimentConfig, above=""):
    hints = get_type_hints(kind)
    for one in fields(kind):
        yield above + one.name
        if is_dataclass(hints[one.name]):
            yield from keys(hints[one.name], f"{above}{one.name}.")


@pytest.mark.parametrize("key", list(keys()))
def test_every_key_says_what_it_takes(key):
    message = refused(key, "?")
    assert message.startswith(f"{key} takes ")
    assert "?" in message
    assert not any(raw in message for raw in ("a value", "class", "None", "Any", "|"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Value 'x' of type 'str' could not be converted to Float", "x"),
        ("Incompatible value 'None' for field of type 'str'", "null"),
        ("Invalid type assigned: int is not a subclass of CellSpec. value: 1", "1"),
        ("Invalid value assigned: float is not a ListConfig, list or tuple.", ""),
        ("does not support deletion", ""),
    ],
)
def test_the_value_is_found_where_an_error_names_one(text, value):
    assert named_value(text) == value


def test_a_key_that_there_is_not_takes_nothing():
    assert refused("optim.speed", "3") == refused("optim.name.x", "3") == ""
