"""One connection: the way in, its bounds, its end."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import anyio
import pytest

from nsqkit import wire
from nsqkit.client import (
    Address,
    BadMessage,
    ClientOptions,
    ConnectionFailed,
    ConnectionLost,
    Invalid,
    ProtocolViolation,
    open_connection,
)
from nsqkit.client.opening import open_tcp
from nsqkit.client.protocol import Request
from nsqkit.wire import encode
from tests.nsqkit.client.fake import both_backends, fake_nsqd, run, run_mocked, stream_pair

HERE = Address("a", 1)


@both_backends
def test_the_way_in_tells_who_we_are(backend: str) -> None:
    """IDENTIFY with milliseconds; its answer in seconds."""

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            options = ClientOptions(client_id="me", heartbeat_interval=5, output_buffer_timeout=-1)
            connection = await open_connection(HERE, options, connector=nsqd.connect)
            peer = await nsqd.peer()
            await peer.expect("IDENTIFY")
            said = json.loads(peer.bodies[0])
            assert said["client_id"] == "me"
            assert said["feature_negotiation"] is True
            assert (said["heartbeat_interval"], said["output_buffer_timeout"], said["msg_timeout"]) == (
                5000,
                -1,
                0,
            )
            assert connection.features.msg_timeout == 60.0
            await connection.close()
            assert peer.ended.is_set()

    run(main, backend)


@both_backends
def test_nobody_there_is_said_with_the_address(backend: str) -> None:
    """All addresses that the name has were tried."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def main() -> None:
        with pytest.raises(ConnectionFailed, match=rf"127\.0\.0\.1:{port}: .*(refused|Connect call failed)"):
            await open_connection(Address("127.0.0.1", port), ClientOptions())

    run(main, backend)


@both_backends
@pytest.mark.parametrize("local_addr", ["127.0.0.2", "127.0.0.2:0"])
def test_the_address_to_connect_from_can_be_chosen(backend: str, local_addr: str) -> None:
    """As a host, or with go-nsq's port that stands for any."""

    async def main() -> None:
        there = Address(*nsqd.getsockname())
        async with await open_tcp(there, ClientOptions(local_addr=local_addr)):
            stream, (host, _port) = nsqd.accept()
            stream.close()
            assert host == "127.0.0.2"

    with socket.create_server(("127.0.0.1", 0)) as nsqd:
        run(main, backend)


def test_an_nsqd_that_takes_no_connection_is_given_up_after_the_dial_timeout() -> None:
    """1 s."""

    async def connect(address: Address, options: ClientOptions) -> Any:
        await anyio.sleep_forever()

    async def main() -> None:
        start = anyio.current_time()
        with pytest.raises(ConnectionFailed, match="a:1: no connection within 1 s"):
            await open_connection(HERE, ClientOptions(), connector=connect)
        assert anyio.current_time() - start == pytest.approx(1, abs=0.01)

    run_mocked(main)


def test_an_nsqd_that_does_not_answer_is_given_up_after_the_dial_timeout() -> None:
    """As one that hangs."""

    async def main() -> None:
        async with fake_nsqd(answers={"IDENTIFY": None}) as nsqd:
            start = anyio.current_time()
            with pytest.raises(ConnectionLost, match="a:1: no answer to IDENTIFY within 1 s"):
                await open_connection(HERE, ClientOptions(), connector=nsqd.connect)
            assert anyio.current_time() - start == pytest.approx(1, abs=0.01)
            peer = await nsqd.peer()
            await peer.ended.wait()

    run_mocked(main)


@both_backends
@pytest.mark.parametrize(
    ("frame", "error", "text"),
    [
        (wire.encode_error(b"E_INVALID no"), Invalid, "E_INVALID no"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolViolation, "a:1: unexpected HTTP response"),
        (wire.encode_response(b"[]"), ProtocolViolation, "bad answer to IDENTIFY"),
        (wire.encode_message(1, 1, b"0" * 16, b"x"), ProtocolViolation, "a message instead of an answer"),
    ],
)
def test_a_refusal_on_the_way_in_is_raised(
    backend: str, frame: bytes, error: type[Exception], text: str
) -> None:
    """With nsqd's own words, and the connection closed."""

    async def main() -> None:
        async with fake_nsqd(answers={"IDENTIFY": frame}) as nsqd:
            with pytest.raises(error, match=text):
                await open_connection(HERE, ClientOptions(), connector=nsqd.connect)
            peer = await nsqd.peer()
            await peer.ended.wait()

    run(main, backend)


