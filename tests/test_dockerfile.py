"""The Dockerfile, which nothing here can build, names what the project has: a Python, an extra, files, a command."""

import json
import re
import tomllib

from typer.main import get_command

from isoflop.__main__ import app
from tests.support.root import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
STEPS = [line.partition(" ")[::2] for line in TEXT.splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def step(name):
    (argument,) = [argument for instruction, argument in STEPS if instruction == name]
    return argument


def test_it_says_that_it_was_not_built():
    assert "Not built here" in TEXT.split("FROM")[0]


def test_its_python_is_one_that_the_project_takes():
    image, _, tag = step("FROM").partition(":")
    found = tuple(map(int, re.match(r"(\d+)\.(\d+)", tag).groups()))
    assert image == "python"
    assert found >= tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))


def test_its_extras_and_files_exist_and_are_copied():
    extras = re.search(r"\[([\w,]+)\]", step("RUN"))[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert "serve" in extras
    files = re.findall(r"-c (\S+)", step("RUN"))
    assert files == ["constraints.txt"]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert step("COPY") == ". ."
    assert all(
        (ROOT / name).is_file() and name not in ignored for name in [*files, "pyproject.toml", "isoflop/__init__.py"]
    )
    assert not {*ignored} & {name.split("/")[0] for name in ("analysis", "commands", "conf", "experiments", "models")}


def test_its_command_takes_these_options_and_a_run():
    program, command, *given = json.loads(step("ENTRYPOINT"))
    assert program in PROJECT["scripts"]
    serve = get_command(app).commands[command]
    options = serve.make_context(command, [*given, "0123abc"]).params
    assert options["run_id"] == "0123abc"
    assert str(options["runs"]) == step("VOLUME")
    assert options["port"] == int(step("EXPOSE"))
    assert options["host"] == "0.0.0.0"  # of the container: the line above publishes it on loopback alone
    assert f"-p 127.0.0.1:{options['port']}:{options['port']}" in TEXT


def test_it_runs_as_a_user_and_asks_for_its_health():
    user = step("USER")
    assert re.search(rf"useradd .*\b{user}$", step("RUN"))
    words = [instruction for instruction, _ in STEPS]
    assert words.index("RUN") < words.index("USER") < words.index("ENTRYPOINT")
    assert f"http://127.0.0.1:{step('EXPOSE')}/health" in step("HEALTHCHECK")
    compile(json.loads(step("HEALTHCHECK").partition("CMD ")[2])[2], "HEALTHCHECK", "exec")
