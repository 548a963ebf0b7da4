"""Which nsqds with a replication address the registries know: for `--replicate-to=auto`.

All registries are asked at the same time, over HTTP, and their answers are united. One that does not answer costs its
part only. An nsqd of the original, or without copies, and a stand-in are in no answer; neither is anybody when all
registries are the original's.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import attrs
import trio

from nsqd.lookup.known_channels import Client, registry_url
from nsqd.lookup.protocol import HIGHEST_PORT, HttpAddress
from nsqkit.decoding import DecodeError
from nsqkit.http_client import HttpClient, HttpFailed, HttpOptions
from nsqkit.logging import get_logger
from nsqkit.service.typed_json import decode_bounded

__all__ = ["KnownNode", "KnownNodes", "parse_nodes"]

log = get_logger("nsqd")

MAX_NODES: Final = 10_000
MAX_BODY: Final = 16 << 20  # bytes of an answer, which has the names of all topics of all nodes
TIMEOUT: Final = 30.0  # seconds for one registry, whatever the options say
_LIFE: Final = re.compile("[0-9a-f]{32}")
_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([1-9][0-9]{0,4})")
_MAX_NAME: Final = 255  # characters of a host name or a zone


@attrs.frozen
class KnownNode:
    """What an nsqd has announced: its life, and `host:port` where it takes copies."""

    life: str
    replication_address: str
    hostname: str
    broadcast_address: str
    topology_zone: str


@attrs.define
class _Producer:
    life: str = ""
    replication_address: str = ""
    stands_in_for: str = ""
    hostname: str = ""
    broadcast_address: str = ""
    topology_zone: str = ""

    @property
    def is_usable(self) -> bool:
        address = _ADDRESS.fullmatch(self.replication_address)
        names = (self.hostname, self.broadcast_address, self.topology_zone)
        return (
            address is not None
            and int(address[1]) <= HIGHEST_PORT
            and _LIFE.fullmatch(self.life) is not None
            and not self.stands_in_for
            and all(len(name) <= _MAX_NAME for name in names)
        )


@attrs.define
class _Answer:
    producers: list[_Producer] = attrs.field(factory=list)


def parse_nodes(body: bytes) -> list[KnownNode]:
    """Those of an answer to `/nodes` that can be used. `DecodeError`."""
    return [
        KnownNode(
            each.life, each.replication_address, each.hostname, each.broadcast_address, each.topology_zone
        )
        for each in decode_bounded(body, _Answer).producers
        if each.is_usable
    ]


class KnownNodes:
    """`registries`: those to ask."""

    def __init__(self, registries: Callable[[], Iterable[HttpAddress]], client: Client) -> None:
        self._registries, self._client = registries, client
        self._failing: set[HttpAddress] = set()  # logged once

    @classmethod
    def over_http(cls, registries: Callable[[], Iterable[HttpAddress]], options: HttpOptions) -> KnownNodes:
        """With these limits for a request, but for the size of an answer."""
        return cls(registries, HttpClient(attrs.evolve(options, max_body=MAX_BODY)))

    async def ask(self) -> list[KnownNode] | None:
        """All that are known, one for each life, `MAX_NODES` at most; None when no registry has answered."""
        found: dict[str, KnownNode] = {}
        answered = False

        async def ask(registry: HttpAddress) -> None:
            nonlocal answered
            try:
                with trio.fail_after(TIMEOUT):
                    nodes = await self._ask_one(registry)
            except (HttpFailed, DecodeError, trio.TooSlowError) as error:
                self._failed(registry, str(error) or f"no answer within {TIMEOUT:g} s")
                return
            self._failing.discard(registry)
            answered = True
            for node in nodes:
                if node.life in found or len(found) < MAX_NODES:
                    # Which one answers first must not matter, when two of them do not say the same.
                    found[node.life] = max(node, found.get(node.life, node), key=attrs.astuple)

        await _at_once(ask, set(self._registries()))
        return list(found.values()) if answered else None

    async def _ask_one(self, registry: HttpAddress) -> list[KnownNode]:
        answer = await self._client.ask(registry_url(registry, "/nodes"))
        return parse_nodes(answer.body_of_ok())

    def _failed(self, registry: HttpAddress, reason: str) -> None:
        if registry not in self._failing:
            log.warning("LOOKUPD(%s:%d): nodes - %s", registry.host, registry.port, reason)
            self._failing.add(registry)


async def _at_once(ask: Callable[[HttpAddress], Awaitable[None]], registries: Iterable[HttpAddress]) -> None:
    async with trio.open_nursery() as nursery:
        for registry in registries:
            nursery.start_soon(ask, registry)
