"""Files that several processes share: names that may be part of a path, JSON replaced as a whole, locks, claims.

A claim says which process works on a folder, so that no other does; it ends with its process. It is a small file that
names host, process and the second the process was born, and is written every second. It is dead when that process is
gone (same machine), or when this machine has seen the same content for a while (another machine, whose clock says
nothing here; or a file that cannot be read). Since when is kept in a file beside it, so that commands which look once
each agree. Taking one is serialised by a lock on a file in the same folder, so two launches on one store never train
the same trunk.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from isoflop.read_json import JsonError, parse_json, read_bytes, read_json

STALE_SECONDS = 120.0  # for a claim of another machine, whose processes cannot be seen
UNREADABLE_SECONDS = 10.0  # for a claim cut short: its process, if it lives, writes it again every second
WRITTEN_SECONDS = 30.0  # between two notes of when a claim was seen to change
CLAIM_FILE, LOCK_FILE = "claim.json", ".lock"
NAME_RULE = "letters, digits and . _ - only, no dot at the beginning, at most 100 characters"
SINGLE = "single"  # what runs without a study are listed as
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_seen: dict[Path, tuple[str, float]] = {}  # by folder, a hash of its claim and when this process first saw that
_written: dict[Path, float] = {}  # when that was last written down
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk refused (full, read-only, over a quota, failing): then no cell's training is at fault."""
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


def is_name(name: object) -> bool:
    """Whether `name` may become part of a path."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_name(name: object, key: str) -> str:
    """`name`, which becomes part of a path. Raises ValueError with `key`, which says where it stands, and the rule."""
    if not isinstance(name, str) or not is_name(name):
        raise ValueError(f"{key}={str(name)[:120]!r} becomes part of a path: {NAME_RULE}")
    return name


def check_study_name(name: object, key: str) -> str:
    """`name`, which a study can be called. Raises ValueError as `check_name`, and for what other runs are listed as."""
    if name == SINGLE:
        raise ValueError(f"{key}={SINGLE}: runs without a study are listed under that name; take another one")
    return check_name(name, key)


def write_json(path: Path, value: dict) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it, also after a loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, value)


def write_text(path: Path, text: str) -> None:
    """The same of a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace_text(path, text)


def write_passing(path: Path, value: dict) -> None:
    """Write JSON that a loss of power may cost, into a folder that is there: replaced as a whole, without a wait."""
    _replace_text(path, json.dumps(value), lasting=False)


def _replace(path: Path, value: dict) -> None:
    _replace_text(path, json.dumps(value))


def _replace_text(path: Path, text: str, *, lasting: bool = True) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_kept(path: Path, kind: Any, remedy: str = "delete it and run the study again") -> Any:
    """The content of a JSON file of a store, of the shape `kind`, None if there is none. Raises JsonError naming it."""
    try:
        return read_json(path, kind, nan=True, remedy=remedy)
    except FileNotFoundError:
        return None


class ClaimFile(TypedDict):
    """What a claim holds: whose it is, and the last that was heard of it."""

    host: str
    pid: int
    birth: str | None
    heartbeat: float
    since: NotRequired[float]
    step: NotRequired[int]


class _Sight(TypedDict):
    """When this machine first saw a claim: a hash of it, and seconds since the machine started."""

    claim: str
    at: float


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in the body with this file, which is made; the kernel unlocks it for the dead.

    The body may remove the file: who waits for it then waits for the next one of that name.
    """
    while True:
        with open(path, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_there(file.fileno(), path):
                yield
                return


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


class ClaimLostError(Exception):
    """Another process holds the claim by now, or it was removed: whoever had it writes nothing more there."""


@dataclass(frozen=True)
class Claim:
    """A folder that this process works on, until `release`."""

    folder: Path
    owner: dict
    since: float = field(default_factory=time.time)

    def beat(self, **progress: object) -> None:
        """Record that the work goes on, and how far it is.

        Raises ClaimLostError as `check` does, OSError where the folder is gone or the disk full.
        """
        with locked(self.folder / LOCK_FILE):
            self.check()
            self.write(**progress)

    def check(self) -> None:
        """Raise ClaimLostError unless this process has the claim still; one that cannot be read may be ours."""
        try:
            content = _content(self.folder)
        except OSError:  # of a network
            return
        claim = _parsed(content)
        if content is not None and (claim is None or _same_process(claim, self.owner)):
            return
        what = f"was taken over by {host_name(claim)}" if claim else "was removed"
        raise ClaimLostError(f"the claim on {self.folder} {what} while this process was at work")

    def write(self, **progress: object) -> None:
        """Write the claim, whoever has it: the caller has the lock."""
        about = {"since": self.since, "heartbeat": time.time(), **progress}
        _replace(self.folder / CLAIM_FILE, self.owner | about)

    def release(self) -> None:
        """End the claim, unless another process has it by now, or the folder is gone."""
        with contextlib.suppress(FileNotFoundError), locked(self.folder / LOCK_FILE):
            if _same_process(_parsed(_content(self.folder)), self.owner):
                (self.folder / CLAIM_FILE).unlink()


def take(folder: Path) -> Claim | None:
    """Claim `folder` for this process; None if a living process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK_FILE):
        if holder(folder) is not None:
            return None
        claim = Claim(folder, _myself())
        claim.write()
        _seen.pop(folder, None)
        _sight_file(folder).unlink(missing_ok=True)
        return claim


