"""A storage in memory that records what is synced, and can simulate a power loss.

Rules:

- Content survives a power loss once its file (or everything) was synced; a name, once its folder was. A synced file
  whose name was never synced is lost.
- Unsynced changes may survive too, in part and out of order: `crash` chooses among them.
- All methods are thread-safe.

Theory of operation. A file keeps its content, its durable content and the changes between the two; a folder does the
same with its names. A sync applies the changes to the durable side. A crash applies a choice of them:

- Of the truncations of a file the first few survive. A write after a lost truncation is lost with it, as the kernel
  orders the two. Of the other writes survive: all, or none, or those before one that is torn, or each at random: kept,
  lost, torn, or as zeros. Where a lost write lies before a kept one, zeros are read.
- Of the changes to the names of a folder the first few survive, in order (as with a journalling file system); folders
  are independent of one another. A rename survives completely or not at all.
"""

from __future__ import annotations

import copy
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import attrs

from nsqd.log.paths import check_name, os_error, split_path, temporary_name

__all__ = ["Chunk", "Keep", "MemoryStorage"]

# What `free_space` says when there is no capacity.
_UNLIMITED = 1 << 60

_NAME_MAX = 255


@attrs.frozen
class Chunk:
    """One append that no sync has covered."""

    offset: int
    data: bytes


Keep: TypeAlias = Callable[[str, list[Chunk]], Sequence[Chunk]]
"""Takes a path and its unsynced appends in order; returns those that survive, complete or shortened.

Called once for each sequence of appends between two truncations of the file.
"""


@attrs.frozen
class _Cut:
    size: int


@attrs.define(eq=False)
class _Content:
    data: bytearray = attrs.field(factory=bytearray)
    durable: bytearray = attrs.field(factory=bytearray)
    unsynced: list[Chunk | _Cut] = attrs.field(factory=list)
    # Its space is released once it has neither name nor handle.
    named: bool = True
    handles: int = 0

    def change(self, change: Chunk | _Cut) -> None:
        _apply(self.data, change)
        self.unsynced.append(change)

    def sync(self) -> None:
        for change in self.unsynced:
            _apply(self.durable, change)
        self.unsynced.clear()


@attrs.define(eq=False)
class _Folder:
    names: dict[str, _Content | _Folder] = attrs.field(factory=dict)
    durable: dict[str, _Content | _Folder] = attrs.field(factory=dict)
    # Each changes its names at once: None for one that goes.
    unsynced: list[dict[str, _Content | _Folder | None]] = attrs.field(factory=list)

    def change(self, change: dict[str, _Content | _Folder | None]) -> None:
        _rename(self.names, change)
        self.unsynced.append(change)

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.unsynced.clear()


