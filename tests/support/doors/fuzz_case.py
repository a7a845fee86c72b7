"""One damaged file, read: what is wrong with how it was refused."""

import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from tests.support.doors.damage import damaged
from tests.support.doors.readers import Reader, is_refusal, names_file

SECONDS, WAITED = 20, 120  # of the processor and of the clock, before a case is a hang


class HangError(BaseException):
    """A case took too long."""


def run_case(readers: Sequence[Reader], case: int, seed: int, sound: Path, work: Path, *, full: bool = False) -> str:
    """Damage one file by (seed, case) and read it; "" or what is wrong, and where. `readers` take turns."""
    random = np.random.default_rng([seed, case])
    reader, other = readers[case % len(readers)], readers[int(random.integers(len(readers)))]
    folder = copy_of(sound, work / "case", reader)
    path = next(folder.glob(_pattern(reader)))
    path.write_bytes(damaged(path.read_bytes(), _content(sound, other), random))
    if reader.seal:
        reader.seal(folder)
    return fault(reader, folder, full=full)


def run_special(reader: Reader, kind: str, sound: Path, work: Path) -> str:
    """Put what is no file of its kind in the place of one, and read it; "" or what is wrong, and where."""
    folder = copy_of(sound, work / "case", reader)
    path = next(folder.glob(_pattern(reader)))
    path.unlink()
    SPECIAL[kind](path)
    return fault(reader, folder)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "empty file": Path.touch,
    "only zeros": lambda path: path.write_bytes(bytes(4096)),
}


def fault(reader: Reader, folder: Path, *, full: bool = False) -> str:
    """Read what is in the folder; "" or what is wrong with how it was refused, and where."""
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    _limit(SECONDS, WAITED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder)
    except BaseException as error:
        _limit(0, 0)
        if full:
            traceback.print_exc()
        if not is_refusal(error):
            return f"{type(error).__name__}: {str(error)[:150]} at {_place(error)}"
        if not names_file(error, reader.file):
            return f"names no file: {str(error)[:150]} at {_place(error)}"
        if "\n" in str(error):
            return f"several lines: {str(error)[:150]} at {_place(error)}"
    finally:
        _limit(0, 0)
    return ""


def copy_of(sound: Path, folder: Path, reader: Reader) -> Path:
    """A folder with what this reader reads, linked but for the damaged file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (Path(reader.file).parts[0], *reader.beside):
        if (sound / name).is_dir():
            shutil.copytree(sound / name, folder / name, copy_function=os.link)
        else:
            os.link(sound / name, folder / name)
    damaged_ones = list(folder.glob(_pattern(reader)))
    assert damaged_ones, f"{reader.name}: no sound file"
    for path in damaged_ones:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return folder


def _limit(seconds: int, waited: int) -> None:
    """End what runs after so many seconds of the processor or of the clock; 0 for never."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(waited)


def _hang(*_: object) -> None:
    raise HangError(f"no answer within {SECONDS} s of the processor or {WAITED} s")


def _place(error: BaseException) -> str:
    """The last line of ours that an error passed through."""
    ours = [one for one in traceback.extract_tb(error.__traceback__) if "/isoflop/" in one.filename]
    return f"{ours[-1].filename.rpartition('/isoflop/')[2]}:{ours[-1].lineno}" if ours else "the proof itself"


def _pattern(reader: Reader) -> str:
    """The file of a reader below the folder; a checkpoint's name holds a checksum."""
    return reader.file.replace("trunk-3.pt", "trunk-3-*.pt")


@cache
def _content(sound: Path, reader: Reader) -> bytes:
    return next(sound.glob(_pattern(reader))).read_bytes()
