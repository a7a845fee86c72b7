"""One damaged file, read: what is wrong with how it was refused."""

import os
import shutil
import signal
import traceback
import warnings
from pathlib import Path

import numpy as np

from tests.support.doors.damage import damaged
from tests.support.doors.readers import Reader, is_refusal, names_file

SECONDS = 20  # of a case, before it is a hang


class HangError(BaseException):
    """A case took too long."""


def run_case(readers: tuple[Reader, ...], case: int, seed: int, sound: Path, work: Path, *, full: bool = False) -> str:
    """Damage one file by (seed, case) and read it; "" or what is wrong, and where."""
    random = np.random.default_rng([seed, case])
    reader, other = readers[case % len(readers)], readers[int(random.integers(len(readers)))]
    folder = copy_of(sound, work / "case", reader)
    path = next(folder.glob(_found(sound, reader)))
    path.write_bytes(damaged(path.read_bytes(), next(sound.glob(_found(sound, other))).read_bytes(), random))
    if reader.seal:
        reader.seal(folder)
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder)
    except BaseException as error:
        signal.alarm(0)
        if full:
            traceback.print_exc()
        if not is_refusal(error):
            return f"{type(error).__name__}: {str(error)[:150]} at {_place(error)}"
        if not names_file(error, reader.file):
            return f"names no file: {str(error)[:150]} at {_place(error)}"
        if "\n" in str(error):
            return f"several lines: {str(error)[:150]} at {_place(error)}"
    finally:
        signal.alarm(0)
    return ""


def _hang(*_: object) -> None:
    raise HangError(f"no answer within {SECONDS} s")


def _place(error: BaseException) -> str:
    """The last line of ours that an error passed through."""
    ours = [one for one in traceback.extract_tb(error.__traceback__) if "/isoflop/" in one.filename]
    return f"{ours[-1].filename.rpartition('/isoflop/')[2]}:{ours[-1].lineno}" if ours else "the proof itself"


def _found(sound: Path, reader: Reader) -> str:
    """The file of a reader below the folder; a checkpoint's name holds a checksum."""
    return reader.file.replace("trunk-3.pt", "trunk-3-*.pt")


def copy_of(sound: Path, folder: Path, reader: Reader) -> Path:
    """A folder with what this reader reads, linked but for the damaged file."""
    shutil.rmtree(folder, ignore_errors=True)
    top = Path(reader.file).parts[0]
    shutil.copytree(sound, folder, copy_function=os.link, ignore=_only(sound, top))
    for path in folder.glob(_found(sound, reader)):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return folder


def _only(sound: Path, top: str):  # type: ignore[no-untyped-def]
    """Leaves out, at the top, what is neither the reader's file or folder nor small text beside it."""
    kept = {top, "text", "t.csv", "m.bin", "m.idx"}

    def ignore(folder: str, names: list[str]) -> set[str]:
        return {n for n in names if n not in kept and "*" not in top} if Path(folder) == sound else set()

    return ignore
