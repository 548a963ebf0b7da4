"""The driver round the sessions: time limits, clients that do not read, what a disconnect does. Over memory streams and
trio's mock clock, and over TCP where the kernel's buffers matter."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from nsqkit.access import NOTHING, Access
from nsqkit.service.handshakes import Handshakes
from nsqkit.service.listeners import accept_forever, bound_address, open_listeners, remote_address
from nsqkit.service.tls import VERIFY_IF_GIVEN, server_context
from nsqlookupd import connections as module
from nsqlookupd.connections import (
    COMMAND_SECONDS,
    MAGIC_SECONDS,
    SILENT_SECONDS,
    WRITE_SECONDS,
    Connections,
    Tls,
    tune,
)
from nsqlookupd.protocol_v1 import Context, Session
from nsqlookupd.registry import Registry, RegistryLimits
from tests.nsqkit.certificates import Certificates
from tests.nsqlookupd.peer import IDENTITY, Client, answers, identify

MAGIC = b"  V1"


@attrs.define
class Serving:
    """A driver and clients of it."""

    nursery: trio.Nursery
    context: Context = attrs.field(factory=lambda: Context(registry=Registry(), identity=IDENTITY))
    driver: Connections = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.driver = Connections(self.context)

    def connect(self, remote: str = "192.0.2.7:50000") -> Client:
        mine, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.driver.serve, theirs, remote)
        return Client(mine)

    async def client(self, host: int, *, identified: bool) -> Client:
        """A client at that address, which has sent a PING, or an IDENTIFY."""
        client = self.connect(f"192.0.2.{host}:50000")
        await client.ask(MAGIC + (identify() if identified else b"PING\n"))
        return client

    async def settled(self, count: int) -> None:
        """Return when so many are served, the producers of all others gone."""
        with trio.fail_after(600):
            while self.driver.count != count:  # noqa: ASYNC110
                await trio.sleep(0.01)


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    async with trio.open_nursery() as nursery:
        yield Serving(nursery)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def over_tcp(serving: Serving, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    """A client, with TLS if there is a context for it."""
    [listener] = await open_listeners("127.0.0.1:0")

    def take(stream: trio.SocketStream) -> None:
        tune(stream.socket)
        serving.nursery.start_soon(serving.driver.serve, stream, remote_address(stream))

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept_forever, listener, take)
        async with await trio.open_tcp_stream("127.0.0.1", bound_address(listener).port) as stream:
            if tls is None:
                yield Client(stream)
            else:
                yield Client(trio.SSLStream(stream, tls, server_hostname="127.0.0.1", https_compatible=True))
        nursery.cancel_scope.cancel()


async def test_a_conversation(serving: Serving) -> None:
    client = serving.connect()
    assert await client.ask(MAGIC + identify()) == IDENTITY
    assert await client.ask(b"REGISTER t c\n") == b"OK"
    assert serving.context.registry.channels("t") == ["c"]
    assert await client.ask(b"x\n") == b"E_INVALID invalid command x"
    assert await client.ended()
    await client.stream.aclose()
    await serving.settled(0)


async def test_a_disconnect_removes_the_producer(serving: Serving) -> None:
    client = serving.connect()
    await client.ask(MAGIC + identify())
    assert len(serving.context.registry.producers()) == 1
    await client.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert serving.context.registry.producers() == []


async def test_an_end_of_sending_removes_the_producer_before_the_answers_are_read(serving: Serving) -> None:
    async with over_tcp(serving) as client:
        await client.send(MAGIC + identify() + b"PING\n" * 3 + b"IDENTIFY\n")
        await client.stream.send_eof()
        await serving.settled(0)
        assert serving.context.registry.producers() == []
        assert [await client.read() for _ in range(5)] == [
            IDENTITY, b"OK", b"OK", b"OK", b"E_INVALID cannot IDENTIFY again",
        ]  # fmt: skip
        assert await client.ended()


async def test_half_a_body_and_the_end(serving: Serving) -> None:
    async with over_tcp(serving) as client:
        await client.send(MAGIC + identify()[:-1])
        await client.stream.send_eof()
        assert await client.read() == b"E_BAD_BODY IDENTIFY failed to read body"
        assert await client.ended()


async def test_the_last_error_is_not_lost_to_later_input(serving: Serving) -> None:
    async with over_tcp(serving) as client:
        await client.send(MAGIC + b"bad\n" + b"x" * 100_000)
        assert await client.read() == b"E_INVALID invalid command bad"
        assert await client.ended()


async def test_a_client_that_keeps_sending_after_the_error_is_cut_off(
    serving: Serving, autojump_clock: trio.testing.MockClock
) -> None:
    client = serving.connect()
    assert await client.ask(MAGIC + b"bad\n") == b"E_INVALID invalid command bad"
    began = trio.current_time()
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await client.send(b"x")
            await trio.sleep(0.1)
    assert trio.current_time() - began <= module.LINGER_SECONDS + 0.2


async def test_silence_before_the_magic_bytes(
    serving: Serving, autojump_clock: trio.testing.MockClock
) -> None:
    client = serving.connect()
    await client.send(b"  V")
    await trio.sleep(MAGIC_SECONDS - 0.1)
    assert serving.driver.count == 1
    await trio.sleep(0.2)
    assert serving.driver.count == 0
    assert await client.ended()


async def test_silence_between_commands_is_allowed(
    serving: Serving, autojump_clock: trio.testing.MockClock
) -> None:
    client = serving.connect()
    await client.ask(MAGIC + identify())
    await trio.sleep(80_000)
    assert await client.ask(b"PING\n") == b"OK"


@pytest.mark.parametrize("beginning", [b"PIN", b"IDENTIFY\n", b"IDENTIFY\n\0\0\0\x09{"])
async def test_half_a_command(
    serving: Serving, autojump_clock: trio.testing.MockClock, beginning: bytes
) -> None:
    client = serving.connect()
    assert await client.ask(MAGIC + b"PING\n") == b"OK"
    await trio.sleep(1000)
    await client.send(beginning)
    await trio.sleep(COMMAND_SECONDS - 0.1)
    assert serving.driver.count == 1
    await client.send(b"G")  # a little more is not enough
    await trio.sleep(0.2)
    assert serving.driver.count == 0


async def test_each_command_has_its_own_time(
    serving: Serving, autojump_clock: trio.testing.MockClock
) -> None:
    client = serving.connect()
    await client.send(MAGIC + b"PI")
    for _ in range(5):
        await trio.sleep(COMMAND_SECONDS * 0.9)
        assert await client.ask(b"NG\nPI") == b"OK"


async def test_a_client_that_never_reads_is_cut_off(
    serving: Serving, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # A lockstep stream holds nothing: the very first answer finds no room.
    mine, theirs = trio.testing.lockstep_stream_pair()
    serving.nursery.start_soon(serving.driver.serve, theirs, "192.0.2.7:50000")
    await mine.send_all(MAGIC + identify() + b"PING\n")
    await trio.testing.wait_all_tasks_blocked()
    assert len(serving.context.registry.producers()) == 1
    await trio.sleep(WRITE_SECONDS - 0.1)
    assert serving.driver.count == 1
    await trio.sleep(0.2)
    assert serving.driver.count == 0
    assert serving.context.registry.producers() == []
    assert serving.context.buffered == 0
    assert any("responses not read" in record.getMessage() for record in caplog.records)


@pytest.mark.heavy
async def test_reading_continues_beside_unread_answers_up_to_the_mark(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 60_000)
    mine, theirs = trio.testing.lockstep_stream_pair()
    serving.nursery.start_soon(serving.driver.serve, theirs, "192.0.2.7:50000")
    client, count = Client(mine), 50_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, MAGIC + b"PING\n" * count)
        await trio.testing.wait_all_tasks_blocked()
        assert module.MAX_UNSENT < serving.context.buffered < module.MAX_UNSENT + 6 * module.READ_SIZE / 5 + 6
        for _ in range(count):
            assert await client.read() == b"OK"
    await trio.testing.wait_all_tasks_blocked()
    assert serving.context.buffered == 0


@pytest.mark.heavy
async def test_a_client_that_sends_everything_before_it_reads_is_served(serving: Serving) -> None:
    count = 100_000
    async with over_tcp(serving) as client:
        await client.send(MAGIC + identify() + b"".join(b"REGISTER t%d\n" % n for n in range(count)))
        assert await client.read() == IDENTITY
        for _ in range(count):
            assert await client.read() == b"OK"
    assert len(serving.context.registry.topics()) == count


async def test_little_unsent_is_allowed_when_others_hold_much(serving: Serving) -> None:
    serving.context.buffered = serving.context.max_buffered + 1
    client = serving.connect()
    assert await client.ask(MAGIC + b"PING\n") == b"OK"
    serving.context.buffered = 0


async def test_too_many_connections(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    serving.driver = Connections(serving.context, max_connections=1)
    first = await serving.client(1, identified=True)
    assert await serving.connect().ended()
    assert any("refused" in record.getMessage() for record in caplog.records)
    assert await first.ask(b"PING\n") == b"OK"
    await first.stream.aclose()
    await serving.settled(0)
    assert await serving.connect().ask(MAGIC + b"PING\n") == b"OK"


async def test_an_address_has_a_limit_of_its_own(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    serving.driver = Connections(serving.context, max_per_address=2)
    first = await serving.client(1, identified=True)
    silent = await serving.client(1, identified=False)
    await serving.client(1, identified=True)
    assert await silent.ended()
    assert await serving.connect("192.0.2.1:9").ended()
    assert "refused: 2 of its address are connected (--max-connections-per-address)" in caplog.text
    assert await serving.client(2, identified=True)
    for _ in range(3):
        assert await serving.connect("@").ask(MAGIC + b"PING\n") == b"OK", "a unix socket"
    await first.stream.aclose()
    await serving.settled(5)
    assert await serving.client(1, identified=True)


async def still_open(*clients: Client) -> list[bool]:
    """Which of them still get an answer."""
    answered = []
    for client in clients:
        try:
            answered.append(await client.ask(b"PING\n") == b"OK")
        except (AssertionError, trio.BrokenResourceError):
            answered.append(False)
    return answered


async def test_clients_that_have_not_identified_themselves_give_way(serving: Serving) -> None:
    """The oldest of the address with most of these. So silence keeps nobody out, not even within one address."""
    serving.driver = Connections(serving.context, max_connections=5)
    nsqd = await serving.client(1, identified=True)
    other = await serving.client(2, identified=False)
    silent = [await serving.client(1, identified=False) for _ in range(3)]
    newcomers = [await serving.client(host, identified=True) for host in (1, 3)]
    assert await still_open(nsqd, other, *silent, *newcomers) == [True, True, False, False, True, True, True]
    assert serving.driver.count == 5


async def test_a_crowd_of_silent_clients_does_not_keep_an_nsqd_out(
    serving: Serving, autojump_clock: trio.testing.MockClock
) -> None:
    """Of whatever address: also while more of the crowd come all the time."""
    serving.driver = Connections(serving.context, max_connections=100)
    crowd = [await serving.client(1, identified=False) for _ in range(100)]
    nsqds = [await serving.client(host, identified=True) for host in (1, 2)]
    crowd += [await serving.client(1, identified=False) for _ in range(300)]
    await trio.sleep(100)
    assert await still_open(*nsqds) == [True, True]


async def test_a_silent_nsqd_gives_way_to_a_live_one(
    serving: Serving, autojump_clock: trio.testing.MockClock
) -> None:
    serving.driver = Connections(serving.context, max_connections=3)
    clients = [await serving.client(host, identified=True) for host in (1, 2, 3)]
    await trio.sleep(SILENT_SECONDS - 1)
    assert await clients[0].ask(b"PING\n") == b"OK"
    assert await serving.connect("192.0.2.4:1").ended()
    await trio.sleep(1)
    newcomer = await serving.client(4, identified=True)
    assert await still_open(*clients, newcomer) == [True, False, True, True]
    assert len(serving.context.registry.producers()) == 3


async def test_an_address_with_a_large_share_gives_way_to_others(serving: Serving) -> None:
    """Its newest connection; with a quarter of all it stays, and no address gives way to itself."""
    serving.driver = Connections(serving.context, max_connections=8)
    large = [await serving.client(1, identified=True) for _ in range(4)]
    small = [await serving.client(host, identified=True) for host in (2, 3, 4, 5)]
    assert await serving.connect("192.0.2.1:1").ended()
    newcomers = [await serving.client(host, identified=True) for host in (6, 7)]
    assert await serving.connect("192.0.2.8:1").ended()
    assert await still_open(*large) == [True, True, False, False]
    assert await still_open(*small, *newcomers) == [True] * 6


async def test_an_evicted_producer_loses_its_connection(serving: Serving) -> None:
    registry = serving.context.registry
    registry.limits = RegistryLimits(registrations=8)
    large = await serving.client(1, identified=True)
    for number in range(8):
        assert await large.ask(b"REGISTER t%d\n" % number) == b"OK"
    small = await serving.client(2, identified=True)
    assert await small.ask(b"REGISTER t\n") == b"OK"
    assert await large.ended()
    await serving.settled(1)
    assert (len(registry.producers()), registry.registration_count) == (1, 1)
    assert await small.ask(b"REGISTER u c\n") == b"OK"


async def test_an_error_of_ours_ends_one_connection(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    healthy, sick = serving.connect(), serving.connect()
    await healthy.ask(MAGIC + identify())
    feed = Session.feed

    def broken(session: Session, data: bytes, now: float) -> bytes:
        if b"CRASH" in data:
            raise ZeroDivisionError("on purpose")
        return feed(session, data, now)

    monkeypatch.setattr(Session, "feed", broken)
    await sick.ask(MAGIC + identify())
    await sick.send(b"CRASH\n")
    assert await sick.ended()
    await serving.settled(1)
    assert len(serving.context.registry.producers()) == 1
    assert await healthy.ask(b"PING\n") == b"OK"
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.exc_info]


async def test_keepalive(serving: Serving) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as mine,
    ):
        tune(trio.socket.from_stdlib_socket(mine))
        assert mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tune(trio.socket.from_stdlib_socket(ours))
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_the_frames_of_the_tests_are_those_of_the_wire() -> None:
    assert answers(b"OK") == b"\x00\x00\x00\x02\x4f\x4b"


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def with_certificate(serving: Serving, certificates: Certificates, **changes: Any) -> None:
    """Have the port speak TLS."""
    context = server_context(
        certificates.cert_file,
        certificates.key_file,
        client_auth_policy=VERIFY_IF_GIVEN,
        root_ca_file=certificates.root_ca_file,
    )
    serving.driver = Connections(serving.context, tls=Tls(lambda: context, **changes))


async def test_plain_and_tls_share_a_port(serving: Serving, certificates: Certificates) -> None:
    with_certificate(serving, certificates)
    for tls in (certificates.client_context(), None):
        async with over_tcp(serving, tls) as client:
            assert await client.ask(MAGIC + identify()) == IDENTITY
            assert await client.ask(b"REGISTER t c\n") == b"OK"
            assert await client.ask(b"bad\n") == b"E_INVALID invalid command bad"
            assert await client.ended()


async def test_a_plain_client_is_told_that_tls_is_required(
    serving: Serving, certificates: Certificates
) -> None:
    with_certificate(serving, certificates, required=True)
    async with over_tcp(serving) as client:
        await client.send(MAGIC + identify())
        assert await client.read() == b"E_INVALID TLS required (--lookupd-tls)"
        assert await client.ended()
    assert serving.context.registry.producers() == []
    async with over_tcp(serving, certificates.client_context()) as client:
        assert await client.ask(MAGIC + identify()) == IDENTITY


@pytest.mark.parametrize(
    ("shown", "registers", "may"),
    [("client", True, True), (None, True, False), ("client", False, False)],
)
async def test_a_certificate_registers_in_place_of_a_token(
    serving: Serving, certificates: Certificates, shown: str | None, registers: bool, may: bool
) -> None:
    serving.context.access = Access(NOTHING)
    with_certificate(serving, certificates, registers=registers)
    tls = certificates.client_context(getattr(certificates, shown) if shown else None)
    async with over_tcp(serving, tls) as client:
        answer = await client.ask(MAGIC + identify())
        assert (answer == IDENTITY) is may
        assert may or answer.startswith(b"E_UNAUTHORIZED IDENTIFY needs a valid token")


async def test_a_certificate_of_a_stranger_is_refused_with_the_reason(
    serving: Serving, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with_certificate(serving, certificates, registers=True)
    tls = certificates.client_context(certificates.unknown_client)
    async with over_tcp(serving, tls) as client:
        with pytest.raises(trio.BrokenResourceError) as refused:
            await client.ask(MAGIC + identify())
        assert "unknown ca" in str(refused.value.__cause__)
    await serving.settled(0)
    assert "TLS handshake failed" in caplog.text


async def test_a_client_that_does_not_shake_hands_is_cut_off(
    serving: Serving, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with_certificate(serving, certificates, handshakes=Handshakes(seconds=0.1))
    async with over_tcp(serving) as client:
        await client.send(b"\x16\x03\x01\x02")
        assert await client.ended()
    await serving.settled(0)
    assert "TLS handshake failed - not done within 0.1 s" in caplog.text


async def test_a_client_that_says_nothing_is_cut_off(
    serving: Serving, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAGIC_SECONDS", 0.1)
    with_certificate(serving, certificates)
    async with over_tcp(serving) as client:
        assert await client.ended()


async def test_a_client_that_goes_at_once_costs_nothing(serving: Serving, certificates: Certificates) -> None:
    with_certificate(serving, certificates)
    async with over_tcp(serving) as client:
        await client.stream.aclose()
        await serving.settled(0)
