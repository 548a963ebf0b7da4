"""The options of nsqd: what can be set, what it is by default, and which values are refused.

`NsqdOptions` is the list of them. Names are those of `/config` and of the configuration file, except `node_id`
(there: `id`). `load` reads command line and file; `validate` is a step of its own, because a daemon locks its data
path before it complains about values.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import zlib
from collections.abc import Sequence
from typing import ClassVar

import attrs

from nsqd.rules import NO_RULES, Rules, parse_rules
from nsqkit.access import EVERYONE_MAY, NOTHING, ScopeError, anonymous_scopes
from nsqkit.options import (
    FLOAT,
    HIDDEN,
    HOUR,
    MILLISECOND,
    MINUTE,
    NO_EFFECT,
    SECOND,
    Address,
    Bytes,
    DaemonOptions,
    Duration,
    FilePath,
    Group,
    OptionError,
    Port,
    TlsRequired,
    TlsVersion,
    check_listen_addresses,
    check_target_addresses,
    check_values,
    option,
    refusal,
    tables,
)
from nsqkit.options import load as load_options
from nsqkit.version import version_line

__all__ = [
    "ADOPTIONS",
    "DURABILITY_LEVELS",
    "FENCES",
    "TOPOLOGY_AWARE",
    "NsqdOptions",
    "chooses_followers",
    "default_node_id",
    "host_name",
    "is_loopback",
    "load",
    "validate",
]

ADOPTIONS = ("manual", "auto")
DURABILITY_LEVELS = ("os", "disk")
FENCES = ("off", "on")
AUTO = "auto"  # as a value of --replicate-to
MAX_COPIES = 16
TOPOLOGY_AWARE = "topology-aware-consumption"

_SYNOPSIS = "takes messages from producers, keeps them, and pushes them to consumers"
_EXAMPLE = """
# a single broker with its files in /var/lib/nsqd
nsqd --data-path=/var/lib/nsqd
# one of several: consumers find it through nsqlookupd
nsqd --data-path=/var/lib/nsqd --lookupd-tcp-address=10.0.0.5:4160 --broadcast-address=10.0.0.7
# then, from any shell
curl -d 'hello' 'http://127.0.0.1:4151/pub?topic=greetings'
# who may do what: make, list and revoke tokens
nsqd token --help
"""
_RULES = """
[[rule]]
topic = "orders.*"
channel = "archive"
max_depth = 1_000_000
max_age = "24h"
policy = "drop_oldest"
"""
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
    """The name of this host."""
    return os.uname().nodename


def default_node_id() -> int:
    """A number below 1024, derived from the host name: the same at each start, and rarely that of another host."""
    digest = hashlib.md5(os.fsencode(host_name()), usedforsecurity=False).digest()
    return zlib.crc32(digest) % 1024


@attrs.define(kw_only=True)
class NsqdOptions(DaemonOptions):
    """Every option of nsqd."""

    log_prefix: str = option("[nsqd] ", help="Prefix of every log line.")
    node_id: int = option(
        factory=default_node_id,
        config_name="id",
        help="Number of this nsqd, 0 to 1023, and part of every message id: each nsqd of a cluster needs "
        "its own. The default is derived from the host name.",
    )

    NETWORK: ClassVar = Group("Network")

    tcp_address: Address = option(
        "0.0.0.0:4150", help="Address for clients: host:port, or the path of a unix socket."
    )
    http_address: Address = option(
        "0.0.0.0:4151",
        help="Address of the HTTP API: host:port, or the path of a unix socket. Empty: no HTTP.",
    )
    https_address: Address = option(
        "0.0.0.0:4152",
        help="Address of the HTTP API over TLS, used only with --tls-cert and --tls-key. Empty: no HTTPS.",
    )
    http_client_connect_timeout: Duration = option(
        2 * SECOND, help="Time to connect to an nsqlookupd or an auth server, for a request over HTTP."
    )
    http_client_request_timeout: Duration = option(5 * SECOND, help="Time for the whole of such a request.")

    DISCOVERY: ClassVar = Group("Discovery")

    nsqlookupd_tcp_addresses: list[Address] = option(
        flag="lookupd-tcp-address",
        help="TCP address of an nsqlookupd. This nsqd registers with it, so that consumers find its topics.",
    )
    lookupd_tls: bool = option(
        False,
        help="Use TLS to the nsqlookupds, on their TCP ports and for requests over HTTPS. Their certificates must be "
        "for the names in --lookupd-tcp-address, and for their --broadcast-address.",
    )
    lookupd_tls_root_ca_file: FilePath = option(
        "",
        help="File (PEM) with the certificate authorities to trust for nsqlookupds. Empty: that of --tls-root-ca-file.",
    )
    lookupd_tls_cert: FilePath = option(
        "", help="Client certificate file (PEM) to show to nsqlookupds, with --lookupd-tls."
    )
    lookupd_tls_key: FilePath = option("", help="Private key file (PEM) of this certificate.")
    broadcast_address: str = option(
        factory=host_name,
        placeholder="HOST",
        help="Host name or address under which clients reach this nsqd. The nsqlookupds hand it out.",
    )
    broadcast_tcp_port: Port = option(
        0,
        minimum=0,
        maximum=_HIGHEST_PORT,
        help="TCP port to register, if clients need another one than nsqd listens on, as with containers. "
        "0: the port it listens on.",
    )
    broadcast_http_port: Port = option(
        0, minimum=0, maximum=_HIGHEST_PORT, help="HTTP port to register. 0: the port it listens on."
    )
    topology_region: str = option(
        "", help="Region of this nsqd, such as a data centre, for topology-aware-consumption."
    )
    topology_zone: str = option("", help="Zone of this nsqd within its region.")

    QUEUES_AND_DISK: ClassVar = Group("Queues and disk")

    data_path: FilePath = option(
        "", help="Existing directory for messages and metadata, one per nsqd. Empty: the current directory."
    )
    import_path: FilePath = option(
        "",
        flag="import",
        config_name=HIDDEN,
        help="Import the data path of an nsqd of the original, which must be stopped, into --data-path, and "
        "exit. PATH is not modified.",
    )
    durability: str = option(
        "os",
        choices=DURABILITY_LEVELS,
        help="What OK to a producer guarantees. os: written to the operating system, survives a crash of "
        "nsqd. disk: synced to disk, survives a power loss, but takes longer.",
    )
    mem_queue_size: int = option(
        10000,
        minimum=0,
        help="Messages of each topic to keep in memory in addition to disk. 0: read every message back from "
        "disk.",
    )
    mem_queue_bytes: Bytes = option(
        64 << 20,
        minimum=0,
        help="Memory for message bodies, for the whole daemon. Messages beyond it are read back from disk.",
    )
    max_bytes_per_file: Bytes = option(
        104857600,
        minimum=0,
        help="Size at which a topic's log continues in a new file. A file is deleted when all of its "
        "messages are finished, unless a rule retains them. 0: each write has a file of its own.",
    )
    sync_every: int = option(
        2500,
        minimum=0,
        help="Sync a topic to disk after this many messages, but at most every 100 ms. 0 or 1: as "
        "--durability=disk.",
    )
    sync_timeout: Duration = option(
        2 * SECOND, minimum=1, help="Longest time that written data stays unsynced."
    )
    min_free_space: Bytes = option(
        64 << 20,
        minimum=0,
        help="Refuse publishes while the disk has less free space than this; consumers continue. 0: never.",
    )
    drain_timeout: Duration = option(
        0,
        minimum=0,
        help="How long a drain (POST /drain, or SIGUSR1) waits for consumers before nsqd exits with the "
        "rest on disk. 0: no limit.",
    )

    COPIES: ClassVar = Group("Copies on other nodes")

    replicate_to: list[Address] = option(
        flag="replicate-to",
        help="Replication address of an nsqd that keeps a copy of everything this one has on disk: host:port. "
        "May be repeated. auto: choose followers from those that nsqlookupds know.",
    )
    copies: int = option(
        0,
        minimum=0,
        help="With --replicate-to=auto: how many copies there are to be, its own included. 0: 2.",
    )
    replace_after: Duration = option(
        10 * MINUTE,
        minimum=SECOND,
        help="With --replicate-to=auto: choose another follower for one that has been away for this long.",
    )
    replication_address: Address = option(
        "",
        help="Keep copies for other nsqds, which connect to this address: host:port. Not the clients' port; "
        "bind it where only nsqds are. Empty: keep none.",
    )
    replication_secret_file: FilePath = option(
        "",
        help="File with a secret of at least 16 bytes, the same on all nsqds that keep copies for one another. "
        "Required unless all addresses of this section are loopback addresses.",
    )
    replication_tls: bool = option(
        False,
        help="Use TLS between nsqds. Both sides show --tls-cert, and verify that of the other side with "
        "--tls-root-ca-file. It must be for the name in --replicate-to.",
    )
    ack_copies: int = option(
        1,
        minimum=1,
        help="Copies, its own included, that must have a message before its producer gets OK. While fewer are "
        "in step, those are enough.",
    )
    min_copies: int = option(
        1, minimum=1, help="Refuse publishes while fewer copies than this, its own included, are in step."
    )
    replica_timeout: Duration = option(
        5 * SECOND,
        minimum=MILLISECOND,
        help="A follower whose acknowledgement is overdue by more than this is out of step until it has caught up.",
    )
    catch_up_rate: Bytes = option(
        50_000_000,
        minimum=0,
        help="Bytes a second for a follower that catches up, in addition to as many as are written in that time. "
        "A follower that is in step is not limited. 0: no limit.",
    )
    scrub_interval: Duration = option(
        168 * HOUR,
        minimum=0,
        help="Compare all that was written long ago with the followers' copies once in this time, and mend what a disk "
        "has damaged. 0: only after POST /replicas/scrub.",
    )
    replica_max_bytes: Bytes = option(
        0,
        minimum=0,
        help="Disk space for copies of other nsqds. 0: no limit. Copies also stop while less than twice "
        "--min-free-space is free.",
    )

    adopt: str = option(
        "manual",
        choices=ADOPTIONS,
        help="Who decides that a copy held here is served, as its nsqd is gone. manual: POST /replicas/adopt. "
        "auto: more than half of that nsqd's nsqlookupds, of at least three.",
    )
    adopt_after: Duration = option(
        1 * MINUTE,
        minimum=2 * SECOND,
        help="How long an nsqd must be silent before its copy is adopted by itself. The same on all nsqds.",
    )
    restart_grace: Duration = option(
        5 * MINUTE,
        minimum=2 * SECOND,
        help="The same, for an nsqd that was stopped in order: it is being restarted, probably.",
    )
    fence: str = option(
        "off",
        choices=FENCES,
        help="When this nsqd hears neither its followers nor more than half of its nsqlookupds: off: go on; what "
        "it delivers, a stand-in may deliver, too. on: deliver and take nothing.",
    )

    stand_in: bool = option(
        False,
        config_name=HIDDEN,
        help="Serve the copy of another nsqd that is in --data-path: its messages go to consumers, and nothing "
        "can be published. nsqd stops when all are finished.",
    )
    stand_in_ports: str = option(
        "4180-4189",
        placeholder="FIRST-LAST",
        help="Ports for stand-ins, two for each copy that is adopted here (POST /replicas/adopt).",
    )

    MESSAGES: ClassVar = Group("Messages")

    msg_timeout: Duration = option(
        1 * MINUTE,
        minimum=0,
        help="Time for a consumer to finish a message before it is requeued. Consumers can ask for another "
        "time. 0: --max-msg-timeout.",
    )
    max_msg_timeout: Duration = option(
        15 * MINUTE,
        minimum=1,
        help="Longest message timeout that a consumer can ask for, or reach by touching a message.",
    )
    max_msg_size: Bytes = option(1048576, minimum=1, help="Largest message body.")
    max_body_size: Bytes = option(
        5242880, minimum=1, help="Largest command body: a batch of messages (MPUB), IDENTIFY, AUTH."
    )
    max_req_timeout: Duration = option(
        1 * HOUR, minimum=0, help="Longest delay of a requeued message, and of one published with a delay."
    )

    CLIENTS: ClassVar = Group("Clients")

    max_rdy_count: int = option(
        2500,
        minimum=0,
        help="Highest RDY count, that is, number of messages that a consumer can have in flight.",
    )
    max_topics: int = option(
        100_000,
        minimum=0,
        help="Topics that clients can have created. Those that exist are served. 0: no limit.",
    )
    max_channels: int = option(
        200_000,
        minimum=0,
        help="Channels that clients can have created, of all topics together. 0: no limit.",
    )
    max_names_per_connection: int = option(
        10_000,
        minimum=0,
        help="Topics and channels that one TCP connection can create: a loop that makes up names ends here. 0: no "
        "limit.",
    )
    max_connections_per_address: int = option(
        20_000,
        minimum=0,
        help="TCP connections of one address, of IPv6 of one network of 64 bits. Unix sockets are not limited. 0: no "
        "limit.",
    )
    max_channel_consumers: int = option(
        0, minimum=0, help="Maximum number of consumers of one channel. 0: no limit."
    )
    max_heartbeat_interval: Duration = option(
        1 * MINUTE, minimum=0, help="Longest time between heartbeats that a client can ask for."
    )
    max_buffered_bytes: Bytes = option(
        256 << 20,
        minimum=1,
        help="Memory, for the whole daemon, for commands that have not fully arrived and responses that "
        "clients have not read yet. When it is used up, those that hold most of it are closed.",
    )
    max_output_buffer_size: Bytes = option(
        65536, minimum=0, help="Largest output buffer that a client can ask for."
    )
    max_output_buffer_timeout: Duration = option(
        30 * SECOND, minimum=0, help="Longest time that a client can ask for to have its output buffered."
    )
    min_output_buffer_timeout: Duration = option(
        25 * MILLISECOND,
        minimum=0,
        help="Shortest time that a client can ask for to have its output buffered.",
    )
    output_buffer_timeout: Duration = option(
        250 * MILLISECOND,
        minimum=0,
        help="That time for clients that ask for none. It does not delay messages to an idle consumer.",
    )
    enable_experiment: list[str] = option(
        placeholder="NAME",
        help="Enable an experimental feature. topology-aware-consumption: prefer consumers in the same "
        "zone, then in the same region.",
    )

    COMPRESSION: ClassVar = Group("Compression")

    deflate: bool = option(True, help="Let clients compress with deflate.")
    max_deflate_level: int = option(
        6, help="Highest deflate level that a client can ask for, 1 (fast) to 9 (small)."
    )
    snappy: bool = option(True, help="Let clients compress with snappy.")

    TLS: ClassVar = Group("TLS")

    tls_cert: FilePath = option(
        "", help="Certificate file (PEM), including the chain. With --tls-key it enables TLS."
    )
    tls_key: FilePath = option("", help="Private key file (PEM) of the certificate, not encrypted.")
    tls_required: TlsRequired = option(
        TlsRequired.NO, help="Refuse clients without TLS, over TCP and HTTP. tcp-https: allow plain HTTP."
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

    auth_http_addresses: list[Address] = option(
        flag="auth-http-address",
        help="Auth server, which decides what each client of the TCP port may do: host:port or a URL. Clients must "
        "then send AUTH. For HTTP see --tokens-file.",
    )
    auth_http_request_method: str = option(
        "get", choices=("post", "get"), help="HTTP method for requests to the auth server."
    )
    tokens_file: FilePath = option(
        "",
        help="File of tokens, made with nsqd token new. A client sends its token with AUTH, or in the HTTP header "
        "Authorization. The file is read again when it changes.",
    )
    anonymous: str = option(
        EVERYONE_MAY,
        placeholder="SCOPES",
        help="What clients without a token may do: scopes with commas between them, or none.",
    )
    access_token_file: FilePath = option(
        "",
        help="File with the token that this nsqd sends to its nsqlookupds. It needs the scope operate there.",
    )
    debug_endpoints: str = option(
        "on",
        choices=("on", "off"),
        help="Whether profiles and the like can be asked for. off: nothing below /debug is there.",
    )
    hide_version: bool = option(
        False,
        help="Do not tell clients version and topology in the answer to IDENTIFY, which they get before AUTH.",
    )
    http_allowed_hosts: list[str] = option(
        flag="http-allowed-hosts",
        placeholder="NAME",
        help="Names, or name:port, by which HTTP clients reach this nsqd, with commas between them. Others are "
        "refused, but IP addresses, localhost and --broadcast-address are always allowed.",
    )

    METRICS: ClassVar = Group("Metrics")

    statsd_address: Address = option(
        "", help="statsd daemon to send metrics to: host:port, UDP. Empty: none."
    )
    statsd_prefix: str = option(
        "nsq.%s",
        help="Prefix of the name of every metric. %s is replaced by the broadcast address and HTTP port.",
    )
    statsd_interval: Duration = option(1 * MINUTE, minimum=1, help="Time between two pushes to statsd.")
    statsd_mem_stats: bool = option(True, help="Send metrics of memory use, too.")
    statsd_udp_packet_size: Bytes = option(508, minimum=1, help="Largest datagram to statsd.")
    statsd_exclude_ephemeral: bool = option(
        False, help="Send no metrics of ephemeral topics and channels (names that end in #ephemeral)."
    )
    e2e_processing_latency_percentiles: list[float] = option(
        flag="e2e-processing-latency-percentile",
        help="Measure the time from publish to finish at these quantiles, each in (0, 1]: 0.99,0.95,0.5.",
    )
    e2e_processing_latency_window_time: Duration = option(
        10 * MINUTE, minimum=1, help="Period that these measurements cover."
    )

    rules: Rules = tables(
        NO_RULES,
        key="rule",
        parse=parse_rules,
        help="Rules: what is set for the topics and channels whose names match, where * stands for any characters. "
        "For each setting the first rule that matches and has it wins. docs/queues.md describes them.",
        example=_RULES,
    )

    WITHOUT_EFFECT: ClassVar = NO_EFFECT

    worker_id: bool = option(
        False, config_name=HIDDEN, help="Use --node-id instead. It has no effect in the original, either."
    )
    queue_scan_worker_pool_max: int = option(
        4, help="In the original, the maximum number of workers that look for expired messages."
    )
    queue_scan_selection_count: int = option(
        20, help="In the original, the number of channels that these workers look at in one pass."
    )


def validate(options: NsqdOptions) -> None:
    """Refuse values that nsqd cannot run with (`OptionError`), and set what one option implies for another.

    A client certificate policy makes TLS required; `sync_every` of 1 (or 0) makes the durability `disk`; `msg_timeout`
    of 0 becomes the longest one.
    With `--replicate-to=auto`, `copies` of 0 becomes 2. Files and addresses are not looked at.
    """
    if not 1 <= options.max_deflate_level <= 9:
        raise refusal(options, "max_deflate_level", "--max-deflate-level must be [1,9]")
    if not 0 <= options.node_id < 1024:
        raise refusal(options, "node_id", "--node-id must be [0,1024)")
    _require_tls(options)
    for percentile in options.e2e_processing_latency_percentiles:
        if not 0 < percentile <= 1:
            reason = f"invalid E2E processing latency percentile: {FLOAT.to_text(percentile)}"
            raise refusal(options, "e2e_processing_latency_percentiles", reason)
    check_values(options)
    check_listen_addresses(options, "tcp_address", "http_address", "https_address", "replication_address")
    check_target_addresses(options, "nsqlookupd_tcp_addresses", "lookupd-tcp-address")
    if AUTO in options.replicate_to:
        _check_auto(options)
    else:
        check_target_addresses(options, "replicate_to", "replicate-to")
    _check_lookupd_tls(options)
    _check_copies(options)
    _check_access(options)
    check_target_addresses(options, "statsd_address", "statsd-address")
    if options.sync_every in (0, 1):
        options.durability = "disk"
    if not options.msg_timeout:
        options.msg_timeout = options.max_msg_timeout


def chooses_followers(options: NsqdOptions) -> bool:
    """Whether followers are not configured, but chosen by this nsqd itself."""
    return options.replicate_to == [AUTO]


def _check_lookupd_tls(options: NsqdOptions) -> None:
    for name in ("lookupd_tls_root_ca_file", "lookupd_tls_cert", "lookupd_tls_key"):
        if getattr(options, name) and not options.lookupd_tls:
            raise refusal(options, name, f"--{name.replace('_', '-')} needs --lookupd-tls")


def _check_access(options: NsqdOptions) -> None:
    try:
        nobody = anonymous_scopes(options.anonymous) == NOTHING
    except ScopeError as error:
        raise refusal(options, "anonymous", f"--anonymous: {error}") from None
    if nobody and not (options.tokens_file or options.auth_http_addresses):
        reason = "--anonymous=none needs --tokens-file (or --auth-http-address): nobody could do anything"
        raise refusal(options, "anonymous", reason)


def stand_in_ports(options: NsqdOptions) -> range:
    """The ports of `--stand-in-ports`. `OptionError`."""
    first, dash, last = options.stand_in_ports.partition("-")
    if dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit():
        ports = range(int(first), int(last) + 1)
        if len(ports) >= 2 and ports[0] > 0 and ports[-1] <= _HIGHEST_PORT:
            return ports
    reason = f"--stand-in-ports must be FIRST-LAST, two ports at least, not {options.stand_in_ports!r}"
    raise refusal(options, "stand_in_ports", reason)


def _check_copies(options: NsqdOptions) -> None:
    if options.replication_tls and not (options.tls_cert and options.tls_key and options.tls_root_ca_file):
        reason = "--replication-tls needs --tls-cert, --tls-key and --tls-root-ca-file"
        raise refusal(options, "replication_tls", reason)
    stand_in_ports(options)
    if options.copies and not chooses_followers(options):
        raise refusal(options, "copies", "--copies needs --replicate-to=auto")
    most = options.copies or 1 + len(options.replicate_to)
    for name in ("ack_copies", "min_copies"):
        if getattr(options, name) > most:
            flag = name.replace("_", "-")
            there = (
                f"--copies is {most}"
                if options.copies
                else f"there are {most - 1} addresses in --replicate-to"
            )
            raise refusal(options, name, f"--{flag} must be [1,{most}]: {there}")
    if len(set(options.replicate_to)) < len(options.replicate_to):
        raise refusal(options, "replicate_to", "--replicate-to names an address twice")
    if options.adopt == "auto" and not options.replication_address:
        raise refusal(
            options, "adopt", "--adopt=auto needs --replication-address: without it there are no copies here"
        )
    if options.fence == "on" and not options.replicate_to:
        raise refusal(
            options, "fence", "--fence=on needs --replicate-to: without it nobody else can serve this"
        )
    if options.replication_secret_file:
        return
    for field, addresses in (
        ("replication_address", [options.replication_address]),
        ("replicate_to", [] if chooses_followers(options) else options.replicate_to),
    ):
        for address in addresses:
            if address and not is_loopback(address):
                flag = field.replace("_", "-")
                reason = f"--{flag}={address} is no loopback address, and needs --replication-secret-file"
                raise refusal(options, field, reason)


def _check_auto(options: NsqdOptions) -> None:
    if not chooses_followers(options):
        raise refusal(options, "replicate_to", "--replicate-to=auto together with an address")
    options.copies = options.copies or 2
    if not 2 <= options.copies <= MAX_COPIES:
        raise refusal(options, "copies", f"--copies must be [2,{MAX_COPIES}]")
    if not options.nsqlookupd_tcp_addresses:
        reason = (
            "--replicate-to=auto needs --lookupd-tcp-address: followers are chosen among those known there"
        )
        raise refusal(options, "replicate_to", reason)
    on_loopback = is_loopback(options.replication_address) or options.stand_in  # which listens for nobody
    if not options.replication_secret_file and not on_loopback:
        # Else whoever can announce an nsqd to a registry would be sent everything.
        raise refusal(options, "replicate_to", "--replicate-to=auto needs --replication-secret-file")


def is_loopback(address: str) -> bool:
    """Whether a `host:port` is on this machine for sure."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_tls(options: NsqdOptions) -> None:
    if options.tls_client_auth_policy and options.tls_required is TlsRequired.NO:
        options.tls_required = TlsRequired.YES
    has_certificate = options.tls_cert or options.tls_key  # one without the other fails when they are loaded
    if options.tls_required is not TlsRequired.NO and not has_certificate:
        raise OptionError("cannot require TLS client connections without TLS key and cert")
