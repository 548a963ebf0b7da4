"""Fault injection for a storage: errors, crashes in the middle of an operation, flipped bits.

Rules:

- Every operation, also of a file, first calls one replaceable function for its fault.
- After a crash (`Crash`) nothing reaches the inner storage any more, even from `finally` blocks. A restart uses
  `inner`; if that is a `MemoryStorage`, the result of its `kill()` or `crash()`.
- Operations that never raise can crash, but ignore errors.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final, NoReturn, TypeAlias, TypeVar

import attrs

from nsqd.log.paths import os_error, split_path, temporary_name
from nsqd.log.storage import File, Storage

__all__ = [
    "OPERATIONS",
    "WRITES",
    "Break",
    "Crash",
    "CrashAt",
    "Die",
    "Fail",
    "Fault",
    "FaultFunction",
    "FaultyStorage",
    "FlipBit",
]

_T = TypeVar("_T")

WRITES: Final = frozenset(
    {
        "append",
        "truncate",
        "sync",
        "create",
        "rename",
        "replace",
        "remove",
        "make_folder",
        "rename_folder",
        "remove_folder",
        "sync_folder",
        "sync_all",
    }
)
"""Operations that change the stored data, or make it durable."""

_NEVER_RAISE: Final = frozenset({"start_writeback", "forget_cached", "close"})

OPERATIONS: Final = WRITES | _NEVER_RAISE | {"read", "open", "folders", "files", "free_space"}
"""The names of all operations."""


class Crash(BaseException):
    """The process died at this operation. As `KeyboardInterrupt`, it is not an `Exception`."""

    def __init__(self, operation: str, path: str) -> None:
        super().__init__(operation, path)
        self.operation = operation
        self.path = path


@attrs.frozen
class Fail:
    """Raise this errno instead of the operation."""

    errno: int


@attrs.frozen
class Die:
    """The process dies: before the operation, after it, or when its first `part` bytes are written.

    `part` is allowed for "append" (the bytes stay in the file) and "replace" (they stay in the temporary file).
    """

    part: int | None = None
    after: bool = False


@attrs.frozen
class Break:
    """An append writes its first `part` bytes and fails with `errno`, and so does the truncation that would undo it.

    After that the file is broken: later appends raise EIO.
    """

    errno: int
    part: int = 0


@attrs.frozen
class FlipBit:
    """Flip one bit in the result of a read; `bit` counts from its first byte, modulo its length."""

    bit: int = 0


Fault: TypeAlias = Fail | Die | Break | FlipBit

FaultFunction: TypeAlias = Callable[[str, str], Fault | None]
"""Takes an operation's name (one of `OPERATIONS`) and path ("" for the root); returns its fault, or None."""


class CrashAt:
    """A fault function that crashes at operation `number` (from 0) of the kinds in `among`."""

    def __init__(self, number: int, fault: Die | None = None, among: Collection[str] = OPERATIONS) -> None:
        self._remaining = number
        self._fault = fault or Die()
        self._among = among

    def __call__(self, operation: str, path: str) -> Fault | None:
        if operation not in self._among:
            return None
        self._remaining -= 1
        if self._remaining != -1:
            return None
        partial = self._fault.part is not None and operation not in ("append", "replace")
        return Die() if partial else self._fault


def no_fault(operation: str, path: str) -> None:
    """The fault function without faults."""


