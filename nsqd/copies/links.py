"""The links to followers. With `--replicate-to=auto` they come and go.

Rules:

- A follower that is wanted counts for `--ack-copies` and `--min-copies` as soon as it is in step.
- One that is dismissed is supplied, and counts, until all that are wanted are in step. From then on no publish is
  answered for its sake; and when those have acknowledged all that was written before, it is told to remove its copy.
- All are told where the others are. A follower that adopts asks them whether the leader is connected; so for `--fence`
  the answer of a follower counts only when all others know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import trio

from nsqd.replication.safety import Safety, Standing
from nsqd.replication.to_follower import FollowerLink

__all__ = ["Links", "Target"]

Target: TypeAlias = tuple[str, bytes]
"""The address of a follower, and `Hello.meant`."""


class Links:
    """`count`: how many followers there are to be. `new_link`: takes a `Standing` and `Hello.meant`.

    `written`: the ticket of the last append. `gone`: called with the life of a dismissed follower, hexadecimal, when it
    has removed its copy.
    """

    def __init__(
        self,
        safety: Safety,
        count: int,
        new_link: Callable[[Standing, bytes], FollowerLink],
        written: Callable[[], int],
        gone: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.wanted: list[FollowerLink] = []
        self.dismissed: list[FollowerLink] = []
        self._safety, self._count = safety, count
        self._new_link, self._written, self._gone = new_link, written, gone
        self._scopes: dict[FollowerLink, trio.CancelScope] = {}
        self._released: dict[FollowerLink, int] = {}
        """Of dismissed ones that count no more: the ticket up to which publishes were answered for their sake."""
        self._nursery: trio.Nursery | None = None

    def __iter__(self) -> Iterator[FollowerLink]:
        yield from self.wanted
        yield from self.dismissed

    async def run(self) -> None:
        """Keep them up, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                for link in self:
                    self._nursery.start_soon(self._run, link)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def set(self, wanted: Sequence[Target], dismissed: Sequence[Target] = ()) -> None:
        """From now on these. To be followed by a round in which publishers hear of it."""
        before = {(link.standing.address, link.meant): link for link in self if not link.is_gone}
        self.wanted = [before.get(target) or self._new(target) for target in wanted]
        self.dismissed = [before.get(target) or self._new(target) for target in dismissed]
        for target in before.keys() - {*wanted, *dismissed}:
            self._end(before[target])
        for link in self:
            link.dismissed = link in self.dismissed
            link.others_changed()
        self._count_them()

    def settle(self) -> None:
        """Count those who count: a follower is in step now, or is not any more."""
        if self.dismissed:  # every acknowledgement comes here
            self._count_them()

    def _count_them(self) -> None:
        counted = [link.standing for link in self.wanted]
        if self.complete:
            for link in self.dismissed:
                self._released.setdefault(link, self._written())
        else:
            self._released.clear()
            counted += [link.standing for link in self.dismissed]
        self._safety.followers = counted

    @property
    def complete(self) -> bool:
        """Whether there are as many as there are to be, and all of them are in step."""
        return len(self.wanted) == self._count and all(link.standing.in_step for link in self.wanted)

    def may_go(self, link: FollowerLink) -> bool:
        """See `Leader.may_go`."""
        released = self._released.get(link)
        return (
            self.complete
            and released is not None
            and all(
                each.standing.acknowledged >= max(released, link.taken_back_until) for each in self.wanted
            )
        )

    def others(self, address: str) -> list[str]:
        """Where the followers are that are not at this address."""
        return [link.standing.address for link in self if link.standing.address != address]

    def all_know(self, address: str) -> bool:
        """Whether all other followers know of this one."""
        return all(address in link.known_others for link in self if link.standing.address != address)

    # --- inside

    def _new(self, target: Target) -> FollowerLink:
        address, meant = target
        link = self._new_link(Standing(address), meant)
        if self._nursery is not None:
            self._nursery.start_soon(self._run, link)
        return link

    async def _run(self, link: FollowerLink) -> None:
        with trio.CancelScope() as scope:
            self._scopes[link] = scope
            await link.run()
        del self._scopes[link]
        if link.is_gone and link in self and not link.stopping:
            self._has_gone(link)

    def _has_gone(self, link: FollowerLink) -> None:
        target = (link.standing.address, link.meant)
        self._released.pop(link, None)
        if link in self.wanted:  # it was chosen again meanwhile, and is copied to anew
            self.wanted[self.wanted.index(link)] = self._new(target)
        else:
            self.dismissed.remove(link)
            for each in self:
                each.others_changed()
        self._count_them()
        self._gone(link.meant.hex())

    def _end(self, link: FollowerLink) -> None:
        self._released.pop(link, None)
        link.standing.session_ended("no follower any more")
        if link in self._scopes:
            self._scopes[link].cancel()
