"""A closed cluster of real processes: who gets in, and what becomes of a token that is revoked or expires."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from nsqkit.access import Scopes, Token, digest_of, new_secret
from nsqkit.access.token_file import add, remove
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.ports import free_port
from tests.process.raw import Disconnected, ErrorFrame, RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process


@attrs.define
class TokenStore:
    """A file of tokens."""

    path: Path

    def command(self, *args: str) -> str:
        """What `nsqd token` prints, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "nsqd", "token", args[0], f"--tokens-file={self.path}", *args[1:]],
            capture_output=True,
            text=True,
            check=True,
            timeout=patience(20),
        )
        return done.stdout.strip()

    def new(self, name: str, *scopes: str, seconds: float = 86400) -> str:
        """The new token."""
        secret, now = new_secret(), time.time()
        add(str(self.path), Token(name, digest_of(secret.encode()), Scopes.parse(scopes), now, now + seconds))
        return secret

    def revoke(self, name: str) -> None:
        remove(str(self.path), name)

    def file_of(self, name: str, *scopes: str) -> Path:
        """A file with a new token."""
        path = self.path.with_name(f"{name}.token")
        path.write_text(self.new(name, *scopes) + "\n")
        return path


@pytest.fixture
def tokens(tmp_path: Path) -> TokenStore:
    store = TokenStore(tmp_path / "tokens")
    store.new("unused", "read")
    return store


@pytest.fixture
def closed(tmp_path: Path, tokens: TokenStore) -> Iterator[Daemon]:
    """An nsqd that nobody may use without a token; it runs."""
    (tmp_path / "data").mkdir()
    with Daemon(tmp_path / "data", [f"--tokens-file={tokens.path}", "--anonymous=none"]) as daemon:
        daemon.start()
        yield daemon


