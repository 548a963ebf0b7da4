"""The options of nsqlookupd: names, kinds and defaults, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from nsqkit.options import (
    BOOL,
    DURATION,
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
    options_of,
)
from nsqlookupd.options import LookupdOptions, load, validate

SECOND = 1_000_000_000

# flag, config name, kind, default
TABLE: list[tuple[str, str, Kind, Any]] = [
    ("log-level", "log_level", LOG_LEVEL, LogLevel.INFO),
    ("log-format", "log_format", STRING, "text"),
    ("audit-file", "audit_file", STRING, ""),
    ("audit-required", "audit_required", BOOL, False),
    ("verbose", HIDDEN, BOOL, False),
    ("log-prefix", "log_prefix", STRING, "[nsqlookupd] "),
    ("tcp-address", "tcp_address", STRING, "0.0.0.0:4160"),
    ("http-address", "http_address", STRING, "0.0.0.0:4161"),
    ("https-address", "https_address", STRING, "0.0.0.0:4162"),
    ("broadcast-address", "broadcast_address", STRING, os.uname().nodename),
    ("inactive-producer-timeout", "inactive_producer_timeout", DURATION, 300 * SECOND),
    ("tombstone-lifetime", "tombstone_lifetime", DURATION, 45 * SECOND),
    ("max-registrations-per-nsqd", "max_registrations_per_nsqd", INT, 500_000),
    ("max-connections-per-address", "max_connections_per_address", INT, 2500),
    ("tls-cert", "tls_cert", STRING, ""),
    ("tls-key", "tls_key", STRING, ""),
    ("tls-required", "tls_required", TLS_REQUIRED, TlsRequired.NO),
    ("tls-min-version", "tls_min_version", TLS_VERSION, TlsVersion.TLS1_2),
    ("tls-client-auth-policy", "tls_client_auth_policy", STRING, ""),
    ("tls-root-ca-file", "tls_root_ca_file", STRING, ""),
    ("tokens-file", "tokens_file", STRING, ""),
    ("anonymous", "anonymous", STRING, "publish,consume,read,operate,admin"),
    ("register-by-certificate", "register_by_certificate", BOOL, False),
    ("debug-endpoints", "debug_endpoints", STRING, "on"),
    ("http-allowed-hosts", "http_allowed_hosts", STRINGS, []),
]


def test_the_table() -> None:
    options = LookupdOptions()
    declared = [
        (o.flag, o.config_name, o.kind, getattr(options, o.field)) for o in options_of(LookupdOptions)
    ]
    assert declared == TABLE
    validate(options)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lookupd.toml"
    path.write_text('tcp_address = "a:1"\nhttp_address = "b:2"\ntombstone_lifetime = 1500\nverbose = true\n')
    options = load(["-config", str(path), "--http-address=c:3", "-inactive-producer-timeout", "1h"])
    assert (options.tcp_address, options.http_address) == ("a:1", "c:3")
    assert options.tombstone_lifetime == 1_500_000_000
    assert options.inactive_producer_timeout == 3600 * SECOND


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tcp_address": ""}, "--tcp-address must not be empty"),
        ({"audit_required": True}, "--audit-required needs an --audit-file that is a file"),
        (
            {"audit_required": True, "audit_file": "-"},
            "--audit-required needs an --audit-file that is a file",
        ),
        ({"log_format": "xml"}, "--log-format must be text or json, not 'xml'"),
        ({"tombstone_lifetime": -1}, "--tombstone-lifetime must be at least 0"),
        ({"inactive_producer_timeout": -1}, "--inactive-producer-timeout must be at least 0"),
        ({"anonymous": ""}, "--anonymous: it is empty; to allow nothing write none"),
        (
            {"anonymous": "all"},
            "--anonymous: 'all' is no scope: it must be publish:TOPIC, consume:TOPIC/CHANNEL, read",
        ),
        ({"tls_required": TlsRequired.YES}, "cannot require TLS client connections without TLS key and cert"),
        ({"tls_client_auth_policy": "require"}, "cannot require TLS client connections"),
        (
            {"register_by_certificate": True, "tls_cert": "c", "tls_key": "k"},
            "--register-by-certificate needs --tls-cert, --tls-key and --tls-root-ca-file",
        ),
        (
            {
                "register_by_certificate": True,
                "tls_cert": "c",
                "tls_key": "k",
                "tls_root_ca_file": "r",
                "tls_client_auth_policy": "require",
            },
            "--register-by-certificate needs --tls-client-auth-policy=require-verify, or none",
        ),
        ({"anonymous": "none"}, "--anonymous=none needs --tokens-file: nobody could do anything"),
    ],
)
def test_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=re.escape(text)):
        validate(LookupdOptions(**changes))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["-version", "--tcp-address=x"])
    assert ended.value.code == 0
    assert re.fullmatch(r"nsqlookupd v1\.4\.0 \(built w/python3\.[\d.]+\)\n", capsys.readouterr().out)


def test_a_wrong_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["-data-path=x"])
    assert ended.value.code == 2
    line = "flag provided but not defined: -data-path; see nsqlookupd --help\n"
    assert capsys.readouterr().err == line
