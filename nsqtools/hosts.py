"""The choice among several hosts for each message. No I/O; time and randomness are passed in.

    pool = make_pool("hostpool", ["http://a/", "http://b/"])
    host = pool.choose(now)
    ...
    pool.succeeded(host, now, seconds) or pool.failed(host, now)

Modes:

- `round-robin`: in turn, regardless of failures.
- `hostpool`: in turn among the live hosts. A host that failed is dead for 30 s; then one message is sent to it as a
  trial, and if that fails too, it is dead for twice as long, up to 900 s. A success makes it live. When all are dead,
  all are taken for live again, starting with the first.
- `epsilon-greedy`: as `hostpool`, but hosts with short response times are preferred: most choices are random, weighted
  with the inverse of a host's mean response time. The others explore in turn: 30 % at first, falling to 1 %. The mean
  is a decaying one: the weight of a response halves in about three minutes.

`multicast` has no pool: every message goes to every host.
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
MIN_EPSILON: Final = 0.01
EPSILON_DECAY: Final = 0.9
"""Factor of epsilon after each exploration."""
MEMORY_S: Final = 250.0
"""Time in which the weight of a response falls to 1/e."""


IsUp = Callable[[str], bool]
"""Whether a host can be tried now."""


def _always(host: str) -> bool:
    return True


class Pool(Protocol):
    """Chooses among the hosts that are up or, if none is, among all. `now`: seconds of a monotonic clock."""

    def choose(self, now: float, is_up: IsUp = _always) -> str: ...
    def succeeded(self, host: str, now: float, seconds: float) -> None: ...
    def failed(self, host: str, now: float) -> None: ...


@attrs.define(eq=False)
class RoundRobin:
    """A `Pool` that ignores results."""

    hosts: Sequence[str]
    _next: int = 0

    def choose(self, now: float, is_up: IsUp = _always) -> str:
        in_turn = [*self.hosts[self._next :], *self.hosts[: self._next]]
        host = next(filter(is_up, in_turn), in_turn[0])
        self._next = (self.hosts.index(host) + 1) % len(self.hosts)
        return host

    def succeeded(self, host: str, now: float, seconds: float) -> None:
        """Nothing to do."""

    def failed(self, host: str, now: float) -> None:
        """Nothing to do."""


@attrs.define(eq=False)
class _Host:
    """The state of one host."""

    name: str
    index: int
    """Position in the list of all hosts."""
    dead: bool = False
    dead_s: float = FIRST_DEAD_S
    """Seconds until the next trial."""
    retry_at: float = 0.0
    weight: float = 0.0
    """Decayed number of responses, at `as_of`."""
    total_s: float = 0.0
    """Decayed sum of their times, at `as_of`."""
    as_of: float = 0.0

    def can_try(self, now: float) -> bool:
        return not self.dead or now >= self.retry_at

    def mark_failed(self, now: float) -> None:
        """Take the host for dead."""
        # A failure while it is dead is that of an earlier request, and no reason to extend the time.
        if not self.dead:
            self.dead, self.dead_s, self.retry_at = True, FIRST_DEAD_S, now + FIRST_DEAD_S

    def note_attempt(self, now: float) -> None:
        """Note that the host was chosen. If it is dead, this is a trial: no other before the next, longer time."""
        if self.dead:
            self.dead_s = min(self.dead_s * 2, LONGEST_DEAD_S)
            self.retry_at = now + self.dead_s

    def observe(self, now: float, seconds: float) -> None:
        faded = math.exp((self.as_of - now) / MEMORY_S)
        self.weight = self.weight * faded + 1
        self.total_s = self.total_s * faded + seconds
        self.as_of = now


@attrs.define(eq=False)
class HostPool:
    """A `Pool` that skips failed hosts for a while."""

    hosts: Sequence[str]
    _hosts: dict[str, _Host] = attrs.field(init=False)
    _next: int = 0
    """The index of the host whose turn it is."""

    def __attrs_post_init__(self) -> None:
        self._hosts = {name: _Host(name, index) for index, name in enumerate(self.hosts)}

    def choose(self, now: float, is_up: IsUp = _always) -> str:
        up = [host for host in self._hosts.values() if is_up(host.name)] or list(self._hosts.values())
        living = [host for host in up if host.can_try(now)]
        if not living:
            for host in up:
                host.dead = False
            living, self._next = up, 0
        host = self._pick(living)
        host.note_attempt(now)
        return host.name

    def succeeded(self, host: str, now: float, seconds: float) -> None:
        self._hosts[host].dead = False

    def failed(self, host: str, now: float) -> None:
        self._hosts[host].mark_failed(now)

    def _pick(self, living: list[_Host]) -> _Host:
        """The next one in turn of `living`, which is not empty."""
        count = len(self._hosts)
        host = min(living, key=lambda host: (host.index - self._next) % count)
        self._next = (host.index + 1) % count
        return host


@attrs.define(eq=False)
class EpsilonGreedy(HostPool):
    """A `HostPool` that prefers hosts with short response times."""

    random: _random.Random = attrs.field(factory=_random.Random, kw_only=True)
    epsilon: float = attrs.field(default=FIRST_EPSILON, init=False)
    """The fraction of choices that explore."""

    def succeeded(self, host: str, now: float, seconds: float) -> None:
        HostPool.succeeded(self, host, now, seconds)
        self._hosts[host].observe(now, seconds)

    def _pick(self, living: list[_Host]) -> _Host:
        if self.random.random() < self.epsilon:
            self.epsilon = max(self.epsilon * EPSILON_DECAY, MIN_EPSILON)
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
"""By the value of `--mode`."""


def make_pool(mode: str, hosts: Sequence[str]) -> Pool:
    """The pool for a mode, one of `CHOICES`, with at least one host; duplicates count once."""
    return CHOICES[mode](list(dict.fromkeys(hosts)))
