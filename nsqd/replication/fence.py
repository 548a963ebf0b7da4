"""Whether a leader that may have been cut off still serves (`--fence=on`).

It does while, within the last half of `--adopt-after`, it has heard from all of its followers, none of which has
adopted its copy, or from more than half of its nsqlookupds, none of which knows of an adoption. A follower adopts by
itself only when it and more than half of these nsqlookupds have not heard of the leader for the whole of
`--adopt-after`. So a leader has stopped before its stand-in begins. One of two followers is not enough: the other one
may have adopted its copy, with nsqlookupds that are cut off from this nsqd as it is.

An answer counts from when its question was sent, not from when it is read: what waits in a socket of a process that
was stopped was said before.

Without I/O; times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import attrs

__all__ = ["Fence"]


@attrs.define(eq=False)
class Fence:
    """`patience`: half of `--adopt-after`, in seconds. `registries`: how many nsqlookupds are configured.

    `until`: when it closes, if nobody is heard. It is closed at the start.
    """

    patience: float
    registries: int
    until: float = -1.0
    _heard: dict[str, float] = attrs.field(factory=dict)
    """When that was sent which each nsqlookupd answered last, by address."""
    _followers_heard: dict[str, float] = attrs.field(factory=dict)
    """The same of each follower; -inf for one that has answered nothing yet."""

    def heard_follower(self, address: str, asked_at: float, followers: Collection[str]) -> None:
        """This follower keeps its copy, and has answered what was sent then. `followers`: addresses of all."""
        heard = {**self._followers_heard, address: asked_at}
        self._followers_heard = {each: heard.get(each, -math.inf) for each in followers}
        self._look()

    def heard_registry(self, address: str, asked_at: float) -> None:
        """This nsqlookupd has answered what was sent then, and knows of no adoption."""
        self._heard[address] = asked_at
        self._look()

    def forget_registry(self, address: str) -> None:
        """It knows of an adoption."""
        self._heard.pop(address, None)
        self._look()

    def set_registries(self, addresses: Collection[str]) -> None:
        """These are configured now."""
        self.registries = len(addresses)
        self._heard = {address: at for address, at in self._heard.items() if address in addresses}
        self._look()

    def is_closed(self, now: float) -> bool:
        return now > self.until

    def _look(self) -> None:
        heard: list[float] = []
        if self._followers_heard:
            heard.append(min(self._followers_heard.values()))
        enough = self.registries // 2  # the index of the one that makes it more than half
        if self.registries and len(self._heard) > enough:
            heard.append(sorted(self._heard.values(), reverse=True)[enough])
        self.until = max(heard) + self.patience if heard else -1.0
