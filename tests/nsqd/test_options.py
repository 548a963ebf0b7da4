"""The options of nsqd: names, kinds and defaults, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from nsqd import options as module
from nsqd.options import NsqdOptions, chooses_followers, default_node_id, load, validate
from nsqkit.options import (
    BOOL,
    DURATION,
    FLOATS,
    HIDDEN,
    INT,
    LOG_LEVEL,
    STRING,
    STRINGS,
    TLS_REQUIRED,
    TLS_VERSION,
    Kind,
    LogLevel,
    OptionError,
    TlsRequired,
    TlsVersion,
    option_value,
    options_of,
)
from nsqkit.version import VERSION
from tests.timing import patience

HOST = object()
"""Stands for this machine's name in the table."""
MS = 1_000_000
SECOND = 1_000 * MS
MINUTE = 60 * SECOND

# flag, config name (None: flag with underscores), kind, default in /config
TABLE: list[tuple[str, str | None, Kind, Any]] = [
    ("log-level", None, LOG_LEVEL, 2),
    ("log-prefix", None, STRING, "[nsqd] "),
    ("log-format", None, STRING, "text"),
    ("audit-file", None, STRING, ""),
    ("audit-required", None, BOOL, False),
    ("verbose", HIDDEN, BOOL, False),
    ("node-id", "id", INT, HOST),
    ("worker-id", HIDDEN, BOOL, False),
    ("tcp-address", None, STRING, "0.0.0.0:4150"),
    ("http-address", None, STRING, "0.0.0.0:4151"),
    ("https-address", None, STRING, "0.0.0.0:4152"),
    ("broadcast-address", None, STRING, HOST),
    ("broadcast-tcp-port", None, INT, 0),
    ("broadcast-http-port", None, INT, 0),
    ("lookupd-tcp-address", "nsqlookupd_tcp_addresses", STRINGS, []),
    ("lookupd-tls", None, BOOL, False),
    ("lookupd-tls-root-ca-file", None, STRING, ""),
    ("lookupd-tls-cert", None, STRING, ""),
    ("lookupd-tls-key", None, STRING, ""),
    ("auth-http-address", "auth_http_addresses", STRINGS, []),
    ("auth-http-request-method", None, STRING, "get"),
    ("tokens-file", None, STRING, ""),
    ("anonymous", None, STRING, "publish,consume,read,operate,admin"),
    ("access-token-file", None, STRING, ""),
    ("debug-endpoints", None, STRING, "on"),
    ("hide-version", None, BOOL, False),
    ("http-allowed-hosts", None, STRINGS, []),
    ("http-client-connect-timeout", None, DURATION, 2 * SECOND),
    ("http-client-request-timeout", None, DURATION, 5 * SECOND),
    ("topology-region", None, STRING, ""),
    ("topology-zone", None, STRING, ""),
    ("data-path", None, STRING, ""),
    ("mem-queue-size", None, INT, 10000),
    ("max-bytes-per-file", None, INT, 104857600),
    ("sync-every", None, INT, 2500),
    ("sync-timeout", None, DURATION, 2 * SECOND),
    ("queue-scan-worker-pool-max", None, INT, 4),
    ("queue-scan-selection-count", None, INT, 20),
    ("msg-timeout", None, DURATION, MINUTE),
    ("max-msg-timeout", None, DURATION, 15 * MINUTE),
    ("max-msg-size", None, INT, 1048576),
    ("max-body-size", None, INT, 5242880),
    ("max-req-timeout", None, DURATION, 60 * MINUTE),
    ("max-heartbeat-interval", None, DURATION, MINUTE),
    ("max-rdy-count", None, INT, 2500),
    ("max-output-buffer-size", None, INT, 65536),
    ("max-output-buffer-timeout", None, DURATION, 30 * SECOND),
    ("min-output-buffer-timeout", None, DURATION, 25 * MS),
    ("output-buffer-timeout", None, DURATION, 250 * MS),
    ("max-channel-consumers", None, INT, 0),
    ("max-topics", None, INT, 100_000),
    ("max-channels", None, INT, 200_000),
    ("max-names-per-connection", None, INT, 10_000),
    ("max-connections-per-address", None, INT, 20_000),
    ("statsd-address", None, STRING, ""),
    ("statsd-prefix", None, STRING, "nsq.%s"),
    ("statsd-interval", None, DURATION, MINUTE),
    ("statsd-mem-stats", None, BOOL, True),
    ("statsd-udp-packet-size", None, INT, 508),
    ("statsd-exclude-ephemeral", None, BOOL, False),
    ("e2e-processing-latency-percentile", "e2e_processing_latency_percentiles", FLOATS, []),
    ("e2e-processing-latency-window-time", None, DURATION, 10 * MINUTE),
    ("tls-cert", None, STRING, ""),
    ("tls-key", None, STRING, ""),
    ("tls-client-auth-policy", None, STRING, ""),
    ("tls-root-ca-file", None, STRING, ""),
    ("tls-required", None, TLS_REQUIRED, 0),
    ("tls-min-version", None, TLS_VERSION, 771),
    ("deflate", None, BOOL, True),
    ("max-deflate-level", None, INT, 6),
    ("snappy", None, BOOL, True),
    ("enable-experiment", None, STRINGS, []),
    # beyond the original's
    ("mem-queue-bytes", None, INT, 67108864),
    ("durability", None, STRING, "os"),
    ("import", HIDDEN, STRING, ""),
    ("min-free-space", None, INT, 67108864),
    ("drain-timeout", None, DURATION, 0),
    ("max-buffered-bytes", None, INT, 268435456),
    ("replicate-to", None, STRINGS, []),
    ("copies", None, INT, 0),
    ("replace-after", None, DURATION, 10 * MINUTE),
    ("replication-address", None, STRING, ""),
    ("replication-secret-file", None, STRING, ""),
    ("replication-tls", None, BOOL, False),
    ("ack-copies", None, INT, 1),
    ("min-copies", None, INT, 1),
    ("replica-timeout", None, DURATION, 5 * SECOND),
    ("catch-up-rate", None, INT, 50_000_000),
    ("scrub-interval", None, DURATION, 168 * 60 * MINUTE),
    ("replica-max-bytes", None, INT, 0),
    ("adopt", None, STRING, "manual"),
    ("adopt-after", None, DURATION, MINUTE),
    ("restart-grace", None, DURATION, 5 * MINUTE),
    ("fence", None, STRING, "off"),
    ("stand-in", HIDDEN, BOOL, False),
    ("stand-in-ports", None, STRING, "4180-4189"),
]
SAMPLES = {
    BOOL: "false",
    INT: "3",
    DURATION: "3s",
    STRING: "disk",
    STRINGS: "a:1",
    FLOATS: "0.5",
    LOG_LEVEL: "error",
    TLS_REQUIRED: "tcp-https",
    TLS_VERSION: "tls1.2",
}


