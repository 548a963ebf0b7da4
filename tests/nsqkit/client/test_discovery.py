"""Discovery: several registries, merged, with what is known kept."""

from __future__ import annotations

import contextlib
import gc
import http.server
import json
import logging
import random
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import anyio
import attrs
import pytest

from nsqkit import discovery as module
from nsqkit.client import Consumer, Producer
from nsqkit.discovery import Discovery, DiscoveryFailed, Node, registry_url
from nsqkit.http_client import Answer
from tests.nsqkit.client.fake import both_backends, fake_nsqd, run, run_mocked


def producer(host: str, port: int = 4150) -> dict[str, Any]:
    return {"broadcast_address": host, "tcp_port": port, "http_port": port + 1, "version": "1.3.0"}


@attrs.define(eq=False)
class FakeRegistries:
    """What each host answers: a JSON value, a status, an exception, or None for never."""

    answers: dict[str, Any]
    delays: dict[str, float] = attrs.field(factory=dict)
    """Seconds until it answers, if not at once."""
    asked: list[tuple[float, str]] = attrs.field(factory=list)
    headers: list[Mapping[str, str]] = attrs.field(factory=list)

    async def fetch(self, url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
        self.asked.append((anyio.current_time(), url))
        self.headers.append(headers)
        host = url.split("/")[2].split(":")[0]
        await anyio.sleep(self.delays.get(host, 0))
        answer = self.answers[host]
        if answer is None:
            await anyio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return Answer(answer, [], b'{"message":"TOPIC_NOT_FOUND"}')
        return Answer(200, [], json.dumps(answer).encode())


def of(registries: FakeRegistries, **settings: Any) -> Discovery:
    addresses = [f"{host}:4161" for host in registries.answers]
    return Discovery(addresses, fetch=registries.fetch, random=random.Random(1), **settings)


@pytest.mark.parametrize(
    ("address", "what", "url"),
    [
        ("h:4161", "lookup", "http://h:4161/lookup?topic=a%23b"),
        ("http://h:4161/", "lookup", "http://h:4161/lookup?topic=a%23b"),
        ("https://h:1/x/lookup?k=v", "lookup", "https://h:1/x/lookup?k=v&topic=a%23b"),
        ("https://h:1/x/lookup?k=v", "topics", "https://h:1/x/topics?k=v&topic=a%23b"),
        ("[::1]:4161", "nodes", "http://[::1]:4161/nodes?topic=a%23b"),
    ],
)
def test_addresses_become_urls(address: str, what: str, url: str) -> None:
    """Scheme optional, path and query kept."""
    assert registry_url(address, what, "a#b") == url


@pytest.mark.parametrize("address", ["", "h", "http://h", "ftp://h:1", "http://:1", "h:x"])
def test_bad_addresses_are_refused_at_once(address: str) -> None:
    """A port is needed."""
    with pytest.raises(ValueError):
        Discovery([address])


@both_backends
def test_answers_are_merged_by_address_and_port(backend: str) -> None:
    """All registries are asked; the old envelope is understood; what nobody could connect to is left out."""
    registries = FakeRegistries(
        {
            "r1": {"producers": [producer("a"), producer("b")]},
            "r2": {"data": {"producers": [producer("b"), producer("b", 5150), {"broadcast_address": ""}, 7]}},
            "r3": 404,
        }
    )

    async def main() -> None:
        discovery = of(registries, bearer="sesame")
        nodes = await discovery.lookup("t")
        assert [node.tcp_address for node in nodes] == ["a:4150", "b:4150", "b:5150"]
        assert nodes[0].http_port == 4151
        assert discovery.failures == {}
        assert registries.headers[0] == {
            "Accept": "application/vnd.nsq; version=1.0",
            "Authorization": "Bearer sesame",
        }

    run(main, backend)


def test_registries_are_asked_at_once_and_a_dead_one_delays_nobody_for_long() -> None:
    """Whoever asks once gets all answers: each has its own time-out, and they run side by side."""
    registries = FakeRegistries({"r1": None, "r2": None, "r3": {"producers": [producer("a")]}})

    async def main() -> None:
        start = anyio.current_time()
        assert await of(registries, timeout=5).lookup("t") == [Node("a", 4150)]
        assert anyio.current_time() - start == pytest.approx(5, abs=0.01)
        assert [time - start for time, _ in registries.asked] == pytest.approx([0, 0, 0], abs=0.01)

    run_mocked(main)


@both_backends
def test_what_is_known_stays_known(backend: str) -> None:
    """When some fail, and when all fail; but a 404 is an answer."""
    registries = FakeRegistries({"r1": {"producers": [producer("a")]}, "r2": {"producers": [producer("b")]}})

    async def main() -> None:
        discovery = of(registries)
        both = [Node("a", 4150), Node("b", 4150)]
        assert await discovery.lookup("t") == both
        registries.answers["r1"] = OSError("refused")
        assert await discovery.lookup("t") == both
        assert discovery.failures == {"r1:4161": "refused"}
        registries.answers["r2"] = 500
        assert await discovery.lookup("t") == both
        registries.answers["r2"] = 404
        assert await discovery.lookup("t") == both[:1]
        registries.answers["r2"] = OSError("refused")
        with pytest.raises(DiscoveryFailed, match="r1:4161: refused"):
            await discovery.lookup("other")

    run(main, backend)


@both_backends
@pytest.mark.parametrize("answer", [[], "x", {"producers": 7}, {"producers": [None, [], {"tcp_port": 1}]}])
def test_strange_answers_are_no_nodes(backend: str, answer: Any) -> None:
    """Neither an exception nor a node."""

    async def main() -> None:
        discovery = of(FakeRegistries({"r1": answer, "r2": {"producers": []}}))
        assert await discovery.lookup("t") == []

    run(main, backend)


@both_backends
@pytest.mark.parametrize(
    "entry",
    [
        producer("a\nb"),
        producer("a b"),
        producer("a/b?c"),
        producer("h" * 300),
        {**producer("a"), "tcp_port": True},
        {**producer("a"), "tcp_port": 10**18},
    ],
)
def test_entries_without_a_usable_address_are_left_out(backend: str, entry: Any) -> None:
    """The others of the same answer count, with texts of bounded length."""
    honest = {**producer("b"), "version": ["not", "text"], "hostname": "h" * 1000}

    async def main() -> None:
        discovery = of(FakeRegistries({"r1": {"producers": [entry, honest]}}))
        [node] = await discovery.lookup("t")
        assert (node.tcp_address, node.version, len(node.hostname)) == ("b:4150", "", 255)

    run(main, backend)


@both_backends
def test_a_404_that_is_not_of_a_registry_is_no_answer(backend: str) -> None:
    """An nsqd's HTTP port answers so, for example."""

    async def main() -> None:
        async def fetch(url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
            return Answer(404, [], b'{"message":"NOT_FOUND"}')

        with pytest.raises(DiscoveryFailed, match="not the HTTP address of an nsqlookupd"):
            await Discovery(["n:4151"], fetch=fetch).lookup("t")

    run(main, backend)


def test_a_topic_that_nobody_has_is_looked_for_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """After 0.5, 1, 2, 4 ... s, up to the interval."""
    registries = FakeRegistries({"r1": 404, "r2": 404})
    found: list[float] = []

    async def main() -> None:
        began = anyio.current_time()
        async with fake_nsqd(heartbeat_s=25) as nsqd, anyio.create_task_group() as group:
            discovery = of(registries, interval=30.0, jitter=0.0)
            consumer = Consumer("orders", "c", discovery=discovery, handler=print, connect=nsqd.connect)
            group.start_soon(consumer.run)
            await anyio.sleep(100)
            times = [at - began for at, url in registries.asked if "//r1" in url]
            assert times == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5], abs=0.05)
            registries.answers["r1"] = {"producers": [producer("a")]}
            await nsqd.peer(31)
            found.append(anyio.current_time())
            group.cancel_scope.cancel()

    with caplog.at_level(logging.INFO, "nsq"):
        run_mocked(main)
    assert found
    said = [text for text in caplog.messages if "LOOKUPD" in text]
    assert said == [
        "LOOKUPD: no nsqd has topic 'orders' yet; asking again after 0.5, 1, 2 ... s, at most 30 s",
        "LOOKUPD: found 1 nsqd with topic 'orders'",
    ]


