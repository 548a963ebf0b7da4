"""Which channels of a topic the registries know: asked over HTTP, when a topic is created.

All registries are asked at the same time, and the whole question has a limit; what was found by then is the answer. A
registry that fails is logged and adds nothing. No more than `ASKING` topics are asked for at the same time; the wait
for a turn counts against the limit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import msgspec
import trio

from nsqd.lookup.protocol import HttpAddress
from nsqkit.http.fetch import https_port, reason_of
from nsqkit.logging import get_logger
from nsqkit.wire.names import is_ephemeral, is_valid_name

__all__ = ["Fetch", "KnownChannels", "query_bound"]

log = get_logger("nsqd")

ASKING = 32  # topics at the same time
WITHOUT_LIMIT: Final = 30.0  # seconds, where the options set no limit

Fetch = Callable[[str, HttpAddress, str], Awaitable[tuple[int, bytes]]]
"""(`http` or `https`, registry, topic) -> status and body of `/channels`. Raises whatever it likes."""


class QueryError(Exception):
    """A registry's answer cannot be used; the text says why."""


@attrs.define
class _Channels:
    channels: list[str] | None = None


def query_bound(connect_timeout: float, request_timeout: float) -> float:
    """Seconds for a whole question, from the options for one request; 0 there is no limit, which is not had here."""
    if connect_timeout > 0 and request_timeout > 0:
        return connect_timeout + request_timeout
    return WITHOUT_LIMIT


class KnownChannels:
    """Asks; one for the daemon. `bound`: seconds for a whole question."""

    def __init__(self, fetch: Fetch, bound: float) -> None:
        self._fetch = fetch
        self._bound = bound
        self._turns = trio.CapacityLimiter(ASKING)

    async def ask(self, registries: Sequence[HttpAddress], topic: str) -> set[str]:
        """Names of durable channels: what was found when all have answered, or when the limit passed."""
        found: set[str] = set()
        with trio.move_on_after(self._bound) as scope:
            async with self._turns, trio.open_nursery() as nursery:
                for registry in registries:
                    nursery.start_soon(self._ask_one, registry, topic, found)
        if scope.cancelled_caught:
            log.warning("TOPIC(%s): not all registries told its channels in time", topic)
        return found

    async def _ask_one(self, registry: HttpAddress, topic: str, found: set[str]) -> None:
        try:
            channels = await self._channels(registry, topic)
        except Exception as error:  # an HTTP client has many kinds; whatever it was, the topic starts without
            log.error(
                "LOOKUPD(%s:%d): channels of %s - %s", registry.host, registry.port, topic, reason_of(error)
            )
        else:
            found |= {name for name in channels if is_valid_name(name) and not is_ephemeral(name)}

    async def _channels(self, registry: HttpAddress, topic: str) -> list[str]:
        status, body = await self._fetch("http", registry, topic)
        if status == 403 and (port := https_port(body)):
            status, body = await self._fetch("https", attrs.evolve(registry, port=port), topic)
        if status != 200:
            raise QueryError(f"status {status}")
        return msgspec.json.decode(body, type=_Channels).channels or []
