"""TLS, snappy, deflate and AUTH: the way in, what is refused, and what goes over it."""

from __future__ import annotations

import contextlib
import ssl
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from nsqkit import wire
from nsqkit.client import (
    AuthFailed,
    ClientOptions,
    Connection,
    ConnectionFailed,
    ConnectionLost,
    IdentifyFailed,
    Producer,
    ProtocolViolation,
    Unauthorized,
    open_connection,
)
from nsqkit.client.layers import CompressedStream
from nsqkit.wire.compression import DeflateDecoder, DeflateEncoder
from nsqkit.wire.snappy import SNAPPY_WRITTEN, SnappyDecoder, SnappyEncoder
from tests.nsqkit.client.fake import both_backends, run, run_mocked, stream_pair
from tests.nsqkit.client.layered import (
    ADDRESS,
    AUTHORITY,
    LayeredNsqd,
    server_tls,
    write_client_pem,
    write_pem,
)


@contextlib.asynccontextmanager
async def layered_nsqd(**settings: Any) -> AsyncIterator[LayeredNsqd]:
    """One that ends with the block."""
    async with anyio.create_task_group() as group:
        yield LayeredNsqd(group, **settings)
        group.cancel_scope.cancel()


async def opened(nsqd: LayeredNsqd, **options: Any) -> Connection:
    return await open_connection(ADDRESS, ClientOptions(**options), connector=nsqd.connect)


STACKS = [
    ("tls_v1",),
    ("snappy",),
    ("deflate",),
    ("tls_v1", "snappy"),
    ("tls_v1", "deflate"),
]


@both_backends
@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_a_producer_publishes_through_every_stack(
    backend: str, stack: tuple[str, ...], tmp_path: Path
) -> None:
    """Large and small, after AUTH, which is sent through it too."""
    bodies = [b"small", bytes(range(256)) * 1200, b"x" * 300_000]

    async def main() -> None:
        features = {**dict.fromkeys(stack, True), "auth_required": True}
        async with layered_nsqd(features=features, tls=server_tls()) as nsqd:
            options = {**dict.fromkeys(stack, True), "auth_secret": "sesame"}
            async with Producer(
                nsqd_tcp_addresses=[str(ADDRESS)],
                connect=nsqd.connect,
                **(write_pem(tmp_path) | {"tls_v1": False} | options),
            ) as producer:
                for body in bodies:
                    await producer.publish("t", body)
            assert nsqd.layers == list(stack)
            assert nsqd.commands == ["IDENTIFY", "AUTH", "PUB t", "PUB t", "PUB t"]
            assert nsqd.bodies[1:] == [b"sesame", *bodies]

    run(main, backend)


@both_backends
@pytest.mark.parametrize("codec", ["snappy", "deflate"])
def test_the_compression_may_begin_in_the_piece_that_agreed_on_it(backend: str, codec: str) -> None:
    """nsqd does not wait for anybody; nor is what follows lost."""

    async def main() -> None:
        message = wire.encode_message(7, 1, b"0123456789abcdef", b"body")
        async with layered_nsqd(features={codec: True}, in_one_piece=True, greeting=message) as nsqd:
            connection = await opened(nsqd, **{codec: True})
            got: list[Any] = []

            def take(events: list[Any]) -> None:
                got.extend(events)
                connection.finish()

            await connection.run(take)
            await connection.close()
            assert got == [wire.Message(7, 1, b"0123456789abcdef", b"body")]

    run(main, backend)


@both_backends
def test_a_heartbeat_on_the_way_is_answered_at_its_end(backend: str) -> None:
    """Nothing is sent between IDENTIFY and the last upgrade."""

    async def main() -> None:
        async with layered_nsqd(
            features={"snappy": True}, behind_identify=b"", answers={"snappy": wire.HEARTBEAT + wire.OK}
        ) as nsqd:
            connection = await opened(nsqd, snappy=True)
            assert nsqd.commands == ["IDENTIFY"]
            connection.finish()
            await connection.run(lambda events: None)
            await connection.close()
            await nsqd.ended.wait()
            assert nsqd.commands == ["IDENTIFY", "NOP"]

    run(main, backend)


# What is refused.