@both_backends
def test_topics_nodes_and_channels(backend: str) -> None:
    """Merged and sorted as well."""
    registries = FakeRegistries(
        {
            "r1": {"topics": ["b", "a", 3], "channels": ["x"], "producers": [producer("a")]},
            "r2": {"topics": ["c"], "channels": ["y"], "producers": []},
        }
    )

    async def main() -> None:
        discovery = of(registries)
        assert await discovery.topics() == ["a", "b", "c"]
        assert await discovery.channels("a") == ["x", "y"]
        assert await discovery.nodes() == [Node("a", 4150)]

    run(main, backend)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest question is forgotten; an answer's nodes are limited."""
    monkeypatch.setattr(module, "MAX_QUERIES", 3)
    monkeypatch.setattr(module, "MAX_NODES", 2)
    registries = FakeRegistries({"r1": {"producers": [producer(f"h{n}") for n in range(5)]}})

    async def main() -> None:
        discovery = of(registries)
        for topic in "abcd":
            assert len(await discovery.lookup(topic)) == 2
        registries.answers["r1"] = OSError("gone")
        assert len(await discovery.lookup("b")) == 2
        with pytest.raises(DiscoveryFailed):
            await discovery.lookup("a")

    run(main)


def test_watching_polls_at_once_then_with_jitter_then_every_interval() -> None:
    """When asked, once more, but not more than once a second, and then less and less often."""
    registries = FakeRegistries({"r1": {"producers": [producer("a")]}})

    async def main() -> None:
        discovery = of(registries, interval=60, jitter=0.3)
        start = anyio.current_time()
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                async for nodes in discovery.watch("t"):
                    assert nodes == [Node("a", 4150)]

            group.start_soon(watch)
            await anyio.sleep(200)
            for _ in range(5):
                discovery.poll_soon()
            await anyio.sleep(200)
            group.cancel_scope.cancel()
        times = [time - start for time, _ in registries.asked]
        assert times[0] == 0
        assert 60 <= times[1] <= 78
        assert times[2] - times[1] == pytest.approx(60)
        after = [time - 200 for time in times[4:]]
        assert after == pytest.approx([0, 1, 3, 7, 15, 31, 63, 123, 183], abs=0.01)

    run_mocked(main)


