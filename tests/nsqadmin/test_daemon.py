"""The daemon, from its start to its stop."""

from __future__ import annotations

import gc
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nsqadmin import daemon as daemon_module
from nsqadmin.daemon import Daemon, StartError
from nsqadmin.options import AdminOptions, validate
from nsqkit.options import MILLISECOND
from nsqkit.service.http import HttpServer, Request, Response, error, text
from tests.nsqadmin.scripted import dead_address, scripted
from tests.nsqkit.certificates import Certificates
from tests.timing import patience


@pytest.fixture(autouse=True)
def collector_as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def made(**values: Any) -> Daemon:
    options = AdminOptions(
        **{"nsqd_http_addresses": [dead_address()], "http_address": "127.0.0.1:0", **values}
    )
    validate(options)
    return Daemon(options)


async def test_the_daemon_serves_from_ready_to_stop() -> None:
    daemon, ready = made(), trio.Event()
    async with trio.open_nursery() as nursery, httpx.AsyncClient(trust_env=False) as client:
        nursery.start_soon(daemon.run, ready.set)
        await ready.wait()
        assert daemon.http_port > 0
        response = await client.get(f"http://127.0.0.1:{daemon.http_port}/ping")
        assert response.text == "OK"
        daemon.stop()
    with pytest.raises(OSError, match="attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", daemon.http_port)


async def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    daemon, ready = made(http_address=str(path)), trio.Event()
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with trio.open_nursery() as nursery, httpx.AsyncClient(transport=transport) as client:
        nursery.start_soon(daemon.run, ready.set)
        await ready.wait()
        assert daemon.http_port == -1
        assert (await client.get("http://console/ping")).text == "OK"
        daemon.stop()
    assert not path.exists()


async def test_the_console_over_https(tmp_path: Path) -> None:
    """And over nothing else; with a certificate that is replaced."""
    certificates = Certificates(tmp_path)
    daemon = made(tls_cert=certificates.cert_file, tls_key=certificates.key_file)
    ready, context = trio.Event(), certificates.client_context()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.run, ready.set)
        await ready.wait()
        url = f"127.0.0.1:{daemon.http_port}/ping"
        async with httpx.AsyncClient(trust_env=False, verify=context) as client:
            assert (await client.get(f"https://{url}")).text == "OK"
            with pytest.raises(httpx.HTTPError):
                await client.get(f"http://{url}")
        serial = certificates.renew()
        with trio.fail_after(patience(10)):
            while await serial_at(daemon.http_port, context) != serial:  # noqa: ASYNC110
                await trio.sleep(0.1)
        daemon.stop()


async def serial_at(port: int, context: ssl.SSLContext) -> int:
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, ssl_context=context, https_compatible=True
    )
    async with stream:
        await stream.do_handshake()
        return int(stream.getpeercert()["serialNumber"], 16)


async def test_a_certificate_that_cannot_be_used_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"failed to build TLS config - .*gone\.pem: No such file"):
        await made(tls_cert=str(tmp_path / "gone.pem"), tls_key=str(tmp_path / "key.pem")).run()


async def test_an_address_in_use_is_a_start_error() -> None:
    first, ready = made(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run, ready.set)
        await ready.wait()
        address = f"127.0.0.1:{first.http_port}"
        with pytest.raises(StartError, match=rf"listen \({address}\) failed - "):
            await made(http_address=address).run()
        first.stop()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), (b"{", "line 1: no JSON")]
)
def test_a_console_does_not_start_without_its_users(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match=f"--users-file: {path}: {reason}"):
        made(users_file=str(path))


async def test_the_error_of_a_listener_ends_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(HttpServer):
        async def run(self, listeners: Any, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            await trio.lowlevel.checkpoint()
            raise OSError("the listener broke")

    monkeypatch.setattr(daemon_module, "HttpServer", Failing)
    with trio.fail_after(patience(5)), pytest.raises(OSError, match="the listener broke"):
        await made().run()


async def test_webhooks_hear_of_alarms_while_another_one_is_dead() -> None:
    received: list[dict[str, Any]] = []
    news = trio.Event()

    def receive(request: Request) -> Response:
        nonlocal news
        if not received and not failures:
            failures.append(request)
            return error(500, "NOT_YET")
        received.append(json.loads(request.body))
        news.set()
        news = trio.Event()
        return text("", 204)

    failures: list[Request] = []
    paused = {"topic_name": "t", "depth": 3, "paused": True}
    async with scripted() as script, httpx.AsyncClient(trust_env=False) as client:
        nsqd, hook = await script.nsqd({"topics": [paused]}), await script.daemon()
        hook.on("/hook", receive)
        daemon, ready = (
            made(
                nsqd_http_addresses=[nsqd.address],
                alarm_webhooks=[f"http://{dead_address()}/x", f"http://{hook.address}/hook"],
                poll_interval=100 * MILLISECOND,
                alarm_raise_after=0,
                alarm_clear_after=0,
            ),
            trio.Event(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.run, ready.set)
            with trio.fail_after(patience(10)):
                await news.wait()
                answer = (await client.get(f"http://127.0.0.1:{daemon.http_port}/api/alarms")).json()
                nsqd.on("/stats", {"topics": []})
                await news.wait()
            daemon.stop()
    raised, cleared = received
    assert len(failures) == 1
    assert (
        [each["id"] for each in raised["raised"]]
        == ["paused:t"]
        == [each["id"] for each in cleared["cleared"]]
    )
    assert (raised["cleared"], cleared["raised"], cleared["active"]) == ([], [], 0)
    [alarm] = answer["alarms"]
    assert answer["message"] == ""
    assert {**alarm, "since": 0, "text": ""} == {
        "id": "paused:t",
        "kind": "paused",
        "severity": "info",
        "topic": "t",
        "since": 0,
        "text": "",
        "advice": "Unpause the topic when its channels may receive messages again.",
        "figures": {"messages": 3},
        "path": "/topics/t",
    }
    assert alarm["text"].startswith("3 messages waiting in a paused topic, for ")
