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
    OptionError,
    TlsRequired,
    TlsVersion,
    check_listen_addresses,
    check_values,
    option,
    refusal,
)
from nsqkit.options import load as load_options
from nsqkit.service.tls import REQUIRE_VERIFY
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
    https_address: Address = option(
        "0.0.0.0:4162",
        help="Address of the HTTP API over TLS, used only with --tls-cert and --tls-key. Empty: no HTTPS.",
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

    max_registrations_per_nsqd: int = option(
        500_000,
        minimum=0,
        help="Topics and channels that one nsqd can register. One more ends its connection. 0: no limit.",
    )
    max_connections_per_address: int = option(
        2500,
        minimum=0,
        help="TCP connections of one address, of IPv6 of one network of 64 bits. Unix sockets are not limited. 0: no "
        "limit.",
    )

    TLS: ClassVar = Group("TLS")

    tls_cert: FilePath = option(
        "",
        help="Certificate file (PEM), including the chain. With --tls-key it enables TLS: on the TCP port beside plain "
        "connections, and on the one for HTTPS. Both files are read again when they change.",
    )
    tls_key: FilePath = option("", help="Private key file (PEM) of the certificate, not encrypted.")
    tls_required: TlsRequired = option(
        TlsRequired.NO,
        help="Refuse nsqds and HTTP clients without TLS. tcp-https: allow plain HTTP. nsqds need --lookupd-tls.",
    )
    tls_min_version: TlsVersion = option(
        TlsVersion.TLS1_2,
        help="Oldest version to accept: tls1.0, tls1.1, tls1.2 or tls1.3. Below tls1.2 weak signatures are "
        "accepted, too.",
    )
    tls_client_auth_policy: str = option(
        "",
        placeholder="POLICY",
        help="Request a certificate from clients. require: any certificate. require-verify: one signed by "
        "an authority of --tls-root-ca-file. Makes TLS required.",
    )
    tls_root_ca_file: FilePath = option(
        "", help="File (PEM) with the certificate authorities to trust. Empty: those of the system."
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
    register_by_certificate: bool = option(
        False,
        help="A certificate signed by an authority of --tls-root-ca-file lets an nsqd register, as a token with "
        "operate does. It counts on the TCP port only.",
    )
    debug_endpoints: str = option(
        "on",
        choices=("on", "off"),
        help="Whether profiles and the like can be asked for. off: nothing below /debug is there.",
    )
    http_allowed_hosts: list[str] = option(
        flag="http-allowed-hosts",
        placeholder="NAME",
        help="Names, or name:port, by which HTTP clients reach this nsqlookupd, with commas between them. Others are "
        "refused, but IP addresses, localhost and --broadcast-address are always allowed.",
    )


def validate(options: LookupdOptions) -> None:
    """Check all values (`OptionError`). A client certificate policy makes TLS required. Addresses are not resolved."""
    if not options.tcp_address:
        raise refusal(options, "tcp_address", "--tcp-address must not be empty")
    check_values(options)
    check_listen_addresses(options, "tcp_address", "http_address", "https_address")
    _check_tls(options)
    try:
        nobody = anonymous_scopes(options.anonymous) == NOTHING
    except ScopeError as error:
        raise refusal(options, "anonymous", f"--anonymous: {error}") from None
    if nobody and not options.tokens_file:
        reason = "--anonymous=none needs --tokens-file: nobody could do anything"
        raise refusal(options, "anonymous", reason)


def _check_tls(options: LookupdOptions) -> None:
    if options.tls_client_auth_policy and options.tls_required is TlsRequired.NO:
        options.tls_required = TlsRequired.YES
    has_certificate = options.tls_cert or options.tls_key  # one without the other fails when they are loaded
    if options.tls_required is not TlsRequired.NO and not has_certificate:
        raise OptionError("cannot require TLS client connections without TLS key and cert")
    if not options.register_by_certificate:
        return
    if not (has_certificate and options.tls_root_ca_file):
        # With the authorities of the system everybody who has a certificate for a web site could register.
        reason = "--register-by-certificate needs --tls-cert, --tls-key and --tls-root-ca-file"
        raise refusal(options, "register_by_certificate", reason)
    if options.tls_client_auth_policy not in ("", REQUIRE_VERIFY):
        reason = f"--register-by-certificate needs --tls-client-auth-policy={REQUIRE_VERIFY}, or none"
        raise refusal(options, "register_by_certificate", reason)