def ask(port: int, method: str, target: str, token: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=patience(5))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request(method, target, b"1" if method == "POST" else None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def authenticated(daemon: Daemon, token: str) -> RawClient:
    client = RawClient.connect(daemon.tcp_port)
    try:
        assert client.identify(feature_negotiation=True)["auth_required"] is True  # type: ignore[index]
        client.ask(b"AUTH\n" + len(token).to_bytes(4, "big") + token.encode())
    except BaseException:
        client.close()
        raise
    return client


def read_again(daemon: Daemon, count: int) -> None:
    """Wait until the file was read so many times since the start."""
    wait_until(
        lambda: sum("read again" in line for line in daemon.lines) >= count,
        10,
        "the file is read",
        describe=daemon.log_end,
    )


def test_a_token_is_good_until_it_is_revoked(closed: Daemon, tokens: TokenStore) -> None:
    token = tokens.command("new", "--name=worker", "--scope=publish:orders", "--scope=consume:orders/*")
    read_again(closed, 1)
    assert ask(closed.http_port, "POST", "/pub?topic=orders") == (401, b'{"message":"TOKEN_REQUIRED"}')
    assert ask(closed.http_port, "POST", "/pub?topic=orders", token) == (200, b"OK")
    assert ask(closed.http_port, "POST", "/pub?topic=other", token)[0] == 403
    with authenticated(closed, token) as idle, authenticated(closed, token) as consumer:
        consumer.sub("orders", "c")
        consumer.rdy(1)
        assert consumer.message().body == b"1"
        tokens.command("revoke", "worker")
        for client in (idle, consumer):
            with pytest.raises(
                ErrorFrame, match="E_UNAUTHORIZED AUTH token worker is revoked or has expired"
            ):
                client.response(patience(10))
            with pytest.raises(Disconnected):
                client.response(patience(10))
    assert ask(closed.http_port, "POST", "/pub?topic=orders", token) == (401, b'{"message":"TOKEN_INVALID"}')
    with pytest.raises(ErrorFrame, match="E_AUTH_FAILED"):
        authenticated(closed, token)


def test_a_token_ends_its_connections_when_it_expires(closed: Daemon, tokens: TokenStore) -> None:
    for number in range(1, 6):  # on a busy machine a token may have expired before it is shown
        token = tokens.new(f"short-{number}", "publish:orders", seconds=2**number)
        closed.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        read_again(closed, number)
        try:
            client = authenticated(closed, token)
        except ErrorFrame:
            continue
        with client, pytest.raises(ErrorFrame, match="is revoked or has expired"):
            client.response(patience(20))
        assert ask(closed.http_port, "POST", "/pub?topic=orders", token) == (
            401,
            b'{"message":"TOKEN_EXPIRED"}',
        )
        return
    raise AssertionError(closed.log_end())


def test_a_mistake_in_the_file_locks_nobody_out(closed: Daemon, tokens: TokenStore) -> None:
    token = tokens.new("worker", "publish:orders")
    read_again(closed, 1)
    good = tokens.path.read_bytes()
    tokens.path.write_bytes(good + b"{\n")
    said = "line 3: no JSON"
    wait_until(lambda: any(said in line for line in closed.lines), 10, said, describe=closed.log_end)
    assert ask(closed.http_port, "POST", "/pub?topic=orders", token) == (200, b"OK")
    closed.terminate()
    closed.launch()
    assert closed.wait() == 1
    assert "failed to instantiate nsqd - failed to set up access control - " in closed.log_end()
    assert said in closed.log_end()


def test_a_closed_cluster_works_for_those_who_have_tokens(tmp_path: Path, tokens: TokenStore) -> None:
    node = tokens.file_of("node", "operate")
    consumer = tokens.file_of("consumer", "consume:orders/*")
    closing = [f"--tokens-file={tokens.path}", "--anonymous=none"]
    (tmp_path / "data").mkdir()
    with LookupDaemon(flags=[*closing, f"--broadcast-address={HOST}"]) as lookupd:
        lookupd.start()
        registry = f"--lookupd-tcp-address={HOST}:{lookupd.tcp_port}"
        flags = [*closing, f"--broadcast-address={HOST}", registry, f"--access-token-file={node}"]
        with Daemon(tmp_path / "data", flags) as nsqd:
            nsqd.start()
            producer = tokens.new("producer", "publish:orders")
            read_again(nsqd, 1)
            assert ask(nsqd.http_port, "POST", "/pub?topic=orders", producer) == (200, b"OK")
            for source in (
                registry.replace("tcp", "http").replace(str(lookupd.tcp_port), str(lookupd.http_port)),
            ):
                done = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "nsqtools.nsq_tail",
                        "--topic=orders",
                        "--channel=c",
                        "-n=1",
                        source,
                        f"--access-token-file={consumer}",
                    ],
                    capture_output=True,
                    timeout=patience(30),
                    check=True,
                )
                assert done.stdout == b"1\n"
            # A registration ends with its token, and begins again with another one in the file.
            tokens.revoke("node")
            refused = "E_UNAUTHORIZED IDENTIFY needs a valid token"
            wait_until(
                lambda: any(refused in line for line in nsqd.lines), 20, refused, describe=nsqd.log_end
            )
            node.write_text(tokens.new("node-2", "operate"))
            reader = tokens.new("reader", "read")
            lookupd.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            read_again(lookupd, 3)
            wait_until(
                lambda: b'"tcp_port":' in ask(lookupd.http_port, "GET", "/nodes", reader)[1],
                20,
                "it has registered",
                describe=nsqd.log_end,
            )


@pytest.mark.parametrize("module", ["nsqd", "nsqlookupd"])
def test_a_daemon_that_is_open_to_other_machines_says_so(tmp_path: Path, module: str) -> None:
    flags = [f"--tcp-address=127.0.0.1:{free_port()}", f"--http-address=0.0.0.0:{free_port()}"]
    command = [
        sys.executable,
        "-m",
        module,
        *flags,
        *([f"--data-path={tmp_path}"] if module == "nsqd" else []),
    ]
    said = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "ACCESS" in line:
                said += line
                process.terminate()
    assert "WARNING: ACCESS: everybody who reaches [::]:" in said or "reaches 0.0.0.0:" in said
    assert "127.0.0.1" not in said
    assert "may do everything" in said
