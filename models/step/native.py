"""Build `kernels.c` with the machine's own C compiler, once per machine, and load it: about two seconds, then none.

Where there is no compiler, or it cannot build the file, there are no kernels and `models.step.torch_ops` does the work.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE, HEADER = (Path(__file__).with_name(name) for name in ("kernels.c", "vectors.h"))
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")


@cache
def library() -> ctypes.CDLL | None:
    """The functions of `kernels.c`; None where they cannot be built."""
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError):
        return None


def build_id() -> str:
    """What of source, compiler and processor made the kernels of this process, in eight digits; "" without any."""
    built = library()
    return Path(built._name).stem.removeprefix("kernels-")[:8] if built else ""


def _built() -> Path:
    """The shared object for this source, compiler and processor, from the cache or newly made."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), *COMPILERS))), None)
    if compiler is None:
        raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is installed")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    parts = SOURCE.read_bytes(), HEADER.read_bytes(), " ".join(FLAGS).encode(), version, _processor()
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = home / "isoflop" / f"kernels-{key[:16]}.so"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # other workers may be building it too
            made = Path(folder) / target.name
            command = [compiler, *FLAGS, "-I", str(HEADER.parent), "-o", str(made), str(SOURCE), "-lm"]
            subprocess.run(command, capture_output=True, check=True, timeout=120)
            made.replace(target)
    return target


def _processor() -> bytes:
    """What `-march=native` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags", b"Features"))}))