@both_backends
@pytest.mark.parametrize("answer", [b"OK", b"{}", b'{"tls_v1": false}'])
def test_without_tls_nothing_goes_on_in_the_clear(backend: str, answer: bytes) -> None:
    """Asked for and not offered: IDENTIFY was the last that was sent."""

    async def main() -> None:
        ours, theirs = stream_pair()

        async def connect(*_: object) -> Any:
            return ours

        await theirs.send(wire.encode_response(answer))
        with pytest.raises(
            ConnectionFailed, match=r"nsqd\.test:4150: tls_v1 is set, but nsqd does not offer TLS"
        ):
            await open_connection(
                ADDRESS, ClientOptions(tls_v1=True, auth_secret="sesame"), connector=connect
            )
        sent = await theirs.receive()
        assert sent.startswith(b"  V2IDENTIFY\n")
        assert b"sesame" not in sent
        with pytest.raises(anyio.EndOfStream):
            await theirs.receive()
        await theirs.aclose()

    run(main, backend)


@both_backends
def test_what_stands_in_the_clear_before_tls_is_not_believed(backend: str) -> None:
    """Somebody between nsqd and us would have put it there."""

    async def main() -> None:
        async with layered_nsqd(features={"tls_v1": True}, tls=server_tls(), behind_identify=wire.OK) as nsqd:
            with pytest.raises(ProtocolViolation, match="unencrypted bytes"):
                await opened(nsqd, tls_v1=True)

    run(main, backend)


@both_backends
def test_a_certificate_of_an_unknown_authority_is_refused(backend: str, tmp_path: Path) -> None:
    """Unless nobody is asked: tls_insecure_skip_verify."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))

    async def main() -> None:
        async with layered_nsqd(features={"tls_v1": True}, tls=server_tls()) as nsqd:
            with pytest.raises(ConnectionFailed, match=r"no TLS: .*(self-signed|local issuer)"):
                await opened(nsqd, tls_v1=True, tls_root_ca_file=str(other))
            await nsqd.ended.wait()
            assert nsqd.commands == ["IDENTIFY"]
        async with layered_nsqd(features={"tls_v1": True}, tls=server_tls()) as nsqd:
            connection = await opened(
                nsqd, tls_v1=True, tls_root_ca_file=str(other), tls_insecure_skip_verify=True
            )
            await connection.close()

    run(main, backend)


@both_backends
def test_a_certificate_for_another_name_is_refused(backend: str, tmp_path: Path) -> None:
    """The name is that of the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("other.test").configure_cert(context)

    async def main() -> None:
        async with layered_nsqd(features={"tls_v1": True}, tls=context) as nsqd:
            with pytest.raises(ConnectionFailed, match="no TLS: Hostname mismatch"):
                await opened(nsqd, **write_pem(tmp_path))

    run(main, backend)


@both_backends
def test_an_nsqd_that_asks_for_a_certificate_gets_ours(backend: str, tmp_path: Path) -> None:
    """And without one there is no connection."""
    context = server_tls()
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    async def main() -> None:
        options = write_pem(tmp_path)
        async with layered_nsqd(features={"tls_v1": True}, tls=context) as nsqd:
            connection = await opened(nsqd, **options, **write_client_pem(tmp_path))
            await connection.close()
        async with layered_nsqd(features={"tls_v1": True}, tls=context) as nsqd:
            with pytest.raises(ConnectionFailed, match=r"nsqd\.test:4150"):
                await opened(nsqd, **options)

    run(main, backend)


@both_backends
def test_the_least_version_is_kept(backend: str, tmp_path: Path) -> None:
    """An nsqd that has only TLS 1.2 is no nsqd for tls1.3."""
    context = server_tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def main() -> None:
        options = write_pem(tmp_path)
        async with layered_nsqd(features={"tls_v1": True}, tls=context) as nsqd:
            with pytest.raises(ConnectionFailed, match="no TLS"):
                await opened(nsqd, **options, tls_min_version="tls1.3")
        async with layered_nsqd(features={"tls_v1": True}, tls=context) as nsqd:
            connection = await opened(nsqd, **options, tls_min_version="tls1.0")
            await connection.close()

    run(main, backend)


