"""Names and paths of a storage, the same for all implementations."""

from __future__ import annotations

import errno
import os

__all__ = ["check_name", "os_error", "split_path", "temporary_name"]


def split_path(path: str) -> tuple[str, str]:
    """Folder ("" for the root) and name of a path. EINVAL when it is not `name` or `folder/name`."""
    folder, slash, name = path.rpartition("/")
    if slash:
        check_name(folder)
    check_name(name)
    return folder, name


def check_name(name: str) -> None:
    """Raise EINVAL unless it is one plain component of a path."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise os_error(errno.EINVAL, name)


def temporary_name(name: str) -> str:
    """What a file is called while `replace` writes it."""
    return f".{name}.tmp"


def os_error(number: int, path: str) -> OSError:
    """The `OSError` (of the fitting subclass) that the operating system would raise."""
    return OSError(number, os.strerror(number), path)
