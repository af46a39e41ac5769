"""Worker processes and the one they work for."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["end_with"]

_SECONDS = 0.2
_watched: set[int] = set()


def end_with(parent: int) -> None:
    """End this process at once when ``parent``, which started it, is gone, however it ended.

    A worker left behind by ``kill -9`` would otherwise go on for the rest of its part, and write into
    a folder that somebody else may hold by then.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS)
        os._exit(1)

    if parent not in _watched:
        _watched.add(parent)
        threading.Thread(target=watch, daemon=True).start()
