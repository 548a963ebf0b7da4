"""The flags of nsq_to_http, and their validation."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable
from typing import Annotated, ClassVar, Final

import attrs

from nsqkit.client import ClientOptions
from nsqkit.options import FLOAT, SECOND, Duration, Group, OptionError, Url, check_values, option
from nsqkit.redact import shown_url
from nsqtools.common import (
    Channel,
    Topic,
    check_names,
    check_positive,
    check_sources,
    consumer_options,
)
from nsqtools.hosts import CHOICES
from nsqtools.timings import StatusFlags

__all__ = ["EXAMPLE", "MULTICAST", "PROGRAM", "SYNOPSIS", "ToHttpFlags", "parse_headers", "validate"]

PROGRAM: Final = "nsq_to_http"
MULTICAST: Final = "multicast"
_OCTETS: Final = "application/octet-stream"
SYNOPSIS: Final = "sends the messages of a topic to HTTP servers, one request each"
EXAMPLE: Final = """
# each message as the body of a POST, to two servers in turn; one that fails is skipped for a while
nsq_to_http --topic=orders --nsqd-tcp-address=127.0.0.1:4150 \\
    --post=http://10.0.0.1:8080/orders --post=http://10.0.0.2:8080/orders --content-type=application/json
# each message as part of the URL of a GET
nsq_to_http --topic=clicks --lookupd-http-address=127.0.0.1:4161 --get='http://10.0.0.1/count?click=%s'

A message is finished only when a server has accepted it: with any 2xx to a POST, with 200 to a GET. Otherwise
(no connection, timeout, another status) it is requeued for default_requeue_delay times its attempts, and
consumption slows down (backoff). It is never given up, so a server may get a message twice, but none is lost.
SIGTERM and SIGINT wait for the requests in progress, then the program exits.
"""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_FORMAT: Final = "--header value format should be 'key=value'"


def _number(text: str) -> float:
    """Go accepts these words as numbers, so they are refused as values (exit code 1), not as flags (2)."""
    return float(text) if text.lower().lstrip("+-") in ("nan", "inf", "infinity") else FLOAT.from_text(text)


_PART: Final = attrs.evolve(FLOAT, from_text=_number, placeholder="PART")


@attrs.define(kw_only=True)
class ToHttpFlags(StatusFlags):
    """The flags of nsq_to_http."""

    topic: Topic = option("", help="Topic to consume. Required.")
    channel: Channel = option("nsq_to_http", help="Channel to consume.")
    max_in_flight: int = option(
        200, minimum=1, help="Maximum number of messages in flight. Those above -n wait here, not in nsqd."
    )
    n: int = option(100, minimum=1, maximum=10_000, help="Maximum number of concurrent requests.")
    sample: Annotated[float, _PART] = option(
        1.0,
        help="Share of the messages to send, from 0.0 to 1.0, chosen at random. The others are finished "
        "without being sent.",
    )

    WHERE_TO: ClassVar = Group("Where to")

    post: list[Url] = option(help="URL to POST message bodies to.")
    get: list[Url] = option(
        help="URL to GET, instead of --post. The one %s in it is replaced by the message body, escaped as "
        "in a query (a space becomes '+'). A message whose URL is longer than 65,536 bytes is not sent: it "
        "is requeued and logged each time that it is delivered.",
    )
    mode: str = option(
        "hostpool",
        choices=(*CHOICES, MULTICAST),
        help="How to choose among several servers. round-robin: in turn. hostpool: in turn, but one that "
        "failed is skipped for 30s, and for twice as long after each further failure, up to 15m. "
        "epsilon-greedy: as hostpool, but fast ones get more messages. multicast: each message goes to "
        "every server, one after the other; if one fails, all of them get it again later. (Any other word "
        "means multicast in the original's nsq_to_http; here it is an error.)",
    )
    content_type: str = option(_OCTETS, placeholder="TYPE", help="Content-Type of a POST.")
    headers: list[str] = option(
        flag="header",
        placeholder="NAME:VALUE",
        help="Header to add to each request, or to replace a default one: --header='X-Token: abc'.",
    )
    http_client_connect_timeout: Duration = option(2 * SECOND, help="Time to connect to a server.")
    http_client_request_timeout: Duration = option(
        20 * SECOND,
        help="Time for a whole request, including redirects. If it is longer than nsqd waits for the "
        "message (msg_timeout), the message is touched meanwhile.",
    )


def validate(flags: ToHttpFlags) -> ClientOptions:
    """Check the flags (`OptionError`), and return the options of the consumer."""
    if not flags.topic or not flags.channel:
        raise OptionError("--topic and --channel are required")
    if flags.content_type != _OCTETS and flags.get:
        raise OptionError("--content-type only used with --post")
    if not flags.content_type:
        raise OptionError("--content-type requires a value when used")
    check_sources(flags.nsqd_tcp_addresses, flags.lookupd_http_addresses)
    if not flags.get and not flags.post:
        raise OptionError("--get or --post required")
    if flags.get and flags.post:
        raise OptionError("use --get or --post not both")
    if any(url.count("%s") != 1 for url in flags.get):
        raise OptionError("invalid GET address - must be a printf string")
    _check_urls("get", flags.get)
    _check_urls("post", flags.post)
    if not 0.0 <= flags.sample <= 1.0:
        raise OptionError("ERROR: --sample must be between 0.0 and 1.0")
    parse_headers(flags)
    check_names("topic", [flags.topic])
    check_names("channel", [flags.channel])
    check_positive(flags, "http-client-connect-timeout", "http-client-request-timeout")
    check_values(flags)
    return consumer_options(PROGRAM, flags, max_in_flight=flags.max_in_flight)


def parse_headers(flags: ToHttpFlags) -> dict[str, str]:
    """Names and values of `--header`, and the content type of a POST. `OptionError` for an invalid header."""
    headers = {"Content-Type": flags.content_type} if flags.post else {}
    for number, text in enumerate(flags.headers, 1):
        name, colon, value = (part.strip() for part in text.partition(":"))
        if not colon or not _TOKEN.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise OptionError(
                f"{_HEADER_FORMAT}, with a colon between them ('Name: value'); check number {number}"
            )
        headers = {old: kept for old, kept in headers.items() if old.lower() != name.lower()} | {name: value}
    return headers


def _check_urls(flag: str, urls: Iterable[str]) -> None:
    for url in urls:
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise OptionError(f"--{flag}: not the URL of an HTTP server: {shown_url(url)!r}")