class MemoryStorage:
    """A storage of at most `capacity` bytes of content (None: no limit); an append beyond it raises ENOSPC.

    `capacity` and `cold` may be changed at any time. While `cold` is true, no content is in the page cache: a
    read with `wait=False` raises `BlockingIOError`.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.cold = False
        self._root = _Folder()
        self._used = 0
        self._killed = False
        self._lock = threading.RLock()

    def crash(self, keep_unsynced: random.Random | Keep | None = None) -> MemoryStorage:
        """The storage after a power loss at this moment; this storage itself is not changed.

        `keep_unsynced`: None: all unsynced changes are lost. A `Random` chooses, reproducibly. A function chooses
        the unsynced appends of each file; then all names and truncations survive.
        """
        with self._lock:
            after = MemoryStorage(self.capacity)
            after._root = _after_crash(self._root, "", keep_unsynced)
            after._used = sum(len(content.data) for content in _contents(after._root))
            return after

    def kill(self) -> MemoryStorage:
        """The storage after the process was killed: everything written, with the same unsynced changes.

        All further operations on this storage and its handles raise EBADF, except for `kill` and `crash`.
        """
        with self._lock:
            self._killed = True
            after = MemoryStorage(self.capacity)
            after._root = copy.deepcopy(self._root)
            for content in _contents(after._root):
                content.handles = 0
                after._used += len(content.data)
            return after

    def rot(self, path: str, offset: int, bit: int = 0) -> None:
        """The disk gives back another bit than was written and synced, from now on."""
        folder, name = _split(path)
        with self._alive():
            content = self._content(self._folder(folder), name, path)
            if content.unsynced:
                raise ValueError(f"{path} is not synced")
            content.data[offset] ^= 1 << bit
            content.durable[offset] ^= 1 << bit

    def folders(self) -> list[str]:
        with self._alive():
            return sorted(name for name, node in self._root.names.items() if isinstance(node, _Folder))

    def files(self, folder: str = "") -> list[str]:
        with self._alive():
            names = self._folder(folder).names
            return sorted(
                name
                for name, node in names.items()
                if isinstance(node, _Content) and not name.startswith(".")
            )

    def exists(self, path: str) -> bool:
        try:
            folder, name = _split(path)
            with self._alive():
                return isinstance(self._folder(folder).names.get(name), _Content)
        except OSError:
            return False

    def make_folder(self, folder: str) -> None:
        _check(folder)
        with self._alive():
            self._refuse_taken(self._root, folder, folder)
            self._root.change({folder: _Folder()})

    def rename_folder(self, folder: str, to: str) -> None:
        _check(folder)
        _check(to)
        with self._alive():
            self._refuse_taken(self._root, to, to)
            self._root.change({folder: None, to: self._folder(folder)})

    def remove_folder(self, folder: str) -> None:
        _check(folder)
        with self._alive():
            if folder not in self._root.names:
                return
            node = self._folder(folder)
            for name in list(node.names):
                self._unlink(node, name)
            self._root.change({folder: None})

    def create(self, path: str) -> _MemoryFile:
        folder, name = _split(path)
        with self._alive():
            parent = self._folder(folder)
            self._refuse_taken(parent, name, path)
            content = _Content()
            parent.change({name: content})
            return self._handle(path, content)

    def open(self, path: str, *, read_only: bool = False) -> _MemoryFile:
        folder, name = _split(path)
        with self._alive():
            file = self._handle(path, self._content(self._folder(folder), name, path))
            file.read_only = read_only
            return file

    def replace(self, path: str, data: bytes) -> None:
        folder, name = _split(path)
        temporary = temporary_name(name)
        _check(temporary)
        with self._alive():
            parent = self._folder(folder)
            if isinstance(parent.names.get(name), _Folder):
                raise os_error(errno.EISDIR, path)
            if temporary in parent.names:
                self._unlink(parent, temporary)
            self.claim(len(data), path)
            content = _Content()
            content.change(Chunk(0, bytes(data)))
            content.sync()
            parent.change({temporary: content})
            self._move(parent, temporary, name)
            parent.sync()

    def rename(self, path: str, to: str) -> None:
        """Rename a file inside its folder; both are whole paths. EINVAL when the folders differ."""
        folder, name = _split(path)
        to_folder, to_name = _split(to)
        if folder != to_folder:
            raise os_error(errno.EINVAL, to)
        with self._alive():
            parent = self._folder(folder)
            self._content(parent, name, path)
            if isinstance(parent.names.get(to_name), _Folder):
                raise os_error(errno.EISDIR, to)
            if name != to_name:
                self._move(parent, name, to_name)

    def remove(self, path: str) -> None:
        folder, name = _split(path)
        with self._alive():
            parent = self._folder(folder)
            self._content(parent, name, path)
            self._unlink(parent, name)

    def sync_folder(self, folder: str = "") -> None:
        with self._alive():
            self._folder(folder).sync()

    def sync_all(self) -> None:
        with self._alive():
            folders = [node for node in self._root.names.values() if isinstance(node, _Folder)]
            for node in (self._root, *folders):
                node.sync()
            for content in _contents(self._root):
                content.sync()

    def free_space(self) -> int:
        with self._alive():
            return _UNLIMITED if self.capacity is None else max(0, self.capacity - self._used)

    def claim(self, size: int, path: str) -> None:
        """Take room for `size` more bytes (or give some back, below 0), as the handles do. ENOSPC."""
        if size > 0 and self.capacity is not None and self._used + size > self.capacity:
            raise os_error(errno.ENOSPC, path)
        self._used += size

    def release(self, content: _Content) -> None:
        """Free the room of a content that has neither name nor handle."""
        if not content.named and not content.handles:
            self._used -= len(content.data)

    def _alive(self) -> threading.RLock:
        if self._killed:
            raise os_error(errno.EBADF, "")
        return self._lock

    def _folder(self, folder: str) -> _Folder:
        if not folder:
            return self._root
        _check(folder)
        node = self._root.names.get(folder)
        if node is None:
            raise os_error(errno.ENOENT, folder)
        if not isinstance(node, _Folder):
            raise os_error(errno.ENOTDIR, folder)
        return node

    def _content(self, parent: _Folder, name: str, path: str) -> _Content:
        node = parent.names.get(name)
        if node is None:
            raise os_error(errno.ENOENT, path)
        if isinstance(node, _Folder):
            raise os_error(errno.EISDIR, path)
        return node

    def _refuse_taken(self, parent: _Folder, name: str, path: str) -> None:
        if name in parent.names:
            raise os_error(errno.EEXIST, path)

    def _handle(self, path: str, content: _Content) -> _MemoryFile:
        content.handles += 1
        return _MemoryFile(path, len(content.data), self, content)

    def _move(self, parent: _Folder, name: str, to: str) -> None:
        replaced = parent.names.get(to)
        parent.change({name: None, to: parent.names[name]})
        self._nameless(replaced)

    def _unlink(self, parent: _Folder, name: str) -> None:
        node = parent.names[name]
        parent.change({name: None})
        self._nameless(node)

    def _nameless(self, node: _Content | _Folder | None) -> None:
        if isinstance(node, _Content):
            node.named = False
            self.release(node)


@attrs.define(eq=False)
class _MemoryFile:
    path: str
    size: int
    _storage: MemoryStorage
    _content: _Content
    closed: bool = False
    read_only: bool = False
    # This handle's bytes are not in the page cache, regardless of `MemoryStorage.cold`.
    cold: bool = False
    # There is no cut here that could fail.
    broken: bool = False

    def append(self, buffers: Sequence[bytes]) -> None:
        data = b"".join(buffers)
        with self._usable(to_write=True):
            if not data:
                return
            end = self.size + len(data)
            self._storage.claim(max(0, end - len(self._content.data)), self.path)
            self._content.change(Chunk(self.size, data))
            self.size = end

    def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
        if offset < 0 or size < 0:
            raise os_error(errno.EINVAL, self.path)
        with self._usable():
            end = min(offset + size, self.size)
            if end <= offset:
                return b""
            if not wait and (self.cold or self._storage.cold):
                raise os_error(errno.EAGAIN, self.path)
            return bytes(self._content.data[offset:end])

    def truncate(self, size: int) -> None:
        with self._usable(to_write=True):
            if not 0 <= size <= self.size:
                raise os_error(errno.EINVAL, self.path)
            before = len(self._content.data)
            self._content.change(_Cut(size))
            self._storage.claim(len(self._content.data) - before, self.path)
            self.size = size

    def sync(self) -> None:
        with self._usable():
            self._content.sync()

    def start_writeback(self, offset: int, size: int) -> None:
        """Nothing begins here: whether it got to the disk is the crash's choice in any case."""

    def forget_cached(self, offset: int = 0, size: int = 0) -> None:
        """There is no cache."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._content.handles -= 1
            self._storage.release(self._content)

    def _usable(self, *, to_write: bool = False) -> threading.RLock:
        if self.closed or (to_write and self.read_only):
            raise os_error(errno.EBADF, self.path)
        return self._storage._alive()


def _after_crash(folder: _Folder, path: str, keep: random.Random | Keep | None) -> _Folder:
    """The folder as the disk has it; all that is in the result is durable."""
    after = _Folder()
    for name, node in sorted(_surviving_names(folder, keep).items()):
        full = f"{path}/{name}" if path else name
        if isinstance(node, _Folder):
            after.names[name] = _after_crash(node, full, keep)
        else:
            after.names[name] = _content_after_crash(node, full, keep)
    after.sync()
    return after


def _surviving_names(folder: _Folder, keep: random.Random | Keep | None) -> dict[str, _Content | _Folder]:
    if keep is None:
        return folder.durable
    if not isinstance(keep, random.Random):
        return folder.names
    names = dict(folder.durable)
    for change in folder.unsynced[: keep.randint(0, len(folder.unsynced))]:
        _rename(names, change)
    return names


def _content_after_crash(content: _Content, path: str, keep: random.Random | Keep | None) -> _Content:
    data = bytearray(content.durable)
    if isinstance(keep, random.Random):
        changes = _surviving_changes(content.unsynced, keep)
    elif keep is not None:
        changes = _chosen_changes(content.unsynced, path, keep)
    else:
        changes = []
    for change in changes:
        _apply(data, change)
    return _Content(data=data, durable=bytearray(data))


def _chosen_changes(changes: list[Chunk | _Cut], path: str, keep: Keep) -> list[Chunk | _Cut]:
    """The appends that the function keeps, at their places among the cuts; it is asked once a stretch."""
    after: list[Chunk | _Cut] = []
    chunks: list[Chunk] = []
    for change in changes:
        if isinstance(change, _Cut):
            after += [*keep(path, chunks), change] if chunks else [change]
            chunks = []
        else:
            chunks.append(change)
    if chunks:
        after += keep(path, chunks)
    return after


def _surviving_changes(changes: list[Chunk | _Cut], rng: random.Random) -> list[Chunk | _Cut]:
    cuts = [index for index, change in enumerate(changes) if isinstance(change, _Cut)]
    cuts.append(len(changes))
    changes = changes[: rng.choice(cuts)]
    way = rng.choice(("none", "all", "torn", "mixed"))
    if way == "none":
        return [change for change in changes if isinstance(change, _Cut)]
    if way == "all" or not changes:
        return changes
    if way == "torn":
        last = rng.randrange(len(changes))
        return [*changes[:last], *_torn(changes[last], rng), *_only_cuts(changes[last + 1 :])]
    return [part for change in changes for part in _by_luck(change, rng)]


def _only_cuts(changes: list[Chunk | _Cut]) -> list[_Cut]:
    return [change for change in changes if isinstance(change, _Cut)]


def _by_luck(change: Chunk | _Cut, rng: random.Random) -> list[Chunk | _Cut]:
    if isinstance(change, _Cut):
        return [change]
    fate = rng.choice(("kept", "lost", "zeros", "torn"))
    if fate == "kept":
        return [change]
    if fate == "zeros":
        return [Chunk(change.offset, bytes(len(change.data)))]
    return _torn(change, rng) if fate == "torn" else []


def _torn(change: Chunk | _Cut, rng: random.Random) -> list[Chunk | _Cut]:
    if isinstance(change, _Cut):
        return [change]
    size = rng.randrange(len(change.data))
    return [Chunk(change.offset, change.data[:size])] if size else []


def _apply(data: bytearray, change: Chunk | _Cut) -> None:
    if isinstance(change, _Cut):
        del data[change.size :]
        return
    data.extend(bytes(max(0, change.offset - len(data))))
    data[change.offset : change.offset + len(change.data)] = change.data


def _rename(names: dict[str, _Content | _Folder], change: dict[str, _Content | _Folder | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _contents(folder: _Folder) -> Iterator[_Content]:
    for node in folder.names.values():
        if isinstance(node, _Folder):
            yield from _contents(node)
        else:
            yield node


def _split(path: str) -> tuple[str, str]:
    folder, name = split_path(path)
    if folder:
        _check(folder)
    _check(name)
    return folder, name


def _check(name: str) -> None:
    check_name(name)
    if len(os.fsencode(name)) > _NAME_MAX:
        raise os_error(errno.ENAMETOOLONG, name)
