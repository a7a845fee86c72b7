"""One malformed input, typed: what is wrong with how it was refused."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.doors.typed import typed_forked

CANARY = "canary"  # a file that no input may make, in the folder or beside it
MAY_WRITE = {"corpora", "runs", "report", ".cache"}  # what a command that fails half-way may have begun


@dataclass(frozen=True)
class Input:
    """One command line; `write` makes the files that it reads. A refusal names one of `names`."""

    name: str
    words: list[str]
    names: list[str]
    write: Callable[[Path], object] | None = None


def written(name: str, content: bytes) -> Callable[[Path], object]:
    """What writes a file of this content into a folder."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def check(one: Input, work: Path, seconds: float) -> str:
    """What is wrong with how an input is refused; "" if nothing."""
    folder = work / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / "sound", folder, symlinks=True, ignore=lambda _, names: {n for n in names if n == "pipe"})
    (folder / "pipe").touch() if "pipe" not in " ".join(one.words) else _pipe(folder / "pipe")
    if one.write:
        one.write(folder)
    before, beside = _files(folder), set(work.iterdir())
    answer = typed_forked(one.words, folder, seconds=seconds)
    fault = answer.fault(one.names)
    if any(work.rglob(CANARY)) or Path(CANARY).exists():
        return f"code was run: {fault}"
    written = {path for path in _files(folder) - before if path.parts[0] not in MAY_WRITE}
    written |= {Path(path.name) for path in set(work.iterdir()) - beside}
    return fault or (f"written: {sorted(map(str, written))[:3]}" if written else "")


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def _pipe(path: Path) -> None:
    os.mkfifo(path)
