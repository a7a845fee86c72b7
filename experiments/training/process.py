"""glibc's allocator, told to keep what is freed: large arrays come and go by the thousand here."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Keep freed buffers in the process, where glibc is the allocator; call before the first large array.

    Left alone it returns every large buffer to the kernel and faults it in again at the next step.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the largest that glibc accepts
