"""One daemon a data path: an exclusive lock on the folder itself, which goes with the process however it ends."""

from __future__ import annotations

import fcntl
import os

__all__ = ["DataPathLock"]


class DataPathLock:
    """Locks at once, or raises `OSError` with a text that names the folder."""

    def __init__(self, folder: str) -> None:
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, f"{folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise OSError(error.errno, f"{folder} is in use, possibly by another nsqd") from error

    def release(self) -> None:
        os.close(self._descriptor)