@both_backends
def test_files_that_are_no_good_are_named(backend: str, tmp_path: Path) -> None:
    """In the error of each try to connect: the file may be there at the next one."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")

    async def main() -> None:
        for options in (
            {"tls_root_ca_file": str(junk)},
            {"tls_root_ca_file": str(junk) + "-missing"},
            write_pem(tmp_path) | {"tls_cert": str(junk), "tls_key": str(junk)},
            write_pem(tmp_path) | {"tls_cert": str(junk)},
        ):
            async with layered_nsqd(features={"tls_v1": True}, tls=server_tls()) as nsqd:
                with pytest.raises(ConnectionFailed, match=r"junk\.pem"):
                    await opened(nsqd, **({"tls_v1": True} | options))

    run(main, backend)


@both_backends
def test_compression_that_nsqd_does_not_offer_is_done_without(backend: str) -> None:
    """Plainly."""

    async def main() -> None:
        for codec in ("snappy", "deflate"):
            async with layered_nsqd() as nsqd:
                async with Producer(
                    nsqd_tcp_addresses=[str(ADDRESS)], connect=nsqd.connect, **{codec: True}
                ) as producer:
                    await producer.publish("t", b"plain")
                assert nsqd.layers == []
                assert nsqd.bodies[1:] == [b"plain"]

    run(main, backend)


@both_backends
@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            wire.encode_response(b"NO"),
            ProtocolViolation,
            r"nsqd\.test:4150: b'NO' instead of an OK over snappy",
        ),
        (wire.encode_error(b"E_IDENTIFY_FAILED IDENTIFY failed x"), IdentifyFailed, "E_IDENTIFY_FAILED"),
        (
            wire.encode_message(1, 1, b"0" * 16, b"x"),
            ProtocolViolation,
            "a message instead of an answer to snappy",
        ),
        ((2 << 20).to_bytes(4, "big") + bytes(4), ProtocolViolation, "an answer of 2097152 bytes"),
    ],
)
def test_an_upgrade_ends_with_ok_or_not_at_all(
    backend: str, answer: bytes, error: type[Exception], text: str
) -> None:
    """Anything else ends the try."""

    async def main() -> None:
        async with layered_nsqd(features={"snappy": True}, answers={"snappy": answer}) as nsqd:
            with pytest.raises(error, match=text):
                await opened(nsqd, snappy=True)
            await nsqd.ended.wait()

    run(main, backend)


def test_every_step_of_the_way_is_bounded() -> None:
    """An nsqd that agrees and then says nothing, once for each layer: dial_timeout."""
    features = b'{"tls_v1": true, "snappy": true, "deflate": true}'

    async def main() -> None:
        for asked, text in (
            ("tls_v1", "no TLS"),
            ("snappy", "no OK over snappy"),
            ("deflate", "no OK over deflate"),
        ):
            ours, theirs = stream_pair()

            async def connect(*_: object, stream: Any = ours) -> Any:
                return stream

            await theirs.send(wire.encode_response(features))
            start = anyio.current_time()
            with pytest.raises(ConnectionLost, match=f"{text} within 2 s"):
                await open_connection(
                    ADDRESS, ClientOptions(dial_timeout=2, **{asked: True}), connector=connect
                )
            assert anyio.current_time() - start == pytest.approx(2, abs=0.1)
            await theirs.aclose()

    run_mocked(main)


@both_backends
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"E_AUTH_FAILED AUTH failed", AuthFailed),
        (b"E_UNAUTHORIZED AUTH no authorizations found", Unauthorized),
    ],
)
def test_a_refused_secret_is_an_error_of_its_own(backend: str, answer: bytes, error: type[Exception]) -> None:
    """With nsqd's words."""

    async def main() -> None:
        async with layered_nsqd(
            features={"auth_required": True}, answers={"AUTH": wire.encode_error(answer)}
        ) as nsqd:
            with pytest.raises(error, match=answer.decode()):
                await opened(nsqd, auth_secret="wrong")
            assert nsqd.bodies[1:] == [b"wrong"]

    run(main, backend)


@both_backends
def test_a_secret_that_nobody_asks_for_is_not_sent(backend: str) -> None:
    """It would be answered with an error, and the connection closed."""

    async def main() -> None:
        async with layered_nsqd() as nsqd:
            connection = await opened(nsqd, auth_secret="sesame")
            await connection.close()
            await nsqd.ended.wait()
            assert nsqd.commands == ["IDENTIFY"]

    run(main, backend)


# What goes over it.


