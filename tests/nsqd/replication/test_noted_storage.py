"""What is noted of a data path, also while several threads change it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from nsqd.replication.noted_storage import NotedStorage
from nsqd.testing.memory_storage import MemoryStorage

LOG = "topic-t/00000000000000000000.log"


def nothing() -> None:
    """No other thread does anything."""


class Interrupted(MemoryStorage):
    """A storage in memory with what another thread does right after an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.after_open = self.after_remove_folder = nothing

    def open(self, path: str, *, read_only: bool = False) -> Any:
        file = super().open(path, read_only=read_only)
        self.after_open()
        return file

    def remove_folder(self, folder: str) -> None:
        super().remove_folder(folder)
        self.after_remove_folder()


@pytest.fixture
def inner() -> Interrupted:
    return Interrupted()


@pytest.fixture
def noted(inner: Interrupted) -> NotedStorage:
    return NotedStorage(inner)


def make(noted: NotedStorage, path: str = LOG, data: bytes = b"x") -> None:
    folder = path.rpartition("/")[0]
    if folder not in noted.folders():
        noted.make_folder(folder)
    with closing(noted.create(path)) as file:
        file.append([data])


def sizes(noted: NotedStorage) -> dict[str, int]:
    return {
        f"{folder}/{name}": note.size
        for folder, files in noted.notes.folders.items()
        for name, note in files.items()
    }


def test_a_file_that_is_removed_while_it_is_opened_to_read_is_not_noted(
    inner: Interrupted, noted: NotedStorage
) -> None:
    """It would be noted for ever, and a follower would wait for it for ever."""
    make(noted)

    def remove() -> None:
        inner.after_open = nothing
        noted.remove(LOG)

    inner.after_open = remove
    noted.open(LOG, read_only=True).close()
    assert sizes(noted) == {}


def test_a_folder_that_is_made_again_while_it_is_removed_is_noted(
    inner: Interrupted, noted: NotedStorage
) -> None:
    """A topic that is not noted would be acknowledged by followers that have nothing of it."""
    make(noted)

    def make_again() -> None:
        make(noted, data=b"again")

    inner.after_remove_folder = make_again
    noted.remove_folder("topic-t")
    assert sizes(noted) == {LOG: 5}
    assert noted.notes.versions.keys() == {"topic-t"}


def test_a_watch_hears_of_what_changes_and_of_nothing_after_its_end(noted: NotedStorage) -> None:
    first, second = noted.notes.watch(), noted.notes.watch()
    noted.notes.unwatch(first)
    make(noted)
    assert "topic-t" not in first.grown
    assert "topic-t" in second.grown
    assert "topic-t" in second.renamed


def test_an_operation_that_fails_changes_no_note(inner: Interrupted, noted: NotedStorage) -> None:
    make(noted)
    inner.capacity = 1
    with closing(noted.open(LOG)) as file, pytest.raises(OSError, match=r"\[Errno 28\]"):
        file.append([b"too long"])
    with pytest.raises(FileNotFoundError):
        noted.remove("topic-t/manifest")
    with pytest.raises(FileExistsError):
        noted.make_folder("topic-t")
    with pytest.raises(FileNotFoundError):
        noted.rename("topic-t/manifest", LOG)
    assert sizes(noted) == {LOG: 1}
