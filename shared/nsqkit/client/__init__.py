"""A client library for NSQ, on trio and on asyncio (through anyio).

`Consumer` receives the messages of a channel, `Producer` publishes; `ClientOptions` has their settings, and
every error stands below `NSQError`. `docs/client.md` has recipes.
"""

from nsqkit.client.address import Address
from nsqkit.client.codecs import Codec, Json, Msgpack
from nsqkit.client.connection import Connection
from nsqkit.client.consumer import Consumer, Handler
from nsqkit.client.errors import (
    AlreadyAnswered,
    AuthDisabled,
    AuthError,
    AuthFailed,
    AuthFirst,
    BadBody,
    BadChannel,
    BadMessage,
    BadProtocol,
    BadTopic,
    ConnectionFailed,
    ConnectionLost,
    DeferredPublishFailed,
    FinishFailed,
    IdentifyFailed,
    Invalid,
    MultiPublishFailed,
    NotConnected,
    NSQError,
    ProtocolViolation,
    PublishFailed,
    RequeueFailed,
    ServerError,
    SubscribeFailed,
    TouchFailed,
    Unauthorized,
    UncertainPublish,
)
from nsqkit.client.message import Finish, Message, Requeue
from nsqkit.client.opening import Connector, open_connection
from nsqkit.client.options import ClientOptions, OptionChanges, parse_client_option
from nsqkit.client.producer import Producer, ProducerStats
from nsqkit.client.stats import ConnectionStats, ConsumerStats

__all__ = [
    "Address",
    "AlreadyAnswered",
    "AuthDisabled",
    "AuthError",
    "AuthFailed",
    "AuthFirst",
    "BadBody",
    "BadChannel",
    "BadMessage",
    "BadProtocol",
    "BadTopic",
    "ClientOptions",
    "Codec",
    "Connection",
    "ConnectionFailed",
    "ConnectionLost",
    "ConnectionStats",
    "Connector",
    "Consumer",
    "ConsumerStats",
    "DeferredPublishFailed",
    "Finish",
    "FinishFailed",
    "Handler",
    "IdentifyFailed",
    "Invalid",
    "Json",
    "Message",
    "Msgpack",
    "MultiPublishFailed",
    "NSQError",
    "NotConnected",
    "OptionChanges",
    "Producer",
    "ProducerStats",
    "ProtocolViolation",
    "PublishFailed",
    "Requeue",
    "RequeueFailed",
    "ServerError",
    "SubscribeFailed",
    "TouchFailed",
    "Unauthorized",
    "UncertainPublish",
    "open_connection",
    "parse_client_option",
]
