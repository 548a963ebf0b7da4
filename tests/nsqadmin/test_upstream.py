"""Requests to other daemons: bounded in time and size, over TLS where it is asked for, with errors for people."""

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
from nsqadmin.upstream import Upstream, UpstreamError, UpstreamFailed, Warnings, answers, ask_all
from nsqadmin.upstream.connections import MAX_PER_DAEMON
from nsqkit.service.http import ByteBudget, HttpServer, Request, Response, json_body, text
from nsqkit.service.listeners import bound_address, open_listeners
from nsqkit.service.tls import REQUIRE_VERIFY, server_context
from tests.nsqadmin.big_cluster import BigCluster
from tests.nsqadmin.scripted import Script, ScriptedDaemon, dead_address, scripted

MILLISECOND = 1_000_000


@contextlib.asynccontextmanager
async def upstream(max_body: int = 1 << 20, budget: int = 1 << 30, **options: Any) -> AsyncIterator[Upstream]:
    made = Upstream(AdminOptions(**options), max_body, ByteBudget(budget))
    try:
        yield made
    finally:
        assert made.budget.used == 0, "all that was counted in was counted out"
        await made.aclose()


async def error_of(asking: Any) -> str:
    with pytest.raises(UpstreamError) as error:
        await asking
    return str(error.value)


