"""One suite for the three storages under the topic log, then what is particular to each of them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nsqd.log import system_calls
from nsqd.log.file_storage import FileStorage
from nsqd.log.storage import File, Storage
from nsqd.testing.faulty_storage import (
    OPERATIONS,
    WRITES,
    Break,
    Crash,
    CrashAt,
    Die,
    Fail,
    Fault,
    FaultyStorage,
    FlipBit,
)
from nsqd.testing.memory_storage import Chunk, MemoryStorage
from tests.nsqd.testing.system_calls import (
    Calls,
    fails_with,
    held_below,
    no_descriptors_left,
)
from tests.timing import patience


@pytest.fixture
def file_storage(tmp_path: Path) -> Iterator[FileStorage]:
    storage = FileStorage(tmp_path)
    yield storage
    storage.close()


@pytest.fixture(params=["files", "memory", "faulty", "faulty files"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "memory":
        yield MemoryStorage()
    elif request.param == "faulty":
        yield FaultyStorage(MemoryStorage())
    else:
        inner = FileStorage(tmp_path)
        yield FaultyStorage(inner) if request.param == "faulty files" else inner
        inner.close()


def content(file: File) -> bytes:
    return file.read(0, file.size)


def written(storage: Storage, path: str, *chunks: bytes) -> File:
    file = storage.create(path)
    for chunk in chunks:
        file.append([chunk])
    return file


class TestAppendAndRead:
    def test_a_new_file_is_empty(self, storage: Storage) -> None:
        file = storage.create("a.log")
        assert (file.path, file.size, file.read(0, 10)) == ("a.log", 0, b"")

    def test_buffers_follow_one_another(self, storage: Storage) -> None:
        file = storage.create("a.log")
        file.append([b"one", b"", b"two"])
        file.append([b"three"])
        assert file.size == 11
        assert content(file) == b"onetwothree"

    @pytest.mark.parametrize("buffers", [[], [b""], [b"", b""]])
    def test_nothing_to_append(self, storage: Storage, buffers: list[bytes]) -> None:
        file = written(storage, "a.log", b"x")
        file.append(buffers)
        assert content(file) == b"x"

    @pytest.mark.parametrize("count", [1023, 1024, 1025, 3000])
    def test_more_buffers_than_one_call_takes(self, storage: Storage, count: int) -> None:
        file = written(storage, "a.log", b"head")
        buffers = [b"%d," % number for number in range(count)]
        file.append(buffers)
        assert content(file) == b"head" + b"".join(buffers)

    def test_a_bad_buffer_leaves_the_file_as_it_was(self, storage: Storage) -> None:
        file = written(storage, "a.log", b"head")
        with pytest.raises(TypeError):
            file.append([b"x"] * 1500 + ["text"])  # type: ignore[list-item]
        assert (file.size, content(file)) == (4, b"head")
        file.append([b"!"])
        assert content(file) == b"head!"

    @pytest.mark.parametrize("wait", [True, False])
    @pytest.mark.parametrize(
        ("offset", "size", "expected"),
        [
            (0, 5, b"01234"),
            (3, 4, b"3456"),
            (8, 10, b"89"),
            (10, 1, b""),
            (99, 5, b""),
            (4, 0, b""),
            (0, 1 << 40, b"0123456789"),
        ],
    )
    def test_reads_end_where_the_file_ends(
        self, storage: Storage, offset: int, size: int, expected: bytes, wait: bool
    ) -> None:
        file = written(storage, "a.log", b"0123456789")
        assert file.read(offset, size, wait=wait) == expected

    @pytest.mark.parametrize("wait", [True, False])
    def test_large_reads(self, storage: Storage, wait: bool) -> None:
        data = random.Random(1).randbytes(3 << 20)
        file = written(storage, "a.log", data)
        assert file.read(0, 1 << 20, wait=wait) == data[: 1 << 20]
        assert file.read(7, 2 << 20, wait=wait) == data[7 : (2 << 20) + 7]

    @pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -1)])
    def test_reads_that_make_no_sense(self, storage: Storage, offset: int, size: int) -> None:
        file = written(storage, "a.log", b"x")
        with fails_with(errno.EINVAL):
            file.read(offset, size)

    def test_open_finds_size_and_content(self, storage: Storage) -> None:
        written(storage, "a.log", b"abc").close()
        file = storage.open("a.log")
        assert file.size == 3
        file.append([b"def"])
        assert content(file) == b"abcdef"

    def test_a_file_that_is_only_read(self, storage: Storage) -> None:
        file = written(storage, "a.log", b"abc")
        reader = storage.open("a.log", read_only=True)
        for use in (
            lambda: reader.append([b"x"]),
            lambda: reader.append([]),
            lambda: reader.truncate(1),
        ):
            with fails_with(errno.EBADF):
                use()
        file.append([b"d"])
        assert (content(reader), content(storage.open("a.log", read_only=True))) == (b"abc", b"abcd")
        reader.sync()
        assert not reader.broken
        reader.close()
        with fails_with(errno.EBADF):
            reader.read(0, 1)

    def test_threads_read_and_sync_while_the_file_grows(self, storage: Storage) -> None:
        file = storage.create("a.log")
        done = threading.Event()

        def check() -> int:
            rounds = 0
            while not done.is_set() or not rounds:
                data = content(file)
                assert data == bytes(range(256)) * (len(data) // 256)
                file.sync()
                rounds += 1
            return rounds

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(check) for _ in range(3)]
            for _ in range(100):
                file.append([bytes(range(100)), bytes(range(100, 256))])
            done.set()
            assert all(reader.result() for reader in readers)
        assert file.size == 25600


class TestTruncate:
    @pytest.mark.parametrize("size", [0, 4, 10])
    def test_cut_then_append(self, storage: Storage, size: int) -> None:
        file = written(storage, "a.log", b"0123456789")
        file.truncate(size)
        assert (file.size, content(file)) == (size, b"0123456789"[:size])
        file.append([b"X"])
        assert content(file) == b"0123456789"[:size] + b"X"
        assert storage.open("a.log").size == size + 1

    @pytest.mark.parametrize("size", [-1, 4])
    def test_truncating_never_extends(self, storage: Storage, size: int) -> None:
        file = written(storage, "a.log", b"abc")
        with fails_with(errno.EINVAL):
            file.truncate(size)
        assert content(file) == b"abc"


class TestClose:
    def test_twice_is_fine(self, storage: Storage) -> None:
        file = storage.create("a.log")
        file.close()
        file.close()

    @pytest.mark.parametrize(
        "use",
        [
            lambda file: file.append([b"x"]),
            lambda file: file.append([]),
            lambda file: file.read(0, 1),
            lambda file: file.read(0, 1, wait=False),
            lambda file: file.truncate(0),
            lambda file: file.sync(),
        ],
    )
    def test_a_closed_file_is_of_no_use(self, storage: Storage, use: Callable[[File], object]) -> None:
        file = written(storage, "a.log", b"abc")
        file.close()
        with fails_with(errno.EBADF):
            use(file)
        assert (file.path, file.size) == ("a.log", 3)

    def test_hints_never_raise(self, storage: Storage) -> None:
        file = written(storage, "a.log", b"abc")
        for _ in range(2):
            file.start_writeback(0, 3)
            file.start_writeback(0, 0)
            file.start_writeback(-5, 1)
            file.forget_cached()
            file.close()
        assert content(storage.open("a.log")) == b"abc"


class TestNames:
    def test_listings_are_sorted_and_apart(self, storage: Storage) -> None:
        for folder in ("b", "a", "c"):
            storage.make_folder(folder)
        for path in ("z", "y", "a/2", "a/1", "b/3", ".hidden", "a/.hidden"):
            storage.create(path).close()
        assert storage.folders() == ["a", "b", "c"]
        assert storage.files() == storage.files("") == ["y", "z"]
        assert [storage.files(folder) for folder in "abc"] == [["1", "2"], ["3"], []]

    def test_an_empty_storage(self, storage: Storage) -> None:
        assert (storage.folders(), storage.files()) == ([], [])

    def test_missing_names_are_errors(self, storage: Storage) -> None:
        storage.make_folder("folder")
        for use in (
            lambda: storage.open("x"),
            lambda: storage.open("folder/x"),
            lambda: storage.open("nowhere/x"),
            lambda: storage.create("nowhere/x"),
            lambda: storage.replace("nowhere/x", b""),
            lambda: storage.remove("x"),
            lambda: storage.rename("x", "y"),
            lambda: storage.rename("x", "x"),
            lambda: storage.files("nowhere"),
            lambda: storage.sync_folder("nowhere"),
            lambda: storage.rename_folder("nowhere", "there"),
        ):
            with fails_with(errno.ENOENT):
                use()
        assert (storage.folders(), storage.files()) == (["folder"], [])

    def test_what_exists(self, storage: Storage) -> None:
        storage.make_folder("folder")
        written(storage, "folder/x", b"abc").close()
        paths = ("folder/x", "folder", "folder/y", "nowhere/x", "x")
        assert [storage.exists(path) for path in paths] == [True, False, False, False, False]
        storage.remove("folder/x")
        assert not storage.exists("folder/x")

    def test_existing_names_are_errors(self, storage: Storage) -> None:
        storage.make_folder("folder")
        storage.make_folder("empty")
        written(storage, "file", b"abc").close()
        for use in (
            lambda: storage.make_folder("folder"),
            lambda: storage.make_folder("file"),
            lambda: storage.create("file"),
            lambda: storage.create("folder"),
            lambda: storage.rename_folder("folder", "empty"),
            lambda: storage.rename_folder("folder", "folder"),
            lambda: storage.rename_folder("folder", "file"),
        ):
            with fails_with(errno.EEXIST):
                use()
        assert storage.folders() == ["empty", "folder"]
        assert content(storage.open("file")) == b"abc"

    def test_a_folder_is_no_file_and_a_file_no_folder(self, storage: Storage) -> None:
        storage.make_folder("folder")
        storage.create("file").close()
        for number, use in (
            (errno.EISDIR, lambda: storage.open("folder")),
            (errno.EISDIR, lambda: storage.open("folder", read_only=True)),
            (errno.EISDIR, lambda: storage.remove("folder")),
            (errno.EISDIR, lambda: storage.rename("folder", "new")),
            (errno.EISDIR, lambda: storage.rename("file", "folder")),
            (errno.EISDIR, lambda: storage.replace("folder", b"x")),
            (errno.ENOTDIR, lambda: storage.files("file")),
            (errno.ENOTDIR, lambda: storage.rename_folder("file", "new")),
            (errno.ENOTDIR, lambda: storage.remove_folder("file")),
            (errno.ENOTDIR, lambda: storage.create("file/x")),
        ):
            with fails_with(number):
                use()
        assert (storage.folders(), storage.files()) == (["folder"], ["file"])

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a/", "/a", "a\0b"])
    def test_folder_names_that_are_refused(self, storage: Storage, name: str) -> None:
        storage.make_folder("a")
        for use in (
            lambda: storage.make_folder(name),
            lambda: storage.rename_folder("a", name),
            lambda: storage.rename_folder(name, "b"),
            lambda: storage.remove_folder(name),
            lambda: storage.create(f"{name}/x"),
        ):
            with fails_with(errno.EINVAL):
                use()
        assert storage.folders() == ["a"]

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b/c", "/", "a/", "a/..", "../a", "a\0b"])
    def test_paths_that_are_refused(self, storage: Storage, name: str) -> None:
        storage.make_folder("a")
        storage.create("file").close()
        for use in (
            lambda: storage.create(name),
            lambda: storage.open(name),
            lambda: storage.remove(name),
            lambda: storage.replace(name, b""),
            lambda: storage.rename(name, "x"),
            lambda: storage.rename("file", name),
        ):
            with fails_with(errno.EINVAL):
                use()
        assert (storage.files(), storage.files("a")) == (["file"], [])

    def test_names_that_are_too_long(self, storage: Storage) -> None:
        for use in (
            lambda: storage.create("x" * 256),
            lambda: storage.make_folder("x" * 256),
            lambda: storage.create("é" * 128),
            lambda: storage.replace("x" * 252, b""),
        ):
            with fails_with(errno.ENAMETOOLONG):
                use()
        storage.create("x" * 255)
        storage.replace("y" * 250, b"")
        assert storage.files() == ["x" * 255, "y" * 250]


class TestRename:
    def test_over_an_existing_file_with_both_open(self, storage: Storage) -> None:
        storage.make_folder("t")
        new, old = written(storage, "t/new", b"new"), written(storage, "t/old", b"old")
        storage.rename("t/new", "t/old")
        storage.create("other").append([b"x"])
        new.append([b"er"])
        assert (content(new), content(old)) == (b"newer", b"old")
        assert storage.files("t") == ["old"]
        assert content(storage.open("t/old")) == b"newer"

    def test_again_and_to_itself(self, storage: Storage) -> None:
        file = written(storage, "a", b"abc")
        storage.rename("a", "b")
        storage.rename("b", "b")
        storage.rename("b", "c")
        assert (storage.files(), content(file)) == (["c"], b"abc")

    def test_a_name_that_was_free_again_is_another_file(self, storage: Storage) -> None:
        first = written(storage, "a", b"first")
        storage.rename("a", "b")
        second = written(storage, "a", b"second")
        assert (content(first), content(second)) == (b"first", b"second")

    def test_only_inside_its_folder(self, storage: Storage) -> None:
        storage.make_folder("t")
        storage.create("a").close()
        with fails_with(errno.EINVAL):
            storage.rename("a", "t/a")
        with fails_with(errno.EINVAL):
            storage.rename("t/a", "a")
        assert (storage.files(), storage.files("t")) == (["a"], [])


class TestRemove:
    def test_while_open(self, storage: Storage) -> None:
        file = written(storage, "a", b"first")
        storage.remove("a")
        assert storage.files() == []
        other = written(storage, "a", b"second")
        assert (content(file), content(other)) == (b"first", b"second")
        file.close()
        with fails_with(errno.EBADF):
            file.read(0, 1)
        assert content(other) == b"second"

    def test_twice(self, storage: Storage) -> None:
        storage.create("a").close()
        storage.remove("a")
        with fails_with(errno.ENOENT):
            storage.remove("a")


class TestReplace:
    def test_new_and_again(self, storage: Storage) -> None:
        storage.make_folder("t")
        for path in ("state", "t/state"):
            storage.replace(path, b"first, and longer")
            storage.replace(path, b"second")
            assert content(storage.open(path)) == b"second"
        storage.replace("state", b"")
        assert storage.open("state").size == 0
        assert (storage.files(), storage.files("t")) == (["state"], ["state"])

    def test_an_open_file_keeps_the_old_contents(self, storage: Storage) -> None:
        file = written(storage, "state", b"old")
        storage.replace("state", b"new")
        storage.create("other").append([b"x"])
        assert (content(file), content(storage.open("state"))) == (b"old", b"new")

    def test_a_leftover_is_overwritten(self, storage: Storage) -> None:
        written(storage, ".state.tmp", b"left over, and longer").close()
        storage.replace("state", b"new")
        assert content(storage.open("state")) == b"new"
        with fails_with(errno.ENOENT):
            storage.open(".state.tmp")

    def test_from_many_threads(self, storage: Storage) -> None:
        """One path has one writer at a time; different ones do not wait for one another."""
        values = [b"%d" % number * 1000 for number in range(10)]

        def replace(number: int) -> None:
            for value in [*values, values[number]]:
                storage.replace(f"state{number}", value)

        with ThreadPoolExecutor(4) as pool:
            for task in [pool.submit(replace, number) for number in range(10)]:
                task.result()
        assert [content(storage.open(f"state{number}")) for number in range(10)] == values


class TestFolders:
    def test_rename_takes_open_files_along(self, storage: Storage) -> None:
        storage.make_folder("a")
        file, other = written(storage, "a/1", b"one"), written(storage, "a/2", b"two")
        storage.rename_folder("a", "b")
        storage.make_folder("a")
        new = written(storage, "a/1", b"new")
        file.append([b"!"])
        assert [content(each) for each in (file, other, new)] == [b"one!", b"two", b"new"]
        assert (storage.folders(), storage.files("b")) == (["a", "b"], ["1", "2"])
        storage.rename("b/1", "b/0")
        assert (content(file), content(storage.open("b/0"))) == (b"one!", b"one!")

    def test_remove_takes_everything(self, storage: Storage) -> None:
        storage.make_folder("a")
        for path in ("a/1", "a/2", "a/.3.tmp"):
            written(storage, path, b"x").close()
        storage.remove_folder("a")
        storage.remove_folder("a")
        storage.make_folder("a")
        assert (storage.folders(), storage.files("a")) == (["a"], [])

    def test_an_open_file_never_becomes_another_one(self, storage: Storage) -> None:
        storage.make_folder("a")
        old = written(storage, "a/1", b"old")
        storage.create("other").close()
        storage.remove_folder("a")
        storage.make_folder("a")
        written(storage, "a/1", b"new").close()
        # Whether it can still be read is up to the storage.
        with contextlib.suppress(FileNotFoundError):
            assert content(old) == b"old"
        old.close()

    def test_removed_by_two_threads(self, storage: Storage) -> None:
        storage.make_folder("a")
        for number in range(100):
            storage.create(f"a/{number}").close()
        with ThreadPoolExecutor(2) as pool:
            for removal in [pool.submit(storage.remove_folder, "a") for _ in range(2)]:
                removal.result()
        assert storage.folders() == []


class TestSyncAndSpace:
    def test_everything_is_still_there(self, storage: Storage) -> None:
        storage.make_folder("t")
        file = written(storage, "t/a", b"abc")
        file.sync()
        storage.sync_folder("t")
        storage.sync_folder()
        storage.sync_all()
        file.forget_cached()
        assert content(file) == b"abc"

    def test_there_is_room(self, storage: Storage) -> None:
        assert storage.free_space() > 0


def test_many_files_at_once(storage: Storage) -> None:
    opened = [storage.create(f"{number}") for number in range(50)]
    for round_number in range(3):
        for number, file in enumerate(opened):
            file.append([b"%d.%d " % (number, round_number)])
    for number, file in enumerate(opened):
        assert content(file) == b"".join(b"%d.%d " % (number, each) for each in range(3))
        file.close()


# Files.


def short_write(size: int) -> Callable[..., int]:
    def write(real: Callable[..., int], descriptor: int, buffers: list[bytes], offset: int) -> int:
        return real(descriptor, [b"".join(buffers)[:size]], offset)

    return write


class TestFileStorage:
    def test_the_root_must_be_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with fails_with(errno.ENOENT):
            FileStorage(tmp_path / "nowhere")
        with fails_with(errno.ENOTDIR):
            FileStorage(tmp_path / "file")

    def test_closing_lets_go_of_everything(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        storage = FileStorage(tmp_path)
        opened = [storage.create(f"{number}") for number in range(10)]
        storage.remove("3")
        storage.close()
        storage.close()
        assert len(os.listdir("/proc/self/fd")) == before
        for file in opened:
            with fails_with(errno.EBADF):
                file.append([b"x"])

    def test_files_are_private(self, file_storage: FileStorage, tmp_path: Path) -> None:
        file_storage.make_folder("t")
        file_storage.create("t/a")
        file_storage.replace("t/b", b"")
        assert [(tmp_path / path).stat().st_mode & 0o077 for path in ("t", "t/a", "t/b")] == [0, 0, 0]

    def test_short_writes_are_continued(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"head")
        # The first call took nothing that counts: its bytes are written again, at the same place.
        Calls(monkeypatch, "pwritev", short_write(4), short_write(1), short_write(7), short_write(2))
        buffers = [b"one", b"", b"two", b"three"] + [b"%d" % number for number in range(2000)]
        file.append(buffers)
        assert content(file) == b"head" + b"".join(buffers)

    @pytest.mark.parametrize("before", [[], [short_write(4)], [short_write(4), short_write(2)]])
    @pytest.mark.parametrize(("answer", "number"), [(errno.ENOSPC, errno.ENOSPC), (errno.EIO, errno.EIO)])
    def test_a_failed_append_is_cut_off(
        self,
        file_storage: FileStorage,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        before: list[object],
        answer: int,
        number: int,
    ) -> None:
        file = written(file_storage, "a", b"head")
        Calls(monkeypatch, "pwritev", *before, answer)
        with fails_with(number):
            file.append([b"lost", b"bytes"])
        assert (file.size, (tmp_path / "a").read_bytes()) == (4, b"head")
        file.append([b"!"])
        assert (tmp_path / "a").read_bytes() == b"head!"

    def test_a_write_that_takes_nothing_means_no_space(
        self, file_storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"head")
        Calls(monkeypatch, "pwritev", short_write(2), short_write(3), lambda *_: 0)
        with fails_with(errno.ENOSPC):
            file.append([b"lost bytes"])
        assert (tmp_path / "a").read_bytes() == b"head"

    def test_a_file_that_cannot_be_cut_back_is_broken(
        self, file_storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = file_storage.create("a")
        file.append([b"head"])
        Calls(monkeypatch, "pwritev", short_write(3), short_write(2), errno.ENOSPC)
        Calls(monkeypatch, "ftruncate", errno.EIO)
        with fails_with(errno.ENOSPC):
            file.append([b"rest"])
        assert file.broken
        for _ in range(2):
            with fails_with(errno.EIO):
                file.append([b"x"])
        assert (file.size, file.read(0, 100)) == (4, b"head")
        assert (tmp_path / "a").read_bytes() == b"headres"

    def test_short_reads_are_continued(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"0123456789")
        Calls(monkeypatch, "pread", lambda real, fd, _size, at: real(fd, 3, at))
        assert file.read(1, 8) == b"12345678"

    def test_a_file_that_another_process_cut_just_ends(
        self, file_storage: FileStorage, tmp_path: Path
    ) -> None:
        file = written(file_storage, "a", b"0123456789")
        os.truncate(tmp_path / "a", 6)
        assert file.read(2, 8) == b"2345"

    def test_not_in_memory(self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        file = written(file_storage, "a", b"0123456789")
        calls = Calls(monkeypatch, "preadv", errno.EAGAIN, lambda *_: 4, lambda *_: 0)
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                file.read(2, 5, wait=False)
        assert file.read(2, 100, wait=False) == b"23456789"
        assert file.read(2, 5) == b"23456"
        assert calls.count == 4

    def test_other_errors_of_a_read_without_waiting(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"0123456789")
        Calls(monkeypatch, "preadv", errno.EIO)
        with fails_with(errno.EIO):
            file.read(0, 5, wait=False)

    def test_a_file_system_that_cannot_say_is_not_asked_again(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"0123456789")
        calls = Calls(monkeypatch, "preadv", errno.EOPNOTSUPP)
        assert [file.read(2, 5, wait=False) for _ in range(3)] == [b"23456"] * 3
        assert calls.count == 1

    def test_pages_dropped_from_the_cache_are_read_again(self, file_storage: FileStorage) -> None:
        data = random.Random(2).randbytes(1 << 20)
        file = written(file_storage, "a", data)
        file.sync()
        file.forget_cached()
        # Blocks where the file system has a disk below and can say so; the bytes are right in any case.
        with contextlib.suppress(BlockingIOError):
            assert file.read(0, 1 << 20, wait=False) == data
        assert file.read(0, 1 << 20) == data

    def test_a_replace_that_fails_leaves_the_old_and_no_litter(
        self, file_storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file_storage.replace("state", b"old")
        for name in ("write", "fsync", "rename"):
            Calls(monkeypatch, name, errno.EIO)
            with fails_with(errno.EIO):
                file_storage.replace("state", b"new")
            assert os.listdir(tmp_path) == ["state"]
        assert content(file_storage.open("state")) == b"old"

    def test_replace_syncs_the_file_before_and_the_folder_after_the_rename(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []

        def noted(name: str) -> Callable[..., Any]:
            def call(real: Callable[..., Any], *args: Any) -> Any:
                order.append(name)
                return real(*args)

            return call

        Calls(monkeypatch, "fsync", noted("fsync"), noted("fsync"))
        Calls(monkeypatch, "rename", noted("rename"))
        file_storage.replace("state", b"new")
        assert order == ["fsync", "rename", "fsync"]

    def test_names_that_another_process_made(self, file_storage: FileStorage, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        assert (file_storage.folders(), file_storage.files()) == ([], [])


class TestFullDisk:
    SCRIPT = """
