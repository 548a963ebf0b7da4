"""The flags of nsq_to_nsq, and their validation."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, TypeAlias

import attrs

from nsqkit.client import ClientOptions
from nsqkit.options import FilePath, Group, OptionError, check_values, option
from nsqtools.common import (
    Channel,
    ClientOptionTexts,
    HostPort,
    Topic,
    check_names,
    check_nsqd_addresses,
    check_sources,
    client_options,
    consumer_options,
    token_options,
)
from nsqtools.hosts import CHOICES
from nsqtools.timings import StatusFlags

__all__ = ["EXAMPLE", "PROGRAM", "SYNOPSIS", "NsqToNsqFlags", "validate"]

PROGRAM: Final = "nsq_to_nsq"
SYNOPSIS: Final = "publishes the messages of topics to other nsqds"
EXAMPLE: Final = """
# a topic of this cluster to the nsqds of another one, in turn; one that fails is skipped for a while
nsq_to_nsq --topic=orders --lookupd-http-address=127.0.0.1:4161 \\
    --destination-nsqd-tcp-address=10.1.0.1:4150 --destination-nsqd-tcp-address=10.1.0.2:4150
# only messages whose JSON has {"country": "fr"}, and only two of their fields, to another topic
nsq_to_nsq --topic=orders --nsqd-tcp-address=127.0.0.1:4150 --destination-topic=orders_fr \\
    --require-json-field=country --require-json-value=fr --whitelist-json-field=id --whitelist-json-field=total \\
    --destination-nsqd-tcp-address=10.1.0.1:4150

A message is finished only when its destination has responded OK. After a failure it is requeued for
default_requeue_delay times its attempts, and consumption slows down (backoff). It is never given up, so it may
be published twice, but it is not lost.
SIGTERM and SIGINT wait for the publishes in progress, then the program exits.
"""


_Name: TypeAlias = Annotated[str, "NAME"]


@attrs.define(kw_only=True)
class NsqToNsqFlags(StatusFlags):
    """The flags of nsq_to_nsq."""

    topics: list[Topic] = option(flag="topic", help="Topic to consume. Required.")
    channel: Channel = option("nsq_to_nsq", help="Channel to consume.")
    max_in_flight: int = option(
        200,
        minimum=1,
        help="Maximum number of messages of a topic in flight: received, but not yet published.",
    )

    WHAT: ClassVar = Group("What")

    require_json_field: _Name = option(
        "",
        help="Publish only messages that are a JSON object with this field. Others are finished without "
        "being published; those that are no JSON object are logged.",
    )
    require_json_value: str = option(
        "",
        placeholder="VALUE",
        help="Publish only messages in which --require-json-field is this string or number. A message "
        "without the field is then an error: it is requeued.",
    )
    whitelist_json_fields: list[_Name] = option(
        flag="whitelist-json-field",
        help="Publish a JSON object with only this field of the message, or these fields. Without it, "
        "bodies are not changed. (Integers of 64 bits, signed or not, stay exact; the original's nsq_to_nsq "
        "rounds those above 2^53.)",
    )

    WHERE_TO: ClassVar = Group("Where to")

    destination_nsqd_tcp_addresses: list[HostPort] = option(
        flag="destination-nsqd-tcp-address",
        help="TCP address of an nsqd to publish to. Required. With several, each message goes to one of "
        "them; one that is not connected is skipped as long as another one is.",
    )
    destination_topic: Topic = option("", help="Topic to publish to. Empty: the topic of the message.")
    mode: str = option(
        "hostpool",
        choices=CHOICES,
        help="How to choose among several nsqds. round-robin: in turn. hostpool: in turn, but one that "
        "failed is skipped for 30s, and for twice as long after each further failure, up to 15m. "
        "epsilon-greedy: as hostpool, but fast ones get more messages. (Any other word means round-robin in "
        "the original's nsq_to_nsq; here it is an error.)",
    )
    destination_access_token_file: FilePath = option(
        "",
        help="File with the token to show to these nsqds. Not that of --access-token-file, which is for the source.",
    )
    producer_opts: ClientOptionTexts = option(
        flag="producer-opt",
        help="Option of the client library for publishing: --producer-opt=dial_timeout,3s. A message waits "
        "for its OK, including for a connection, for publish_timeout (here 15 s).",
    )


def validate(flags: NsqToNsqFlags) -> tuple[ClientOptions, ClientOptions]:
    """Check the flags (`OptionError`); returns the options of the consumers and those of the producers."""
    if not flags.topics or not flags.channel:
        raise OptionError("--topic and --channel are required")
    check_names("topic", flags.topics)
    if flags.destination_topic:
        check_names("destination-topic", [flags.destination_topic])
    check_names("channel", [flags.channel])
    check_sources(flags.nsqd_tcp_addresses, flags.lookupd_http_addresses)
    if not flags.destination_nsqd_tcp_addresses:
        raise OptionError("--destination-nsqd-tcp-address required")
    check_nsqd_addresses(flags.destination_nsqd_tcp_addresses, "destination-nsqd-tcp-address")
    if flags.require_json_value and not flags.require_json_field:
        raise OptionError("--require-json-value needs --require-json-field")
    _check_no_circle(flags)
    check_values(flags)
    consuming = consumer_options(PROGRAM, flags, max_in_flight=flags.max_in_flight)
    token = token_options(flags.destination_access_token_file, "destination-access-token-file")
    return consuming, client_options(PROGRAM, ["publish_timeout,15s", *token, *flags.producer_opts])


def _check_no_circle(flags: NsqToNsqFlags) -> None:
    """`OptionError` if published messages would be consumed again. Detected only if addresses are spelled alike."""
    both = set(flags.nsqd_tcp_addresses) & set(flags.destination_nsqd_tcp_addresses)
    if both and (not flags.destination_topic or flags.destination_topic in flags.topics):
        raise OptionError(
            f"messages would go round in circles: {min(both)} is both a source and a destination"
        )
