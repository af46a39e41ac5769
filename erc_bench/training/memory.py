"""The memory of the process: freed arrays are kept for the next ones."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# names and numbers of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def give_back_freed_memory() -> bool:
    """Return what :func:`keep_freed_memory` has kept to the system; to be called between populations.

    A worker that keeps the memory of its largest population is taken for leaking by what watches it
    (loky ends a worker that has grown by 300 MB, and warns).

    Returns:
        Whether anything was returned: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False


def keep_freed_memory(mebibytes: int = 512) -> bool:
    """Let the C library keep up to this much freed memory instead of returning it to the system.

    An update allocates and frees the same arrays of a few MiB again and again. By default glibc maps
    and unmaps each of them, and the system clears every page again, which takes 5 to 20 % of a
    training run. This is a setting of the whole process, so programs make it and imports do not.

    Returns:
        Whether the setting was made: False where the C library is not glibc.
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