import errno, os, sys
from nsqd.log.file_storage import FileStorage
root = sys.argv[1]
storage = FileStorage(root)
file, head = storage.create("a"), os.urandom(4096)
file.append([head])
storage.replace("state", b"old")
for use in (lambda: file.append([bytes(1000)] * 2000), lambda: storage.replace("state", bytes(2_000_000))):
    try:
        use()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise AssertionError("there was room")
assert file.size == os.stat(root + "/a").st_size == 4096 and not file.broken
assert sorted(os.listdir(root)) == ["a", "state"]
assert storage.open("state").read(0, 10) == b"old"
file.append([bytes(storage.free_space())])
assert storage.free_space() == 0
file.truncate(4096)
file.append([b"!"])
assert file.read(0, 5000) == head + b"!"
print("checked")
"""

    def test_a_real_one(self, tmp_path: Path) -> None:
        """On a small tmpfs in a mount namespace of its own, which goes with the process."""
        mount = 'mount -t tmpfs -o size=1m tmpfs "$1"'
        unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
        root = str(tmp_path)
        if (
            shutil.which("unshare") is None
            or subprocess.run([*unshare, mount, "sh", root], capture_output=True).returncode
        ):
            pytest.skip("no tmpfs can be mounted here")
        run = subprocess.run(
            [*unshare, f'{mount} && exec "$2" -c "$3" "$1"', "sh", root, sys.executable, self.SCRIPT],
            capture_output=True,
            text=True,
            timeout=patience(30),
        )
        assert (run.returncode, run.stdout) == (0, "checked\n"), run.stderr


class TestDescriptors:
    def test_an_open_file_is_one_and_a_closed_one_none(self, tmp_path: Path) -> None:
        storage = FileStorage(tmp_path)
        opened = [written(storage, f"{number}", b"x") for number in range(5)]
        again = storage.open("0")
        assert held_below(tmp_path) == 6
        for file in (*opened, again):
            file.close()
        assert held_below(tmp_path) == 0
        storage.close()

    def test_a_removed_file_can_be_used(self, file_storage: FileStorage, tmp_path: Path) -> None:
        file = written(file_storage, "a", b"abc")
        file_storage.remove("a")
        written(file_storage, "a", b"another")
        file.append([b"d"])
        file.sync()
        assert content(file) == b"abcd"
        file.close()
        assert held_below(tmp_path) == 1

    def test_a_failed_remove_takes_nothing_from_the_file(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"abc")
        Calls(monkeypatch, "unlink", errno.EIO)
        with fails_with(errno.EIO):
            file_storage.remove("a")
        file_storage.rename("a", "c")
        assert (content(file), file_storage.files()) == (b"abc", ["c"])

    def test_a_file_closed_during_a_sync_keeps_its_descriptor_until_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else its number could be another file's by the time that the sync uses it."""
        storage = FileStorage(tmp_path)
        file = written(storage, "a", b"abc")
        syncing, closed = threading.Event(), threading.Event()

        def slow(real: Callable[..., None], *args: Any) -> None:
            syncing.set()
            assert closed.wait(10)
            real(*args)

        Calls(monkeypatch, "fdatasync", slow)
        with ThreadPoolExecutor(2) as pool:
            sync = pool.submit(file.sync)
            assert syncing.wait(10)
            late = pool.submit(file.sync)
            file.close()
            file.close()
            with fails_with(errno.EBADF):
                file.append([b"x"])
            assert held_below(tmp_path) == 1
            other = written(storage, "b", b"other")
            closed.set()
            sync.result()
            with fails_with(errno.EBADF):
                late.result()
        assert held_below(tmp_path) == 1
        other.close()
        assert held_below(tmp_path) == 0
        storage.close()

    def test_files_closed_by_one_thread_and_synced_by_many(self, tmp_path: Path) -> None:
        """Never another file's descriptor, and none is left over."""
        storage = FileStorage(tmp_path)
        done = threading.Event()
        opened = [storage.create("0")]

        def sync() -> None:
            while not done.is_set():
                with contextlib.suppress(OSError):
                    opened[-1].sync()

        with ThreadPoolExecutor(3) as pool:
            syncs = [pool.submit(sync) for _ in range(3)]
            for number in range(1, 300):
                opened.append(written(storage, f"{number}", b"x"))
                opened[-2].close()
            done.set()
            for each in syncs:
                each.result()
        assert held_below(tmp_path) == 1
        assert not storage.failed_syncs
        storage.close()

    def test_none_left_in_the_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = FileStorage(tmp_path)
        storage.make_folder("t")
        file = written(storage, "t/a", b"abc")
        with no_descriptors_left():
            for use in (
                lambda: storage.open("t/a"),
                lambda: storage.create("b"),
                lambda: storage.replace("state", b"data"),
            ):
                with fails_with(errno.EMFILE):
                    use()
            with monkeypatch.context() as patch:
                calls: list[int] = []
                patch.setattr(system_calls.libc, "syncfs", lambda descriptor: calls.append(descriptor) or 0)
                storage.sync_folder("t")
                assert len(calls) == 1, "the file system is synced whole, which needs no descriptor"
            file.append([b"d"])
            file.sync()
            assert content(file) == b"abcd"
        with monkeypatch.context() as patch:
            calls.clear()
            patch.setattr(system_calls.libc, "syncfs", lambda descriptor: calls.append(descriptor) or 0)
            Calls(patch, "open", errno.EACCES)
            storage.sync_folder("t")
            assert len(calls) == 1, "nor does it have to open the folder"
        assert storage.files() == []
        storage.close()


