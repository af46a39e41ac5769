"""Worker processes and the one they work for."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["end_with"]


def _made() -> Callable[[int], None]:
    # A function inside a function is sent to a worker by value: it watches from its first moment, and
    # not only once this package is imported there, which takes seconds.
    def end_with(parent: int) -> None:
        import os  # noqa: PLC0415
        import threading  # noqa: PLC0415
        import time  # noqa: PLC0415

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(0.2)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()

    return end_with


#: Run at the start of a worker, with the number of the process that starts it: ends the worker at once
#: when that process is gone, however it ended. One left behind by ``kill -9`` would otherwise go on for
#: the rest of its part, and write into a folder that somebody else may hold by then.
end_with = _made()