@both_backends
def test_auth_without_a_secret_fails(backend: str) -> None:
    """It says what is missing."""

    async def main() -> None:
        async with fake_nsqd(features={"auth_required": True}) as nsqd:
            with pytest.raises(ConnectionFailed, match="nsqd requires AUTH"):
                await open_connection(HERE, ClientOptions(), connector=nsqd.connect)

    run(main, backend)


@both_backends
def test_no_answer_is_lost_between_the_halves(backend: str) -> None:
    """Cancelled by what the first half led to: the second half was received, and is handed over."""

    async def main() -> None:
        async with fake_nsqd(answers={"PUB": None}) as nsqd:
            connection = await open_connection(HERE, ClientOptions(), connector=nsqd.connect)
            requests = [Request("PUB") for _ in range(40)]
            for request in requests:
                connection.protocol.ask(request, encode.pub("t", b"x"))
            halves: list[list[Any]] = []

            def take(events: list[Any]) -> None:
                halves.append(events)
                scope.cancel()

            peer = await nsqd.peer()
            async with anyio.create_task_group() as group:

                async def answer_all() -> None:
                    await peer.take(41)
                    peer.frame(wire.OK * 40)

                group.start_soon(answer_all)
                with anyio.CancelScope() as scope:
                    await connection.run(take, in_halves=True)
            assert halves == [requests[:20], requests[20:]]
            await connection.abort()

    run(main, backend)


def test_a_send_that_takes_too_long_ends_the_connection() -> None:
    """The other side does not read: write_timeout."""

    async def main() -> None:
        ours, theirs = stream_pair(room=0)

        async def connect(address: Address, options: ClientOptions) -> Any:
            return ours

        async with anyio.create_task_group() as group:

            async def introduce() -> None:
                await theirs.receive()
                await theirs.send(wire.OK)

            group.start_soon(introduce)
            connection = await open_connection(HERE, ClientOptions(write_timeout=3), connector=connect)
        start = anyio.current_time()
        connection.protocol.send(encode.NOP)
        with pytest.raises(ConnectionLost, match="a send did not finish within 3 s"):
            await connection.run(lambda events: None)
        assert anyio.current_time() - start == pytest.approx(3, abs=0.01)
        await connection.abort()
        await theirs.aclose()

    run_mocked(main)


@both_backends
def test_a_large_frame_in_small_pieces_arrives_whole(backend: str) -> None:
    """Over a real socket, 3 MB."""
    body = bytes(range(256)) * 12_000

    async def main() -> None:
        async def serve(stream: Any) -> None:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
                await stream.send(wire.OK)
                await stream.send(wire.encode_message(5, 1, b"0" * 16, body))
                await stream.receive()
            await stream.aclose()

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            connection = await open_connection(Address("127.0.0.1", port), ClientOptions())
            got: list[Any] = []

            def take(events: list[Any]) -> None:
                got.extend(events)
                if got:
                    connection.finish()

            await connection.run(take)
            await connection.close()
            assert got == [wire.Message(5, 1, b"0" * 16, body)]
            group.cancel_scope.cancel()

    run(main, backend)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("h:4150", "h", 4150), ("[::1]:1", "::1", 1), (" 10.0.0.1:65535 ", "10.0.0.1", 65535)],
)
def test_addresses_are_read_and_shown(text: str, host: str, port: int) -> None:
    """IPv6 in brackets."""
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "h", "h:", ":1", "h:0", "h:65536", "h:x", "::1:4150", "h:-1", "h:\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_other_addresses_are_refused(text: str) -> None:
    """With the text in the error."""
    with pytest.raises(ValueError):
        Address.parse(text)


def test_the_reason_of_a_reset_in_the_middle_of_a_body_is_found() -> None:
    """An nsqd that closes without reading on: its error frame came before the reset."""

    async def main() -> None:
        async def serve(stream: Any) -> None:
            await stream.receive()
            await stream.send(wire.OK)
            await stream.receive(100)
            await stream.send(wire.encode_error(b"E_BAD_MESSAGE PUB message too big 9 > 1"))
            await stream.aclose()

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            connection = await open_connection(Address("127.0.0.1", port), ClientOptions())
            connection.protocol.ask(Request("PUB"), encode.pub("t", b"x" * 20_000_000))
            with pytest.raises(BadMessage, match="too big"):
                await connection.run(lambda events: None)
            await connection.abort()
            group.cancel_scope.cancel()

    run(main, "trio")  # asyncio's transport drops what it has not read when a write fails


@both_backends
@pytest.mark.parametrize("host", ["a..b", "x" * 300, "no\0host"])
def test_a_host_that_is_no_name_is_nobody(backend: str, host: str) -> None:
    """A registry may say anything; that must not end a consumer."""

    async def main() -> None:
        with pytest.raises(ConnectionFailed):
            await open_connection(Address(host, 1), ClientOptions())

    run(main, backend)