def test_the_table_is_complete() -> None:
    assert {row[0] for row in TABLE} == {option.flag for option in options_of(NsqdOptions)}
    assert len({option.config_name for option in options_of(NsqdOptions)} - {HIDDEN}) == sum(
        row[1] != HIDDEN for row in TABLE
    )


@pytest.mark.parametrize(("flag", "config_name", "kind", "default"), TABLE, ids=[row[0] for row in TABLE])
def test_flag_has_name_kind_and_default(
    flag: str, config_name: str | None, kind: Kind, default: object
) -> None:
    options = load([f"--{flag}={SAMPLES[kind]}"])
    assert getattr(options, _field(flag)) == kind.from_text(SAMPLES[kind])
    changed = {field.name for field in attrs.fields(NsqdOptions) if _differs(options, field.name)}
    assert changed <= {_field(flag)}
    if config_name == HIDDEN:
        return
    name = flag.replace("-", "_") if config_name is None else config_name
    found = option_value(NsqdOptions(), name)
    assert found.kind is kind
    expected = {"id": default_node_id(), "broadcast_address": module.host_name()}.get(name, default)
    assert found.value == expected


def _differs(options: NsqdOptions, field: str) -> bool:
    return bool(getattr(options, field) != getattr(NsqdOptions(), field))


