"""The user's folder for what is kept between commands: compiled kernels and measured speeds."""

import os
import stat
import tempfile
from pathlib import Path


class NotOursError(OSError):
    """A file or folder that another user owns or may write: what is in it is not trusted."""


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/isoflop or ~/.cache/isoflop; for a user without a home, a folder of theirs in the temporary one.

    It is not made here, and what is there is not looked at: `private_folder` does.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "isoflop"
    try:
        return Path.home() / ".cache" / "isoflop"
    except RuntimeError:  # neither HOME nor an entry of the user in the system's list
        return Path(tempfile.gettempdir()) / f"isoflop-{os.geteuid()}"


def private_folder() -> tuple[Path, bool]:
    """The cache folder, of mode 0700, and whether others could write it until now: its files are then not trusted.

    Raises NotOursError for a folder of another user, and OSError where none can be made.
    """
    folder = cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.geteuid():
        raise NotOursError(f"{folder} belongs to user {about.st_uid}")
    if about.st_mode & 0o077:
        folder.chmod(0o700)
    return folder, bool(about.st_mode & 0o022)


def check_ours(path: Path) -> None:
    """Raise NotOursError for what is not a plain file of this user that nobody else may write."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise NotOursError(f"{path} is not a plain file")
    if about.st_uid != os.geteuid():
        raise NotOursError(f"{path} belongs to user {about.st_uid}")
    if about.st_mode & 0o022:
        raise NotOursError(f"{path} may be written by others (mode {stat.S_IMODE(about.st_mode):04o})")
