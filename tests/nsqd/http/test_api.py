"""/ping, /info, what is said where nothing is, the hint at HTTPS, the access log."""

from __future__ import annotations

import logging
import re

import pytest

from nsqd.http import make_plain_app, make_router, make_servers
from nsqkit.options import TlsRequired
from nsqkit.service.http import Only, Router

from .fake_daemon import FakeDaemon, serving

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


async def test_ping_healthy() -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.get("/ping")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"OK", TEXT)
    assert "X-Nsq-Content-Type" not in answer.headers
    assert "Date" in answer.headers


async def test_ping_with_a_full_disk() -> None:
    daemon = FakeDaemon()
    daemon.broker.store.space.full = "no space left on device: 3 bytes free, 7 needed"
    async with serving(daemon) as client:
        answer = await client.get("/ping")
        assert (answer.status, answer.headers["Content-Type"]) == (500, TEXT)
        assert answer.body == b"NOK - no space left on device: 3 bytes free, 7 needed"
        assert "X-Nsq-Content-Type" not in answer.headers
        daemon.broker.store.space.full = None
        assert (await client.get("/ping")).status == 200


async def test_info() -> None:
    daemon = FakeDaemon(topology_zone="<z&>")
    async with serving(daemon) as client:
        answer = await client.get("/info")
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON)
    assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"
    assert answer.text == (
        '{"version":"1.4.0","broadcast_address":"b.example","hostname":"h.example","http_port":4151,'
        '"tcp_port":4150,"start_time":1700000000,"max_heartbeat_interval":60000000000,'
        '"max_output_buffer_size":65536,"max_output_buffer_timeout":30000000000,"max_deflate_level":6,'
        '"topology_zone":"\\u003cz\\u0026\\u003e","topology_region":""}'
    )


@pytest.mark.parametrize(
    "path",
    [
        "/", "/put", "/mput", "/create_topic", "/delete_topic", "/empty_topic", "/pause_topic",
        "/create_channel", "/delete_channel", "/pause_channel", "/config", "/config/", "/topic", "/debug",
        "/debug/pprof/mutex", "/debug/pprof/allocs", "/debug/pprof/trace",
    ],
)  # fmt: skip
async def test_not_found(path: str) -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.get(path)
    assert (answer.status, answer.body) == (404, b'{"message":"NOT_FOUND"}')
    assert (answer.headers["Content-Type"], answer.headers["X-Nsq-Content-Type"]) == (
        JSON,
        "nsq; version=1.0",
    )


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/ping", "GET, OPTIONS"),
        ("HEAD", "/ping", "GET, OPTIONS"),
        ("POST", "/info", "GET, OPTIONS"),
        ("POST", "/stats", "GET, OPTIONS"),
        ("GET", "/pub", "OPTIONS, POST"),
        ("PUT", "/mpub", "OPTIONS, POST"),
        ("POST", "/config/log_level", "GET, OPTIONS, PUT"),
        ("GET", "/debug/setblockrate", "OPTIONS, PUT"),
        ("GET", "/debug/freememory", "OPTIONS, POST"),
        ("PUT", "/debug/pprof/symbol", "GET, OPTIONS, POST"),
    ],
)
async def test_methods(method: str, path: str, allow: str) -> None:
    async with serving(FakeDaemon()) as client:
        options = await client.ask("OPTIONS", path)
        assert (options.status, options.body, options.headers["Allow"]) == (200, b"", allow)
        if method == "HEAD":  # the answer has no body, so it must be the connection's last
            await client.stream.send_all(b"HEAD /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            head = await client.stream.receive_some(65536)
            assert head.startswith(b"HTTP/1.1 405 ")
            assert head.endswith(b"\r\n\r\n")
            return
        answer = await client.ask(method, path)
    assert (answer.status, answer.body) == (405, b'{"message":"METHOD_NOT_ALLOWED"}')
    assert answer.headers["Allow"] == allow


async def test_repaired_paths() -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.get("/PING")
        assert (answer.status, answer.headers["Location"]) == (301, "/ping")
        answer = await client.post("/pub/?topic=a", b"x")
        assert (answer.status, answer.headers["Location"], answer.body) == (307, "/pub?topic=a", b"")


async def test_a_handler_that_crashes(caplog: pytest.LogCaptureFixture) -> None:
    daemon = FakeDaemon()
    daemon.broker.store = None  # type: ignore[assignment]
    async with serving(daemon) as client:
        answer = await client.get("/ping")
    assert (answer.status, answer.body) == (500, b'{"message":"INTERNAL_ERROR"}')


async def test_tls_required() -> None:
    daemon = FakeDaemon(tls_required=TlsRequired.YES)
    async with serving(daemon) as client:
        for answer in (
            await client.get("/ping"),
            await client.post("/pub?topic=t", b"x"),
            await client.get("/x"),
        ):
            assert answer.status == 403
            assert answer.body == b'{"message": "TLS_REQUIRED", "https_port": 4152}'
            assert answer.headers["Content-Type"] == JSON
            assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"
    assert not daemon.broker.topics


@pytest.mark.parametrize("required", [TlsRequired.NO, TlsRequired.TCP_HTTPS])
def test_tls_not_required_for_http(required: TlsRequired) -> None:
    daemon = FakeDaemon(tls_required=required)
    router = make_router(daemon)
    assert make_plain_app(daemon, router) is router


def test_https_is_open_also_where_tls_is_required_of_http() -> None:
    daemon = FakeDaemon(tls_required=TlsRequired.YES)
    plain, secure = make_servers(daemon)
    assert isinstance(plain.app, Only)
    assert isinstance(secure.app, Router)
    assert plain.budget is secure.budget


async def test_tls_required_without_https() -> None:
    daemon = FakeDaemon(tls_required=TlsRequired.YES)
    daemon.https_port = -1
    async with serving(daemon) as client:
        assert (await client.get("/ping")).body == b'{"message": "TLS_REQUIRED", "https_port": 0}'


async def test_access_log(caplog: pytest.LogCaptureFixture) -> None:
    daemon = FakeDaemon()
    with caplog.at_level(logging.INFO, logger="nsq"):
        async with serving(daemon) as client:
            await client.post("/pub?topic=t", b"x")
            await client.post("/mpub?topic=t", b"x")
            await client.post("/pub", b"x")
            await client.get("/ping?a=b%20c")
            await client.post("/topic/delete?topic=nobody")
            await client.get("/nowhere")
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    who = r"\(127\.0\.0\.1:\d+\) [\d.]+(\u00b5s|ms)"
    expected = [
        rf"200 GET /ping\?a=b%20c {who}",
        rf"404 POST /topic/delete\?topic=nobody {who}",
        rf"404 GET /nowhere {who}",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


async def test_tls_required_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nsq"):
        async with serving(FakeDaemon(tls_required=TlsRequired.YES)) as client:
            await client.get("/ping")
    assert not caplog.records


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(FakeDaemon()) as client:
        await client.stream.send_all(
            b"POST /pub?topic=t HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
            b"GET /stats?format=json HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert (await client.answer()).body == b"OK"
        assert (await client.answer()).json["topics"][0]["message_count"] == 1
        assert (await client.answer()).body == b"OK"
