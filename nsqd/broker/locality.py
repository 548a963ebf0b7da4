"""The location of consumers, for the experiment `topology-aware-consumption`: near consumers are served first.

A consumer is in the daemon's own zone when it names the same zone, else in its region when it names the same region
(names are compared as plain text, empty ones too), else remote. Of the consumers that have room, those in the zone are
served first, then those in the region, then the others. There is no guarantee beyond that, and none about the order of
messages.
"""

from __future__ import annotations

import enum

import attrs

__all__ = ["Locality", "Topology"]


class Locality(enum.IntEnum):
    """The location of a consumer relative to the daemon; the nearest has the lowest number."""

    ZONE = 0
    REGION = 1
    REMOTE = 2


@attrs.frozen
class Topology:
    """The location of the daemon or of a client, as it is configured."""

    region: str
    zone: str

    def locality_of(self, client: Topology | None) -> Locality:
        """The locality of a client, relative to this location. None: the client has not named its location."""
        if client is None:
            return Locality.REMOTE
        if client.zone == self.zone:
            return Locality.ZONE
        return Locality.REGION if client.region == self.region else Locality.REMOTE