def test_a_round_that_is_asked_for_in_another_one_comes_after_it() -> None:
    """What was lost meanwhile may be in its answer still."""
    registries = FakeRegistries({"r1": {"producers": []}}, delays={"r1": 2})

    async def main() -> None:
        discovery = of(registries)
        start = anyio.current_time()
        watch = discovery.watch("t")
        async with anyio.create_task_group() as group:
            group.start_soon(anext, watch)
            await anyio.sleep(1)
            discovery.poll_soon()
        await anext(watch)
        assert [time - start for time, _ in registries.asked] == pytest.approx([0, 3], abs=0.01)

    run_mocked(main)


def test_a_registry_that_hangs_holds_up_no_watch() -> None:
    """Whoever has not answered a second after another one counts with what it said last, and is asked once more."""
    registries = FakeRegistries({"r1": None, "r2": {"producers": [producer("a")]}, "r3": OSError("refused")})

    async def main() -> None:
        discovery = of(registries, interval=10, jitter=0)
        start = anyio.current_time()
        watch = discovery.watch("t")
        assert await anext(watch) == [Node("a", 4150)]
        assert anyio.current_time() - start == pytest.approx(1, abs=0.01)
        registries.answers["r1"] = {"producers": [producer("b")]}
        assert await anext(watch) == [Node("a", 4150), Node("b", 4150)]
        assert anyio.current_time() - start == pytest.approx(1, abs=0.01)
        assert list(discovery.failures) == ["r3:4161"]
        registries.answers["r1"] = None
        for round_ in (1, 2):
            assert await anext(watch) == [Node("a", 4150), Node("b", 4150)]
            assert anyio.current_time() - start == pytest.approx(1 + 11 * round_, abs=0.01)
        assert discovery.failures["r1:4161"] == "no answer before the next round"

    run_mocked(main)


@pytest.mark.parametrize(
    ("delays", "answered_at", "heard"), [((3, 3.5), 3.5, ["a", "b"]), ((5, 3), 4, ["b"]), ((70, 3), 4, ["b"])]
)
def test_slow_registries_are_waited_for_as_long_as_no_other_answers(
    delays: tuple[float, float], answered_at: float, heard: list[str]
) -> None:
    """A failure is no answer: it hurries nobody."""
    registries = FakeRegistries(
        {"r1": {"producers": [producer("a")]}, "r2": {"producers": [producer("b")]}, "r3": 500},
        delays={"r1": delays[0], "r2": delays[1]},
    )

    async def main() -> None:
        discovery = of(registries)
        start = anyio.current_time()
        nodes = await anext(discovery.watch("t"))
        assert [node.broadcast_address for node in nodes] == heard
        assert anyio.current_time() - start == pytest.approx(answered_at, abs=0.01)
        assert sorted(discovery.failures) == ["r3:4161"]

    run_mocked(main)