def holder(folder: Path) -> dict | None:
    """The claim on `folder` with its last progress, None if no living process holds one.

    One that cannot be read is of nobody once it has not changed for a while; until then its host is "".
    """
    content = _content(folder)
    if content is None:
        return None
    claim = _parsed(content)
    if claim is None:
        alive = _unchanged(folder, content) < UNREADABLE_SECONDS
        return {"host": "", "pid": 0, "birth": None, "heartbeat": math.nan} if alive else None
    if claim["host"] == _host():
        return claim if claim["birth"] == _birth(claim["pid"]) else None
    return claim if _unchanged(folder, content) < STALE_SECONDS else None


def is_ours(claim: dict) -> bool:
    """Whether the process of a claim is on this machine."""
    return claim["host"] == _host()


def host_name(claim: dict) -> str:
    """The machine that a claim names, for messages."""
    return claim["host"].partition("/")[0] or "nobody knows whom (its claim cannot be read)"


def _content(folder: Path) -> bytes | None:
    try:
        return read_bytes(folder / CLAIM_FILE)
    except FileNotFoundError:
        return None
    except JsonError:  # a pipe or a folder
        return b""


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    """The claim in a file, None for anything else."""
    try:
        return parse_json(content or b"", ClaimFile, source=CLAIM_FILE, nan=True)
    except JsonError:
        return None


def _unchanged(folder: Path, content: bytes) -> float:
    """Seconds since this machine first saw this claim as it is, by its own clock, which nobody sets."""
    now, digest = _since_boot(), hashlib.sha256(content).hexdigest()[:16]  # equivalent: any long one
    kept = None if folder in _seen else _kept_sight(folder)  # an earlier command may have seen it
    seen = _seen.get(folder) or kept
    if seen is None or seen[0] != digest or seen[1] > now:  # equivalent: what was seen just now
        seen = digest, now
    _seen[folder] = seen
    if seen != kept and abs(now - _written.get(folder, math.inf)) >= WRITTEN_SECONDS:
        _written[folder] = now
        with contextlib.suppress(OSError):  # a store that is only read
            _replace(_sight_file(folder), {"claim": digest, "at": seen[1]})
    return now - seen[1]


def _sight_file(folder: Path) -> Path:
    return folder / f".seen-{hashlib.sha256(_host().encode()).hexdigest()[:8]}.json"


def _kept_sight(folder: Path) -> tuple[str, float] | None:
    try:
        kept = read_json(_sight_file(folder), _Sight)
    except (OSError, JsonError):
        return None
    return kept["claim"], kept["at"]


def _since_boot() -> float:
    """Seconds since this machine started, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _same_process(claim: dict | None, owner: dict) -> bool:
    return claim is not None and all(claim.get(key) == owner[key] for key in owner)


def _myself() -> dict:
    return {"host": _host(), "pid": os.getpid(), "birth": _birth(os.getpid())}


def _host() -> str:
    """Name and boot of this machine: after a reboot no process of before is alive."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}/{boot.read_text().strip() if boot.exists() else ''}"


def _birth(pid: int) -> str | None:
    """When process `pid` started, None if it is gone or a zombie; a later process of the same number has another."""
    if not Path("/proc/self/stat").exists():
        return _exists(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
