"""Ends worker processes together with the process that they work for."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["end_with"]


def _made() -> Callable[[int], None]:
    # A function inside a function is sent to a worker by value. The worker therefore watches from its
    # first moment, and does not have to import this package first, which takes seconds.
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


#: Called at the start of a worker with the number of the process that started it. It ends the worker
#: as soon as that process is gone, however it ended. A worker left behind by ``kill -9`` would otherwise
#: finish its part, and write into a folder that another process may hold by then.
end_with = _made()