class FaultyStorage:
    """Wraps `inner`. Attributes for tests:

    - `fault` may be replaced at any time; it is called by one thread at a time.
    - `counts`: calls of each operation; `operations`: in total.
    - `dead`: the process has died.

    A fault that is not possible for its operation is an error of the test: `ValueError`.
    """

    def __init__(self, inner: Storage, fault: FaultFunction = no_fault) -> None:
        self.inner = inner
        self.fault = fault
        self.counts: Counter[str] = Counter()
        self.dead = False
        self._lock = threading.RLock()

    @property
    def operations(self) -> int:
        return self.counts.total()

    def folders(self) -> list[str]:
        return self.run("folders", "", self.inner.folders)

    def files(self, folder: str = "") -> list[str]:
        return self.run("files", folder, lambda: self.inner.files(folder))

    def exists(self, path: str) -> bool:
        return self.inner.exists(path)  # no operation that could fail: it has no fault, and is not counted

    def make_folder(self, folder: str) -> None:
        self.run("make_folder", folder, lambda: self.inner.make_folder(folder))

    def rename_folder(self, folder: str, to: str) -> None:
        self.run("rename_folder", folder, lambda: self.inner.rename_folder(folder, to))

    def remove_folder(self, folder: str) -> None:
        self.run("remove_folder", folder, lambda: self.inner.remove_folder(folder))

    def create(self, path: str) -> _FaultyFile:
        return self.run("create", path, lambda: self._wrapped(self.inner.create(path)))

    def open(self, path: str, *, read_only: bool = False) -> _FaultyFile:
        return self.run("open", path, lambda: self._wrapped(self.inner.open(path, read_only=read_only)))

    def replace(self, path: str, data: bytes) -> None:
        fault = self.admit("replace", path)
        if isinstance(fault, Die) and fault.part is not None:
            self._leave_temporary(path, data[: fault.part])
            self.die("replace", path)
        self.finish(fault, "replace", path, lambda: self.inner.replace(path, data))

    def rename(self, path: str, to: str) -> None:
        self.run("rename", path, lambda: self.inner.rename(path, to))

    def remove(self, path: str) -> None:
        self.run("remove", path, lambda: self.inner.remove(path))

    def sync_folder(self, folder: str = "") -> None:
        self.run("sync_folder", folder, lambda: self.inner.sync_folder(folder))

    def sync_all(self) -> None:
        self.run("sync_all", "", self.inner.sync_all)

    def free_space(self) -> int:
        return self.run("free_space", "", self.inner.free_space)

    def run(self, operation: str, path: str, action: Callable[[], _T]) -> _T:
        """Run an operation that cannot be done in part."""
        return self.finish(self.admit(operation, path), operation, path, action)

    def admit(self, operation: str, path: str) -> Fault | None:
        """Count the operation and return its fault. Errors, and crashes before the operation, are raised here."""
        with self._lock:
            if self.dead:
                raise Crash(operation, path)
            self.counts[operation] += 1
            fault = self.fault(operation, path)
            if isinstance(fault, Die) and fault.part is None and not fault.after:
                self.die(operation, path)
            if isinstance(fault, Fail):
                if operation not in _NEVER_RAISE:
                    raise os_error(fault.errno, path)
                return None
            return fault

    def finish(self, fault: Fault | None, operation: str, path: str, action: Callable[[], _T]) -> _T:
        """Run the operation, then crash if the fault says so. No other fault is possible here."""
        if fault is not None and not (isinstance(fault, Die) and fault.after and fault.part is None):
            raise ValueError(f"{fault} does not fit {operation}")
        result = action()
        if fault is not None:
            self.die(operation, path)
        return result

    def die(self, operation: str, path: str) -> NoReturn:
        self.dead = True
        raise Crash(operation, path)

    def _wrapped(self, file: File) -> _FaultyFile:
        return _FaultyFile(self, file)

    def _leave_temporary(self, path: str, data: bytes) -> None:
        folder, name = split_path(path)
        temporary = f"{folder}/{temporary_name(name)}" if folder else temporary_name(name)
        with contextlib.suppress(FileNotFoundError):
            self.inner.remove(temporary)
        file = self.inner.create(temporary)
        file.append([data])
        file.close()


@attrs.define(eq=False)
class _FaultyFile:
    _storage: FaultyStorage
    _inner: File
    # The size before the append that broke it.
    _broken_size: int | None = None

    @property
    def path(self) -> str:
        return self._inner.path

    @property
    def size(self) -> int:
        return self._inner.size if self._broken_size is None else self._broken_size

    @property
    def closed(self) -> bool:
        return self._inner.closed

    @property
    def broken(self) -> bool:
        return self._broken_size is not None

    def append(self, buffers: Sequence[bytes]) -> None:
        fault = self._storage.admit("append", self.path)
        if self.broken:
            # Raises if the file is closed, which takes precedence.
            self._inner.append([])
            raise os_error(errno.EIO, self.path)
        if isinstance(fault, Die) and fault.part is not None:
            self._append_part(buffers, fault.part)
            self._storage.die("append", self.path)
        if isinstance(fault, Break):
            self._broken_size = self._inner.size
            self._append_part(buffers, fault.part)
            raise os_error(fault.errno, self.path)
        self._storage.finish(fault, "append", self.path, lambda: self._inner.append(buffers))

    def _append_part(self, buffers: Sequence[bytes], size: int) -> None:
        self._inner.append([b"".join(buffers)[:size]])

    def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
        fault = self._storage.admit("read", self.path)
        if size >= 0:
            # The bytes that a broken append has written are not part of the file.
            size = min(size, max(0, self.size - offset))
        if isinstance(fault, FlipBit):
            return _flipped(self._inner.read(offset, size, wait=wait), fault.bit)
        return self._storage.finish(
            fault, "read", self.path, lambda: self._inner.read(offset, size, wait=wait)
        )

    def truncate(self, size: int) -> None:
        def cut() -> None:
            if self._broken_size is not None:
                if size > self._broken_size:
                    raise os_error(errno.EINVAL, self.path)
                self._inner.truncate(size)
                self._broken_size = size
            else:
                self._inner.truncate(size)

        self._storage.run("truncate", self.path, cut)

    def sync(self) -> None:
        self._storage.run("sync", self.path, self._inner.sync)

    def start_writeback(self, offset: int, size: int) -> None:
        self._storage.run("start_writeback", self.path, lambda: self._inner.start_writeback(offset, size))

    def forget_cached(self, offset: int = 0, size: int = 0) -> None:
        self._storage.run("forget_cached", self.path, lambda: self._inner.forget_cached(offset, size))

    def close(self) -> None:
        self._storage.run("close", self.path, self._inner.close)


def _flipped(data: bytes, bit: int) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    bit %= 8 * len(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