class TestErrors:
    async def test_nobody_there(self) -> None:
        address = dead_address()
        async with upstream() as up:
            assert await error_of(up.get(address, "/x")) == f"GET http://{address}/x: connection refused"
            told = await error_of(up.post(address, "/x", {"topic": "a#ephemeral b"}))
        assert told == f"POST http://{address}/x?topic=a%23ephemeral+b: connection refused"

    async def test_a_refusal_is_quoted_but_not_at_any_length(self) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", text('no "x"\n' + "y" * 10_000, 503))
            told = await error_of(up.get(daemon.address, "/x"))
        assert told.startswith('got response 503 Service Unavailable "no \\"x\\"\\nyyyy')
        assert len(told) < 700

    async def test_silence_ends_with_the_time_limit(self) -> None:
        listeners = await open_listeners("127.0.0.1:0")
        address = bound_address(listeners[0]).text
        async with upstream(http_client_request_timeout=50 * MILLISECOND) as up:
            told = await error_of(up.get(address, "/x"))
        assert told == f"GET http://{address}/x: no answer within 0.05 s"
        await listeners[0].aclose()

    async def test_an_answer_that_is_too_long_is_cut_off(self) -> None:
        async with scripted() as script, upstream(max_body=1000) as up:
            daemon = await script.daemon()
            daemon.on("/fits", text("x" * 1000))
            daemon.on("/long", text("x" * 1001))
            assert len(await up.get(daemon.address, "/fits")) == 1000
            told = await error_of(up.get(daemon.address, "/long"))
            assert told.endswith("/long: response of more than 1000 bytes")
            assert len(await up.get(daemon.address, "/fits")) == 1000

    async def test_all_answers_together_are_bounded(self) -> None:
        async with scripted() as script, upstream(budget=500) as up:
            daemon = await script.daemon()
            daemon.on("/x", text("x" * 501))
            assert (await error_of(up.get(daemon.address, "/x"))).endswith("too many responses are being read")

    async def test_what_is_no_http_is_an_error(self) -> None:
        async def answer_nonsense(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.receive_some()
                await stream.send_all(b"  V2 and so on\r\n\r\n")

        async with trio.open_nursery() as nursery, upstream() as up:
            listeners = await open_listeners("127.0.0.1:0")
            nursery.start_soon(trio.serve_listeners, answer_nonsense, listeners)
            told = await error_of(up.get(bound_address(listeners[0]).text, "/x"))
            nursery.cancel_scope.cancel()
        assert told.startswith("GET http://127.0.0.1:")

    async def test_no_proxy_of_the_environment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", f"http://{dead_address()}")
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x")
            assert await up.get(daemon.address, "/x") == b""


@attrs.define(eq=False)
class SilentDaemons:
    """They take connections and never answer, as a stopped host does."""

    addresses: list[str] = attrs.field(factory=list)
    connections: int = 0
    all_are_asked: trio.Event = attrs.field(factory=trio.Event)

    async def take(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.connections += 1
            if self.connections >= len(self.addresses):
                self.all_are_asked.set()
            await trio.sleep_forever()


@contextlib.asynccontextmanager
async def silent_daemons(number: int) -> AsyncIterator[SilentDaemons]:
    silent = SilentDaemons()
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            listeners = await open_listeners("127.0.0.1:0")
            silent.addresses.append(bound_address(listeners[0]).text)
            await nursery.start(trio.serve_listeners, silent.take, listeners)
        yield silent
        nursery.cancel_scope.cancel()


class TestManyAtOnce:
    async def test_a_hundred_that_hang_are_asked_at_once_and_the_one_that_answers_is_not_held_up(
        self,
    ) -> None:
        async with (
            silent_daemons(100) as silent,
            scripted() as script,
            upstream(http_client_request_timeout=0) as up,
            trio.open_nursery() as askers,
        ):
            daemon = await script.daemon()
            daemon.on("/x", text("there"))
            with trio.fail_after(5):
                for address in silent.addresses:
                    askers.start_soon(up.get, address, "/x")
                await silent.all_are_asked.wait()
                assert await up.get(daemon.address, "/x") == b"there"
            askers.cancel_scope.cancel()

    async def test_others_have_their_turns_while_a_hundred_are_asked(self) -> None:
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with silent_daemons(100) as silent, upstream() as up, trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            for address in silent.addresses:
                nursery.start_soon(up.get, address, "/x")
            await silent.all_are_asked.wait()
            nursery.cancel_scope.cancel()
        assert turns >= 100

    async def test_one_daemon_is_asked_some_questions_at_a_time(self) -> None:
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
            async with trio.open_nursery() as askers:
                for _ in range(MAX_PER_DAEMON + 30):
                    askers.start_soon(up.get, address, "/x")
            nursery.cancel_scope.cancel()
        assert most == MAX_PER_DAEMON

    async def test_whoever_waits_for_a_place_waits_no_longer_than_the_time_limit(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        began = trio.current_time()
        async with silent_daemons(1) as silent, upstream(http_client_connect_timeout=0) as up:
            [address] = silent.addresses
            async with trio.open_nursery() as askers:
                for _ in range(2 * MAX_PER_DAEMON):
                    askers.start_soon(error_of, up.get(address, "/x"))
        assert trio.current_time() - began == pytest.approx(5.0)

    async def test_questions_reuse_a_connection_and_changes_do_not(self) -> None:
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

    async def test_a_cookie_of_one_answer_does_not_go_with_the_next_question(self) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", Response(200, headers=((b"Set-Cookie", b"session=ann"),)))
            for _ in range(2):
                assert (await up.forward(f"http://{daemon.address}/x", [])).status == 200
        assert [request.header(b"cookie") for request in script.requests] == [None, None]


class TestFanOut:
    async def test_answers_and_errors_keep_the_order_of_those_who_were_asked(self) -> None:
        async def ask(number: int) -> int:
            await trio.sleep(0.01 * (5 - number))
            if number % 2:
                raise UpstreamError(f"no {number}")
            return number * 10

        warnings = Warnings()
        given = await ask_all("nsqd", list(range(5)), ask, warnings)
        assert given == [(0, 0), (2, 20), (4, 40)]
        warnings.add(["later"])
        warnings.add([])
        assert warnings.message == "WARNING: no 1\nno 3; later"

    async def test_nobody_to_ask_is_nobody_who_answers(self) -> None:
        with pytest.raises(UpstreamFailed) as failed:
            await ask_all("nsqd", [], answers.stats, Warnings())  # type: ignore[arg-type]
        assert str(failed.value) == "failed to query any nsqd: "
        assert Warnings().message == ""


class TestDecoding:
    async def test_a_large_answer_is_decoded_like_a_small_one(self) -> None:
        big = BigCluster(topics=500, clients=3_000, nodes=1)
        async with big.serving() as addresses, upstream(max_body=1 << 24) as up:
            found = await answers.stats(up, addresses.nsqds[0], clients=True)
            alone = await answers.stats(up, addresses.nsqds[0], "t00007", clients=True)
        assert found.topics is not None
        assert len(found.topics) == 500
        assert [found.topics[7]] == alone.topics
        assert sum(len(c.clients or ()) for t in found.topics for c in t.channels or ()) == 3_000

    @pytest.mark.parametrize("body", ["[]", "{", '{"topics":[{"topic_name":1}]}', '{"topics":{}}'])
    @pytest.mark.parametrize("padding", [0, 200_000])
    async def test_what_is_no_statistics_is_an_error_that_says_so(self, body: str, padding: int) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/stats", text(body + " " * padding))
            told = await error_of(answers.stats(up, daemon.address))
        assert f"GET http://{daemon.address}/stats: not the answer of an nsqd: " in told


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
        """One that answers over TLS only, and says so over plain HTTP."""
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
    async def test_an_nsqd_that_wants_tls_is_asked_over_tls(self, tmp_path: Path) -> None:
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

    async def test_a_certificate_that_nobody_vouches_for_is_not_believed_unless_told_to(
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

    async def test_a_certificate_of_our_own_is_shown(self, tmp_path: Path) -> None:
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
    async def test_any_other_403_is_a_refusal(self, body: bytes) -> None:
        async with scripted() as script, upstream() as up:
            daemon = await script.daemon()
            daemon.on("/x", Response(403, body))
            assert (await error_of(up.get(daemon.address, "/x"))).startswith("got response 403 Forbidden")
        assert len(script.calls) == 1


async def test_json_is_sent_to_any_url_and_any_success_will_do() -> None:
    async with scripted() as script, upstream() as up:
        daemon = await script.daemon()
        daemon.on("/hook", json_body({}, 204))
        await up.send_json(f"http://{daemon.address}/hook", {"a": 1})
        assert "got response 404" in await error_of(up.send_json(f"http://{daemon.address}/none", {}))
        assert "POST nonsense" in await error_of(up.send_json("nonsense", {}))
    assert script.requests[0].body == b'{"a":1}'
