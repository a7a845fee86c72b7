"""What a process does once, before it trains: threads, arithmetic, glibc's allocator, and the kernels in C.

Imports nothing that takes time: a process that was started for a job loads it while others do.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

LOOK_SECONDS = 1.0  # between looks of a worker at its parent
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 2**25  # that glibc accepts as the latter
_MADV_HUGEPAGE, _HUGE_PAGE = 14, 2**21  # of madvise(2)

configured = False  # whether `configure_process` has been called


def begin(threads: int, device: str) -> None:
    """Make this process ready for jobs: its settings, and the kernels that steps on one CPU thread run through."""
    configure_process(threads)
    if device == "cpu" and threads == 1:
        from isoflop.models.step.training_step import kernels

        kernels()


def begin_helper(parent: int, threads: int) -> None:
    """Make this process ready for what others have done aside: it ends with its parent."""
    end_with(parent)
    from isoflop.experiments.training import keep  # loads torch

    del keep
    configure_process(threads)


def end_with(parent: int) -> None:
    """Watch, from a thread for the rest of this process, that its parent is still `parent`; end at once if not.

    Nobody would look at the result, and the next launch wants the trunk. What was written is whole, so nothing is lost
    but the steps since the last checkpoint.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def configure_process(threads: int) -> None:
    """Use `threads` threads, keep freed memory in the process, and multiply float32 as float32. Call before any tensor.

    Keeping freed activations is worth a factor 1.2 to 1.6 on small models. TF32 is off in torch's products by default,
    but not in those of cuDNN, which runs an LSTM.
    """
    import torch  # a report calls `keep_freed_memory` alone, and needs no torch

    global configured
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    keep_freed_memory()
    configured = True


@contextmanager
def torch_as_new() -> Iterator[None]:
    """Torch as a new process has it while the body runs, whatever a session has set; afterwards as the session had it.

    A default type, device or precision of a session's own would train another model under the same run id.
    """
    if "torch" not in sys.modules:  # nobody has set anything, and a launch may need none
        with _as_imported():
            yield
        return
    import torch

    global configured
    threads, dtype, tf32 = torch.get_num_threads(), torch.get_default_dtype(), torch.backends.cudnn.allow_tf32
    precision, was_configured = torch.get_float32_matmul_precision(), configured
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        try:
            torch.set_default_dtype(torch.float32)
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = tf32
            configured = was_configured


@contextmanager
def _as_imported() -> Iterator[None]:
    """At the end what `configure_process` has set is as when torch is imported, if it was in the body."""
    from isoflop.experiments.cost.cost import cores  # loads numpy

    global configured
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
    try:
        yield
    finally:
        if configured and (torch := sys.modules.get("torch")):
            torch.set_num_threads(threads)
            torch.backends.cudnn.allow_tf32 = True
            configured = False


def keep_freed_memory() -> None:
    """Keep freed buffers in the process, where glibc is the allocator; call before the first large array.

    By default it returns every large buffer to the kernel, and faults it in again at the next step.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        _widen_pages(libc)


def _widen_pages(libc: ctypes.CDLL) -> None:
    """Have the next 128 MiB of the heap in pages of 2 MiB, where Linux has them for who asks: a step reads rows of
    activations that lie in as many small pages as the processor can look up at once. Nothing is held until it is used.
    """
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = _LARGEST - 2**12  # a larger block would not be of the heap
    blocks = [block for _ in range(4) if (block := libc.malloc(size))]
    for block in blocks:
        begin, end = -(-block // _HUGE_PAGE) * _HUGE_PAGE, (block + size) // _HUGE_PAGE * _HUGE_PAGE
        libc.madvise(begin, end - begin, _MADV_HUGEPAGE)
    for block in blocks:
        libc.free(block)