def _field(flag: str) -> str:
    return next(option.field for option in options_of(NsqdOptions) if option.flag == flag)


@pytest.mark.parametrize(
    "name", ["config", "version", "verbose", "worker_id", "node_id", "lookupd_tcp_address"]
)
def test_names_that_config_does_not_show(name: str) -> None:
    with pytest.raises(KeyError):
        option_value(NsqdOptions(), name)


def test_every_option_is_explained_in_few_words() -> None:
    for option in options_of(NsqdOptions):
        assert option.help.endswith(".")
        assert len(option.help) <= 184, option.flag
    assert {option.flag for option in options_of(NsqdOptions) if option.no_effect} == {
        "verbose",
        "worker-id",
        "queue-scan-worker-pool-max",
        "queue-scan-selection-count",
    }


def test_worker_id_takes_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, line in (
        (["-worker-id", "7", "-verbose"], "unknown arguments: [7 -verbose] (-worker-id takes no value)"),
        (["-worker-id=7"], 'invalid boolean value "7" for -worker-id: parse error'),
    ):
        with pytest.raises(SystemExit) as caught:
            load(argv)
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"{line}; see nsqd --help\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["-version"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"nsqd v{re.escape(VERSION)} \(built w/python3\.\d+\.\d+\)\n", out)
    assert err == ""


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().err
    assert text.startswith("nsqd - takes messages from producers")
    groups = re.findall(r"^([A-Z][\w ]+):$", text, re.MULTILINE)
    assert groups == [
        "Usage",
        "Example",
        "Flags",
        "General",
        "Audit",
        "Network",
        "Discovery",
        "Queues and disk",
        "Copies on other nodes",
        "Messages",
        "Clients",
        "Compression",
        "TLS",
        "Authorization",
        "Metrics",
        "Accepted without effect",
    ]


