"""Which of several hosts gets the next message. No I/O; time and chance come in from outside.

    pool = make_pool("hostpool", ["http://a/", "http://b/"])
    host = pool.choose(now)
    ...
    pool.succeeded(host, now, seconds) or pool.failed(host, now)

Modes:

- `round-robin`: one after the other, whatever becomes of it.
- `hostpool`: one after the other of those that live. A host that failed is dead for 30 s; then one message is
  sent to see, and if that fails, too, it is dead twice as long, up to 900 s. A success makes it live. When all
  are dead they are all taken as living again, starting at the first.
- `epsilon-greedy`: as `hostpool`, but hosts that answer fast are preferred: most choices are made by chance,
  weighted with one over the mean time of a host's answers. The others explore, one after the other: 30 % at
  first, falling to 1 %. Means forget: an answer counts half after about three minutes.

`multicast` is not a choice: there everything goes to every host, so it has no pool.
"""

from __future__ import annotations

import math
import random as _random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import attrs

__all__ = ["CHOICES", "EpsilonGreedy", "HostPool", "IsUp", "Pool", "RoundRobin", "make_pool"]

FIRST_DEAD_S: Final = 30.0
LONGEST_DEAD_S: Final = 900.0
FIRST_EPSILON: Final = 0.3
LEAST_EPSILON: Final = 0.01
EPSILON_DECAY: Final = 0.9
"""Of epsilon, at each exploration."""
MEMORY_S: Final = 250.0
"""An answer's weight falls to 1/e in this time."""


IsUp = Callable[[str], bool]
"""Whether there is any use in trying this host now."""


def _always(host: str) -> bool:
    return True


class Pool(Protocol):
    """Chooses hosts; `now` is in seconds of a clock that nobody sets.

    Of hosts that are up if any is, else of all.
    """

    def choose(self, now: float, is_up: IsUp = _always) -> str: ...
    def succeeded(self, host: str, now: float, seconds: float) -> None: ...
    def failed(self, host: str, now: float) -> None: ...


@attrs.define(eq=False)
class RoundRobin:
    """A `Pool` that learns nothing."""

    hosts: Sequence[str]
    _next: int = 0

    def choose(self, now: float, is_up: IsUp = _always) -> str:
        in_turn = [*self.hosts[self._next :], *self.hosts[: self._next]]
        host = next(filter(is_up, in_turn), in_turn[0])
        self._next = (self.hosts.index(host) + 1) % len(self.hosts)
        return host

    def succeeded(self, host: str, now: float, seconds: float) -> None:
        """Nothing to learn."""

    def failed(self, host: str, now: float) -> None:
        """Nothing to learn."""


@attrs.define(eq=False)
class _Host:
    """What is known of one host."""

    name: str
    place: int
    """In the list of all."""
    dead: bool = False
    dead_s: float = FIRST_DEAD_S
    """How long it is left alone this time."""
    retry_at: float = 0.0
    weight: float = 0.0
    """Of its answers so far, and with it the sum of their times; both as of `as_of`."""
    total_s: float = 0.0
    as_of: float = 0.0

    def can_try(self, now: float) -> bool:
        return not self.dead or now >= self.retry_at

    def bury(self, now: float) -> None:
        """It failed. What fails while it is dead already was sent before that was known, and says nothing new."""
        if not self.dead:
            self.dead, self.dead_s, self.retry_at = True, FIRST_DEAD_S, now + FIRST_DEAD_S

    def try_once(self, now: float) -> None:
        """It was chosen: if it is dead, this one message is to show whether it lives again."""
        if self.dead:
            self.dead_s = min(self.dead_s * 2, LONGEST_DEAD_S)
            self.retry_at = now + self.dead_s

    def learn(self, now: float, seconds: float) -> None:
        faded = math.exp((self.as_of - now) / MEMORY_S)
        self.weight = self.weight * faded + 1
        self.total_s = self.total_s * faded + seconds
        self.as_of = now


@attrs.define(eq=False)
class HostPool:
    """A `Pool` that leaves failed hosts alone for a while."""

    hosts: Sequence[str]
    _hosts: dict[str, _Host] = attrs.field(init=False)
    _next: int = 0
    """The place of the host whose turn it is."""

    def __attrs_post_init__(self) -> None:
        self._hosts = {name: _Host(name, place) for place, name in enumerate(self.hosts)}

    def choose(self, now: float, is_up: IsUp = _always) -> str:
        up = [host for host in self._hosts.values() if is_up(host.name)] or list(self._hosts.values())
        living = [host for host in up if host.can_try(now)]
        if not living:
            for host in up:
                host.dead = False
            living, self._next = up, 0
        host = self._pick(living)
        host.try_once(now)
        return host.name

    def succeeded(self, host: str, now: float, seconds: float) -> None:
        self._hosts[host].dead = False

    def failed(self, host: str, now: float) -> None:
        self._hosts[host].bury(now)

    def _pick(self, living: list[_Host]) -> _Host:
        """The next one in turn; there is at least one."""
        count = len(self._hosts)
        host = min(living, key=lambda host: (host.place - self._next) % count)
        self._next = (host.place + 1) % count
        return host


@attrs.define(eq=False)
class EpsilonGreedy(HostPool):
    """A `HostPool` that prefers hosts with short times."""

    random: _random.Random = attrs.field(factory=_random.Random, kw_only=True)
    epsilon: float = attrs.field(default=FIRST_EPSILON, init=False)
    """The part of the choices that explore."""

    def succeeded(self, host: str, now: float, seconds: float) -> None:
        HostPool.succeeded(self, host, now, seconds)
        self._hosts[host].learn(now, seconds)

    def _pick(self, living: list[_Host]) -> _Host:
        if self.random.random() < self.epsilon:
            self.epsilon = max(self.epsilon * EPSILON_DECAY, LEAST_EPSILON)
            return HostPool._pick(self, living)
        known = [host for host in living if host.total_s > 0]
        if not known:
            return HostPool._pick(self, living)
        return self.random.choices(known, [host.weight / host.total_s for host in known])[0]


CHOICES: Final[dict[str, Callable[[Sequence[str]], Pool]]] = {
    "round-robin": RoundRobin,
    "hostpool": HostPool,
    "epsilon-greedy": EpsilonGreedy,
}
"""By the word of `--mode`."""


def make_pool(mode: str, hosts: Sequence[str]) -> Pool:
    """The pool of a mode, one of `CHOICES`, over at least one host; a host that is named twice counts once."""
    return CHOICES[mode](list(dict.fromkeys(hosts)))
