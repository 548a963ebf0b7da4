"""Which channels of a topic the registries know: asked over HTTP, when a topic is created.

Rules:

- All registries are asked at the same time, and none delays a question to another. One that fails is logged and adds
  nothing.
- A registry gets no more than `ASKING` questions at a time. The others wait for their turn, because a topic that starts
  without its channels loses messages for them; after `TURN_SECONDS` they give up, so that every wait ends.
- A question has its limit from its turn on. A registry that let one run out (or fail, but not at once), and answered no
  other meanwhile, is silent: until it answers again, a topic gives it no more than `BRIEF_SECONDS`, the wait for a turn
  included. One question every `TRIAL_EVERY` has the whole limit still: the registry may be not dead but slow.

So thousands of topics that are new at once wait for a dead registry hardly longer than one of them, and for one that
answers as long as it takes, `TURN_SECONDS` and the limit at the most.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import msgspec
import trio

from nsqd.lookup.protocol import HttpAddress
from nsqkit.http_client import Answer, HttpFailed, http_url
from nsqkit.logging import get_logger
from nsqkit.wire.names import is_ephemeral, is_valid_name

__all__ = ["Ask", "KnownChannels", "query_bound"]

log = get_logger("nsqd")

ASKING = 64  # questions on the way to one registry: each holds a descriptor
TURN_SECONDS: Final = 60.0
BRIEF_SECONDS: Final = 1.0
TRIAL_EVERY: Final = 10.0  # seconds
WITHOUT_LIMIT: Final = 30.0  # seconds, where the options set no limit

Ask = Callable[[str], Awaitable[Answer]]
"""GET of a URL, as `HttpClient.ask` does it. Raises `HttpFailed`."""


class QueryError(Exception):
    """A registry's answer cannot be used; the text says why."""


@attrs.define
class _Channels:
    channels: list[str] | None = None


def query_bound(connect_timeout: float, request_timeout: float) -> float:
    """Seconds for a question, from the options for one request; 0 there is no limit, which is not had here."""
    if connect_timeout > 0 and request_timeout > 0:
        return connect_timeout + request_timeout
    return WITHOUT_LIMIT


class KnownChannels:
    """Asks; one for the daemon. `bound`: seconds for a question to one registry."""

    def __init__(self, ask: Ask, bound: float) -> None:
        self._ask = ask
        self._bound = bound
        self._lines: dict[HttpAddress, _Line] = {}

    async def ask(self, registries: Sequence[HttpAddress], topic: str) -> set[str]:
        """Names of durable channels: what was found when all have answered, or were given up."""
        self._lines = {
            registry: self._lines.get(registry) or _Line(registry, self._ask, self._bound)
            for registry in registries
        }
        found: set[str] = set()
        async with trio.open_nursery() as nursery:
            for registry in registries:
                nursery.start_soon(self._lines[registry].ask, topic, found)
        return found


class _Line:
    """To one registry: who is asking, and who waits for a turn."""

    def __init__(self, registry: HttpAddress, ask: Ask, bound: float) -> None:
        self._registry = registry
        self._ask = ask
        self._bound = bound
        self._turns = trio.CapacityLimiter(ASKING)
        self._silent = False
        self._answered_at = -math.inf
        self._next_trial = -math.inf

    async def ask(self, topic: str, found: set[str]) -> None:
        """Add to `found` what the registry knows, if it answers in time. Never raises."""
        try:
            channels = await self._channels(topic)
        except (HttpFailed, QueryError, msgspec.MsgspecError, RecursionError) as error:
            registry = self._registry
            log.error("LOOKUPD(%s:%d): channels of %s - %s", registry.host, registry.port, topic, error)
        else:
            found |= {name for name in channels if is_valid_name(name) and not is_ephemeral(name)}

    async def _channels(self, topic: str) -> list[str]:
        answer = await self._in_turn(topic)
        if answer.status != 200:
            raise QueryError(f"status {answer.status}")
        return msgspec.json.decode(answer.body, type=_Channels).channels or []

    async def _in_turn(self, topic: str) -> Answer:
        came_at = trio.current_time()
        with trio.move_on_after(BRIEF_SECONDS if self._silent else TURN_SECONDS) as scope:
            async with self._turns:
                scope.deadline = self._deadline(came_at)
                return await self._answer(topic)
        raise QueryError("no answer in time")

    def _deadline(self, came_at: float) -> float:
        """When the question is given up whose turn it is."""
        now = trio.current_time()
        if self._silent and now < self._next_trial:
            return came_at + BRIEF_SECONDS
        self._next_trial = now + TRIAL_EVERY
        return now + self._bound

    async def _answer(self, topic: str) -> Answer:
        asked_at = trio.current_time()
        try:
            answer = await self._ask(
                http_url(self._registry.host, self._registry.port, "/channels", {"topic": topic})
            )
        except BaseException:
            # What fails at once delays nobody, and says nothing of the next question.
            if self._answered_at <= asked_at < trio.current_time() - BRIEF_SECONDS:
                self._silent = True
            raise
        self._silent, self._answered_at = False, trio.current_time()
        return answer
