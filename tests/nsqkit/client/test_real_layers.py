"""TLS, snappy, deflate and AUTH against the real nsqd, on both backends."""

# ruff: noqa: ASYNC110 - another process offers nothing to wait for
from __future__ import annotations

import contextlib
import http.server
import json
import random
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from nsqkit.client import (
    ConnectionFailed,
    Consumer,
    Message,
    NotConnected,
    Producer,
    Unauthorized,
    open_connection,
)
from nsqkit.client.address import Address
from nsqkit.client.options import ClientOptions
from tests.nsqkit.client.fake import both_backends, run
from tests.nsqkit.client.layered import CERTIFICATE, write_client_pem, write_pem
from tests.process.daemon import Daemon
from tests.timing import patience

pytestmark = pytest.mark.process

STACKS: list[dict[str, Any]] = [
    {"tls_v1": True},
    {"snappy": True},
    {"deflate": True, "deflate_level": 3},
    {"tls_v1": True, "snappy": True},
    {"tls_v1": True, "deflate": True},
]


@contextlib.contextmanager
def tls_daemon(folder: Path, *flags: str) -> Iterator[Daemon]:
    """A running nsqd with TLS."""
    cert, key = folder / "nsqd.pem", folder / "nsqd.key"
    for number, blob in enumerate(CERTIFICATE.cert_chain_pems):
        blob.write_to_path(str(cert), append=number > 0)
    CERTIFICATE.private_key_pem.write_to_path(str(key))
    data = folder / "data"
    data.mkdir()
    files = (f"--tls-cert={cert}", f"--tls-key={key}", "--https-address=")
    with Daemon(data, flags=(*files, *flags)) as daemon:
        daemon.start()
        yield daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all stacks; each test has a topic of its own."""
    with tls_daemon(tmp_path_factory.mktemp("nsqd")) as daemon:
        yield daemon


@both_backends
@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_messages_of_all_sizes_there_and_back(
    daemon: Daemon, tmp_path: Path, backend: str, stack: dict[str, Any]
) -> None:
    """Through every stack: each once, as it was; and nothing left over."""
    chance = random.Random(3)
    bodies = [chance.randbytes(chance.choice((1, 30, 200, 5_000, 70_000))) for _ in range(300)]
    bodies += [b"easy to compress" * number for number in (1, 100, 10_000)]
    seen: Counter[bytes] = Counter()

    def handle(message: Message) -> None:
        seen[message.body] += 1
        if seen.total() == len(bodies):
            consumer.stop()

    async def main() -> None:
        async with Producer(nsqd_tcp_addresses=[daemon.tcp_address], **options) as producer:
            async with anyio.create_task_group() as group:
                for body in bodies[:200]:
                    group.start_soon(producer.publish, topic, body)
            await producer.publish_multi(topic, bodies[200:])
        await consumer.run()

    topic = "-".join((backend, *stack))
    options = write_pem(tmp_path) | {"tls_v1": False} | stack
    consumer = Consumer(
        topic, "c", nsqd_tcp_addresses=[daemon.tcp_address], handler=handle, max_in_flight=50, **options
    )
    run(main, backend)
    assert seen == Counter(bodies)
    assert daemon.unfinished(topic, "c") == 0


@both_backends
def test_an_nsqd_that_requires_tls_and_a_certificate(tmp_path: Path, backend: str) -> None:
    """With them all is well; without, the reason is in the error."""

    async def main() -> None:
        options = write_pem(tmp_path)
        whole = options | write_client_pem(tmp_path)
        async with Producer(nsqd_tcp_addresses=[daemon.tcp_address], **whole) as producer:
            await producer.publish("t", b"x")
        with pytest.raises(ConnectionFailed):
            await open_connection(Address.parse(daemon.tcp_address), ClientOptions(**options))
        async with Producer(nsqd_tcp_addresses=[daemon.tcp_address], publish_timeout=0.5) as producer:
            with pytest.raises(Exception, match="TLS required"):
                await producer.publish("t", b"x")

    ca = write_pem(tmp_path)["tls_root_ca_file"]
    with tls_daemon(
        tmp_path, "--tls-client-auth-policy=require-verify", f"--tls-root-ca-file={ca}"
    ) as daemon:
        run(main, backend)


@both_backends
def test_kill_9_and_restart_over_tls_and_snappy(tmp_path: Path, backend: str) -> None:
    """The same client objects go on, through the same layers; nothing is lost."""
    seen: set[bytes] = set()

    async def main() -> None:
        addresses = [daemon.tcp_address]
        options: dict[str, Any] = {
            **write_pem(tmp_path),
            "snappy": True,
            "reconnect_delay": 0.02,
            "max_reconnect_delay": 0.1,
        }
        consumer = Consumer(
            "t", "c", nsqd_tcp_addresses=addresses, handler=lambda message: seen.add(message.body), **options
        )
        async with anyio.create_task_group() as group:
            group.start_soon(consumer.run)
            async with Producer(nsqd_tcp_addresses=addresses, **options) as producer:
                for life in range(3):
                    for number in range(50):
                        await producer.publish("t", b"%d-%d" % (life, number))
                    if life < 2:
                        daemon.kill()
                        daemon.start()
                with anyio.fail_after(patience(10)):
                    while len(seen) < 150:
                        await anyio.sleep(0.02)
                assert producer.stats().connects == 3
            consumer.stop()

    with tls_daemon(tmp_path) as daemon:
        run(main, backend)


@contextlib.contextmanager
def auth_server(secrets: Sequence[str]) -> Iterator[str]:
    """Lets in who has one of these secrets, everywhere; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            allowed = query["secret"][0] in secrets
            everything = {"topic": ".*", "channels": [".*"], "permissions": ["publish", "subscribe"]}
            body = json.dumps({"ttl": 60, "authorizations": [everything] if allowed else []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@both_backends
def test_the_right_secret_opens_the_door(tmp_path: Path, backend: str) -> None:
    """For a producer and a consumer; a wrong one is told apart from none."""

    async def main() -> None:
        addresses = [daemon.tcp_address]
        secret: dict[str, Any] = {"auth_secret": "sesame"}
        async with Producer(nsqd_tcp_addresses=addresses, **secret) as producer:
            await producer.publish("t", b"x")
        bodies: list[bytes] = []
        async with Consumer("t", "c", nsqd_tcp_addresses=addresses, **secret) as consumer:
            async for message in consumer:
                bodies.append(message.body)
                message.finish()
                break
        assert bodies == [b"x"]
        with pytest.raises(Unauthorized):
            await open_connection(Address.parse(addresses[0]), ClientOptions(auth_secret="wrong"))
        async with Producer(nsqd_tcp_addresses=addresses, publish_timeout=0.3) as producer:
            with pytest.raises(NotConnected, match="no auth_secret is set"):
                await producer.publish("t", b"x")

    with (
        auth_server(["sesame"]) as address,
        Daemon(tmp_path, flags=[f"--auth-http-address={address}"]) as daemon,
    ):
        daemon.start()
        run(main, backend)
