"""Which files of a folder isoflop wrote: it replaces and deletes these, and no other.

.isoflop-files    their names, one a line, in the folder itself
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LIST = ".isoflop-files"
SHOWN = 3  # names in a refusal


class ForeignFileError(ValueError):
    """A file would be replaced that isoflop did not write, or that is read."""

    exit_code = 2


@contextmanager
def claimed(folder: Path, names: Sequence[str], what: str, *, read: str = "", earlier: bool = False) -> Iterator[None]:
    """List files about to be written into `folder` (made) as isoflop's own; what is there at the end stays listed.

    `what` they are of is said in a refusal. `read` is the table that they are made from; `earlier` whether the folder
    holds a report that was written before there was a list. Raises ForeignFileError naming a file under one of the
    `names` that is neither listed nor of such a report, or is the one read: nothing has been written then.
    """
    own = _listed(folder)
    there = [name for name in names if os.path.lexists(folder / name) and not (folder / name).is_dir()]
    if source := next((name for name in there if _is_same(folder / name, read)), None):
        raise ForeignFileError(
            f"{folder / source}: is the table that is read, and {what} has a file of that name: name another folder"
        )
    unlisted = earlier and not set(own) & set(names)
    foreign = [] if unlisted else [name for name in there if name not in own]
    if foreign:
        others = f" (also {', '.join(foreign[1:SHOWN])}{', ..' * (len(foreign) > SHOWN)})" if foreign[1:] else ""
        raise ForeignFileError(
            f"{folder / foreign[0]}: is not a file that isoflop wrote, and {what} would replace it{others}: "
            "name another folder, or move what is there"
        )
    _list(folder, [*own, *names])
    try:
        yield
    finally:
        _list(folder, [name for name in _listed(folder) if (folder / name).exists()])


def _listed(folder: Path) -> list[str]:
    """The names of the files in `folder` that isoflop wrote; none where nothing says so."""
    try:
        return (folder / LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return []


def _list(folder: Path, names: Iterable[str]) -> None:
    """Write the list; of no file there is none."""
    if lines := "".join(f"{name}\n" for name in dict.fromkeys(names)):
        (folder / LIST).write_text(lines, encoding="utf-8")
    else:
        (folder / LIST).unlink(missing_ok=True)


def _is_same(path: Path, source: str) -> bool:
    try:
        return bool(source) and path.samefile(source)
    except (OSError, ValueError):  # a source that is no file: a data set on the Hub, a frame
        return False