class TestLostWrites:
    """A lost write must be heard of, whatever became of the descriptor."""

    def test_a_failed_sync_is_raised_every_time(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"x")
        calls = Calls(monkeypatch, "fdatasync", errno.EIO)
        for _ in range(3):
            with fails_with(errno.EIO):
                file.sync()
        assert calls.count == 1

    def test_also_through_another_descriptor(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = written(file_storage, "a", b"x")
        failing = file_storage.open("a")
        calls = Calls(monkeypatch, "fdatasync", errno.EIO)
        with fails_with(errno.EIO):
            failing.sync()
        failing.close()
        file_storage.rename("a", "b")
        for file in (before, file_storage.open("b")):
            with fails_with(errno.EIO):
                file.sync()
        assert calls.count == 1

    def test_also_when_another_one_was_told_at_the_same_time(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel tells the first; the second must not take its own success for one."""
        first = written(file_storage, "a", b"x")
        second = file_storage.open("a")

        def first_is_told(real: Callable[[int], None], descriptor: int) -> None:
            with fails_with(errno.EIO):
                first.sync()
            real(descriptor)

        Calls(monkeypatch, "fdatasync", first_is_told, errno.EIO)
        with fails_with(errno.EIO):
            second.sync()

    def test_a_new_file_has_no_history(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Many file systems give it the inode of the one that was removed last."""
        for _ in range(5):
            file = written(file_storage, "a", b"x")
            with monkeypatch.context() as patch:
                Calls(patch, "fdatasync", errno.EIO)
                with fails_with(errno.EIO):
                    file.sync()
            file.close()
            file_storage.remove("a")
            written(file_storage, "b", b"x").sync()
            file_storage.remove("b")

    def test_every_sync_really_syncs(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = written(file_storage, "a", b"x")
        calls = Calls(monkeypatch, "fdatasync")
        file.sync()
        file.sync()
        assert calls.count == 2

    def test_one_sync_at_a_time(self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        file = written(file_storage, "a", b"x")
        running = most = 0

        def slow(real: Callable[[int], None], descriptor: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            real(descriptor)
            running -= 1

        Calls(monkeypatch, "fdatasync", *[slow] * 40)
        with ThreadPoolExecutor(4) as pool:
            for sync in [pool.submit(file.sync) for _ in range(40)]:
                sync.result()
        assert most == 1

    def test_a_failed_sync_all_is_raised_every_time(
        self, file_storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failed(_descriptor: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

        with monkeypatch.context() as patch:
            patch.setattr(system_calls.libc, "syncfs", failed)
            with fails_with(errno.EIO):
                file_storage.sync_all()
        with fails_with(errno.EIO):
            file_storage.sync_all()


# Memory.


class TestCapacity:
    def test_an_append_beyond_the_capacity_changes_nothing(self) -> None:
        storage = MemoryStorage(capacity=10)
        file = written(storage, "a", b"12345678")
        with fails_with(errno.ENOSPC):
            file.append([b"9", b"01"])
        assert (content(file), storage.free_space()) == (b"12345678", 2)
        file.append([b"90"])
        assert storage.free_space() == 0

    def test_room_comes_back(self) -> None:
        storage = MemoryStorage(capacity=10)
        file = written(storage, "a", b"12345678")
        file.truncate(4)
        assert storage.free_space() == 6
        storage.remove("a")
        assert storage.free_space() == 6
        file.close()
        assert storage.free_space() == 10

    def test_replace_needs_room_for_both(self) -> None:
        storage = MemoryStorage(capacity=10)
        storage.replace("a", b"123456")
        with fails_with(errno.ENOSPC):
            storage.replace("a", b"12345")
        old = storage.open("a")
        assert content(old) == b"123456"
        old.close()
        storage.replace("a", b"1234")
        assert storage.free_space() == 6

    def test_folders_give_theirs_back(self) -> None:
        storage = MemoryStorage(capacity=10)
        storage.make_folder("t")
        written(storage, "t/a", b"12345").close()
        storage.remove_folder("t")
        assert storage.free_space() == 10

    def test_the_capacity_can_be_changed(self) -> None:
        storage = MemoryStorage(capacity=1)
        file = storage.create("a")
        storage.capacity = 0
        with fails_with(errno.ENOSPC):
            file.append([b"x"])
        storage.capacity = None
        file.append([b"x" * 1000])
        assert file.size == 1000


class TestCold:
    @pytest.mark.parametrize("whole", [True, False])
    def test_reads_that_must_not_wait(self, whole: bool) -> None:
        storage = MemoryStorage()
        file = storage.create("a")
        file.append([b"abc"])
        if whole:
            storage.cold = True
        else:
            file.cold = True
        with pytest.raises(BlockingIOError):
            file.read(0, 3, wait=False)
        assert file.read(3, 3, wait=False) == b""
        assert file.read(0, 3) == b"abc"


def synced_file(storage: MemoryStorage, path: str, data: bytes) -> File:
    file = written(storage, path, data)
    storage.sync_all()
    return file


def contents(storage: Storage) -> dict[str, bytes]:
    """Everything in the storage, by path; a folder is an entry too."""
    found: dict[str, bytes] = {}
    for folder in ("", *storage.folders()):
        if folder:
            found[f"{folder}/"] = b""
        for name in storage.files(folder):
            path = f"{folder}/{name}" if folder else name
            found[path] = content(storage.open(path))
    return found


def outcomes(storage: MemoryStorage, tries: int = 400) -> list[dict[str, bytes]]:
    """All different things that a power loss may leave, as far as so many tries show them."""
    different: list[dict[str, bytes]] = []
    for seed in range(tries):
        found = contents(storage.crash(random.Random(seed)))
        if found not in different:
            different.append(found)
    return different


class TestPowerLoss:
    def test_synced_data_survives(self) -> None:
        storage = MemoryStorage()
        storage.make_folder("t")
        file = synced_file(storage, "t/a", b"synced")
        file.append([b" too"])
        file.sync()
        assert outcomes(storage) == [{"t/": b"", "t/a": b"synced too"}]

    def test_unsynced_data_is_lost(self) -> None:
        storage = MemoryStorage()
        file = synced_file(storage, "a", b"synced")
        file.append([b" not"])
        storage.create("b")
        storage.make_folder("t")
        assert contents(storage.crash()) == {"a": b"synced"}
        assert content(file) == b"synced not"

    def test_a_name_needs_its_folder_synced(self) -> None:
        storage = MemoryStorage()
        storage.make_folder("t")
        file = written(storage, "t/a", b"x")
        file.sync()
        assert contents(storage.crash()) == {}
        storage.sync_folder("t")
        assert contents(storage.crash()) == {}
        storage.sync_folder()
        assert contents(storage.crash()) == {"t/": b"", "t/a": b"x"}

    def test_a_name_without_content(self) -> None:
        storage = MemoryStorage()
        written(storage, "a", b"x")
        storage.sync_folder()
        assert contents(storage.crash()) == {"a": b""}

    def test_a_rename_is_whole_or_not_at_all(self) -> None:
        storage = MemoryStorage()
        synced_file(storage, "a", b"old")
        new = written(storage, "b", b"new")
        new.sync()
        storage.sync_folder()
        storage.rename("b", "a")
        found = outcomes(storage)
        assert {"a": b"old", "b": b"new"} in found
        assert {"a": b"new"} in found
        assert len(found) == 2

    def test_a_removal_may_be_undone(self) -> None:
        storage = MemoryStorage()
        storage.make_folder("t")
        synced_file(storage, "t/a", b"x")
        storage.remove_folder("t")
        found = outcomes(storage)
        assert {} in found
        assert {"t/": b""} in found
        assert {"t/": b"", "t/a": b"x"} in found
        assert len(found) == 3
        storage.sync_folder()
        assert outcomes(storage) == [{}]

    def test_a_folder_may_have_its_old_name(self) -> None:
        storage = MemoryStorage()
        storage.make_folder("t")
        synced_file(storage, "t/a", b"x")
        storage.rename_folder("t", "u")
        assert sorted(list(found) for found in outcomes(storage)) == [["t/", "t/a"], ["u/", "u/a"]]

    def test_a_replace_is_durable(self) -> None:
        storage = MemoryStorage()
        storage.replace("a", b"one")
        assert outcomes(storage) == [{"a": b"one"}]
        storage.replace("a", b"two")
        assert outcomes(storage) == [{"a": b"two"}]

    def test_appends_are_kept_lost_torn_or_out_of_order(self) -> None:
        storage = MemoryStorage()
        file = synced_file(storage, "a", b"S")
        file.append([b"AA"])
        file.append([b"BB"])
        found = {each["a"] for each in outcomes(storage, 2000)}
        assert found >= {
            b"S",
            b"SAABB",
            b"SAA",
            b"SA",
            b"SAAB",
            b"S\0\0BB",
            b"SA\0BB",
            b"SAA\0\0",
            b"S\0\0\0\0",
        }
        for data in found:
            assert data.startswith(b"S")
            assert all(byte in (0, expected) for byte, expected in zip(data, b"SAABB", strict=False))

    def test_a_cut_is_kept_or_lost_before_later_operations(self) -> None:
        storage = MemoryStorage()
        file = synced_file(storage, "a", b"0123")
        file.truncate(2)
        file.append([b"XYZ"])
        found = {each["a"] for each in outcomes(storage)}
        assert found >= {b"0123", b"01", b"01XYZ", b"01X"}
        assert not [data for data in found if data.startswith(b"0123") and data != b"0123"]

    def test_the_same_seed_gives_the_same(self) -> None:
        storage = MemoryStorage()
        file = synced_file(storage, "a", b"S")
        for number in range(20):
            file.append([b"%d" % number])
            storage.create(f"file{number}")
        for seed in range(20):
            first, second = (contents(storage.crash(random.Random(seed))) for _ in range(2))
            assert first == second

    def test_a_function_chooses_the_appends(self) -> None:
        storage = MemoryStorage()
        file = synced_file(storage, "a", b"S")
        for data in (b"one", b"two", b"three"):
            file.append([data])
        asked: list[tuple[str, list[Chunk]]] = []

        def keep(path: str, chunks: list[Chunk]) -> list[Chunk]:
            asked.append((path, chunks))
            return chunks[1:2]

        storage.rename("a", "b")
        assert contents(storage.crash(keep)) == {"b": b"S\0\0\0two"}
        assert asked == [("b", [Chunk(1, b"one"), Chunk(4, b"two"), Chunk(7, b"three")])]

    def test_a_function_is_asked_on_both_sides_of_a_cut(self) -> None:
        storage = MemoryStorage()
        file = synced_file(storage, "a", b"S")
        file.append([b"one"])
        file.truncate(2)
        file.append([b"two"])
        assert contents(storage.crash(lambda _path, chunks: chunks)) == {"a": b"Sotwo"}
        assert contents(storage.crash(lambda _path, _chunks: [])) == {"a": b"S"}

    def test_surviving_data_is_durable_and_counted(self) -> None:
        storage = MemoryStorage(capacity=100)
        written(storage, "a", b"12345")
        after = storage.crash(lambda _path, chunks: chunks)
        assert contents(after.crash()) == {"a": b"12345"}
        assert after.free_space() == 95


class TestKill:
    def test_all_that_was_written_is_there(self) -> None:
        storage = MemoryStorage(capacity=100)
        storage.make_folder("t")
        file = written(storage, "t/a", b"abc")
        removed = written(storage, "b", b"gone")
        storage.remove("b")
        after = storage.kill()
        assert contents(after) == {"t/": b"", "t/a": b"abc"}
        assert after.free_space() == 97
        for use in (
            lambda: file.append([b"x"]),
            lambda: file.read(0, 1),
            file.sync,
            storage.files,
            lambda: removed.read(0, 1),
        ):
            with fails_with(errno.EBADF):
                use()
        file.close()

    def test_handles_of_the_dead_hold_no_room(self) -> None:
        storage = MemoryStorage(capacity=10)
        written(storage, "a", b"12345")
        after = storage.kill()
        after.remove("a")
        assert after.free_space() == 10

    def test_unsynced_data_is_still_unsynced_after_a_kill(self) -> None:
        storage = MemoryStorage()
        file = synced_file(storage, "a", b"S")
        file.append([b"not"])
        after = storage.kill()
        assert contents(after) == {"a": b"Snot"}
        assert contents(after.crash()) == {"a": b"S"}
        after.open("a").sync()
        assert contents(after.crash()) == {"a": b"Snot"}
        assert contents(storage.crash()) == {"a": b"S"}


# Faults.


def at(operation: str, fault: Fault) -> Callable[[str, str], Fault | None]:
    return lambda asked, _path: fault if asked == operation else None


def every_operation(storage: Storage) -> None:
    """A little life that changes everything there is, always in the same way."""
    storage.make_folder("t")
    storage.sync_folder()
    file = storage.create("t/a.tmp")
    file.append([b"one", b"two"])
    file.sync()
    storage.rename("t/a.tmp", "t/a")
    storage.sync_folder("t")
    file.append([b"three"])
    file.truncate(8)
    storage.replace("t/state", b"state")
    storage.remove("t/state")
    file.start_writeback(0, 8)
    file.forget_cached()
    file.read(0, 8)
    file.close()
    storage.open("t/a").close()
    storage.rename_folder("t", "u")
    storage.files("u")
    storage.folders()
    storage.free_space()
    storage.sync_all()
    storage.remove_folder("u")


class TestFaults:
    def test_every_operation_is_asked_about_and_counted(self) -> None:
        asked: list[tuple[str, str]] = []

        def note(operation: str, path: str) -> None:
            asked.append((operation, path))

        storage = FaultyStorage(MemoryStorage(), note)
        every_operation(storage)
        assert {operation for operation, _ in asked} == OPERATIONS
        assert asked[:4] == [
            ("make_folder", "t"),
            ("sync_folder", ""),
            ("create", "t/a.tmp"),
            ("append", "t/a.tmp"),
        ]
        assert storage.operations == len(asked)
        assert storage.counts["append"] == 2

    @pytest.mark.parametrize("operation", sorted(WRITES | {"read", "open", "files", "folders", "free_space"}))
    def test_an_error_before_anything_is_done(self, operation: str) -> None:
        storage = FaultyStorage(MemoryStorage(), at(operation, Fail(errno.EIO)))
        with fails_with(errno.EIO):
            every_operation(storage)
        before = contents(storage.inner)
        assert storage.counts[operation] == 1
        storage.fault = at("nothing", Fail(errno.EIO))
        assert contents(storage) == before

    @pytest.mark.parametrize("operation", ["start_writeback", "forget_cached", "close"])
    def test_operations_that_never_raise_take_no_errors(self, operation: str) -> None:
        storage = FaultyStorage(MemoryStorage(), at(operation, Fail(errno.EIO)))
        every_operation(storage)
        assert storage.counts[operation] >= 1

    def test_death_at_every_operation(self) -> None:
        whole = FaultyStorage(MemoryStorage())
        every_operation(whole)
        for number in range(whole.operations):
            memory = MemoryStorage()
            storage = FaultyStorage(memory, CrashAt(number))
            with pytest.raises(Crash) as caught:
                every_operation(storage)
            assert storage.dead
            assert storage.operations == number + 1
            before = contents(memory)
            with pytest.raises(Crash):
                storage.make_folder("late")
            assert contents(memory.kill()) == before
            assert caught.value.operation in OPERATIONS
        survivor = FaultyStorage(MemoryStorage(), CrashAt(whole.operations))
        every_operation(survivor)
        assert not survivor.dead

    def test_death_after_is_death_before_the_next(self) -> None:
        total = sum(count for operation, count in counted().items() if operation in WRITES)
        for number in range(total - 1):
            left = []
            for crash in (CrashAt(number, Die(after=True), WRITES), CrashAt(number + 1, among=WRITES)):
                memory = MemoryStorage()
                with pytest.raises(Crash):
                    every_operation(FaultyStorage(memory, crash))
                left.append(contents(memory))
            assert left[0] == left[1]

    @pytest.mark.parametrize("part", range(7))
    def test_death_in_an_append(self, part: int) -> None:
        memory = MemoryStorage()
        storage = FaultyStorage(memory, CrashAt(0, Die(part=part), among={"append"}))
        with pytest.raises(Crash):
            every_operation(storage)
        assert contents(memory) == {"t/": b"", "t/a.tmp": b"onetwo"[:part]}

    def test_death_in_a_replace(self) -> None:
        memory = MemoryStorage()
        storage = FaultyStorage(memory)
        storage.replace("state", b"old")
        for _ in range(2):
            storage = FaultyStorage(memory, at("replace", Die(part=2)))
            with pytest.raises(Crash):
                storage.replace("state", b"new")
            assert content(memory.open("state")) == b"old"
            assert content(memory.open(".state.tmp")) == b"ne"
        memory.replace("state", b"newer")
        assert contents(memory) == {"state": b"newer"}

    def test_a_file_that_breaks(self) -> None:
        memory = MemoryStorage()
        storage = FaultyStorage(memory)
        file = storage.create("a")
        file.append([b"head"])
        storage.fault = at("append", Break(errno.ENOSPC, part=2))
        with fails_with(errno.ENOSPC):
            file.append([b"rest"])
        storage.fault = at("nothing", Fail(errno.EIO))
        for _ in range(2):
            with fails_with(errno.EIO):
                file.append([b"x"])
        assert file.broken
        assert (file.size, file.read(0, 100)) == (4, b"head")
        assert contents(memory) == {"a": b"headre"}
        with fails_with(errno.EINVAL):
            file.truncate(5)
        file.truncate(3)
        assert (file.size, contents(memory)) == (3, {"a": b"hea"})
        file.close()
        with fails_with(errno.EBADF):
            file.append([b"x"])

    @pytest.mark.parametrize(("bit", "expected"), [(0, b"\x01\x00"), (15, b"\x00\x80"), (16, b"\x01\x00")])
    def test_a_flipped_bit(self, bit: int, expected: bytes) -> None:
        storage = FaultyStorage(MemoryStorage(), at("read", FlipBit(bit)))
        file = written(storage, "a", b"\0\0")
        assert file.read(0, 2) == expected
        assert file.read(2, 2) == b""
        assert contents(storage.inner) == {"a": b"\0\0"}

    @pytest.mark.parametrize("fault", [Break(errno.EIO), FlipBit(), Die(part=1)])
    def test_a_fault_that_does_not_fit(self, fault: Fault) -> None:
        storage = FaultyStorage(MemoryStorage(), at("make_folder", fault))
        with pytest.raises(ValueError, match="does not fit make_folder"):
            storage.make_folder("t")

    def test_recovery_after_death_and_power_loss(self) -> None:
        """The three together: whatever the moment and the luck, a synced file is whole."""
        total = counted().total()
        for number in range(total):
            memory = MemoryStorage()
            synced_file(memory, "kept", b"kept")
            with pytest.raises(Crash):
                every_operation(FaultyStorage(memory, CrashAt(number)))
            for seed in range(5):
                after = memory.kill().crash(random.Random(seed))
                assert contents(after)["kept"] == b"kept"
                assert set(after.folders()) <= {"t", "u"}


def counted() -> Counter[str]:
    storage = FaultyStorage(MemoryStorage())
    every_operation(storage)
    return storage.counts
