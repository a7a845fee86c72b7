"""The worker processes of a launch: how many, on which GPU each, how they end, and those that torchrun starts.

No torch is imported before it is known that there is a GPU.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.cost import cores
from isoflop.experiments.study.engine import DISTRIBUTED
from isoflop.experiments.training.process import begin, begin_helper, end_with

HELPERS = 8  # of a process that trains several trunks on a GPU, at most
CARD = ("/dev/nvidiactl", "/dev/dxg")  # what the kernel shows of a GPU, the second under Windows
PATIENCE_SECONDS = 10.0  # for the place of a worker that is about to end
_places: list[object] = []  # open files: their locks are this process' place in the pool
at_work: list[object] = []  # what this worker trains, if anything


def worker_count(where: WhereSpec) -> int:
    """Workers of a launch on this machine: one per core, or `workers_per_gpu` per GPU, unless `where.workers` says.

    Raises UsageError for an impossible number.
    """
    if where.workers is not None and where.workers < 1:
        raise UsageError(f"where.workers must be at least 1, or null for one per core; not {where.workers}")
    if where.threads < 1:
        raise UsageError(f"where.threads must be at least 1; not {where.threads}")
    if where.workers_per_gpu < 1:
        raise UsageError(f"where.workers_per_gpu must be at least 1; not {where.workers_per_gpu}")
    if where.workers is not None:
        return where.workers
    if where.device != "cpu":
        return max(1, len(gpus(where.device))) * where.workers_per_gpu
    return max(1, cores() // where.threads)


def gpus(device: str) -> list[str]:
    """The GPUs that `where.device` means, as CUDA_VISIBLE_DEVICES names them: all for cuda, one for cuda:1."""
    if not device.startswith("cuda"):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = named.split(",") if named else [str(i) for i in range(device_count())]
    _, _, index = device.partition(":")
    return every if not index else every[int(index) : int(index) + 1]


def device_count() -> int:
    """How many CUDA devices torch sees."""
    import torch  # only for a device: a launch on CPU leaves the import to its workers

    return torch.cuda.device_count()


def per_device(where: WhereSpec, workers: int) -> int:
    """The most workers that share the memory of one device."""
    return -(-workers // max(1, len(gpus(where.device))))


def devices_of(where: WhereSpec, workers: int) -> int:
    """Devices that so many workers hold: cores, or GPUs."""
    return workers * where.threads if where.device == "cpu" else max(1, min(workers, len(gpus(where.device))))


def at_once(where: WhereSpec, workers: int) -> int:
    """Workers that do not slow each other down: a core each, or a GPU each, or all that MPS lets share one."""
    if where.device == "cpu":
        return min(workers, cores())
    return workers if mps_runs() else min(workers, max(1, len(gpus(where.device))))


def mps_runs() -> bool:
    """Whether the daemon of NVIDIA's Multi-Process Service is at work, by the files that it keeps."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    try:
        return Path(f"/proc/{int((folder / 'nvidia-cuda-mps-control.pid').read_text())}").exists()
    except (OSError, ValueError):  # another user's
        return (folder / "control").exists()


def time_slices(where: WhereSpec, workers: int) -> str:
    """The note about workers that share a GPU; "" if none do, or MPS runs."""
    if where.device == "cpu" or (sharing := per_device(where, workers)) < 2 or mps_runs():
        return ""
    return (
        f"{sharing} workers share a GPU by time slices; with NVIDIA's MPS their kernels would overlap: "
        "nvidia-cuda-mps-control -d starts it"
    )


def begin_worker(parent: int, folder: str, workers: int, names: Sequence[str]) -> None:
    """First of all in a pool's worker: end with its parent, and see one GPU alone, which then is cuda.

    Each worker locks a file in `folder`, which the kernel unlocks when it dies: the one that replaces it finds the
    place free, and the GPUs stay evenly taken. To be called before torch looks for GPUs.
    """
    end_with(parent)
    os.environ["CUDA_VISIBLE_DEVICES"] = names[_place(Path(folder), workers) % len(names)]


def start_worker(parent: int, threads: int, device: str, *place: Any) -> None:
    """What a pool's worker does before its jobs; `place` are the further arguments of `begin_worker`, if it needs one.

    It ends with its parent, and loads and sets what every job needs (`training.process`). Between jobs
    Ctrl-C is left to the launch, which ends its workers: they would print where they were.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, _interrupt)
    if place:
        begin_worker(parent, *place)
    else:
        end_with(parent)
    begin(threads, device)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C in a worker: KeyboardInterrupt while a job trains, nothing between jobs."""
    if at_work:
        signal.default_int_handler(number, frame)


@cache
def helpers(threads: int) -> ProcessPoolExecutor:
    """Processes that take what would hold up a GPU's steps, which are queued by Python. The first call starts them:
    early, since they load what they need at the same time as this process."""
    count = min(HELPERS, cores())
    pool = ProcessPoolExecutor(count, get_context("spawn"), begin_helper, (os.getpid(), threads))
    for _ in range(count):  # each is started by the first call that finds none idle
        pool.submit(os.getpid)
    return pool


def begin_helpers(where: WhereSpec, workers: int | None) -> None:
    """Start the helpers of a launch that trains in this process; later, if ever, where no GPU is to be seen."""
    if where.device != "cpu" and workers == 1 and any(map(os.path.exists, CARD)):
        helpers(where.threads)


def elsewhere(threads: int, function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a helper and wait for its end; here where helpers cannot be started."""
    try:
        helpers(threads).submit(function, *arguments).result()
    except BrokenExecutor:
        function(*arguments)


def _place(folder: Path, workers: int) -> int:
    """A number below `workers` that no living worker of the pool has."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for place in range(workers):
            file = open(folder / str(place), "wb")  # noqa: SIM115 (held for the life of the process)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            _places.append(file)
            return place
        time.sleep(0.05)
    return os.getpid() % workers  # better a GPU too full than none


def check_distributed(where: WhereSpec, *, here: bool) -> None:
    """Raise ValueError for a mode that there is not, or one that does not fit how this process was started.

    `here` says whether the cells are to be trained by this process, not by one on another machine.
    """
    if where.distributed not in DISTRIBUTED:
        raise ValueError(f"where.distributed must be one of {', '.join(DISTRIBUTED)}; not {where.distributed!r}")
    if not here:
        return
    started = int(os.environ.get("WORLD_SIZE", 1))
    if where.distributed == "none" and started > 1:
        raise ValueError(f"torchrun started {started} processes: say where.distributed=ddp or fsdp2")
    if where.distributed != "none" and "RANK" not in os.environ:
        raise ValueError(
            f"where.distributed={where.distributed} is for processes that torchrun starts: "
            "torchrun --nproc-per-node 2 -m isoflop run ..."
        )
    if where.distributed != "none" and where.workers not in (None, 1):
        raise ValueError(f"where.workers={where.workers}: where.distributed has all processes share one cell; leave it")


def check_device(device: str, key: str = "where.device=") -> None:
    """Raise UsageError for a device that torch does not know or that is not here."""
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{key}{device} cannot be used here ({reason}); use {key}cpu") from error


def pin_threads(threads: int) -> None:
    """Threads of the workers' numerical libraries, which read the environment when they are loaded."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
