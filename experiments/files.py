"""Files that several processes share: names that may be part of a path, JSON replaced as a whole, locks, claims.

A claim says which process works on a folder, so that no other does; it ends with its process. It is a small file that
names host, process and the second the process was born, and is touched every second. It is stale when that process is
gone (same machine) or has not touched it for a while (another machine). Taking one is serialised by a lock on a file in
the same folder, so two launches on one store never train the same trunk.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from isoflop.read_json import read_json

STALE_SECONDS = 120.0  # for a claim of another machine, whose processes cannot be seen
CLAIM_FILE, LOCK_FILE = "claim.json", ".lock"
NAME_RULE = "letters, digits and . _ - only, no dot at the beginning, at most 100 characters"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def check_name(name: object, key: str) -> str:
    """`name`, which becomes part of a path. Raises ValueError with `key`, which says where it stands, and the rule."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{key}={str(name)[:120]!r} becomes part of a path: {NAME_RULE}")
    return name


def write_json(path: Path, value: dict) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value))
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
    step: NotRequired[int]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in the body with this file, which is made; the kernel unlocks it for the dead."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Claim:
    """A folder that this process works on, until `release`."""

    folder: Path
    owner: dict

    def beat(self, **progress: object) -> None:
        """Record that the work goes on, and how far it is."""
        write_json(self.folder / CLAIM_FILE, self.owner | {"heartbeat": time.time(), **progress})

    def release(self) -> None:
        """End the claim, unless another process has it by now."""
        with locked(self.folder / LOCK_FILE):
            if _same_process(read_kept(self.folder / CLAIM_FILE, ClaimFile), self.owner):
                (self.folder / CLAIM_FILE).unlink()


def take(folder: Path) -> Claim | None:
    """Claim `folder` for this process; None if a living process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK_FILE):
        if holder(folder) is not None:
            return None
        claim = Claim(folder, _myself())
        claim.beat()
        return claim


def holder(folder: Path) -> dict | None:
    """The claim on `folder` with its last progress, None if no living process holds one."""
    claim = read_kept(folder / CLAIM_FILE, ClaimFile)
    return claim if claim is not None and _alive(claim) else None


def _alive(claim: dict) -> bool:
    if claim["host"] != _host():
        return time.time() - claim["heartbeat"] < STALE_SECONDS
    return claim["birth"] == _birth(claim["pid"])


def _same_process(claim: dict | None, owner: dict) -> bool:
    return claim is not None and all(claim[key] == owner[key] for key in owner)


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
