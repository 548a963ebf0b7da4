"""Pushes to statsd, read back from a real socket: names, kinds, differences, packets and times."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nsqd.stats.statsd import Resolve, Resolver, Statsd, datagrams
from tests.nsqd.http.fake_daemon import FakeDaemon

SECOND = 1_000_000_000
PREFIX = "nsq.b_example_4151."
MEMORY = [
    "mem.heap_objects",
    "mem.heap_idle_bytes",
    "mem.heap_in_use_bytes",
    "mem.heap_released_bytes",
    "mem.gc_pause_usec_100",
    "mem.gc_pause_usec_99",
    "mem.gc_pause_usec_95",
    "mem.next_gc_bytes",
    "mem.gc_runs",
]


@attrs.define
class Receiver:
    """A statsd daemon that only listens; lines without the prefix."""

    sock: socket.socket

    @classmethod
    def open(cls) -> Receiver:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        return cls(sock)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.sock.getsockname()[1]}"

    def packets(self) -> list[bytes]:
        """What has arrived since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.sock.recv(65536))
        return found

    def lines(self) -> list[str]:
        text = b"".join(self.packets()).decode()
        assert not text or text.endswith("\n")
        lines = text.splitlines()
        assert all(line.startswith(PREFIX) for line in lines)
        return [line.removeprefix(PREFIX) for line in lines]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver.open()
    with receiver.sock:
        yield receiver


async def numeric(host: str, port: str) -> Sequence[tuple[int, int, int, str, Any]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)


def make_daemon(receiver: Receiver, **options: Any) -> FakeDaemon:
    values = {
        "statsd_address": receiver.address,
        "statsd_interval": 10 * SECOND,
        "statsd_mem_stats": False,
        "broadcast_http_port": 4151,
        **options,
    }
    return FakeDaemon(**values)


@contextlib.asynccontextmanager
async def pushing(daemon: FakeDaemon, resolve: Resolve = numeric) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Statsd(daemon, resolve).run)
        yield
        nursery.cancel_scope.cancel()


def worked(receiver: Receiver, **options: Any) -> FakeDaemon:
    """Two topics, of which `a` was worked on; of its channels `ch` has a consumer."""
    daemon = make_daemon(receiver, **options)
    subscription = daemon.subscribe("a", "ch", rdy=3)
    daemon.put("a", b"12345", b"1", b"2", b"3", b"4")
    daemon.put("a", b"later", delay_ns=SECOND)
    daemon.make("a", "b#ephemeral")
    daemon.make("e#ephemeral")
    daemon.round()
    ids = list(subscription.in_flight)
    subscription.finish(ids[:1])
    subscription.requeue(ids[1], delay=0)
    subscription.set_rdy(1)
    daemon.end_round()
    return daemon


WORKED = """\
topic.a.message_count:6|c
topic.a.message_bytes:14|c
topic.a.depth:0|g
topic.a.backend_depth:0|g
topic.a.channel.b#ephemeral.message_count:0|c
topic.a.channel.b#ephemeral.depth:0|g
topic.a.channel.b#ephemeral.backend_depth:0|g
topic.a.channel.b#ephemeral.in_flight_count:0|g
topic.a.channel.b#ephemeral.deferred_count:0|g
topic.a.channel.b#ephemeral.requeue_count:0|c
topic.a.channel.b#ephemeral.timeout_count:0|c
topic.a.channel.b#ephemeral.clients:0|g
topic.a.channel.ch.message_count:6|c
topic.a.channel.ch.depth:3|g
topic.a.channel.ch.backend_depth:0|g
topic.a.channel.ch.in_flight_count:1|g
topic.a.channel.ch.deferred_count:1|g
topic.a.channel.ch.requeue_count:1|c
topic.a.channel.ch.timeout_count:0|c
topic.a.channel.ch.clients:1|g
topic.e#ephemeral.message_count:0|c
topic.e#ephemeral.message_bytes:0|c
topic.e#ephemeral.depth:0|g
topic.e#ephemeral.backend_depth:0|g
""".splitlines()