def test_watching_asks_sooner_while_nobody_answers() -> None:
    """A consumer may start before its registries do."""
    registries = FakeRegistries({"r1": OSError("refused")})

    async def main() -> None:
        start = anyio.current_time()
        with anyio.move_on_after(100):
            async for _ in of(registries).watch("t"):
                raise AssertionError("nothing is known")
        times = [time - start for time, _ in registries.asked]
        assert times[:5] == pytest.approx([0, 1, 3, 7, 15], abs=0.01)

    run_mocked(main)


def test_registries_that_are_back_are_asked_again_soon() -> None:
    """They came back empty, and the nsqds announce themselves one after the other."""
    registries = FakeRegistries({"r1": OSError("refused")})

    async def main() -> None:
        start = anyio.current_time()
        watch = of(registries, jitter=0).watch("t")
        with anyio.move_on_after(10):
            await anext(watch)
        registries.answers["r1"] = {"producers": []}
        for _ in range(8):
            await anext(watch)
        times = [time - start for time, _ in registries.asked]
        assert times == pytest.approx([0, 1, 3, 7, 15, 16, 18, 22, 30, 46, 78, 138], abs=0.01)

    run_mocked(main)


@both_backends
def test_whoever_leaves_a_watch_has_nothing_to_close(backend: str) -> None:
    """As with any iterator: an event loop would complain (a warning is an error here) of a generator left open."""
    registries = FakeRegistries({"r1": {"producers": [producer("a")]}})

    async def main() -> None:
        async for nodes in of(registries).watch("t"):
            assert nodes == [Node("a", 4150)]
            break
        gc.collect()

    run(main, backend)


