"""The options of nsqd: what can be set, what it is by default, and which values are refused.

`NsqdOptions` is the list of them. Names are those of `/config` and of the configuration file, except
`node_id` (there: `id`). Durations are nanoseconds. `load` reads command line and file; `validate` is a step
of its own, for a daemon locks its data path before it complains about values.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence

import attrs

from nsqkit.logging import LOG_FORMATS, TEXT
from nsqkit.options import (
    DURATION,
    FLOAT,
    FLOATS,
    HIDDEN,
    INT,
    STRING,
    STRINGS,
    LogLevel,
    OptionError,
    TlsRequired,
    TlsVersion,
    check_bounds,
    option,
)
from nsqkit.options import load as load_options
from nsqkit.version import version_line

__all__ = ["DURABILITY_LEVELS", "TOPOLOGY_AWARE", "NsqdOptions", "default_node_id", "load", "validate"]

DURABILITY_LEVELS = ("os", "disk")
TOPOLOGY_AWARE = "topology-aware-consumption"

_SYNOPSIS = "takes messages from producers, keeps them, and pushes them to consumers"
_EXAMPLE = """
# a single broker that keeps its files in /var/lib/nsqd
nsqd --data-path=/var/lib/nsqd
# one of many: consumers find it through nsqlookupd
nsqd --data-path=/var/lib/nsqd --lookupd-tcp-address=10.0.0.5:4160 --broadcast-address=10.0.0.7
# then, from any shell
curl -d 'hello' 'http://127.0.0.1:4151/pub?topic=greetings'
"""
_NO_EFFECT = "Accepted, no effect here."
_HIGHEST_PORT = 65535


def load(argv: Sequence[str]) -> NsqdOptions:
    """The options for this command line (without the program's name), or the end of the program."""
    return load_options(
        NsqdOptions,
        argv,
        program="nsqd",
        version=version_line("nsqd"),
        synopsis=_SYNOPSIS,
        example=_EXAMPLE,
    )


def host_name() -> str:
    """What this machine calls itself."""
    return os.uname().nodename


def default_node_id() -> int:
    """A number below 1024 that a host keeps and that hosts seldom share."""
    digest = hashlib.md5(os.fsencode(host_name()), usedforsecurity=False).digest()
    return zlib.crc32(digest) % 1024


@attrs.define(kw_only=True)
class NsqdOptions:
    """Every option of nsqd; the groups are those of the help."""

    # --- General ---
    verbose: bool = option(False, config_name=HIDDEN, help=_NO_EFFECT)
    log_level: LogLevel = option(
        LogLevel.INFO, help="Least serious lines to log: debug, info, warn, error or fatal."
    )
    log_prefix: str = option("[nsqd] ", help="What every log line begins with.")
    log_format: str = option(
        TEXT,
        placeholder="FORMAT",
        help="Form of the log lines: text, or json, one JSON object a line. Not known to the original.",
    )
    node_id: int = option(
        config_name="id",
        factory=default_node_id,
        kind=INT,
        help="Number of this nsqd in [0,1024), part of every message id: give each nsqd of a cluster its "
        "own. The default is computed from the host name.",
    )
    worker_id: bool = option(False, config_name=HIDDEN, help=_NO_EFFECT)

    # --- Network ---
    tcp_address: str = option(
        "0.0.0.0:4150",
        group="Network",
        placeholder="ADDRESS",
        help="Where clients connect: host:port, or a path for a unix socket.",
    )
    http_address: str = option(
        "0.0.0.0:4151",
        group="Network",
        placeholder="ADDRESS",
        help="Where the HTTP interface listens: host:port, or a path for a unix socket. Empty: nowhere.",
    )
    https_address: str = option(
        "0.0.0.0:4152",
        group="Network",
        placeholder="ADDRESS",
        help="The same over TLS; used only with --tls-cert and --tls-key. Empty: nowhere.",
    )
    http_client_connect_timeout: int = option(
        "2s",
        kind=DURATION,
        group="Network",
        help="How long to try to connect when asking an nsqlookupd or an authorization server over HTTP.",
    )
    http_client_request_timeout: int = option(
        "5s", kind=DURATION, group="Network", help="How long such a request may take altogether."
    )

    # --- Discovery ---
    nsqlookupd_tcp_addresses: list[str] = option(
        kind=STRINGS,
        flag="lookupd-tcp-address",
        group="Discovery",
        placeholder="ADDRESS",
        help="An nsqlookupd to announce this nsqd and its topics to, so that consumers find them.",
    )
    broadcast_address: str = option(
        factory=host_name,
        kind=STRING,
        group="Discovery",
        placeholder="HOST",
        help="Host name or address under which others reach this nsqd; the nsqlookupds pass it on.",
    )
    broadcast_tcp_port: int = option(
        0,
        group="Discovery",
        placeholder="PORT",
        minimum=0,
        maximum=_HIGHEST_PORT,
        help="TCP port to announce, e.g. outside of a container. 0: the one it listens on.",
    )
    broadcast_http_port: int = option(
        0,
        group="Discovery",
        placeholder="PORT",
        minimum=0,
        maximum=_HIGHEST_PORT,
        help="HTTP port to announce. 0: the one it listens on.",
    )
    topology_region: str = option(
        "", group="Discovery", help="Region (say, a data centre) that this nsqd stands in."
    )
    topology_zone: str = option("", group="Discovery", help="Zone within the region.")

    # --- Queues and disk ---
    data_path: str = option(
        "",
        group="Queues and disk",
        placeholder="PATH",
        help="Existing folder for everything that must survive a restart; one nsqd to a folder. Empty: the "
        "current folder.",
    )
    import_path: str = option(
        "",
        flag="import",
        config_name=HIDDEN,
        group="Queues and disk",
        placeholder="PATH",
        help="Import the data path of the original nsqd, which must not run, into --data-path, and end. "
        "PATH is not changed.",
    )
    durability: str = option(
        "os",
        group="Queues and disk",
        placeholder="LEVEL",
        help="What an OK to a producer means. os: written to the operating system, survives a killed "
        "process. disk: synced to the disk, survives a power loss, and takes longer.",
    )
    mem_queue_size: int = option(
        10000,
        group="Queues and disk",
        minimum=0,
        help="Messages of a topic to hold in memory, beside the disk. 0: read them all back from disk.",
    )
    mem_queue_bytes: int = option(
        64 << 20,
        group="Queues and disk",
        placeholder="BYTES",
        minimum=0,
        help="Memory for message bodies in the whole daemon. What does not fit is read back from disk.",
    )
    max_bytes_per_file: int = option(
        104857600,
        group="Queues and disk",
        placeholder="BYTES",
        minimum=1,
        help="Size at which a topic's log goes on in a new file; a file is deleted once all in it is "
        "finished.",
    )
    sync_every: int = option(
        2500,
        group="Queues and disk",
        minimum=0,
        help="Sync to the disk after this many messages of a topic, at most every 0.1 s. 1 is the same as "
        "--durability=disk.",
    )
    sync_timeout: int = option(
        "2s",
        kind=DURATION,
        group="Queues and disk",
        minimum=1,
        help="Sync at the latest after this time, when something was written.",
    )
    min_free_space: int = option(
        64 << 20,
        group="Queues and disk",
        placeholder="BYTES",
        minimum=0,
        help="Refuse to take messages while the disk has less room than this; consumers go on. 0: never.",
    )
    drain_timeout: int = option(
        "0s",
        kind=DURATION,
        group="Queues and disk",
        minimum=0,
        help="How long a drain (POST /drain, or SIGUSR1) may wait for consumers before nsqd stops and keeps the rest "
        "on disk. 0: as long as it takes.",
    )
    queue_scan_worker_pool_max: int = option(4, group="Queues and disk", help=_NO_EFFECT)
    queue_scan_selection_count: int = option(20, group="Queues and disk", help=_NO_EFFECT)

    # --- Messages ---
    msg_timeout: int = option(
        "1m",
        kind=DURATION,
        group="Messages",
        minimum=1,
        help="How long a consumer has to finish a message before it goes to another one. Consumers can ask "
        "for a time of their own.",
    )
    max_msg_timeout: int = option(
        "15m",
        kind=DURATION,
        group="Messages",
        minimum=1,
        help="The longest time that a consumer can ask for, and can stretch to by touching a message.",
    )
    max_msg_size: int = option(
        1048576, group="Messages", placeholder="BYTES", minimum=1, help="The largest message body."
    )
    max_body_size: int = option(
        5242880,
        group="Messages",
        placeholder="BYTES",
        minimum=1,
        help="The largest command body: a batch of messages (MPUB), IDENTIFY, AUTH.",
    )
    max_req_timeout: int = option(
        "1h",
        kind=DURATION,
        group="Messages",
        minimum=0,
        help="The longest delay for a requeued message and for one published with a delay.",
    )

    # --- Clients ---
    max_rdy_count: int = option(
        2500,
        group="Clients",
        minimum=0,
        help="The most messages that a consumer can ask to be sent before it has finished any (RDY).",
    )
    max_channel_consumers: int = option(
        0, group="Clients", minimum=0, help="The most consumers on one channel. 0: no limit."
    )
    max_heartbeat_interval: int = option(
        "1m",
        kind=DURATION,
        group="Clients",
        minimum=0,
        help="The longest time between heartbeats that a client can ask for.",
    )
    max_buffered_bytes: int = option(
        256 << 20,
        group="Clients",
        placeholder="BYTES",
        minimum=1,
        help="Memory, in the whole daemon, for commands that have not fully arrived and answers that have "
        "not yet been read.",
    )
    max_output_buffer_size: int = option(
        65536,
        group="Clients",
        placeholder="BYTES",
        minimum=0,
        help="The largest output buffer that a client can ask for.",
    )
    max_output_buffer_timeout: int = option(
        "30s",
        kind=DURATION,
        group="Clients",
        minimum=0,
        help="The longest time that a client can ask for to have its output gathered.",
    )
    min_output_buffer_timeout: int = option(
        "25ms", kind=DURATION, group="Clients", minimum=0, help="The shortest such time."
    )
    output_buffer_timeout: int = option(
        "250ms",
        kind=DURATION,
        group="Clients",
        minimum=0,
        help="That time for clients that do not ask. It never makes an idle consumer wait.",
    )
    enable_experiment: list[str] = option(
        kind=STRINGS,
        group="Clients",
        placeholder="NAME",
        help="Switch on something new. topology-aware-consumption: prefer consumers of the same zone, then "
        "of the same region.",
    )

    # --- Compression ---
    deflate: bool = option(
        True,
        group="Compression",
        help="Let clients compress with deflate.",
    )
    max_deflate_level: int = option(
        6,
        group="Compression",
        help="The highest deflate level that a client can ask for, 1 to 9: smaller output for more CPU.",
    )
    snappy: bool = option(
        True,
        group="Compression",
        help="Let clients compress with snappy.",
    )

    # --- TLS ---
    tls_cert: str = option(
        "",
        group="TLS",
        placeholder="PATH",
        help="Certificate file (PEM), with the chain behind it. With --tls-key it switches TLS on.",
    )
    tls_key: str = option(
        "", group="TLS", placeholder="PATH", help="Key file (PEM) of the certificate, not encrypted."
    )
    tls_required: TlsRequired = option(
        TlsRequired.NO,
        group="TLS",
        help="Turn away clients without TLS, over TCP and HTTP. tcp-https: plain HTTP stays open.",
    )
    tls_min_version: TlsVersion = option(
        TlsVersion.TLS1_0,
        group="TLS",
        help="The oldest version to accept: tls1.0, tls1.1, tls1.2 or tls1.3. Below tls1.2 weak signatures "
        "are accepted, too.",
    )
    tls_client_auth_policy: str = option(
        "",
        group="TLS",
        placeholder="POLICY",
        help="Ask clients for a certificate. require: any will do. require-verify: one signed by the root "
        "CA. Makes TLS required.",
    )
    tls_root_ca_file: str = option(
        "",
        group="TLS",
        placeholder="PATH",
        help="File (PEM) with the authorities whose certificates are trusted.",
    )

    # --- Authorization ---
    auth_http_addresses: list[str] = option(
        kind=STRINGS,
        flag="auth-http-address",
        group="Authorization",
        placeholder="ADDRESS",
        help="A server that decides what each client may do: host:port or a full URL. With one, clients "
        "must AUTH. The HTTP interface asks nobody.",
    )
    auth_http_request_method: str = option(
        "get", group="Authorization", placeholder="METHOD", help="How to ask it: get or post."
    )

    # --- Metrics ---
    statsd_address: str = option(
        "",
        group="Metrics",
        placeholder="ADDRESS",
        help="host:port of a statsd daemon to send counters and gauges to, over UDP. Empty: none.",
    )
    statsd_prefix: str = option(
        "nsq.%s",
        group="Metrics",
        help="What every metric's name begins with; %s stands for the broadcast address and HTTP port.",
    )
    statsd_interval: int = option(
        "1m", kind=DURATION, group="Metrics", minimum=1, help="Time between two pushes."
    )
    statsd_mem_stats: bool = option(True, group="Metrics", help="Send figures on memory too.")
    statsd_udp_packet_size: int = option(
        508, group="Metrics", placeholder="BYTES", minimum=1, help="The largest datagram."
    )
    statsd_exclude_ephemeral: bool = option(
        False, group="Metrics", help="Leave out topics and channels that end in #ephemeral."
    )
    e2e_processing_latency_percentiles: list[float] = option(
        kind=FLOATS,
        flag="e2e-processing-latency-percentile",
        group="Metrics",
        help="Measure the time from publish to finish at these quantiles, each in (0, 1]: 0.99,0.95,0.5.",
    )
    e2e_processing_latency_window_time: int = option(
        "10m",
        kind=DURATION,
        group="Metrics",
        minimum=1,
        help="How far back these measurements reach.",
    )


def validate(options: NsqdOptions) -> None:
    """Refuse what nsqd cannot run with (`OptionError`), and fill in what one option implies for another.

    A client certificate policy makes TLS required; `sync_every` of 1 (or 0) makes the durability `disk`.
    Files and addresses are not looked at.
    """
    if options.log_format not in LOG_FORMATS:
        raise OptionError(f"--log-format must be {' or '.join(LOG_FORMATS)}")
    if not 1 <= options.max_deflate_level <= 9:
        raise OptionError("--max-deflate-level must be [1,9]")
    if not 0 <= options.node_id < 1024:
        raise OptionError("--node-id must be [0,1024)")
    _settle_tls(options)
    if options.auth_http_request_method not in ("get", "post"):
        raise OptionError("--auth-http-request-method must be post or get")
    for percentile in options.e2e_processing_latency_percentiles:
        if not 0 < percentile <= 1:
            raise OptionError(f"invalid E2E processing latency percentile: {FLOAT.to_text(percentile)}")
    _settle_durability(options)
    check_bounds(options)


def _settle_tls(options: NsqdOptions) -> None:
    if options.tls_client_auth_policy and options.tls_required is TlsRequired.NO:
        options.tls_required = TlsRequired.YES
    has_certificate = options.tls_cert or options.tls_key  # one without the other fails when they are loaded
    if options.tls_required is not TlsRequired.NO and not has_certificate:
        raise OptionError("cannot require TLS client connections without TLS key and cert")


def _settle_durability(options: NsqdOptions) -> None:
    if options.durability not in DURABILITY_LEVELS:
        raise OptionError(f"--durability must be os or disk, not {options.durability!r}")
    if options.sync_every in (0, 1):
        options.durability = "disk"
