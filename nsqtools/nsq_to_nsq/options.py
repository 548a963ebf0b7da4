"""The flags of nsq_to_nsq, and what can be wrong with them."""

from __future__ import annotations

from typing import Final

import attrs

from nsqkit.client import ClientOptions
from nsqkit.options import STRINGS, OptionError, check_bounds, option
from nsqtools.common import (
    CLIENT_OPTIONS,
    check_names,
    check_nsqd_addresses,
    check_sources,
    client_options,
    consumer_options,
)
from nsqtools.hosts import CHOICES
from nsqtools.timings import StatusFlags

__all__ = ["EXAMPLE", "PROGRAM", "SYNOPSIS", "NsqToNsqFlags", "validate"]

PROGRAM: Final = "nsq_to_nsq"
SYNOPSIS: Final = "publishes the messages of topics again, to other nsqds"
EXAMPLE: Final = """
# a topic of this cluster into the nsqds of another one, by turns; one that fails is left alone for a while
nsq_to_nsq --topic=orders --lookupd-http-address=127.0.0.1:4161 \\
    --destination-nsqd-tcp-address=10.1.0.1:4150 --destination-nsqd-tcp-address=10.1.0.2:4150
# only messages whose JSON has {"country": "fr"}, and only two of their fields, into a topic of another name
nsq_to_nsq --topic=orders --nsqd-tcp-address=127.0.0.1:4150 --destination-topic=orders_fr \\
    --require-json-field=country --require-json-value=fr --whitelist-json-field=id --whitelist-json-field=total \\
    --destination-nsqd-tcp-address=10.1.0.1:4150

A message is finished here only when its destination has said OK. If that fails it is requeued, to be tried again
after default_requeue_delay times the attempts, and the whole is slowed down (backoff). It is never given up. So
a message may be there twice, but none is lost.
SIGTERM and SIGINT wait for what is on its way, and end.
"""


@attrs.define(kw_only=True)
class NsqToNsqFlags(StatusFlags):
    """The flags of nsq_to_nsq; the groups are those of the help."""

    topics: list[str] = option(kind=STRINGS, flag="topic", placeholder="TOPIC", help="A topic to consume.")
    channel: str = option("nsq_to_nsq", placeholder="CHANNEL", help="Channel to consume.")
    max_in_flight: int = option(
        200,
        minimum=1,
        help="Messages of a topic that may be on their way at a time: received, and not yet in their destination.",
    )

    require_json_field: str = option(
        "",
        group="What",
        placeholder="NAME",
        help="Pass only messages that are a JSON object with this field. Others are dropped (finished); those that are "
        "no JSON object with a line in the log.",
    )
    require_json_value: str = option(
        "",
        group="What",
        placeholder="VALUE",
        help="Pass only messages whose --require-json-field is this string or number. A message without the field is "
        "an error then: it is requeued, and not dropped.",
    )
    whitelist_json_fields: list[str] = option(
        kind=STRINGS,
        flag="whitelist-json-field",
        group="What",
        placeholder="NAME",
        help="Publish a new JSON object that has only the fields that are listed so. Without this flag bodies pass "
        "byte for byte. (Integers of 64 bits, signed or not, stay exact; NSQ's own nsq_to_nsq rounds those above "
        "2^53.)",
    )

    destination_nsqd_tcp_addresses: list[str] = option(
        kind=STRINGS,
        flag="destination-nsqd-tcp-address",
        group="Where to",
        placeholder="HOST:PORT",
        help="An nsqd to publish to. Each message goes to one of them; one that is not connected is passed over "
        "as long as another one is.",
    )
    destination_topic: str = option(
        "", group="Where to", placeholder="TOPIC", help="Topic to publish to. Empty: of the same name."
    )
    mode: str = option(
        "hostpool",
        group="Where to",
        placeholder="MODE",
        help="Which of several nsqds gets a message. round-robin: by turns. hostpool: by turns, but one that failed "
        "is left alone for 30s, then for twice as long each time, up to 15m. epsilon-greedy: as hostpool, but fast "
        "ones get more. (NSQ's own nsq_to_nsq takes any other word for round-robin; here it is an error.)",
    )
    producer_opts: list[str] = option(
        kind=CLIENT_OPTIONS,
        flag="producer-opt",
        group="Where to",
        help="An option of the client library, for publishing: --producer-opt=dial_timeout,3s. A message waits for "
        "its OK, and for the connection, for publish_timeout (here 15 s).",
    )


def validate(flags: NsqToNsqFlags) -> tuple[ClientOptions, ClientOptions]:
    """Refuse (`OptionError`) what cannot work; give the options of the consumers and those of the producers."""
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
    if flags.mode not in CHOICES:
        raise OptionError(f"--mode must be one of {', '.join(CHOICES)}, not {flags.mode!r}")
    if flags.require_json_value and not flags.require_json_field:
        raise OptionError("--require-json-value needs --require-json-field")
    _check_no_circle(flags)
    check_bounds(flags)
    consuming = consumer_options(PROGRAM, flags, max_in_flight=flags.max_in_flight)
    return consuming, client_options(PROGRAM, ["publish_timeout,15s", *flags.producer_opts])


def _check_no_circle(flags: NsqToNsqFlags) -> None:
    """What is published must not come in again. (Seen only where addresses are spelled alike.)"""
    both = set(flags.nsqd_tcp_addresses) & set(flags.destination_nsqd_tcp_addresses)
    if both and (not flags.destination_topic or flags.destination_topic in flags.topics):
        raise OptionError(
            f"messages would go round in circles: {min(both)} is both a source and a destination"
        )
