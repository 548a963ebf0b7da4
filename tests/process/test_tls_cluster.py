"""TLS between real daemons and tools, plain peers beside it, and certificates that are replaced while all runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nsqkit.certificates import Certificates
from tests.nsqtools.tool import run_tool
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import Announcer, LookupDaemon
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Certificates(folder)


def with_certificate(certificates: Certificates, https_port: int, *flags: str) -> list[str]:
    return [
        f"--tls-cert={certificates.cert_file}",
        f"--tls-key={certificates.key_file}",
        f"--https-address={HOST}:{https_port}",
        f"--broadcast-address={HOST}",
        *flags,
    ]


@contextlib.contextmanager
def registry(certificates: Certificates, https_port: int, *flags: str) -> Iterator[LookupDaemon]:
    with LookupDaemon(flags=with_certificate(certificates, https_port, *flags)) as lookupd:
        lookupd.start()
        yield lookupd


@contextlib.contextmanager
def nsqd(data_path: Path, lookupd: LookupDaemon, *flags: str) -> Iterator[Daemon]:
    data_path.mkdir()
    own = [f"--lookupd-tcp-address={HOST}:{lookupd.tcp_port}", f"--broadcast-address={HOST}"]
    with Daemon(data_path, flags=[*own, *flags]) as daemon:
        daemon.start()
        yield daemon


def over_tls(certificates: Certificates) -> list[str]:
    return ["--lookupd-tls", f"--lookupd-tls-root-ca-file={certificates.root_ca_file}"]


def ask(port: int, method: str, target: str, context: ssl.SSLContext) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(HOST, port, timeout=patience(5), context=context)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_for_log(daemon: Daemon, text: str) -> None:
    wait_until(lambda: any(text in line for line in daemon.lines), 20, text, describe=daemon.log_end)


def test_plain_and_secure_nsqds_share_a_registry(tmp_path: Path, certificates: Certificates) -> None:
    Path(certificates.key_file).chmod(0o644)
    with (
        registry(certificates, free_port()) as lookupd,
        Announcer.connect(lookupd.tcp_port) as foreign,
        nsqd(tmp_path / "secure", lookupd, *over_tls(certificates)) as secure,
        nsqd(tmp_path / "plain", lookupd) as plain,
    ):
        wait_for_log(lookupd, f"SECRETS: {certificates.key_file}: every user of this machine may read it")
        foreign.identify(tcp_port=4150)
        foreign.ask(b"REGISTER orders\n")
        for daemon in (secure, plain):
            daemon.request("POST", "/topic/create?topic=orders")
        everybody = sorted([f"{HOST}:4150", secure.tcp_address, plain.tcp_address])
        wait_until(
            lambda: lookupd.producers("orders") == everybody,
            20,
            "all have registered",
            describe=secure.log_end,
        )


def test_where_tls_is_required_nothing_else_is_served(tmp_path: Path, certificates: Certificates) -> None:
    port, trusting = free_port(), certificates.client_context()
    with (
        registry(certificates, port, "--tls-required") as lookupd,
        nsqd(tmp_path / "plain", lookupd) as plain,
        nsqd(tmp_path / "distrusting", lookupd, "--lookupd-tls") as distrusting,
        nsqd(tmp_path / "secure", lookupd, *over_tls(certificates)) as secure,
    ):
        wait_for_log(plain, "E_INVALID TLS required (--lookupd-tls)")
        wait_for_log(distrusting, "TLS: [SSL: CERTIFICATE_VERIFY_FAILED]")
        assert lookupd.request("GET", "/nodes") == (
            403,
            b'{"message": "TLS_REQUIRED", "https_port": %d}' % port,
        )
        # A new topic gets the channels that it has elsewhere: they can be found over HTTPS only.
        assert ask(port, "POST", "/channel/create?topic=orders&channel=billing", trusting)[0] == 200
        wait_for_log(secure, "connected")
        assert secure.request("POST", "/pub?topic=orders", b"1")[0] == 200
        wait_until(
            lambda: (
                secure.unfinished("orders", "billing") == 1
                if secure.stats()["topics"][0]["channels"]
                else False
            ),
            20,
            "the channel is known",
            describe=secure.log_end,
        )
        producers = json.loads(ask(port, "GET", "/nodes", trusting)[1])["producers"]
        assert [each["tcp_port"] for each in producers] == [secure.tcp_port]


def test_a_client_certificate_registers_without_a_token(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "tokens").touch()
    closed = [f"--tokens-file={tmp_path / 'tokens'}", "--anonymous=none", "--register-by-certificate"]
    authority = f"--tls-root-ca-file={certificates.root_ca_file}"
    shown = [
        f"--lookupd-tls-cert={certificates.client_cert_file}",
        f"--lookupd-tls-key={certificates.client_key_file}",
    ]
    with (
        registry(certificates, free_port(), authority, *closed) as lookupd,
        nsqd(tmp_path / "without", lookupd, *over_tls(certificates)) as without,
        nsqd(tmp_path / "with", lookupd, *over_tls(certificates), *shown) as registered,
    ):
        wait_for_log(without, "E_UNAUTHORIZED IDENTIFY needs a valid token")
        wait_for_log(registered, f"LOOKUPD({HOST}:{lookupd.tcp_port}): connected")


def test_console_and_tools_send_nothing_without_tls(tmp_path: Path, certificates: Certificates) -> None:
    lookupd_port, nsqd_port, console_port = free_port(), free_port(), free_port()
    required = with_certificate(certificates, nsqd_port, "--tls-required")
    trusting = [
        "--http-client-tls-required",
        f"--http-client-tls-root-ca-file={certificates.root_ca_file}",
    ]
    with (
        registry(certificates, lookupd_port, "--tls-required") as lookupd,
        nsqd(tmp_path / "data", lookupd, *required, *over_tls(certificates)) as daemon,
    ):
        context = certificates.client_context()
        assert ask(nsqd_port, "POST", "/channel/create?topic=orders&channel=c", context)[0] == 404
        assert ask(nsqd_port, "POST", "/topic/create?topic=orders", context)[0] == 200
        assert ask(nsqd_port, "POST", "/channel/create?topic=orders&channel=c", context)[0] == 200
        with registered_client(daemon, context) as client:
            client.pub("orders", b"hello")
        where = f"--lookupd-http-address={HOST}:{lookupd.http_port}"
        wait_until(
            lambda: b"orders" in ask(lookupd_port, "GET", "/topics", context)[1],
            20,
            "it has registered",
            describe=daemon.log_end,
        )
        done = run_tool("nsq_stat", "--topic=orders", "--channel=c", "--count=1", where, *trusting)
        assert (done.returncode, done.stderr) == (0, b"")
        done = run_tool("nsq_peek", "--topic=orders", "--channel=c", where, *trusting)
        assert (done.returncode, b"hello" in done.stdout) == (0, True), done
        options = [
            f"--consumer-opt={text}" for text in ("tls_v1", f"tls_root_ca_file,{certificates.root_ca_file}")
        ]
        secure = f"--lookupd-http-address=https://{HOST}:{lookupd_port}"
        done = run_tool("nsq_tail", "--topic=orders", "--channel=c", "-n=1", secure, *options)
        assert done.stdout == b"hello\n", done
        with console(console_port, where, *trusting):
            nodes = wait_for_json(console_port, "/api/nodes")
            assert [node["tcp_port"] for node in nodes["nodes"]] == [daemon.tcp_port]


def registered_client(daemon: Daemon, context: ssl.SSLContext) -> RawClient:
    """A client after its handshake."""
    client = RawClient.connect(daemon.tcp_port)
    try:
        client.identify(feature_negotiation=True, tls_v1=True)
        client.start_tls(context)
    except BaseException:
        client.close()
        raise
    return client


@contextlib.contextmanager
def console(port: int, *flags: str) -> Iterator[None]:
    command = [sys.executable, "-m", "nsqadmin", f"--http-address={HOST}:{port}", *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def wait_for_json(port: int, target: str) -> dict[str, Any]:
    """The answer of the console when it has found a node."""
    answers: list[dict[str, Any]] = []

    def answered() -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=patience(5))
        try:
            connection.request("GET", target)
            answers.append(json.loads(connection.getresponse().read()))
        except OSError:
            return False
        finally:
            connection.close()
        return bool(answers[-1].get("nodes"))

    wait_until(answered, 20, target, describe=lambda: str(answers[-1:]))
    return answers[-1]


def serial_at(port: int, context: ssl.SSLContext) -> int:
    """Of the certificate that is shown at a port where TLS begins at once."""
    with (
        socket.create_connection((HOST, port), patience(5)) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        return serial_of(secure)


def serial_of(sock: socket.socket) -> int:
    assert isinstance(sock, ssl.SSLSocket)
    certificate = sock.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def test_certificates_are_replaced_under_connected_clients(
    tmp_path: Path, certificates: Certificates
) -> None:
    """On every port, also after a pair that does not fit, and at once on SIGHUP."""
    lookupd_port, nsqd_port = free_port(), free_port()
    context = certificates.client_context()
    own = with_certificate(certificates, nsqd_port)
    with (
        registry(certificates, lookupd_port) as lookupd,
        nsqd(tmp_path / "data", lookupd, *own, *over_tls(certificates)) as daemon,
        registered_client(daemon, context) as consumer,
    ):
        consumer.sub("orders", "c")
        consumer.rdy(10)
        wait_until(lambda: bool(lookupd.nodes()), 20, "it has registered", describe=daemon.log_end)
        first = serial_of(consumer.sock)
        Path(certificates.key_file).write_text("no key\n")
        for each in (lookupd, daemon):
            wait_for_log(each, "what was read before stays in use")
        assert {serial_at(port, context) for port in (lookupd_port, nsqd_port, lookupd.tcp_port)} == {first}
        serial = certificates.renew()
        for each in (lookupd, daemon):
            assert each.process is not None
            each.process.send_signal(signal.SIGHUP)
            wait_for_log(each, "TLS: read again")
        for port in (lookupd_port, nsqd_port, lookupd.tcp_port):
            assert serial_at(port, context) == serial
        with registered_client(daemon, context) as producer:
            assert serial_of(producer.sock) == serial
            producer.pub("orders", b"after")
        assert consumer.message().body == b"after"
        assert serial_of(consumer.sock) == first
        assert sum("TCP: new client" in line for line in lookupd.lines) == 1 + 2  # nsqd's, and those above
