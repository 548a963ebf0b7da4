"""A leader, its followers and a scrub in one process, and a disk that forgets bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import attrs

from nsqd.log.topic_log import TopicLog
from nsqd.replication.rot import checksum_on_disk
from nsqd.replication.scrub import (
    Damage,
    Finding,
    Looking,
    Replaced,
    Request,
    Scrub,
    SendAgain,
)
from nsqd.replication.ship import Sender
from nsqd.replication.wire import Check, Checked, Data
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, bytes_of, connect, files_of

__all__ = ["Scrubbed", "log_of"]

_T = TypeVar("_T")


def log_of(leader: Leader, folder: str) -> TopicLog | None:
    """The log of a topic's folder."""
    retention = leader.broker.retentions.get(folder.removeprefix("topic-"))
    return retention.log if retention is not None else None


@attrs.define(eq=False)
class Scrubbed:
    """`followers`: by address. `asked`: all that they were asked. `away`: addresses of those that hear nothing.

    `found`: by the looks so far.
    """

    leader: Leader = attrs.field(factory=Leader)
    followers: dict[str, Follower] = attrs.field(factory=lambda: {"f": Follower()})
    interval: float = 1000.0
    fast: float = 0.0
    scrub: Scrub = attrs.field(init=False)
    senders: dict[str, Sender] = attrs.field(factory=dict, init=False)
    away: set[str] = attrs.field(factory=set, init=False)
    asked: list[tuple[str, Request]] = attrs.field(factory=list, init=False)
    found: list[Finding] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """After a start of the leader, or of all."""
        self.senders = {
            address: connect(self.leader, follower) for address, follower in self.followers.items()
        }
        self.scrub = Scrub(
            self.leader.noted.inner,
            self.leader.noted.notes,
            lambda folder: log_of(self.leader, folder),
            self.interval,
            self.fast,
        )
        self.send()

    def send(self) -> None:
        """Everything that followers lack, and that they are to be sent again."""
        for address in self.senders.keys() - self.away:
            sender = self.senders[address]
            while parts := sender.take(self.leader.written, MAX_TAKE):
                self.followers[address].feed(bytes_of(parts))

    def sealed(self) -> list[str]:
        """Paths of the complete segments of the topic `t`."""
        return [
            path for path in files_of(self.leader.memory) if path.endswith(".log") and "topic-t/" in path
        ][:-1]

    def sync(self) -> None:
        """All that there is, so that it can rot."""
        self.leader.broker.store.sync_now()
        for follower in self.followers.values():
            follower.storage.sync_all()

    def disks(self) -> list[MemoryStorage]:
        """The leader's first."""
        return [self.leader.memory, *(each.storage for each in self.followers.values())]

    # --- the scrub

    def look(self) -> int:
        """One look; returns its bytes."""
        size, findings = self.finish(self.scrub.look(list(self.followers), 0.0))
        self.found += findings
        self.send()
        return size

    def finish(self, looking: Looking[_T], request: tuple[str, Request] | None = None) -> _T:
        """Do what it asks for until it ends. `request`: what it has yielded last, if it has begun."""
        while True:
            try:
                request = looking.send(self.do(*request) if request is not None else None)
            except StopIteration as end:
                result: _T = end.value
                return result

    def do(self, address: str, request: Request) -> Checked | Data | None:
        self.asked.append((address, request))
        match request:
            case Replaced(path):
                for sender in self.senders.values():
                    sender.reread(path)
                return None
            case SendAgain(path):
                self.senders[address].send_again(path)
                return None
        if address in self.away or not self.senders[address].has(request.path):
            return None
        follower = self.followers[address]
        if isinstance(request, Check):
            found = checksum_on_disk(follower.storage, request.path, request.offset, request.size)
            return Checked(request.path, request.offset, *found)
        try:
            return Data(follower.copy.read(request.path, request.offset, request.size))
        except OSError:
            return Data(b"")

    def go_through(self) -> list[Finding]:
        """From where it is to the end of the pass; what was found."""
        self.found.clear()
        self.scrub.count()
        passes = self.scrub.passes
        while self.scrub.passes == passes:
            self.look()
        return list(self.found)

    def damage(self) -> Sequence[Damage]:
        return [each for each in self.found if isinstance(each, Damage)]
