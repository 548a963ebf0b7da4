"""The synchronous core: topics, channels, subscriptions. No socket, no event loop; time is passed in as an argument."""

from nsqd.broker.broker import Broker, Listener, Republished
from nsqd.broker.channel import Channel
from nsqd.broker.context import DRAIN, BrokerOptions
from nsqd.broker.errors import LimitReached, NotFound, NotInFlight, NotOwner, Refused
from nsqd.broker.locality import Locality, Topology
from nsqd.broker.outbox import Client, Outbox
from nsqd.broker.subscription import Subscription
from nsqd.broker.topic import Topic

__all__ = [
    "DRAIN",
    "Broker",
    "BrokerOptions",
    "Channel",
    "Client",
    "LimitReached",
    "Listener",
    "Locality",
    "NotFound",
    "NotInFlight",
    "NotOwner",
    "Outbox",
    "Refused",
    "Republished",
    "Subscription",
    "Topic",
    "Topology",
]
