"""Consumers that are near before those that are far: the experiment `topology-aware-consumption`.

A consumer is in the daemon's own zone when it names the same zone, else in its region when it names the same region
(plain texts, empty ones too), else remote. Of the consumers that have room, those in the zone are served first, then
those in the region, then the others: a remote consumer gets what the near ones have no room for. There is no promise
beyond that, and none about the order of messages.
"""

from __future__ import annotations

import enum

import attrs

__all__ = ["Locality", "Topology"]


class Locality(enum.IntEnum):
    """Where a consumer is, seen from the daemon; the nearest has the lowest number."""

    ZONE = 0
    REGION = 1
    REMOTE = 2


@attrs.frozen
class Topology:
    """Where the daemon or a client says it is."""

    region: str
    zone: str

    def locality_of(self, client: Topology | None) -> Locality:
        """Where a client is, seen from here. None: a client that has not named its location."""
        if client is None:
            return Locality.REMOTE
        if client.zone == self.zone:
            return Locality.ZONE
        return Locality.REGION if client.region == self.region else Locality.REMOTE
