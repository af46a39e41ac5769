"""Memory of the process: freed arrays are kept for the next ones."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# names and numbers of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory(mebibytes: int = 512) -> bool:
    """Let the C library keep up to so much freed memory instead of giving it back to the system.

    An update allocates and frees the same arrays of some MiB again and again. By default glibc maps
    and unmaps each, and the system clears every page of it anew: 5 to 20 % of a training run. A
    setting of the whole process, so only programs make it, never an import.

    Returns:
        Whether it was done: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _M_MMAP_THRESHOLD: 32 << 20,  # the largest that glibc takes
        _M_TRIM_THRESHOLD: mebibytes << 20,
        _M_TOP_PAD: 16 << 20,
    }
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
