"""The file of a study that goes on from the runs of a table, and the command that runs it."""

import math
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from isoflop.experiments.files import check_study_name, write_text
from isoflop.experiments.followup.template import NextStudyError, Template

PACKAGE = "# @package _global_"  # Hydra's word for a file whose keys stand at the top


def write_file(path: Path, template: Template, study: dict[str, Any], what: str, *, runs: str) -> str:
    """Write a study file, whose first lines say `what` is suggested and how it is run; returns that command.

    Raises NextStudyError for a file that is there and was not written so.
    """
    command = command_of(path, runs)
    if path.exists() and not _is_suggested(path):
        raise NextStudyError(f"--out {path}: isoflop suggest did not write the file that is there: name another one")
    lines = [PACKAGE, f"# {command}    {what}"]
    sections = {"model": template.model_section, **template.settings, "study": {"name": path.stem, **study}}
    for section, value in ((k, v) for k, v in sections.items() if v):
        lines.append(f"{section}:")
        lines += [_yaml_lines(key, entry) for key, entry in value.items()]
    write_text(path, "\n".join(lines) + "\n")
    return command


def _is_suggested(path: Path) -> bool:
    """Whether a file begins as `write_file` begins one."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip() == PACKAGE and " suggested " in file.readline()


def wrote_text(file: Path | None, replaced: bool, command: str) -> list[str]:
    """The line that says where a file went and what to type next; none without a file."""
    over = " over the file that was there" if replaced else ""
    return [f"wrote {file}{over}; next: {command}"] if file else []


def command_of(path: Path, runs: str) -> str:
    """The command that runs a study file into `runs`.

    A study is found by name as experiment/NAME.yaml in a configuration folder; elsewhere, the command copies it.
    """
    name, folder = path.stem, path.resolve().parent
    if path.suffix != ".yaml":
        raise NextStudyError(f"--out {path}: a study is a .yaml file, for example --out conf/experiment/next.yaml")
    check_study_name(name, "--out, the name of the study")
    copy = ""
    if folder == Path(str(files("isoflop.conf.experiment"))).resolve():
        where = ""
    elif folder.name == "experiment":
        where = f"--config-dir {shlex.quote(str(folder.parent))} "
    else:
        copy, where = (
            f"mkdir -p conf/experiment && cp {shlex.quote(str(path))} conf/experiment/ && ",
            "--config-dir conf ",
        )
    return f"{copy}isoflop run {where}experiment={name} runs={shlex.quote(runs)}"


def _yaml_lines(key: str, value: Any) -> str:
    """A key of a section: what fits on a line there, a list of mappings one a line."""
    import yaml

    nested = isinstance(value, list) and value and isinstance(value[0], dict)
    flow = [yaml.safe_dump(v, sort_keys=False, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()
            for v in (value if nested else [value])]  # fmt: skip
    return "\n".join([f"  {key}:", *(f"    - {text}" for text in flow)]) if nested else f"  {key}: {flow[0]}"
