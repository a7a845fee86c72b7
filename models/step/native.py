"""Build `kernels.c` with the machine's own C compiler, once per machine, and load it: about two seconds, then none.

    kernels-<build>-<recipe>-<content>.so   in the user's cache folder, which nobody else may write

Three hashes: of source, flags, processor and compiler; of the same without the compiler, so that a machine that has
none uses what another one built for its processor; and of the file itself, checked before it is loaded. Where nothing
can be built `models.step.torch_ops` does the work. What was wrong is said on stderr, once for a process and those that
it starts.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from isoflop.cache_folder import NotOursError, check_ours, private_folder

SOURCE, HEADER = (Path(__file__).with_name(name) for name in ("kernels.c", "vectors.h"))
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
SAID = "ISOFLOP_KERNELS_SAID"  # set once a line was written: processes that this one starts do not write it again
_DIGITS = 16  # of each hash in a file's name
_FAILURES = OSError, subprocess.SubprocessError


@cache
def library() -> ctypes.CDLL | None:
    """The functions of `kernels.c`; None where they cannot be built. Says in a line what was wrong."""
    with _cache() as folder:
        return _from_a_compiler(folder)


def build_id() -> str:
    """What of source, compiler and processor made the kernels of this process, in eight digits; "" without any."""
    built = library()
    return Path(built._name).stem.removeprefix("kernels-")[:8] if built else ""


def _from_a_compiler(folder: Path) -> ctypes.CDLL | None:
    """The kernels of the first compiler that builds them or has, else of any that built them for this processor."""
    faults = []
    for name, command in _compilers():
        try:
            build = _build_hash(command)
            found = _kept(folder, build) or _built(folder, build, command)
        except _FAILURES as error:
            faults.append(f"{name} does not build them ({_reason(error)})")
            continue
        if faults:
            _say(f"kernels in C: {'; '.join(faults)}; {name} does")
        return found
    reason = "; ".join(faults) or f"no compiler is installed ({', '.join(COMPILERS)})"
    if (before := _kept(folder, "*")) is not None:
        if faults:
            _say(f"kernels in C: {reason}; those that were built before are used")
        return before
    _say(f"no kernels in C, so training takes about twice as long: {reason}; install gcc or clang, or set CC")
    return None


def _compilers() -> Iterator[tuple[str, list[str]]]:
    """(name, command) of $CC, which may hold options, and of the compilers that are installed."""
    if given := os.environ.get("CC", "").strip():
        try:
            yield f"CC={given}", shlex.split(given)
        except ValueError:  # a quotation without its end
            yield f"CC={given}", [given]
    for name in COMPILERS:
        if path := shutil.which(name):
            yield name, [path]


def _build_hash(command: list[str]) -> str:
    """The hash of source, flags, compiler and processor. Raises OSError or SubprocessError for no compiler."""
    version = subprocess.run([*command, "--version"], capture_output=True, check=True, timeout=30).stdout
    return _digest(*_sources(), version, _processor(), *(one.encode() for one in command[1:]))


def _recipe_hash() -> str:
    return _digest(*_sources(), _processor())


def _sources() -> tuple[bytes, ...]:
    return SOURCE.read_bytes(), HEADER.read_bytes(), " ".join(FLAGS).encode()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:_DIGITS]


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    """The user's cache folder; one for this process alone, and a line, where it is another's or cannot be written."""
    try:
        folder, was_open = private_folder()
        if was_open:
            _say(f"others could write {folder}: its kernels are not loaded but built again, and it has mode 0700 now")
            for path in folder.glob("kernels-*.so"):
                path.unlink()
        usable = os.access(folder, os.W_OK) or any(folder.glob(f"kernels-*-{_recipe_hash()}-*.so"))
    except OSError as error:
        usable = False
        _say(f"kernels are built by each process anew: {_reason(error)}; set XDG_CACHE_HOME to a folder of yours")
    if usable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="isoflop-") as name:  # a library that is loaded outlives its file
        yield Path(name)


def _kept(folder: Path, build: str) -> ctypes.CDLL | None:
    """Kernels for this source and processor in `folder`. Those of another owner or content are removed, and said."""
    for path in sorted(folder.glob(f"kernels-{build}-{_recipe_hash()}-*.so")):
        try:
            check_ours(path)
            if _digest(path.read_bytes()) != path.stem.rpartition("-")[2]:
                raise OSError(f"{path} is damaged")
            return ctypes.CDLL(str(path))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # replaced by another process
                _say(f"kernels are not loaded but built again: {_reason(error)}")
            with contextlib.suppress(OSError):
                path.unlink()
    return None


def _built(folder: Path, build: str, command: list[str]) -> ctypes.CDLL:
    """New kernels, kept in `folder` once they load. Raises OSError or SubprocessError."""
    with tempfile.TemporaryDirectory(dir=folder) as name:  # other workers may be building them too
        made = Path(name) / "kernels.so"
        whole = [*command, *FLAGS, "-I", str(HEADER.parent), "-o", str(made), str(SOURCE), "-lm"]
        subprocess.run(whole, capture_output=True, check=True, timeout=120)
        made.chmod(0o700)
        target = folder / f"kernels-{build}-{_recipe_hash()}-{_digest(made.read_bytes())}.so"
        ctypes.CDLL(str(made))
        made.replace(target)
    return ctypes.CDLL(str(target))


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    """One line: what a compiler or the system said."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "")
        return f"exit code {error.returncode}" + (f": {first.strip()[:200]}" if first else "")
    if isinstance(error, OSError) and error.strerror and not isinstance(error, NotOursError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _say(line: str) -> None:
    if not os.environ.get(SAID):
        print(f"isoflop: {line}", file=sys.stderr)


def build_for_workers() -> None:
    """Build or find the kernels before workers start, who then neither build them each nor say again what was wrong."""
    library()
    os.environ[SAID] = "1"


def _processor() -> bytes:
    """What `-march=native` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags", b"Features"))}))
