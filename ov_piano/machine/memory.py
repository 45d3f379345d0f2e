"""Memory allocation of this process."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def keep_freed_memory() -> bool:
    """Make this process reuse the memory of freed tensors instead of returning it to the system.

    By default, glibc maps new memory for each large tensor, and the kernel zeroes its pages on first access, which
    takes longer than most elementwise operations. Returns whether the setting took effect (glibc only).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
