"""A storage that fails where a test says so: errors, deaths half way through, flipped bits.

Rules:

- Every operation, also of a file, first asks one replaceable function for its fault.
- Once the process has died (`Crash`), nothing reaches the storage below any more, even if `finally` blocks
  still try. A start afterwards finds what is in `inner`: take its `kill()` or `crash()` if it is a
  `MemoryStorage`.
- Operations that never raise still die, but take no errors.
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
"""Operations that change what is stored, or make it durable."""

_NEVER_RAISE: Final = frozenset({"start_writeback", "forget_cached", "close"})

OPERATIONS: Final = WRITES | _NEVER_RAISE | {"read", "open", "folders", "files", "free_space"}
"""All names that a fault function is asked with."""


class Crash(BaseException):
    """The process died at this operation. Like `KeyboardInterrupt`, it is no error of the program."""

    def __init__(self, operation: str, path: str) -> None:
        super().__init__(operation, path)
        self.operation = operation
        self.path = path


@attrs.frozen
class Fail:
    """Raise this errno, before anything is done."""

    errno: int


@attrs.frozen
class Die:
    """The process dies: before the operation, after it, or with the first `part` bytes of it written.

    `part` fits "append" (the bytes stay in the file) and "replace" (they stay in the temporary file).
    """

    part: int | None = None
    after: bool = False


@attrs.frozen
class Break:
    """An append writes its first `part` bytes and fails with `errno`, and the cut fails too.

    The file is broken: later appends raise EIO.
    """

    errno: int
    part: int = 0


@attrs.frozen
class FlipBit:
    """Flip one bit in what a read returns, counted from its first byte and round its end."""

    bit: int = 0


Fault: TypeAlias = Fail | Die | Break | FlipBit

FaultFunction: TypeAlias = Callable[[str, str], Fault | None]
"""Given an operation's name (one of `OPERATIONS`) and path ("" for the root): its fault, or None."""


class CrashAt:
    """The fault function that dies at the operation number `number` (from 0) of those that it counts."""

    def __init__(self, number: int, fault: Die | None = None, among: Collection[str] = OPERATIONS) -> None:
        self._left = number
        self._fault = fault or Die()
        self._among = among

    def __call__(self, operation: str, path: str) -> Fault | None:
        if operation not in self._among:
            return None
        self._left -= 1
        if self._left != -1:
            return None
        partial = self._fault.part is not None and operation not in ("append", "replace")
        return Die() if partial else self._fault


def no_fault(operation: str, path: str) -> None:
    """Let everything pass."""


class FaultyStorage:
    """Wraps `inner`. Attributes for tests:

    - `fault` may be replaced at any time; it is called by one thread at a time.
    - `counts`: how often each operation was asked for; `operations`: all together.
    - `dead`: the process has died.

    A fault that does not fit its operation is a mistake of the test: `ValueError`.
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
        """Do an operation that either happens whole or not at all."""
        return self.finish(self.admit(operation, path), operation, path, action)

    def admit(self, operation: str, path: str) -> Fault | None:
        """Count the operation and ask for its fault. Errors and deaths before it are raised here."""
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
        """Do it, then die if the fault says so. A fault that is left over here does not fit."""
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
            # A closed file says so first.
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
            # What a broken append left behind is not part of the file.
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

    def forget_cached(self) -> None:
        self._storage.run("forget_cached", self.path, self._inner.forget_cached)

    def close(self) -> None:
        self._storage.run("close", self.path, self._inner.close)


def _flipped(data: bytes, bit: int) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    bit %= 8 * len(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
