"""The options of nsqadmin: what can be set, what it is by default, and which values are refused.

Durations are nanoseconds. `load` reads command line and file, `validate` looks at the values. Which daemons are asked
decides the mode: with registries, they tell which nsqds there are; without, the nsqds are those that are named.
"""

from __future__ import annotations

import ipaddress
import posixpath
import ssl
from collections.abc import Sequence
from pathlib import Path

import attrs

from nsqadmin.addresses import host_and_port
from nsqkit.logging import LOG_FORMATS, TEXT
from nsqkit.options import DURATION, HIDDEN, STRINGS, LogLevel, OptionError, check_bounds, option
from nsqkit.options import load as load_options
from nsqkit.tls import TlsConfigError, client_context
from nsqkit.version import version_line

__all__ = ["AdminOptions", "load", "normal_base_path", "validate"]

_SYNOPSIS = "shows and steers a cluster of nsqds in a browser"
_EXAMPLE = """
# a cluster with registries: they tell which nsqds there are
nsqadmin --lookupd-http-address=127.0.0.1:4161
# a single nsqd, without any
nsqadmin --nsqd-http-address=127.0.0.1:4151
# behind a proxy that signs people in, only two of whom may change things
nsqadmin --lookupd-http-address=lookup:4161 --base-path=/nsq --admin-user=ann --admin-user=bob
# then look at http://127.0.0.1:4171/
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
class AdminOptions:
    """Every option of nsqadmin; the groups are those of the help."""

    # --- General ---
    verbose: bool = option(False, config_name=HIDDEN, help="Accepted, no effect here.")
    log_level: LogLevel = option(
        LogLevel.INFO, help="Least serious lines to log: debug, info, warn, error or fatal."
    )
    log_prefix: str = option("[nsqadmin] ", help="What every log line begins with.")
    log_format: str = option(
        TEXT,
        placeholder="FORMAT",
        help="Form of the log lines: text, or json, one JSON object a line. Not known to the original.",
    )

    # --- Cluster ---
    lookupd_http_addresses: list[str] = option(
        kind=STRINGS,
        flag="lookupd-http-address",
        config_name="nsqlookupd_http_addresses",
        group="Cluster",
        placeholder="ADDRESS",
        help="HTTP address (host:port) of an nsqlookupd. Either these, or nsqds.",
    )
    nsqd_http_addresses: list[str] = option(
        kind=STRINGS,
        flag="nsqd-http-address",
        config_name="nsqd_http_addresses",
        group="Cluster",
        placeholder="ADDRESS",
        help="HTTP address (host:port) of an nsqd. Either these, or nsqlookupds.",
    )
    poll_interval: int = option(
        "5s",
        kind=DURATION,
        group="Cluster",
        minimum=100_000_000,
        maximum=3_600_000_000_000,
        help="How often every daemon is asked for what the pages show.",
    )
    history_bytes: int = option(
        64 * 1024 * 1024,
        group="Cluster",
        placeholder="BYTES",
        minimum=0,
        help="Memory for the rates and depths of the last hours; the more topics are busy, the shorter they reach "
        "back.",
    )

    # --- Web ---
    http_address: str = option(
        "0.0.0.0:4171",
        group="Web",
        placeholder="ADDRESS",
        help="Where the console listens: host:port, or a path for a unix socket.",
    )
    base_path: str = option("/", group="Web", placeholder="PATH", help="Path below which everything is.")
    dev_static_dir: str = option(
        "",
        group="Web",
        placeholder="PATH",
        help="Folder with other files for /static: for who works on them.",
    )

    # --- Access ---
    acl_http_header: str = option(
        "X-Forwarded-User",
        group="Access",
        placeholder="NAME",
        help="Request header in which a proxy in front says who is signed in.",
    )
    admin_users: list[str] = option(
        kind=STRINGS,
        flag="admin-user",
        group="Access",
        placeholder="NAME",
        help="Who may change things. Without any, everybody may.",
    )
    allow_config_from_cidr: str = option(
        "127.0.0.1/8",
        group="Access",
        placeholder="CIDR",
        help="Clients that may use /config. Empty: all.",
    )

    # --- Requests to other daemons ---
    http_client_connect_timeout: int = option(
        "2s", kind=DURATION, group="Requests", minimum=0, help="Limit for a connection; 0: none."
    )
    http_client_request_timeout: int = option(
        "5s", kind=DURATION, group="Requests", minimum=0, help="Limit for a whole request; 0: none."
    )
    http_client_tls_insecure_skip_verify: bool = option(
        False, group="Requests", help="Believe any certificate of an nsqd or nsqlookupd. For tests."
    )
    http_client_tls_root_ca_file: str = option(
        "",
        group="Requests",
        placeholder="PATH",
        help="Certificates (PEM) of the authorities that are believed.",
    )
    http_client_tls_cert: str = option(
        "", group="Requests", placeholder="PATH", help="Certificate (PEM) shown to other daemons."
    )
    http_client_tls_key: str = option("", group="Requests", placeholder="PATH", help="Its key.")
    notification_http_endpoint: str = option(
        "", group="Requests", placeholder="URL", help="Where every change is reported, as JSON by POST."
    )

    # --- Graphite ---
    graphite_url: str = option(
        "",
        group="Graphite",
        placeholder="URL",
        help="Graphite with the daemons' statsd figures. Empty: none.",
    )
    proxy_graphite: bool = option(False, group="Graphite", help="Hand /render on to it.")
    statsd_prefix: str = option("nsq.%s", group="Graphite", help="As nsqd's; %s stands for the node.")
    statsd_counter_format: str = option(
        "stats.counters.%s.count", group="Graphite", help="How statsd names a counter in Graphite."
    )
    statsd_gauge_format: str = option(
        "stats.gauges.%s", group="Graphite", help="How statsd names a gauge in Graphite."
    )
    statsd_interval: int = option(
        "1m", kind=DURATION, group="Graphite", minimum=1_000_000_000, help="As nsqd's."
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
    if not options.http_address:
        raise OptionError("--http-address must not be empty")
    if options.log_format not in LOG_FORMATS:
        raise OptionError(f"--log-format must be {' or '.join(LOG_FORMATS)}")
    if options.allow_config_from_cidr:
        try:
            ipaddress.ip_network(options.allow_config_from_cidr, strict=False)
        except ValueError as error:
            raise OptionError(f"failed to parse --allow-config-from-cidr - {error}") from error
    for flag, url in (
        ("graphite-url", options.graphite_url),
        ("notification-http-endpoint", options.notification_http_endpoint),
    ):
        if url and not url.startswith(("http://", "https://")):
            raise OptionError(f"--{flag} must begin with http:// or https://, not {url!r}")
    if options.proxy_graphite and not options.graphite_url:
        raise OptionError("--proxy-graphite needs --graphite-url")
    options.base_path = normal_base_path(options.base_path)
    check_bounds(options)


def _check_mode(options: AdminOptions) -> None:
    if options.lookupd_http_addresses and options.nsqd_http_addresses:
        raise OptionError("use --nsqd-http-address or --lookupd-http-address not both")
    if not options.lookupd_http_addresses and not options.nsqd_http_addresses:
        raise OptionError("--nsqd-http-address or --lookupd-http-address required")
    for flag, addresses in (
        ("lookupd-http-address", options.lookupd_http_addresses),
        ("nsqd-http-address", options.nsqd_http_addresses),
    ):
        for address in addresses:
            try:
                host_and_port(address)
            except ValueError as error:
                raise OptionError(f"failed to resolve --{flag} ({address}) - {error}") from error


def _check_tls(options: AdminOptions) -> None:
    cert, key = options.http_client_tls_cert, options.http_client_tls_key
    if cert and not key:
        raise OptionError("--http-client-tls-key must be specified with --http-client-tls-cert")
    if key and not cert:
        raise OptionError("--http-client-tls-cert must be specified with --http-client-tls-key")
    for flag, path in (("cert", cert), ("key", key), ("root-ca-file", options.http_client_tls_root_ca_file)):
        if path:
            _check_readable(flag, path)
    if cert:
        try:
            ssl.create_default_context().load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise OptionError(f"failed to load --http-client-tls-cert {cert!r}: {error}") from error
    if authority := options.http_client_tls_root_ca_file:
        try:
            client_context(root_ca_file=authority)
        except TlsConfigError as error:
            raise OptionError(f"--http-client-tls-root-ca-file: {error}") from error


def _check_readable(flag: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise OptionError(f"failed to read --http-client-tls-{flag} - {error}") from error


def normal_base_path(path: str) -> str:
    """With one slash before each part and none at the end; `/` for nothing."""
    return posixpath.normpath("/" + path.strip("/"))
