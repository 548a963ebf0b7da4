"""The synchronous core: topics, channels, subscriptions. No socket, no event loop; time comes in as an argument."""

from nsqd.broker.broker import Broker, Listener
from nsqd.broker.channel import Channel
from nsqd.broker.common import BrokerOptions
from nsqd.broker.errors import NotFound, NotInFlight, NotOwner, Refused
from nsqd.broker.outbox import Client, Outbox
from nsqd.broker.subscription import Subscription
from nsqd.broker.topic import Topic
from nsqd.broker.topology import Nearness, Place

__all__ = [
    "Broker",
    "BrokerOptions",
    "Channel",
    "Client",
    "Listener",
    "Nearness",
    "NotFound",
    "NotInFlight",
    "NotOwner",
    "Outbox",
    "Place",
    "Refused",
    "Subscription",
    "Topic",
]
