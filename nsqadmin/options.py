"""The options of nsqadmin: what can be set, what it is by default, and which values are refused.

`load` reads command line and file, `validate` looks at the values. The mode depends on the daemons that are given:
with nsqlookupds, they tell which nsqds there are; without, the nsqds are those that are given.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from nsqadmin.addresses import host_and_port
from nsqkit.access import TokenFileError
from nsqkit.access.own_token import read_own_token
from nsqkit.options import (
    HOUR,
    MILLISECOND,
    MINUTE,
    SECOND,
    Address,
    Bytes,
    DaemonOptions,
    Duration,
    FilePath,
    Group,
    OptionError,
    Url,
    check_listen_addresses,
    check_values,
    option,
    options_of,
    refusal,
)
from nsqkit.options import load as load_options
from nsqkit.redact import shown_url
from nsqkit.tls import TlsConfigError, client_context
from nsqkit.version import version_line

__all__ = ["AdminOptions", "load", "normal_base_path", "validate"]

_HOST = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]{1,5})?")
_SYNOPSIS = "web console that shows and administers a cluster of nsqds"
_EXAMPLE = """
# a cluster with nsqlookupds: they tell which nsqds there are
nsqadmin --lookupd-http-address=127.0.0.1:4161
# a single nsqd without nsqlookupd
nsqadmin --nsqd-http-address=127.0.0.1:4151
# with a login, for users of a file
nsqadmin user add --users-file=/etc/nsq/users --role=operator alice
nsqadmin --lookupd-http-address=lookup:4161 --users-file=/etc/nsq/users
# behind an authenticating proxy; only two users may make changes
nsqadmin --lookupd-http-address=lookup:4161 --base-path=/nsq --admin-user=ann --admin-user=bob
# then open http://127.0.0.1:4171/
"""


def load(argv: Sequence[str]) -> AdminOptions:
    """The options for this command line (without the program's name), or the end of the program."""
    return load_options(
        AdminOptions,
        argv,
        program="nsqadmin",
        version=version_line("nsqadmin"),
        synopsis=_SYNOPSIS,
        example=_EXAMPLE,
    )


@attrs.define(kw_only=True)
class AdminOptions(DaemonOptions):
    """Every option of nsqadmin."""

    log_prefix: str = option("[nsqadmin] ", help="Prefix of every log line.")

    CLUSTER: ClassVar = Group("Cluster")

    lookupd_http_addresses: list[Address] = option(
        flag="lookupd-http-address",
        config_name="nsqlookupd_http_addresses",
        help="HTTP address (host:port) of an nsqlookupd. Give either these or nsqds.",
    )
    nsqd_http_addresses: list[Address] = option(
        flag="nsqd-http-address",
        help="HTTP address (host:port) of an nsqd. Give either these or nsqlookupds.",
    )
    poll_interval: Duration = option(
        5 * SECOND,
        minimum=100 * MILLISECOND,
        maximum=1 * HOUR,
        help="How often every daemon is asked for the data that the pages show.",
    )
    history_bytes: Bytes = option(
        64 << 20,
        minimum=0,
        help="Memory for rates and depths of the last hours. The more topics are busy, the less time it "
        "covers.",
    )

    WEB: ClassVar = Group("Web")

    http_address: Address = option(
        "0.0.0.0:4171", help="Address of the console: host:port, or the path of a unix socket."
    )
    tls_cert: FilePath = option(
        "",
        help="Certificate file (PEM) of the console, including the chain. With --tls-key the console is served over "
        "HTTPS, and only so. Both files are read again when they change.",
    )
    tls_key: FilePath = option("", help="Private key file (PEM) of the certificate, not encrypted.")
    base_path: str = option("/", placeholder="PATH", help="URL path under which all pages are.")
    dev_static_dir: FilePath = option(
        "", help="Directory to serve /static from instead of the built-in files, for development."
    )

    ACCESS: ClassVar = Group("Access")

    acl_http_header: str = option(
        "X-Forwarded-User",
        placeholder="NAME",
        help="Request header in which an authenticating proxy names the user.",
    )
    admin_users: list[str] = option(
        flag="admin-user",
        placeholder="NAME",
        help="User who may make changes. If none is given, everybody may.",
    )
    users_file: FilePath = option(
        "",
        help="File with the users who can log in, made by `nsqadmin user add`; read again when it changes. Empty: "
        "there is no login.",
    )
    session_idle_timeout: Duration = option(
        4 * HOUR,
        minimum=1 * MINUTE,
        help="A login ends when no page of the console has been open for this time.",
    )
    session_lifetime: Duration = option(
        24 * HOUR, minimum=1 * MINUTE, help="A login ends after this time in any case."
    )
    allowed_hosts: list[str] = option(
        flag="allowed-host",
        placeholder="NAME",
        help="Name, or name:port, under which browsers reach the console. If any is given, requests for other names "
        "are refused. IP addresses and localhost need not be given.",
    )
    allow_config_from_cidr: str = option(
        "127.0.0.1/8",
        placeholder="CIDR",
        help="Network of the clients that may use /config, if --admin-user allows them to make changes. "
        "Empty: all clients.",
    )

    REQUESTS: ClassVar = Group("Requests")

    http_client_connect_timeout: Duration = option(
        2 * SECOND, minimum=0, help="Time to connect to an nsqd or nsqlookupd. 0: no limit."
    )
    http_client_request_timeout: Duration = option(
        5 * SECOND, minimum=0, help="Time for a whole request to one of them. 0: no limit."
    )
    http_client_tls_insecure_skip_verify: bool = option(
        False, help="Do not verify the certificates of nsqds and nsqlookupds. For tests."
    )
    http_client_tls_required: bool = option(
        False,
        help="Send nothing to nsqds and nsqlookupds without TLS. A plain address is asked for the HTTPS port only; "
        "they need --tls-required.",
    )
    http_client_tls_root_ca_file: FilePath = option(
        "",
        help="File (PEM) with the certificate authorities to trust for nsqds and nsqlookupds. Empty: those "
        "of the system.",
    )
    http_client_tls_cert: FilePath = option(
        "", help="Client certificate file (PEM) for requests to nsqds and nsqlookupds."
    )
    http_client_tls_key: FilePath = option("", help="Private key file (PEM) of this certificate.")
    access_token_file: FilePath = option(
        "",
        help="File with the token to show to nsqds and nsqlookupds. To show everything it needs the scope read there, "
        "to change anything operate.",
    )
    notification_http_endpoint: Url = option(
        "", help="Where to report every change that is made here, as JSON with POST. Empty: nowhere."
    )

    ALARMS: ClassVar = Group("Alarms")

    alarm_webhooks: list[Url] = option(
        flag="alarm-webhook",
        help="Where to report alarms that are raised or cleared, as JSON with POST. May be given several times.",
    )
    alarm_raise_after: Duration = option(
        30 * SECOND, minimum=0, help="How long something must be wrong before the alarm is raised."
    )
    alarm_clear_after: Duration = option(
        1 * MINUTE, minimum=0, help="How long nothing must be wrong before the alarm is cleared."
    )
    alarm_backlog: int = option(
        1000, minimum=1, help="Messages that must wait in a channel before it can be falling behind."
    )
    alarm_behind_after: Duration = option(
        5 * MINUTE,
        minimum=2 * MINUTE,
        maximum=1 * HOUR,
        help="A channel is falling behind when its backlog has grown in each of the minutes of this time.",
    )
    alarm_disk_full_within: Duration = option(
        24 * HOUR,
        minimum=0,
        help="A backlog is critical when it fills a disk within this time at its present rate.",
    )
    alarm_stuck_after: Duration = option(
        2 * MINUTE,
        minimum=0,
        help="A channel is stuck when it has messages in flight and none is finished for this time. Should be "
        "longer than the message time-out, and than handlers take.",
    )
    alarm_timeout_percent: int = option(
        5, minimum=0, maximum=100, help="Share of the deliveries above which time-outs are an alarm."
    )
    alarm_requeue_percent: int = option(
        10, minimum=0, maximum=100, help="Share of the deliveries above which requeues are an alarm."
    )
    alarm_no_consumer_after: Duration = option(
        2 * MINUTE,
        minimum=0,
        help="How long messages must wait without a consumer, or without a channel, before that is an alarm.",
    )
    alarm_max_age: Duration = option(
        15 * MINUTE, minimum=0, help="Age from which on an unfinished message is an alarm."
    )
    alarm_remember: Duration = option(
        24 * HOUR,
        minimum=0,
        help="How long alarms stay about lost messages, and about nsqds that the registries no longer list.",
    )

    GRAPHITE: ClassVar = Group("Graphite")

    graphite_url: Url = option(
        "", help="Base URL of the Graphite server that has the statsd metrics of the nsqds. Empty: none."
    )
    proxy_graphite: bool = option(
        False, help="Forward requests for /render to the Graphite server, if there is one."
    )
    statsd_prefix: str = option(
        "nsq.%s", help="Must be as --statsd-prefix of the nsqds. %s is replaced by the address of an nsqd."
    )
    statsd_counter_format: str = option(
        "stats.counters.%s.count",
        help="Name of a counter in Graphite. %s is replaced by the name of the metric.",
    )
    statsd_gauge_format: str = option(
        "stats.gauges.%s", help="Name of a gauge in Graphite. %s is replaced by the name of the metric."
    )
    statsd_interval: Duration = option(
        1 * MINUTE, minimum=1 * SECOND, help="Must be as --statsd-interval of the nsqds."
    )

    @property
    def with_registries(self) -> bool:
        """Whether registries tell which nsqds there are."""
        return bool(self.lookupd_http_addresses)


def validate(options: AdminOptions) -> None:
    """Refuse what nsqadmin cannot run with (`OptionError`), and put the base path in its normal form.

    Addresses are not resolved here: see `nsqadmin.daemon`.
    """
    _check_mode(options)
    _check_tls(options)
    _check_token(options)
    if not options.http_address:
        raise refusal(options, "http_address", "--http-address must not be empty")
    check_listen_addresses(options, "http_address")
    if options.allow_config_from_cidr:
        try:
            ipaddress.ip_network(options.allow_config_from_cidr, strict=False)
        except ValueError as error:
            reason = f"failed to parse --allow-config-from-cidr - {error}"
            raise refusal(options, "allow_config_from_cidr", reason) from error
    for field, urls in (
        ("graphite_url", [options.graphite_url]),
        ("notification_http_endpoint", [options.notification_http_endpoint]),
        ("alarm_webhooks", options.alarm_webhooks),
    ):
        for url in filter(None, urls):
            _check_url(options, field, url)
    options.base_path = normal_base_path(options.base_path)
    check_values(options)


def _check_url(options: AdminOptions, field: str, url: str) -> None:
    if not url.lower().startswith(("http://", "https://")):
        flag = next(each.flag for each in options_of(AdminOptions) if each.field == field)
        reason = f"--{flag} must begin with http:// or https://, not {shown_url(url)!r}"
        raise refusal(options, field, reason)


def _check_mode(options: AdminOptions) -> None:
    if options.lookupd_http_addresses and options.nsqd_http_addresses:
        raise OptionError("use --nsqd-http-address or --lookupd-http-address not both")
    if not options.lookupd_http_addresses and not options.nsqd_http_addresses:
        raise OptionError("--nsqd-http-address or --lookupd-http-address required")
    for kind in ("lookupd", "nsqd"):
        field = f"{kind}_http_addresses"
        for address in getattr(options, field):
            try:
                host_and_port(address)
            except ValueError as error:
                reason = f"failed to resolve --{kind}-http-address ({address}) - {error}"
                raise refusal(options, field, reason) from error


def _check_tls(options: AdminOptions) -> None:
    cert, key = options.http_client_tls_cert, options.http_client_tls_key
    if cert and not key:
        raise OptionError("--http-client-tls-key must be specified with --http-client-tls-cert")
    if key and not cert:
        raise OptionError("--http-client-tls-cert must be specified with --http-client-tls-key")
    for name in ("cert", "key", "root_ca_file"):
        _check_readable(options, f"http_client_tls_{name}")
    if cert:
        try:
            client_context(root_ca_file=cert, cert_file=cert, key_file=key)
        except TlsConfigError as error:
            reason = f"failed to load --http-client-tls-cert: {error}"
            raise refusal(options, "http_client_tls_cert", reason) from error
    if authority := options.http_client_tls_root_ca_file:
        try:
            client_context(root_ca_file=authority)
        except TlsConfigError as error:
            reason = f"--http-client-tls-root-ca-file: {error}"
            raise refusal(options, "http_client_tls_root_ca_file", reason) from error


def _check_token(options: AdminOptions) -> None:
    if options.access_token_file:
        try:
            read_own_token(options.access_token_file)
        except TokenFileError as error:
            raise refusal(options, "access_token_file", f"--access-token-file: {error}") from error


def _check_readable(options: AdminOptions, field: str) -> None:
    path = getattr(options, field)
    if not path:
        return
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        reason = f"failed to read --{field.replace('_', '-')} - {error}"
        raise refusal(options, field, reason) from error


def normal_base_path(path: str) -> str:
    """With one slash before each part and none at the end; `/` for nothing."""
    return posixpath.normpath("/" + path.strip("/"))