@both_backends
def test_a_connection_over_tls_ends_with_a_goodbye(backend: str, tmp_path: Path) -> None:
    """nsqd sees the end of the TLS, not a broken connection, behind the last command."""

    async def main() -> None:
        async with layered_nsqd(features={"tls_v1": True}, tls=server_tls()) as nsqd:
            connection = await opened(nsqd, **write_pem(tmp_path))
            connection.protocol.send(b"FIN 0123456789abcdef\n")
            connection.finish()
            await connection.run(lambda events: None)
            await connection.close()
            await nsqd.ended.wait()
            assert nsqd.commands == ["IDENTIFY", "FIN 0123456789abcdef"]
            assert nsqd.end == "EndOfStream"

    run(main, backend)


@both_backends
@pytest.mark.parametrize("codec", ["snappy", "deflate"])
def test_a_damaged_stream_ends_the_connection(backend: str, codec: str) -> None:
    """As one that is out of step."""

    async def main() -> None:
        async with layered_nsqd(features={codec: True}) as nsqd:
            connection = await opened(nsqd, **{codec: True})
            await nsqd.raw.send(b"\x07\x07\x07\x07 this is nothing that could be decoded")
            with pytest.raises(ProtocolViolation, match=rf"nsqd\.test:4150: a.*{codec}"):
                await connection.run(lambda events: None)
            await connection.abort()

    run(main, backend)


@both_backends
def test_a_few_bytes_that_stand_for_many_do_not_fill_the_memory(backend: str) -> None:
    """16 MiB of zeros in 16 KiB come a little at a time, and a frame that is too large ends the connection."""

    async def main() -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        bomb = packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
        assert len(bomb) < 20_000
        ours, theirs = stream_pair()
        stream = CompressedStream(ours, DeflateEncoder(6), DeflateDecoder())
        await theirs.send(bomb)
        sizes = [len(await stream.receive(10_000)) for _ in range(1000)]
        assert max(sizes) <= 10_000
        assert stream._decoder._more  # type: ignore[attr-defined]
        await stream.aclose()
        await theirs.aclose()

        async with layered_nsqd(features={"deflate": True}) as nsqd:
            connection = await opened(nsqd, deflate=True, max_msg_size=1000)
            await nsqd.stream.send((1 << 20).to_bytes(4, "big") + bytes(1 << 20))
            with pytest.raises(ProtocolViolation, match="exceeds configured maximum of 1000"):
                await connection.run(lambda events: None)
            await connection.abort()

    run(main, backend)


@both_backends
def test_others_get_their_turn_while_much_is_decoded(backend: str) -> None:
    """Each piece gives way once."""

    async def main() -> None:
        ours, theirs = stream_pair()
        stream = CompressedStream(ours, SnappyEncoder(), SnappyDecoder())
        await theirs.send(SnappyEncoder().encode(bytes(1 << 20)))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            got = 0
            while got < 1 << 20:
                got += len(await stream.receive(65536))
            assert turns >= (1 << 20) // (65_536 + SNAPPY_WRITTEN)  # a piece may hold a whole chunk more
            group.cancel_scope.cancel()
        await theirs.aclose()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.aclose()

    run(main, backend)


@both_backends
def test_a_deflate_stream_that_nsqd_ends_is_an_end(backend: str) -> None:
    """As if it had closed the connection."""

    async def main() -> None:
        async with layered_nsqd(features={"deflate": True}) as nsqd:
            connection = await opened(nsqd, deflate=True)
            stream = nsqd.stream
            assert isinstance(stream, CompressedStream)
            encoder = stream._encoder
            assert isinstance(encoder, DeflateEncoder)
            await nsqd.raw.send(encoder._compressor.flush(zlib.Z_FINISH))
            with pytest.raises(ConnectionLost, match="closed by nsqd"):
                await connection.run(lambda events: None)
            await connection.abort()

    run(main, backend)


def test_the_bytes_of_snappy_are_those_of_the_original() -> None:
    """The first OK, as the original nsqd sends it."""

    async def main() -> None:
        ours, theirs = stream_pair()
        stream = CompressedStream(ours, SnappyEncoder(), SnappyDecoder())
        await stream.send(wire.OK)
        recorded = bytes.fromhex("ff060000734e61507059010e000026982bcf00000006000000004f4b")
        assert await theirs.receive() == recorded
        await theirs.send(recorded)
        assert await stream.receive() == wire.OK
        await stream.aclose()
        await theirs.aclose()

    run(main)