@both_backends
def test_a_consumer_stopped_while_a_registry_thinks_leaves_nothing_open(backend: str) -> None:
    """It takes the answer, sees that it has stopped, and ends, without a generator left behind."""
    asked, answer = anyio.Event(), anyio.Event()

    async def fetch(url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
        asked.set()
        await answer.wait()
        return Answer(200, [], json.dumps({"producers": [producer("a")]}).encode())

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            discovery = Discovery(["r1:1"], fetch=fetch)
            async with Consumer("t", "c", discovery=discovery, connect=nsqd.connect) as consumer:
                await asked.wait()
                consumer.stop()
                answer.set()
                await anyio.sleep(0.05)
                gc.collect()
                assert not consumer.stats().connections

    run(main, backend)


def test_a_consumer_follows_the_registries() -> None:
    """New nsqds are connected, lost ones are asked for, and a registry that is gone takes nothing away."""
    registries = FakeRegistries({"r1": {"producers": [producer("a", 1)]}})

    async def main() -> None:
        discovery = of(registries, interval=10)
        async with fake_nsqd(heartbeat_s=20) as nsqd:
            consumer = Consumer("t", "c", discovery=discovery, connect=nsqd.connect)
            async with consumer:
                first = await nsqd.peer()
                registries.answers["r1"] = {"producers": [producer("b", 2)]}
                second = await nsqd.peer(20)
                assert (first.address.port, second.address.port) == (1, 2)
                assert not first.ended.is_set()  # missing in an answer: not disconnected
                registries.answers["r1"] = OSError("gone")
                await anyio.sleep(100)
                assert len(consumer.stats().connections) == 2
                polls = len(registries.asked)
                await first.close()  # and not listed any more: not tried again
                await anyio.sleep(2)
                assert len(registries.asked) > polls
                await second.close()  # listed when the registry was last heard: tried again
                third = await nsqd.peer(20)
                assert third.address.port == 2
                await anyio.sleep(20)
                assert [link.address for link in consumer.stats().connections] == ["b:2"]

    run_mocked(main)


@pytest.mark.parametrize("kind", [Consumer, Producer])
def test_an_nsqd_that_restarts_is_back_when_the_registries_have_it_again(kind: type) -> None:
    """They forget it meanwhile, and the next poll is a minute away: they are asked again sooner."""
    registries = FakeRegistries({"r1": {"producers": [producer("a", 1)]}})

    async def main() -> None:
        async with fake_nsqd(heartbeat_s=20) as nsqd:
            names = ("t", "c") if kind is Consumer else ()
            async with kind(*names, discovery=of(registries), connect=nsqd.connect):
                first = await nsqd.peer()
                await anyio.sleep(5)
                registries.answers["r1"] = {"producers": []}
                await first.close()
                lost_at = anyio.current_time()
                await anyio.sleep(4)
                registries.answers["r1"] = {"producers": [producer("a", 1)]}
                await nsqd.peer(60)
                assert anyio.current_time() - lost_at == pytest.approx(7, abs=0.1)

    run_mocked(main)


def test_an_nsqd_that_the_registries_do_not_list_is_left_alone() -> None:
    """It may have lost its topic, and a consumer that connects would create it again."""
    registries = FakeRegistries({"r1": {"producers": [producer("a", 1)]}})

    async def main() -> None:
        async with (
            fake_nsqd(heartbeat_s=20) as nsqd,
            Consumer("t", "c", discovery=of(registries), connect=nsqd.connect),
        ):
            first = await nsqd.peer()
            await anyio.sleep(5)
            registries.answers["r1"] = 404
            await first.close()
            await anyio.sleep(300)
            assert len(nsqd.attempts) == 1

    run_mocked(main)


class _Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Accept"]))  # type: ignore[attr-defined]
        body = json.dumps({"producers": [producer("a")]}).encode() if "good" in self.path else b"x" * 2_000
        body = b'{"message":"TOPIC_NOT_FOUND"}' if "missing" in self.path else body
        self.send_response(200 if "missing" not in self.path else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def registry_over_http() -> Iterator[http.server.ThreadingHTTPServer]:
    """One on the loopback; `seen` is what it was asked."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@both_backends
def test_over_real_http(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the loopback: path, headers, bounded answers, nobody there."""
    monkeypatch.setattr(module, "MAX_ANSWER", 1_000)

    async def main() -> None:
        discovery = Discovery([f"127.0.0.1:{server.server_port}", "127.0.0.1:1"], timeout=5)
        assert await discovery.lookup("good") == [Node("a", 4150)]
        assert list(discovery.failures) == ["127.0.0.1:1"]
        assert await discovery.lookup("missing") == []
        with pytest.raises(DiscoveryFailed, match="more than 1000 bytes"):
            await discovery.lookup("large")

    with registry_over_http() as server:
        run(main, backend)
        assert server.seen[0] == ("/lookup?topic=good", "application/vnd.nsq; version=1.0")  # type: ignore[attr-defined]


@both_backends
def test_a_request_that_is_not_waited_for_leaves_nothing_behind(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One registry takes connections and never answers. (A warning of something left open is an error here.)"""
    monkeypatch.setattr(module, "OTHERS_S", 0.05)

    async def main() -> None:
        discovery = Discovery([f"127.0.0.1:{hanging.getsockname()[1]}", f"127.0.0.1:{server.server_port}"])
        watch = discovery.watch("good")
        assert await anext(watch) == [Node("a", 4150)]
        with anyio.move_on_after(0.1):
            await anext(watch)
            raise AssertionError("it hangs, and the next round is a minute away")
        gc.collect()

    with socket.create_server(("127.0.0.1", 0)) as hanging, registry_over_http() as server:
        run(main, backend)


@pytest.mark.parametrize("always", [False, True])
def test_a_registry_that_is_slow_is_heard(always: bool) -> None:
    """Also if it is the only one that has an nsqd, and the others answer at once, always."""
    asked = {"near": 0, "far": 0}

    async def fetch(url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
        host = url.split("/")[2].split(":")[0]
        asked[host] += 1
        if host == "far" and (always or asked[host] == 1):
            await anyio.sleep(1.5)
        return Answer(200, [], json.dumps({"producers": [producer(host)]}).encode())

    async def main() -> None:
        discovery = Discovery(["near:1", "far:1"], fetch=fetch)
        lists: list[tuple[float, list[str]]] = []
        began = anyio.current_time()
        with anyio.move_on_after(50):
            async for nodes in discovery.watch("t"):
                lists.append((anyio.current_time() - began, [node.broadcast_address for node in nodes]))
        assert lists[0] == (pytest.approx(1), ["near"])
        assert lists[1] == (pytest.approx(2.5 if always else 1), ["far", "near"])
        assert len(lists) == 2
        assert discovery.failures == {}

    run_mocked(main)
