"""A value that is taken as it is, is what typer would make of it; another is refused in typer's words."""

from types import SimpleNamespace

import pytest
from typer import Context
from typer.main import get_command

from isoflop.__main__ import app
from isoflop.commands.values import spare_conversions

VALUES = (
    None, "", "a", "x.csv", "a b", "1", "007", "-3", "+4", "1_000", " 1", "1 ", "1.", ".5", "0.25", "1e5", "1E5",
    "-2.5e-3", "1e400", "9" * 30, "nan", "inf", "true", "None", "\x00", "a\nb", "\xe9", "\ud800", "x" * 300, 3, 2.5,
    True, ("a", "b=c"), ["a"], (), ("\ud800",),
)  # fmt: skip


def outcome(process, value):
    try:
        found = process(None, value)
    except Exception as error:
        return type(error).__name__, str(error)
    return type(found).__name__, repr(found)  # nan is not itself


@pytest.mark.parametrize("name", get_command(app).commands)
def test_a_value_is_what_typer_would_make_of_it(name):
    command = get_command(app).commands[name]
    parameters = command.get_params(Context(command))
    for parameter in parameters:
        parameter.callback = None  # what the command itself asks of a value comes after
    usual = [parameter.process_value for parameter in parameters]
    spare_conversions(command)
    assert command.get_params(Context(command)) == parameters
    for parameter, process in zip(parameters, usual, strict=True):
        assert parameter.process_value != process
        for value in VALUES:
            if isinstance(value, list | tuple) and not parameter.multiple:
                continue
            expected, found = outcome(process, value), outcome(parameter.process_value, value)
            assert found == expected, (parameter.name, value)


def test_a_callback_sees_the_value():
    seen = []
    command = get_command(app).commands["fit"]
    spare_conversions(command)
    (law,) = (parameter for parameter in command.get_params(Context(command)) if parameter.name == "law")
    law.callback = lambda context, parameter, value: seen.append((context, parameter.name, value)) or "kaplan"
    context = SimpleNamespace()
    assert law.process_value(context, "chinchilla") == "kaplan"
    assert seen == [(context, "law", "chinchilla")]
