"""Rules of the product, each of which can be switched off: then some seed must be red.

Each mutation patches the product's own classes while it is in force.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import pytest

from nsqd.broker import Broker
from nsqd.copies import as_stand_in
from nsqd.log.topic_log import TopicLog
from nsqd.replication import keep, ship
from nsqd.replication.keep import Copy, CopyNote
from nsqd.replication.noted_storage import Notes
from nsqd.replication.safety import Standing
from nsqd.replication.seal import SEAL
from nsqd.replication.ship import Sender
from nsqd.replication.unasked import Unasked
from nsqd.replication.wire import Pass, Ticket, encode
from nsqd.testing.memory_storage import MemoryStorage

__all__ = ["MUTATIONS", "mutated"]

Patch = pytest.MonkeyPatch


def no_new_segment(patch: Patch) -> None:
    """After an unclean start the leader goes on in the segment that it finds."""
    _always(patch, TopicLog, "fresh_segment", value=False)


def _always(patch: Patch, kind: type[object], name: str, *, value: bool) -> None:
    """This attribute has this value, whatever is assigned to it."""
    patch.setattr(kind, name, property(lambda _: value, lambda _self, _value: None), raising=False)


class _NoSnapshot(str):
    def endswith(self, *_: Any) -> bool:
        return False


def no_snapshot_barrier(patch: Patch) -> None:
    """A follower gives a snapshot its name without syncing the log that it speaks of."""
    whole = Copy._whole
    patch.setattr(Copy, "_whole", lambda self, path, size: whole(self, _NoSnapshot(path), size))


def seal_not_synced(patch: Patch) -> None:
    """A stand-in serves while its seal is not on the disk."""

    def replace(self: MemoryStorage, path: str, data: bytes) -> None:
        if path != SEAL:
            replace_synced(self, path, data)
            return
        with contextlib.suppress(FileNotFoundError):
            self.remove(path)
        file = self.create(path)
        file.append([data])
        file.close()

    replace_synced = MemoryStorage.replace
    patch.setattr(MemoryStorage, "replace", replace)


def owned_not_synced(patch: Patch) -> None:
    """A stand-in serves, and says that it owns, what is not on the disk."""

    def changed(storage: Any, broker: Broker) -> Any:
        class Unsynced:
            def __getattr__(self, name: str) -> Any:
                return (lambda: None) if name == "sync_all" else getattr(storage, name)

        unsynced: Any = Unsynced()
        return sealed_by_owner(unsynced, broker)

    sealed_by_owner = as_stand_in.sealed_by_owner
    patch.setattr(as_stand_in, "sealed_by_owner", changed)


def gaps_owned(patch: Patch) -> None:
    """A stand-in on a copy with gaps says that it owns what it has."""

    def changed(storage: Any, broker: Broker) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(as_stand_in.CopyNote, "read", lambda _: SimpleNamespace(complete=True))
            return sealed_by_owner(storage, broker)

    sealed_by_owner = as_stand_in.sealed_by_owner
    patch.setattr(as_stand_in, "sealed_by_owner", changed)


def ack_before_sync(patch: Patch) -> None:
    """A follower acknowledges what it has written, also at level `disk`."""
    patch.setattr(Copy, "acknowledged", property(lambda self: self.received))


def absence_orders(patch: Patch) -> None:
    """What the leader does not have, a follower is to remove."""
    reconcile = ship.reconcile

    def changed(*args: Any, **options: Any) -> Any:
        options.update(deleted=lambda _: True, removed=lambda _: True, doubt=None)
        return reconcile(*args, **options)

    patch.setattr(ship, "reconcile", changed)


def ranges_kept(patch: Patch) -> None:
    """A leader that comes back does not give up what its stand-in has."""
    patch.setattr(Broker, "hand_over", lambda _self, _owned: 0)


def gaps_ignored(patch: Patch) -> None:
    """A copy counts as complete from its first byte on."""
    sent, init = Standing.sent, CopyNote.__init__
    patch.setattr(Standing, "sent", lambda self, ticket, complete: sent(self, ticket, complete=True))

    def always_complete(self: CopyNote, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        object.__setattr__(self, "complete", True)

    patch.setattr(CopyNote, "__init__", always_complete)


def newest_first(patch: Patch) -> None:
    """The newest segment is sent first, and nobody notices the gap."""
    patch.setattr(ship, "sorted", lambda names: sorted(names, reverse=True), raising=False)
    patch.setattr(Sender, "_continues", lambda *_: True)


def ticket_first(patch: Patch) -> None:
    """A ticket is sent before the bytes that it covers."""
    take = Sender.take

    def changed(self: Sender, ticket: int, max_bytes: int) -> list[bytes]:
        if ticket != self.ticket:
            self.ticket = ticket
            return [encode(Ticket(ticket))]
        return take(self, ticket, max_bytes)

    patch.setattr(Sender, "take", changed)


def unsynced_closed(patch: Patch) -> None:
    """A follower closes files that it has not synced: the sync says nothing of them."""
    patch.setattr(keep, "OPEN_FILES", 1)
    patch.setattr(Copy, "crowded", False)

    def close_some(self: Copy) -> None:
        while self._open:
            self._open.popitem(last=False)[1].close()
        self._target = None

    patch.setattr(Copy, "_close_some", close_some)


def replacement_unnoticed(patch: Patch) -> None:
    """A file that takes the place of another one counts as the same."""
    there = Notes.file_there
    patch.setattr(Notes, "file_there", lambda self, path, size, new: there(self, path, size, new=False))


def folder_kept(patch: Patch) -> None:
    """A follower does not remove the folder of a deleted topic."""
    patch.setattr(Copy, "_remove_folder", lambda _self, _folder: None)


def first_sync_of_some(patch: Patch) -> None:
    """The first sync of a session is not one of everything."""
    _always(patch, Copy, "_inherited", value=False)


def gap_said_too_late(patch: Patch) -> None:
    """A follower is not told that a gap begins."""
    emit = Sender._emit
    patch.setattr(
        Sender, "_emit", lambda self, frame, out: None if frame == Pass(False) else emit(self, frame, out)
    )


def numbers_given_up(patch: Patch) -> None:
    """A leader gives up what a stand-in has by number, also numbers that it has given again."""
    patch.setattr(Unasked, "ours", lambda _self, _address, owned, _number_at: owned)


def nobody_unasked(patch: Patch) -> None:
    """A leader forgets which followers it could not ask at its start."""
    patch.setattr(Unasked, "add", lambda _self, _addresses, _doubts: None)


_ALL: Final[tuple[Callable[[Patch], None], ...]] = (
    no_new_segment,
    no_snapshot_barrier,
    seal_not_synced,
    owned_not_synced,
    gaps_owned,
    ack_before_sync,
    absence_orders,
    ranges_kept,
    gaps_ignored,
    newest_first,
    ticket_first,
    unsynced_closed,
    replacement_unnoticed,
    folder_kept,
    first_sync_of_some,
    gap_said_too_late,
    numbers_given_up,
    nobody_unasked,
)
MUTATIONS: Final = {mutation.__name__: mutation for mutation in _ALL}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """With this rule switched off; None: with none."""
    with pytest.MonkeyPatch.context() as patch:
        if name is not None:
            MUTATIONS[name](patch)
        yield
