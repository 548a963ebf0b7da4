"""Consumers, as clients are: every now and then they ask all registries, and connect to whatever one of them names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from tests.nsqd.replication.simulation.machine import CHANNELS

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Consumers"]

LOOKUP_INTERVAL: Final = 10.0  # seconds; 60 by default, which would take longer and show the same

MESSAGE_TIMEOUT: Final = 20.0  # seconds


@attrs.define(eq=False)
class Consumers:
    """One of each channel, on a machine of its own that no fault cuts off: the worst for two that deliver the same.

    A connection stays until the nsqd ends; whether it is still registered does not matter.
    """

    cluster: Cluster
    asked_at: float = 0.0

    def turn(self) -> None:
        cluster = self.cluster
        if cluster.now - self.asked_at < LOOKUP_INTERVAL:
            return
        self.asked_at = cluster.now
        for topic, channels in CHANNELS.items():
            found = {
                (producer.broadcast_address, producer.tcp_port)
                for registry in cluster.registries
                if registry.runs and (answer := registry.registry.lookup(topic, cluster.now)) is not None
                for producer in answer.producers
            }
            for address, port in sorted(found):
                self._connect(address, port, topic, channels)

    def _connect(self, address: str, port: int, topic: str, channels: tuple[str, ...]) -> None:
        node = self.cluster.node(address)
        daemon = node.daemon_at(port)
        if daemon is None or not node.runs:
            return

        def connect() -> None:
            daemon.now = self.cluster.now
            connected = len(daemon.clients)
            for channel in channels:
                if (topic, channel) not in daemon.clients:
                    daemon.clients[topic, channel] = daemon.subscribe(
                        channel, topic=topic, rdy=self.cluster.window, timeout=MESSAGE_TIMEOUT
                    )
            if len(daemon.clients) > connected:
                daemon.round()  # what they have got already is seen

        node.do(connect)
