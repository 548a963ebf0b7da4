"""/config/NAME: how each kind of value is shown, and the two that can be set."""

from __future__ import annotations

import pytest

from nsqd.options import NsqdOptions
from nsqkit.options import HIDDEN, LogLevel, TlsRequired, TlsVersion, options_of

from .fake_daemon import FakeDaemon, serving

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "option", "value", "shown", "content_type"),
    [
        ("data_path", "data_path", "/var/lib/<nsqd>", b"/var/lib/<nsqd>", TEXT),
        ("statsd_prefix", "statsd_prefix", "nsq.a_4151.", b"nsq.a_4151.", TEXT),
        ("statsd_address", "statsd_address", "", b"", None),
        ("id", "node_id", 7, b"7", JSON),
        ("max_msg_size", "max_msg_size", 1 << 20, b"1048576", JSON),
        ("msg_timeout", "msg_timeout", 60 * 10**9, b"60000000000", JSON),
        ("snappy", "snappy", True, b"true", JSON),
        ("deflate", "deflate", False, b"false", JSON),
        ("nsqlookupd_tcp_addresses", "nsqlookupd_tcp_addresses", ["a:1", "b:2"], b'["a:1","b:2"]', JSON),
        ("auth_http_addresses", "auth_http_addresses", [], b"[]", JSON),
        ("enable_experiment", "enable_experiment", ["<x>"], b'["\\u003cx\\u003e"]', JSON),
        (
            "e2e_processing_latency_percentiles",
            "e2e_processing_latency_percentiles",
            [1.0, 0.99, 0.00001, 1e-7],
            b"[1,0.99,0.00001,1e-7]",
            JSON,
        ),
        ("log_level", "log_level", LogLevel.WARNING, b"3", JSON),
        ("tls_required", "tls_required", TlsRequired.TCP_HTTPS, b"1", JSON),
        ("tls_required", "tls_required", TlsRequired.YES, b"2", JSON),
        ("tls_min_version", "tls_min_version", TlsVersion.TLS1_2, b"771", JSON),
    ],
)
async def test_get(name: str, option: str, value: object, shown: bytes, content_type: str | None) -> None:
    daemon = FakeDaemon()
    async with serving(daemon) as client:  # with an open door, whatever tls_required says later
        setattr(daemon.options, option, value)
        answer = await client.get(f"/config/{name}")
    assert (answer.status, answer.body) == (200, shown)
    assert answer.headers.get("Content-Type") == content_type
    assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"


async def test_every_option_can_be_seen() -> None:
    names = [option.config_name for option in options_of(NsqdOptions) if option.config_name != HIDDEN]
    assert len(names) > 50
    async with serving(FakeDaemon()) as client:
        assert {name: (await client.get(f"/config/{name}")).status for name in names} == dict.fromkeys(
            names, 200
        )


@pytest.mark.parametrize(
    "name",
    [
        "config",
        "version",
        "verbose",
        "worker_id",
        "node_id",
        "lookupd_tcp_address",
        "max-msg-size",
        "x",
        "%20",
    ],
)
async def test_names_that_are_no_options(name: str) -> None:
    async with serving(FakeDaemon()) as client:
        for answer in (await client.get(f"/config/{name}"), await client.put(f"/config/{name}", b"1")):
            assert (answer.status, answer.body) == (400, b'{"message":"INVALID_OPTION"}')


@pytest.mark.parametrize(
    ("word", "level"),
    [("debug", 1), ("INFO", 2), ("Warn", 3), ("error", 4), ("fatal", 5)],
)
async def test_set_log_level(word: str, level: int) -> None:
    daemon = FakeDaemon()
    async with serving(daemon) as client:
        answer = await client.put("/config/log_level", word.encode())
        assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"%d" % level, JSON)
        assert (await client.get("/config/log_level")).body == b"%d" % level
    assert daemon.log_level_set == [level]


@pytest.mark.parametrize("body", [b"warning", b'"info"', b"info\n", b"1", b"\xff", b" "])
async def test_bad_log_levels(body: bytes) -> None:
    daemon = FakeDaemon()
    async with serving(daemon) as client:
        answer = await client.put("/config/log_level", body)
    assert (answer.status, answer.body) == (400, b'{"message":"INVALID_VALUE"}')
    assert daemon.log_level_set == []


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'["a:4160", "b:4160"]', b'["a:4160","b:4160"]'),
        (b"[]", b"[]"),
        (b"null", b"null"),
        (b"[null]", b'["old:1"]'),
    ],
)
async def test_set_lookupd_addresses(body: bytes, shown: bytes) -> None:
    daemon = FakeDaemon(nsqlookupd_tcp_addresses=["old:1"])
    async with serving(daemon) as client:
        answer = await client.put("/config/nsqlookupd_tcp_addresses", body)
        assert (answer.status, answer.body) == (200, shown)
        assert (await client.get("/config/nsqlookupd_tcp_addresses")).body == shown


@pytest.mark.parametrize("body", [b"a:4160", b'"a:4160"', b"{}", b"[1]", b'["a"', b"[" * 1000])
async def test_bad_lookupd_addresses(body: bytes) -> None:
    daemon = FakeDaemon(nsqlookupd_tcp_addresses=["old:1"])
    async with serving(daemon) as client:
        answer = await client.put("/config/nsqlookupd_tcp_addresses", body)
    assert (answer.status, answer.body) == (400, b'{"message":"INVALID_VALUE"}')
    assert daemon.options.nsqlookupd_tcp_addresses == ["old:1"]


@pytest.mark.parametrize("name", ["log_level", "nonsense"])
async def test_the_size_is_checked_before_the_name(name: str) -> None:
    daemon = FakeDaemon(max_msg_size=10)
    for body in (b"", b"x" * 11):
        async with serving(daemon) as client:
            answer = await client.put(f"/config/{name}", body)
        assert (answer.status, answer.body) == (413, b'{"message":"INVALID_VALUE"}')


async def test_options_that_cannot_be_set() -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.put("/config/max_msg_size", b"1")
    assert (answer.status, answer.body) == (400, b'{"message":"INVALID_OPTION"}')
