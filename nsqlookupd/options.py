"""The options of nsqlookupd, with their defaults and limits.

`load` reads the command line and the configuration file, `validate` checks the values.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

import attrs

from nsqkit.access import EVERYONE_MAY, NOTHING, ScopeError, anonymous_scopes
from nsqkit.options import (
    MINUTE,
    SECOND,
    Address,
    DaemonOptions,
    Duration,
    FilePath,
    Group,
    check_listen_addresses,
    check_values,
    option,
    refusal,
)
from nsqkit.options import load as load_options
from nsqkit.version import version_line

__all__ = ["LookupdOptions", "load", "validate"]

_SYNOPSIS = "registry: tells consumers which nsqds have a topic"
_EXAMPLE = """
# one registry; for high availability run two or three, on different hosts
nsqlookupd
# every nsqd registers with all of them
nsqd --lookupd-tcp-address=127.0.0.1:4160 --data-path=/var/lib/nsqd
# which nsqds have a topic?
curl 'http://127.0.0.1:4161/lookup?topic=greetings'
"""


def load(argv: Sequence[str]) -> LookupdOptions:
    """The options for this command line (without the program's name). Exits for `--help` and for errors."""
    return load_options(
        LookupdOptions,
        argv,
        program="nsqlookupd",
        version=version_line("nsqlookupd"),
        synopsis=_SYNOPSIS,
        example=_EXAMPLE,
    )


def host_name() -> str:
    """The name of this host."""
    return os.uname().nodename


@attrs.define(kw_only=True)
class LookupdOptions(DaemonOptions):
    """Every option of nsqlookupd."""

    log_prefix: str = option("[nsqlookupd] ", help="Prefix of every log line.")

    NETWORK: ClassVar = Group("Network")

    tcp_address: Address = option(
        "0.0.0.0:4160", help="Address for nsqds: host:port, or the path of a unix socket."
    )
    http_address: Address = option(
        "0.0.0.0:4161",
        help="Address of the HTTP API, for consumers: host:port, or the path of a unix socket. Empty: no HTTP.",
    )
    broadcast_address: str = option(
        factory=host_name,
        placeholder="HOST",
        help="Host name or address under which nsqds reach the HTTP API of this nsqlookupd. Each nsqd asks "
        "there for the channels of a topic that is new to it, so a wrong one delays every new topic.",
    )

    REGISTRY: ClassVar = Group("Registry")

    inactive_producer_timeout: Duration = option(
        5 * MINUTE,
        minimum=0,
        help="Hide an nsqd that has not reported for this time. An nsqd reports every 15 seconds.",
    )
    tombstone_lifetime: Duration = option(
        45 * SECOND, minimum=0, help="How long a tombstone hides an nsqd from look-ups of a topic."
    )

    AUTHORIZATION: ClassVar = Group("Authorization")

    tokens_file: FilePath = option(
        "",
        help="File of tokens, made with nsqd token new. HTTP clients send theirs in the header Authorization, nsqds "
        "theirs in IDENTIFY. The file is read again when it changes.",
    )
    anonymous: str = option(
        EVERYONE_MAY,
        placeholder="SCOPES",
        help="What clients without a token may do: scopes with commas between them, or none. To register, an nsqd "
        "needs operate.",
    )
    http_allowed_hosts: list[str] = option(
        flag="http-allowed-hosts",
        placeholder="NAME",
        help="Names, or name:port, by which HTTP clients reach this nsqlookupd, with commas between them. Others are "
        "refused, but IP addresses, localhost and --broadcast-address are always allowed.",
    )


def validate(options: LookupdOptions) -> None:
    """Check all values (`OptionError`). Addresses are not resolved."""
    if not options.tcp_address:
        raise refusal(options, "tcp_address", "--tcp-address must not be empty")
    check_values(options)
    check_listen_addresses(options, "tcp_address", "http_address")
    try:
        nobody = anonymous_scopes(options.anonymous) == NOTHING
    except ScopeError as error:
        raise refusal(options, "anonymous", f"--anonymous: {error}") from None
    if nobody and not options.tokens_file:
        reason = "--anonymous=none needs --tokens-file: nobody could do anything"
        raise refusal(options, "anonymous", reason)
