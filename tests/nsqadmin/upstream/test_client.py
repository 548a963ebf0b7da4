"""Requests to daemons: bounded in time and size, over TLS if required, with errors for people."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from nsqadmin.options import AdminOptions
from nsqadmin.upstream import (
    Upstream,
    UpstreamError,
    UpstreamFailed,
    UpstreamRefused,
    Warnings,
    query_all,
    responses,
)
from nsqadmin.upstream.connections import MAX_PER_DAEMON
from nsqkit.service.http import ByteBudget, HttpServer, Request, Response, error, json_body, text
from nsqkit.service.listeners import bound_address, open_listeners
from nsqkit.service.tls import REQUIRE_VERIFY, server_context
from tests.nsqadmin.big_cluster import BigCluster
from tests.nsqadmin.scripted import Script, ScriptedDaemon, dead_address, scripted
from tests.timing import patience

MILLISECOND = 1_000_000


@contextlib.asynccontextmanager
async def upstream(max_body: int = 1 << 20, budget: int = 1 << 30, **options: Any) -> AsyncIterator[Upstream]:
    made = Upstream(AdminOptions(**options), max_body, ByteBudget(budget))
    try:
        yield made
    finally:
        assert made.budget.used == 0, "all bytes are given back"
        await made.aclose()


async def error_of(request: Any) -> str:
    with pytest.raises(UpstreamError) as failed:
        await request
    return str(failed.value)


class TestErrors:
    async def test_a_refused_connection_is_an_error(self) -> None:
        address = dead_address()
        async with upstream() as up:
            assert await error_of(up.get(address, "/x")) == f"GET http://{address}/x: connection refused"
            error = await error_of(up.post(address, "/x", {"topic": "a#ephemeral b"}))
        assert error == f"POST http://{address}/x?topic=a%23ephemeral+b: connection refused"

    async def test_the_code_of_an_error_is_quoted(self) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", error(404, "TOPIC_NOT_FOUND"))
            reason = await error_of(up.get(daemon.address, "/x"))
        assert reason == 'got response 404 Not Found "{\\"message\\":\\"TOPIC_NOT_FOUND\\"}"'

    async def test_a_refusal_has_the_reason_of_the_daemon(self) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", error(409, "REFUSED: its leader a:4150 is connected"))
            with pytest.raises(UpstreamRefused) as refused:
                await up.post(daemon.address, "/x", {})
        assert refused.value.reason == "its leader a:4150 is connected"
        assert str(refused.value).startswith("got response 409 Conflict")

    @pytest.mark.parametrize("refusal", [error(409, "STOPPING"), error(500, "REFUSED: it is broken")])
    async def test_other_errors_are_no_refusals(self, refusal: Response) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", refusal)
            with pytest.raises(UpstreamError) as failed:
                await up.post(daemon.address, "/x", {})
        assert not isinstance(failed.value, UpstreamRefused)

    @pytest.mark.parametrize(
        "body",
        [
            *("secret", '{"message":"a secret"}', '{"message":"A","b":"c"}', "secret" * 9999),
            *('{"message":"REFUSED: a","b":"secret"}', '{"message":"REFUSED: a\\nsecret"}'),
            '{"message":"REFUSED: ' + "secret" * 99 + '"}',
        ],
    )
    async def test_what_is_no_error_of_nsq_is_not_quoted(self, body: str) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", text(body, 503))
            for request in (
                up.get(daemon.address, "/x"),
                up.post(daemon.address, "/x", {}),
                up.send_json(f"http://{daemon.address}/x", {}),
            ):
                assert await error_of(request) == 'got response 503 Service Unavailable ""'

    async def test_a_request_without_a_response_times_out(self) -> None:
        listeners = await open_listeners("127.0.0.1:0")
        address = bound_address(listeners[0]).text
        async with upstream(http_client_request_timeout=50 * MILLISECOND) as up:
            error = await error_of(up.get(address, "/x"))
        assert error == f"GET http://{address}/x: no answer within 0.05 s"
        await listeners[0].aclose()

    async def test_a_response_that_is_too_long_is_an_error(self) -> None:
        async with scripted() as script, upstream(max_body=1000) as up:
            daemon = await script.daemon()
            daemon.on("/fits", text("x" * 1000))
            daemon.on("/long", text("x" * 1001))
            assert len(await up.get(daemon.address, "/fits")) == 1000
            error = await error_of(up.get(daemon.address, "/long"))
            assert error.endswith("/long: response of more than 1000 bytes")
            assert len(await up.get(daemon.address, "/fits")) == 1000

    async def test_all_responses_together_are_bounded(self) -> None:
        async with scripted() as script, upstream(budget=500) as up:
            daemon = await script.daemon()
            daemon.on("/x", text("x" * 501))
            assert (await error_of(up.get(daemon.address, "/x"))).endswith(
                "too many responses are being read"
            )

    async def test_a_response_that_is_not_http_is_an_error(self) -> None:
        async def answer_nonsense(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.receive_some()
                await stream.send_all(b"  V2 and so on\r\n\r\n")

        async with trio.open_nursery() as nursery, upstream() as up:
            listeners = await open_listeners("127.0.0.1:0")
            nursery.start_soon(trio.serve_listeners, answer_nonsense, listeners)
            error = await error_of(up.get(bound_address(listeners[0]).text, "/x"))
            nursery.cancel_scope.cancel()
        assert error.startswith("GET http://127.0.0.1:")

    async def test_no_proxy_of_the_environment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", f"http://{dead_address()}")
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x")
            assert await up.get(daemon.address, "/x") == b""


@attrs.define(eq=False)
class HangingDaemons:
    """They accept connections and never answer, as a stopped host does."""

    addresses: list[str] = attrs.field(factory=list)
    connections: int = 0
    all_connected: trio.Event = attrs.field(factory=trio.Event)

    async def take(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.connections += 1
            if self.connections >= len(self.addresses):
                self.all_connected.set()
            await trio.sleep_forever()


@contextlib.asynccontextmanager
async def hanging_daemons(number: int) -> AsyncIterator[HangingDaemons]:
    hanging = HangingDaemons()
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            listeners = await open_listeners("127.0.0.1:0")
            hanging.addresses.append(bound_address(listeners[0]).text)
            await nursery.start(trio.serve_listeners, hanging.take, listeners)
        yield hanging
        nursery.cancel_scope.cancel()


class TestManyAtOnce:
    async def test_a_hundred_hanging_daemons_do_not_delay_one_that_answers(
        self,
    ) -> None:
        async with (
            hanging_daemons(100) as hanging,
            scripted() as script,
            upstream(http_client_request_timeout=0) as up,
            trio.open_nursery() as requests,
        ):
            daemon = await script.daemon()
            daemon.on("/x", text("there"))
            with trio.fail_after(patience(5)):
                for address in hanging.addresses:
                    requests.start_soon(up.get, address, "/x")
                await hanging.all_connected.wait()
                assert await up.get(daemon.address, "/x") == b"there"
            requests.cancel_scope.cancel()

    async def test_other_tasks_run_while_a_hundred_requests_begin(self) -> None:
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with hanging_daemons(100) as hanging, upstream() as up, trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            for address in hanging.addresses:
                nursery.start_soon(up.get, address, "/x")
            await hanging.all_connected.wait()
            nursery.cancel_scope.cancel()
        assert turns >= 100

    async def test_requests_to_one_daemon_at_a_time_are_bounded(self) -> None:
        waiting = 0
        most = 0
        go = trio.Event()

        class Slow(ScriptedDaemon):
            async def wait(self, request: Request) -> Response:
                nonlocal waiting, most
                waiting += 1
                most = max(most, waiting)
                if waiting == MAX_PER_DAEMON:
                    go.set()
                await go.wait()
                waiting -= 1
                return text("")

            def _answer(self, request: Request) -> Any:
                return self.wait(request)

        async with trio.open_nursery() as nursery, upstream() as up:
            listeners = await open_listeners("127.0.0.1:0")
            address = bound_address(listeners[0]).text
            await nursery.start(HttpServer(Slow(address, Script(nursery))).run, listeners)
            async with trio.open_nursery() as requests:
                for _ in range(MAX_PER_DAEMON + 30):
                    requests.start_soon(up.get, address, "/x")
            nursery.cancel_scope.cancel()
        assert most == MAX_PER_DAEMON

    async def test_the_timeout_includes_the_wait_for_a_slot(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        began = trio.current_time()
        async with hanging_daemons(1) as hanging, upstream(http_client_connect_timeout=0) as up:
            [address] = hanging.addresses
            async with trio.open_nursery() as requests:
                for _ in range(2 * MAX_PER_DAEMON):
                    requests.start_soon(error_of, up.get(address, "/x"))
        assert trio.current_time() - began == pytest.approx(5.0)

    async def test_queries_reuse_a_connection_and_changes_do_not(self) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x")
            for _ in range(3):
                await up.get(daemon.address, "/x")
            for _ in range(3):
                await up.post(daemon.address, "/x", {})
        remotes = [request.remote for request in script.requests]
        assert len(set(remotes[:3])) == 1
        assert len(set(remotes)) == 4

    async def test_a_cookie_of_one_response_is_not_sent_with_the_next_request(self) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", Response(200, headers=((b"Set-Cookie", b"session=ann"),)))
            for _ in range(2):
                assert (await up.forward(f"http://{daemon.address}/x", [])).status == 200
        assert [request.header(b"cookie") for request in script.requests] == [None, None]


class TestFanOut:
    async def test_responses_and_errors_are_in_the_order_of_the_targets(self) -> None:
        async def ask(number: int) -> int:
            await trio.sleep(0.01 * (5 - number))
            if number % 2:
                raise UpstreamError(f"no {number}")
            return number * 10

        warnings = Warnings()
        given = await query_all("nsqd", list(range(5)), ask, warnings)
        assert given == [(0, 0), (2, 20), (4, 40)]
        warnings.add(["later"])
        warnings.add([])
        assert warnings.message == "WARNING: no 1\nno 3; later"

    async def test_a_query_without_targets_fails(self) -> None:
        with pytest.raises(UpstreamFailed) as failed:
            await query_all("nsqd", [], responses.stats, Warnings())  # type: ignore[arg-type]
        assert str(failed.value) == "failed to query any nsqd: "
        assert Warnings().message == ""


class TestDecoding:
    async def test_a_large_response_is_decoded_like_a_small_one(self) -> None:
        big = BigCluster(topics=500, clients=3_000, nodes=1)
        async with big.serving() as addresses, upstream(max_body=1 << 24) as up:
            found = await responses.stats(up, addresses.nsqds[0], clients=True)
            alone = await responses.stats(up, addresses.nsqds[0], "t00007", clients=True)
        assert found.topics is not None
        assert len(found.topics) == 500
        assert [found.topics[7]] == alone.topics
        assert sum(len(c.clients or ()) for t in found.topics for c in t.channels or ()) == 3_000

    @pytest.mark.parametrize("body", ["[]", "{", '{"topics":[{"topic_name":1}]}', '{"topics":{}}'])
    @pytest.mark.parametrize("padding", [0, 200_000])
    async def test_invalid_statistics_are_an_error(self, body: str, padding: int) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/stats", text(body + " " * padding))
            error = await error_of(responses.stats(up, daemon.address))
        assert f"GET http://{daemon.address}/stats: unexpected response: " in error


class Authority:
    """A certificate authority with its files."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.cert_file, self.key_file = str(folder / "cert.pem"), str(folder / "key.pem")
        issued = self.ca.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.key_file)
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(self.cert_file, append=number > 0)

    @contextlib.asynccontextmanager
    async def nsqd(self, script: Script, **policy: Any) -> AsyncIterator[ScriptedDaemon]:
        """An nsqd that requires TLS, and says so over plain HTTP."""
        context = server_context(self.cert_file, self.key_file, **policy)
        secure = await script.daemon()
        listeners = await open_listeners("127.0.0.1:0")
        https_port = bound_address(listeners[0]).port
        tls = [trio.SSLListener(listener, context, https_compatible=True) for listener in listeners]
        await script.nursery.start(HttpServer(secure).run, tls)
        plain = await script.daemon()
        hint = Response(403, b'{"message": "TLS_REQUIRED", "https_port": %d}' % https_port)
        for path in ("/topics", "/topic/delete"):
            plain.on(path, hint)
        secure.on("/topics", {"topics": ["a"]})
        secure.on("/topic/delete")
        yield plain