def test_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "nsqd.cfg"
    path.write_text(
        """
        id = 5
        nsqlookupd_tcp_addresses = ["127.0.0.1:4160"]
        max_msg_timeout = 1000
        e2e_processing_latency_percentiles = [1.0, 0.99]
        tls_required = "tcp-https"
        log_level = "debug"
        worker_id = true
        """
    )
    options = load([f"-config={path}", "-max-msg-size=77"])
    assert options == NsqdOptions(
        node_id=5,
        nsqlookupd_tcp_addresses=["127.0.0.1:4160"],
        max_msg_timeout=SECOND,
        e2e_processing_latency_percentiles=[1.0, 0.99],
        tls_required=TlsRequired.TCP_HTTPS,
        log_level=LogLevel.DEBUG,
        max_msg_size=77,
    )


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("max_deflate_level = 0", "--max-deflate-level must be [1,9] (max_deflate_level in {path})"),
        ("id = 1024", "--node-id must be [0,1024) (id in {path})"),
        (
            "e2e_processing_latency_percentiles = [2.0]",
            "invalid E2E processing latency percentile: 2 (e2e_processing_latency_percentiles in {path})",
        ),
        (
            'durability = "dsik"',
            "--durability must be os or disk, not 'dsik' (did you mean disk?) (durability in {path})",
        ),
        ("sync_timeout = 0", "--sync-timeout must be at least 1ns, not 0s (sync_timeout in {path})"),
    ],
)
def test_a_refused_value_names_the_file_and_the_key(toml: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "nsqd.cfg"
    path.write_text(toml)
    with pytest.raises(OptionError) as caught:
        validate(load([f"-config={path}"]))
    assert str(caught.value) == reason.format(path=path)


# crc32(md5(name)) % 1024, worked out with Perl
@pytest.mark.parametrize(("name", "number"), [("localhost", 16), ("nsqd-1.example.com", 995)])
def test_node_id_comes_from_the_host_name(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "host_name", lambda: name)
    assert default_node_id() == number
    assert NsqdOptions().node_id == number


def test_options_change_at_run_time() -> None:
    options = NsqdOptions()
    options.log_level = LogLevel.DEBUG
    options.nsqlookupd_tcp_addresses = ["a:1"]
    assert option_value(options, "log_level").value == 1
    assert option_value(options, "nsqlookupd_tcp_addresses").value == ["a:1"]


def auto(**changes: Any) -> NsqdOptions:
    options: dict[str, Any] = {
        "replicate_to": ["auto"],
        "nsqlookupd_tcp_addresses": ["r:4160"],
        "replication_secret_file": "secret",
        **changes,
    }
    return NsqdOptions(**options)


class TestValidate:
    def test_the_defaults_are_fine_and_stay_what_they_are(self) -> None:
        options = NsqdOptions()
        validate(options)
        assert options == NsqdOptions()

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (NsqdOptions(max_deflate_level=0), "--max-deflate-level must be [1,9]"),
            (NsqdOptions(max_deflate_level=10), "--max-deflate-level must be [1,9]"),
            (NsqdOptions(node_id=-1), "--node-id must be [0,1024)"),
            (NsqdOptions(node_id=1024), "--node-id must be [0,1024)"),
            (NsqdOptions(max_deflate_level=0, node_id=-1), "--max-deflate-level must be [1,9]"),
            (
                NsqdOptions(auth_http_request_method="GET"),
                "--auth-http-request-method must be post or get, not 'GET' (did you mean get?)",
            ),
            (
                NsqdOptions(anonymous="read,"),
                "--anonymous: '' is no scope: it must be publish:TOPIC, consume:TOPIC/CHANNEL, read, operate or admin",
            ),
            (
                NsqdOptions(anonymous="none"),
                "--anonymous=none needs --tokens-file (or --auth-http-address): nobody could do anything",
            ),
            (
                NsqdOptions(e2e_processing_latency_percentiles=[1.0, 1.5]),
                "invalid E2E processing latency percentile: 1.5",
            ),
            (
                NsqdOptions(e2e_processing_latency_percentiles=[0.0]),
                "invalid E2E processing latency percentile: 0",
            ),
            (
                NsqdOptions(e2e_processing_latency_percentiles=[float("nan")]),
                "invalid E2E processing latency percentile: nan",
            ),
            (
                NsqdOptions(tls_required=TlsRequired.YES),
                "cannot require TLS client connections without TLS key and cert",
            ),
            (
                NsqdOptions(tls_required=TlsRequired.TCP_HTTPS),
                "cannot require TLS client connections without TLS key and cert",
            ),
            (
                NsqdOptions(tls_client_auth_policy="require"),
                "cannot require TLS client connections without TLS key and cert",
            ),
            (NsqdOptions(log_format="xml"), "--log-format must be text or json, not 'xml'"),
            (NsqdOptions(durability="none"), "--durability must be os or disk, not 'none'"),
            (NsqdOptions(durability=""), "--durability must be os or disk, not ''"),
            (NsqdOptions(durability="none", sync_every=1), "--durability must be os or disk, not 'none'"),
            (NsqdOptions(max_msg_size=-1), "--max-msg-size must be at least 1, not -1"),
            (NsqdOptions(sync_timeout=0), "--sync-timeout must be at least 1ns, not 0s"),
            (NsqdOptions(min_free_space=-1), "--min-free-space must be at least 0, not -1"),
            (
                NsqdOptions(broadcast_tcp_port=65536),
                "--broadcast-tcp-port must be between 0 and 65535, not 65536",
            ),
            (auto(replicate_to=["auto", "a:1"]), "--replicate-to=auto together with an address"),
            (
                auto(nsqlookupd_tcp_addresses=[]),
                "--replicate-to=auto needs --lookupd-tcp-address: followers are "
                "chosen among those known there",
            ),
            (auto(replication_secret_file=""), "--replicate-to=auto needs --replication-secret-file"),
            (auto(copies=1), "--copies must be [2,16]"),
            (auto(copies=17), "--copies must be [2,16]"),
            (auto(ack_copies=3), "--ack-copies must be [1,2]: --copies is 2"),
            (auto(copies=3, min_copies=4), "--min-copies must be [1,3]: --copies is 3"),
            (auto(replace_after=SECOND - 1), "--replace-after must be at least 1s, not 999.999999ms"),
            (NsqdOptions(copies=2), "--copies needs --replicate-to=auto"),
            (NsqdOptions(copies=2, replicate_to=["127.0.0.1:1"]), "--copies needs --replicate-to=auto"),
            (
                NsqdOptions(ack_copies=2),
                "--ack-copies must be [1,1]: there are 0 addresses in --replicate-to",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_refuses(self, options: NsqdOptions, reason: str) -> None:
        with pytest.raises(OptionError) as caught:
            validate(options)
        assert str(caught.value) == reason

    @pytest.mark.parametrize(
        "options",
        [
            NsqdOptions(max_deflate_level=1),
            NsqdOptions(max_deflate_level=9),
            NsqdOptions(node_id=0),
            NsqdOptions(node_id=1023),
            NsqdOptions(auth_http_request_method="post"),
            NsqdOptions(e2e_processing_latency_percentiles=[1.0, 0.99, 1e-9]),
            NsqdOptions(mem_queue_size=0, mem_queue_bytes=0),
            NsqdOptions(enable_experiment=["something-unknown"]),
            NsqdOptions(tls_required=TlsRequired.YES, tls_cert="c", tls_key="k"),
        ],
    )
    def test_accepts(self, options: NsqdOptions) -> None:
        before = attrs.evolve(options)
        validate(options)
        assert options == before

    @pytest.mark.parametrize("policy", ["require", "require-verify", "whatever"])
    def test_a_policy_makes_tls_required(self, policy: str) -> None:
        options = NsqdOptions(tls_client_auth_policy=policy, tls_cert="c", tls_key="k")
        validate(options)
        assert options.tls_required is TlsRequired.YES

    def test_a_policy_leaves_http_open_where_that_was_asked(self) -> None:
        options = NsqdOptions(
            tls_client_auth_policy="require", tls_required=TlsRequired.TCP_HTTPS, tls_cert="c", tls_key="k"
        )
        validate(options)
        assert options.tls_required is TlsRequired.TCP_HTTPS

    @pytest.mark.parametrize(("sync_every", "level"), [(0, "disk"), (1, "disk"), (2, "os")])
    def test_sync_every_message_is_durability_disk(self, sync_every: int, level: str) -> None:
        options = NsqdOptions(sync_every=sync_every)
        validate(options)
        assert options.durability == level

    @pytest.mark.parametrize(
        "options",
        [
            lambda: auto(ack_copies=2, min_copies=2),
            lambda: auto(replication_secret_file="", replication_address="127.0.0.1:4159"),
            lambda: auto(replication_secret_file="", stand_in=True),  # it inherits the rest from its parent
        ],
    )
    def test_followers_that_are_chosen_make_two_copies(self, options: Callable[[], NsqdOptions]) -> None:
        found = options()
        validate(found)
        assert found.copies == 2
        assert chooses_followers(found)

    def test_no_message_timeout_is_the_longest(self) -> None:
        options = load(["--msg-timeout=0", "--max-msg-timeout=7m"])
        validate(options)
        assert options.msg_timeout == 7 * MINUTE

    def test_tls_version_is_kept(self) -> None:
        options = load(["--tls-min-version=tls1.2"])
        validate(options)
        assert options.tls_min_version is TlsVersion.TLS1_2


def test_start_up_leaves_heavy_modules_alone() -> None:
    code = "import sys, nsqd.options; nsqd.options.load([]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=patience(30)
    )
    loaded = set(done.stdout.split())
    assert "nsqkit.options" in loaded
    assert not loaded & {
        "tomllib",
        "difflib",
        "importlib.metadata",
        "socket",
        "trio",
        "nsqkit.options.usage",
    }
