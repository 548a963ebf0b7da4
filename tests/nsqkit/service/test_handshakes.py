"""Handshakes of a server: their limit of time, their order, and what a client is told of a failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from nsqkit.service.handshakes import Handshakes
from nsqkit.service.tls import REQUIRE_VERIFY, server_context
from tests.nsqkit.certificates import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def failure_with(
    certificates: Certificates, client: Callable[[trio.StapledStream], Awaitable[object]]
) -> str:
    """Why the handshake with this client failed, which needs a certificate."""
    context = server_context(
        certificates.cert_file,
        certificates.key_file,
        client_auth_policy=REQUIRE_VERIFY,
        root_ca_file=certificates.root_ca_file,
    )
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client, theirs)
        stream = trio.SSLStream(ours, context, server_side=True)
        failure = await Handshakes(seconds=5, linger_seconds=1).failure(stream)
        nursery.cancel_scope.cancel()
    return failure


async def test_a_good_one_has_no_failure(certificates: Certificates) -> None:
    context = certificates.client_context(certificates.client)

    async def client(stream: trio.StapledStream) -> None:
        await trio.SSLStream(stream, context, server_hostname="localhost").do_handshake()
        await trio.sleep_forever()

    assert await failure_with(certificates, client) == ""


async def test_a_client_is_told_what_is_missing(certificates: Certificates) -> None:
    told: list[str] = []

    async def client(stream: trio.StapledStream) -> None:
        secure = trio.SSLStream(stream, certificates.client_context(), server_hostname="localhost")
        try:
            await secure.do_handshake()
            await secure.receive_some(1)
        except trio.BrokenResourceError as error:
            told.append(str(error.__cause__))
        await stream.aclose()

    assert "peer did not return a certificate" in (await failure_with(certificates, client)).lower()
    assert "certificate required" in told[0].lower()


async def test_a_client_that_does_nothing_has_some_seconds(
    certificates: Certificates, autojump_clock: trio.testing.MockClock
) -> None:
    async def client(stream: trio.StapledStream) -> None:
        await trio.sleep_forever()

    assert await failure_with(certificates, client) == "not done within 5 s"
    assert trio.current_time() == 5


async def test_a_client_that_goes(certificates: Certificates) -> None:
    async def client(stream: trio.StapledStream) -> None:
        await stream.aclose()

    assert await failure_with(certificates, client) != ""
