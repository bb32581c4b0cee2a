"""What training asks of the C library: to keep the memory that tensors give back.

glibc returns every block above 32 MB to the system as soon as it is freed, and at the next step the system hands it out
again page by page. The large tensors of speech pay for that at every training step on a CPU.
"""

import ctypes


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Freed memory is used again by this process instead of going back to the system; without glibc nothing happens."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, NEVER)