class TestTls:
    async def test_an_nsqd_that_requires_tls_is_queried_over_tls(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        async with (
            scripted() as script,
            authority.nsqd(script) as nsqd,
            upstream(http_client_tls_root_ca_file=authority.ca_file) as up,
        ):
            assert await up.get(nsqd.address, "/topics") == b'{"topics":["a"]}'
            await up.post(nsqd.address, "/topic/delete", {"topic": "t"})
        methods = [(request.method, request.secure) for request in script.requests]
        assert methods == [("GET", False), ("GET", True), ("POST", False), ("POST", True)]
        assert script.requests[-1].query_string == b"topic=t"

    async def test_an_untrusted_certificate_is_rejected_unless_verification_is_skipped(
        self, tmp_path: Path
    ) -> None:
        authority = Authority(tmp_path)
        async with scripted() as script, authority.nsqd(script) as nsqd:
            async with upstream() as up:
                assert (
                    "certificate verify failed" in (await error_of(up.get(nsqd.address, "/topics"))).lower()
                )
            async with upstream(http_client_tls_insecure_skip_verify=True) as up:
                assert await up.get(nsqd.address, "/topics")

    async def test_a_client_certificate_is_sent(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        trusted = {"http_client_tls_root_ca_file": authority.ca_file}
        own = {"http_client_tls_cert": authority.cert_file, "http_client_tls_key": authority.key_file}
        policy = {"client_auth_policy": REQUIRE_VERIFY, "root_ca_file": authority.ca_file}
        async with scripted() as script, authority.nsqd(script, **policy) as nsqd:
            async with upstream(**trusted) as up:
                assert await error_of(up.get(nsqd.address, "/topics"))
            async with upstream(**trusted, **own) as up:
                assert await up.get(nsqd.address, "/topics")

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b'{"https_port":0}', b'{"https_port":"x"}', b'{"https_port":70000}']
    )
    async def test_any_other_403_is_an_error(self, body: bytes) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", Response(403, body))
            assert (await error_of(up.get(daemon.address, "/x"))).startswith("got response 403 Forbidden")
        assert len(script.calls) == 1


async def test_json_is_sent_to_any_url() -> None:
    async with scripted() as script, upstream() as up:
        daemon = await script.daemon()
        daemon.on("/hook", json_body({}, 204))
        await up.send_json(f"http://{daemon.address}/hook", {"a": 1})
        assert "got response 404" in await error_of(up.send_json(f"http://{daemon.address}/none", {}))
        assert "POST nonsense" in await error_of(up.send_json("nonsense", {}))
    assert script.requests[0].body == b'{"a":1}'


async def test_the_token_is_shown_to_daemons_and_not_to_a_webhook(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("nsq_secret\n")
    async with scripted() as script, upstream(access_token_file=str(tmp_path / "token")) as up:
        daemon = await script.daemon()
        for path in ("/stats", "/drain", "/hook"):
            daemon.on(path)
        await up.get(daemon.address, "/stats")
        await up.post(daemon.address, "/drain", {})
        await up.send_json(f"http://{daemon.address}/hook", {})
    shown = [request.header(b"authorization") for request in script.requests]
    assert shown == [b"Bearer nsq_secret", b"Bearer nsq_secret", None]