async def test_the_first_push_comes_after_an_interval_and_tells_everything(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    async with pushing(worked(receiver)):
        await trio.sleep(9.9)
        assert receiver.packets() == []
        await trio.sleep(9.9)
    assert receiver.lines() == WORKED


async def test_counters_are_differences(receiver: Receiver, autojump_clock: trio.testing.MockClock) -> None:
    daemon = worked(receiver)
    async with pushing(daemon):
        await trio.sleep(19.5)
        receiver.packets()
        daemon.put("a", b"123", b"4")
        daemon.put("new", b"1")
        await trio.sleep(10)
        lines = receiver.lines()
        assert "topic.a.message_count:2|c" in lines
        assert "topic.a.message_bytes:4|c" in lines
        assert "topic.a.channel.ch.message_count:2|c" in lines
        assert "topic.a.channel.ch.requeue_count:0|c" in lines
        assert "topic.a.channel.ch.depth:5|g" in lines
        assert "topic.new.message_count:1|c" in lines
        assert "topic.new.depth:1|g" in lines
        await trio.sleep(10)
        assert "topic.a.message_count:0|c" in receiver.lines()


async def test_a_topic_made_again_counts_anew(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    daemon = make_daemon(receiver)
    daemon.put("a", *[b"x"] * 10)
    async with pushing(daemon):
        await trio.sleep(19.5)
        assert "topic.a.message_count:10|c" in receiver.lines()
        daemon.round()
        daemon.broker.delete_topic("a")
        daemon.end_round()
        daemon.put("a", b"x", b"x")
        await trio.sleep(10)
        assert "topic.a.message_count:2|c" in receiver.lines()
        daemon.round()
        daemon.broker.delete_topic("a")
        daemon.end_round()
        await trio.sleep(10)
        assert receiver.lines() == []
        daemon.put("a", *[b"x"] * 7)
        await trio.sleep(10)
    assert "topic.a.message_count:7|c" in receiver.lines()


async def test_ephemeral_ones_can_be_left_out(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    async with pushing(worked(receiver, statsd_exclude_ephemeral=True)):
        await trio.sleep(19.5)
    assert receiver.lines() == [line for line in WORKED if "#ephemeral" not in line]


async def test_memory_comes_last(receiver: Receiver, autojump_clock: trio.testing.MockClock) -> None:
    async with pushing(worked(receiver, statsd_mem_stats=True)):
        await trio.sleep(19.5)
    lines = receiver.lines()
    assert lines[: len(WORKED)] == WORKED
    memory = [line.rpartition(":") for line in lines[len(WORKED) :]]
    assert [name for name, _, _ in memory] == MEMORY
    assert [value.partition("|")[2] for _, _, value in memory] == ["g"] * 8 + ["c"]
    assert all(value.partition("|")[0].isdigit() for _, _, value in memory)


async def test_latencies_are_gauges_in_nanoseconds(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    quantiles = [1.0, 0.999, 0.99, 0.5, 0.005]
    async with pushing(worked(receiver, e2e_processing_latency_percentiles=quantiles)):
        await trio.sleep(19.5)
    lines = receiver.lines()
    names = [f"e2e_processing_latency_{name}" for name in ("100", "100", "99", "50", "0")]
    start = lines.index("topic.a.backend_depth:0|g") + 1
    found = [line.removeprefix("topic.a.").split(":") for line in lines[start : start + 5]]
    assert [name for name, _ in found] == names
    (value,) = {value for _, value in found}
    ns, _, kind = value.partition("|")
    assert (int(ns) > 0, kind) == (True, "g")
    start = lines.index("topic.a.channel.ch.clients:1|g") + 1
    assert lines[start : start + 5] == [f"topic.a.channel.ch.{name}:{value}" for name in names]
    assert "topic.a.channel.b#ephemeral.e2e_processing_latency_50:0|g" in lines


async def test_a_topic_without_channels_has_no_latencies(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    daemon = worked(receiver, e2e_processing_latency_percentiles=[0.99])
    daemon.make("bare")
    async with pushing(daemon):
        await trio.sleep(19.5)
    lines = receiver.lines()
    assert "topic.bare.depth:0|g" in lines
    assert not [line for line in lines if line.startswith("topic.bare.e2e")]


async def test_packets_are_spread_over_the_interval_but_a_second(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    daemon = worked(receiver, statsd_udp_packet_size=100)
    arrived: list[tuple[float, bytes]] = []
    async with pushing(daemon):
        began = trio.current_time()
        while trio.current_time() < began + 19.95:
            await trio.sleep(0.05)
            arrived += [(trio.current_time() - began, packet) for packet in receiver.packets()]
    assert len(arrived) > 10
    assert all(len(packet) <= 100 for _, packet in arrived)
    times = [at for at, _ in arrived]
    assert times[0] == pytest.approx(10, abs=0.06)
    assert times[-1] < 19
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert max(pauses) - min(pauses) < 0.11
    assert times[-1] - times[0] == pytest.approx(9 * (1 - 1 / len(times)), abs=0.1)


async def test_an_interval_of_a_second_will_do(
    receiver: Receiver, autojump_clock: trio.testing.MockClock
) -> None:
    async with pushing(worked(receiver, statsd_interval=SECOND, statsd_udp_packet_size=200)):
        await trio.sleep(5.9)
    assert receiver.lines().count("topic.a.depth:0|g") == 5


async def test_a_name_that_cannot_be_looked_up_costs_nothing_but_a_line(
    receiver: Receiver, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def resolve(host: str, port: str) -> Sequence[tuple[int, int, int, str, Any]]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise socket.gaierror(-2, "Name or service not known")
        return await numeric("127.0.0.1", port)

    port = receiver.address.partition(":")[2]
    daemon = worked(receiver, statsd_address=f"statsd.example:{port}")
    with caplog.at_level(logging.ERROR):
        async with pushing(daemon, resolve):
            await trio.sleep(29.5)
            assert receiver.packets() == []
            await trio.sleep(10)
    assert receiver.lines() == WORKED, "nothing is lost"
    assert [record.getMessage() for record in caplog.records] == [
        f"STATSD: failed to look up statsd.example:{port} - [Errno -2] Name or service not known; "
        "tried again with the next push"
    ] * 2


@pytest.mark.parametrize("address", ["nonsense", "host:", ":", "." * 300 + ":8125", "x:y"])
async def test_an_address_that_is_none(
    receiver: Receiver, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    with caplog.at_level(logging.ERROR):
        async with pushing(worked(receiver, statsd_address=address)):
            await trio.sleep(15)
    assert len(caplog.records) == 1
    assert "failed to look up" in caplog.text


async def test_a_missing_receiver_does_no_harm(
    receiver: Receiver, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = worked(receiver, statsd_udp_packet_size=100)
    receiver.sock.close()
    with caplog.at_level(logging.ERROR):
        async with pushing(daemon):
            await trio.sleep(35)
    assert not caplog.records


async def test_a_packet_that_no_network_takes_is_told(
    receiver: Receiver, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = worked(receiver, statsd_prefix="x" * 70_000)
    with caplog.at_level(logging.ERROR):
        async with pushing(daemon):
            await trio.sleep(15)
    assert "failed to send to 127.0.0.1" in caplog.text


async def test_a_look_up_that_hangs_ends_with_the_interval(
    receiver: Receiver, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def resolve(host: str, port: str) -> Sequence[tuple[int, int, int, str, Any]]:
        await trio.sleep_forever()
        raise AssertionError

    with caplog.at_level(logging.ERROR):
        async with pushing(worked(receiver, statsd_interval=SECOND), resolve):
            await trio.sleep(4.5)
    assert "no answer from the resolver in time" in caplog.text
    assert len(caplog.records) in (2, 3)


async def test_the_system_is_asked() -> None:
    found = await Resolver()("127.0.0.1", "8125")
    assert (found[0][0], found[0][4]) == (socket.AF_INET, ("127.0.0.1", 8125))


async def test_ipv6(autojump_clock: trio.testing.MockClock) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        sock.setblocking(False)
        receiver = Receiver(sock)
        async with pushing(worked(receiver, statsd_address=f"[::1]:{sock.getsockname()[1]}")):
            await trio.sleep(19.5)
        assert receiver.lines() == WORKED


@given(texts=st.lists(st.text("ab:", max_size=50)), size=st.integers(1, 100))
def test_lines_are_packed_whole_in_order_and_densely(texts: list[str], size: int) -> None:
    lines = [f"{text}\n".encode() for text in texts]
    packed = datagrams(lines, size)
    assert [line for packet in packed for line in packet.splitlines(keepends=True)] == lines
    assert all(len(packet) <= size or packet.count(b"\n") == 1 for packet in packed)
    for before, after in itertools.pairwise(packed):
        assert len(before) + after.index(b"\n") + 1 > size
