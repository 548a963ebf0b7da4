"""A real nsqd with a certificate: HTTPS beside HTTP, what --tls-required leaves open, and log lines as JSON."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nsqkit.service.http import Limits
from tests.nsqkit.certificates import Certificates
from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port
from tests.timing import patience

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def nsqd(data_path: Path, certificates: Certificates, https_port: int, *flags: str) -> Daemon:
    return Daemon(
        data_path,
        flags=[
            f"--tls-cert={certificates.cert_file}",
            f"--tls-key={certificates.key_file}",
            f"--https-address={HOST}:{https_port}",
            *flags,
        ],
    )


def ask(
    port: int, target: str, context: ssl.SSLContext, method: str = "GET", body: bytes | None = None
) -> tuple[int, bytes]:
    """One request over TLS: status and body."""
    connection = http.client.HTTPSConnection(HOST, port, timeout=patience(5), context=context)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_https_serves_the_same_as_http(tmp_path: Path, certificates: Certificates) -> None:
    port, context = free_port(), certificates.client_context()
    with nsqd(tmp_path, certificates, port) as daemon:
        daemon.start()
        assert ask(port, "/ping", context) == daemon.request("GET", "/ping") == (200, b"OK")
        assert ask(port, "/pub?topic=t", context, "POST", b"over TLS") == (200, b"OK")
        assert daemon.stats()["topics"][0]["message_count"] == 1
        assert ask(port, "/info", context) == daemon.request("GET", "/info")
        assert any(f"HTTPS: listening on {HOST}:{port}" in line for line in daemon.lines)
        assert daemon.terminate() == 0


def test_tls_required_closes_plain_http(tmp_path: Path, certificates: Certificates) -> None:
    port, context = free_port(), certificates.client_context()
    with nsqd(tmp_path, certificates, port, "--tls-required") as daemon:
        daemon.start()
        refusal = b'{"message": "TLS_REQUIRED", "https_port": %d}' % port
        for method, target in (
            ("GET", "/ping"),
            ("POST", "/pub?topic=t"),
            ("GET", "/nothing"),
            ("HEAD", "/ping"),
        ):
            status, body = daemon.request(method, target, b"x" if method == "POST" else None)
            assert (status, body) == (403, b"" if method == "HEAD" else refusal)
        assert ask(port, "/ping", context) == (200, b"OK")
        assert ask(port, "/config/tls_required", context) == (200, b"2")


def test_tcp_https_leaves_plain_http_open(tmp_path: Path, certificates: Certificates) -> None:
    port = free_port()
    with nsqd(tmp_path, certificates, port, "--tls-required=tcp-https") as daemon:
        daemon.start()
        assert daemon.request("GET", "/ping") == (200, b"OK")
        assert ask(port, "/ping", certificates.client_context()) == (200, b"OK")


@pytest.mark.parametrize(
    ("policy", "shown", "admitted"),
    [
        ("require", None, False),
        ("require", "unknown_client", True),
        ("require-verify", "unknown_client", False),
        ("require-verify", "client", True),
    ],
)
def test_client_certificates(
    tmp_path: Path, certificates: Certificates, policy: str, shown: str | None, admitted: bool
) -> None:
    """A policy makes TLS required, and holds for HTTPS too."""
    port = free_port()
    flags = (f"--tls-client-auth-policy={policy}", f"--tls-root-ca-file={certificates.root_ca_file}")
    with nsqd(tmp_path, certificates, port, *flags) as daemon:
        daemon.start()
        assert daemon.request("GET", "/ping")[0] == 403
        context = certificates.client_context(getattr(certificates, shown) if shown else None)
        if admitted:
            assert ask(port, "/ping", context) == (200, b"OK")
        else:
            with pytest.raises(ssl.SSLError):
                ask(port, "/ping", context)


def test_no_https_address_no_https(tmp_path: Path, certificates: Certificates) -> None:
    with nsqd(tmp_path, certificates, 1, "--https-address=", "--tls-required") as daemon:
        daemon.start()
        assert daemon.request("GET", "/ping") == (403, b'{"message": "TLS_REQUIRED", "https_port": 0}')
        assert not any("HTTPS: listening" in line for line in daemon.lines)


def test_no_certificate_no_https(tmp_path: Path) -> None:
    with Daemon(tmp_path, flags=[f"--https-address={HOST}:{free_port()}"]) as daemon:
        daemon.start()
        assert not any("HTTPS: listening" in line for line in daemon.lines)


def test_a_stalled_handshake_delays_neither_clients_nor_the_stop(
    tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    with nsqd(tmp_path, certificates, port) as daemon:
        daemon.start()
        stalled = [socket.create_connection((HOST, port), patience(5)) for _ in range(50)]
        began = time.monotonic()
        assert ask(port, "/ping", certificates.client_context()) == (200, b"OK")
        assert daemon.request("GET", "/ping") == (200, b"OK")
        assert time.monotonic() - began < Limits().handshake_seconds
        assert daemon.terminate(5) == 0
        for client in stalled:
            client.close()


def test_a_taken_https_port_is_told(tmp_path: Path, certificates: Certificates) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with nsqd(tmp_path, certificates, port) as daemon:
            daemon.launch()
            assert daemon.wait() == 1
            assert f"FATAL: failed to instantiate nsqd - listen ({HOST}:{port}) failed - " in daemon.lines[-1]


def test_the_log_level_changes_at_run_time(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        assert daemon.request("PUT", "/config/log_level", b"error") == (200, b"4")
        daemon.request("GET", "/info?unheard")
        assert daemon.request("PUT", "/config/log_level", b"info") == (200, b"2")
        daemon.request("GET", "/info?heard")
        assert daemon.terminate() == 0
        log = "\n".join(daemon.lines)
        assert "/info?heard" in log
        assert "/info?unheard" not in log


def json_lines(*command: str) -> tuple[int, list[dict[str, Any]]]:
    """What a program leaves on stderr that ends by itself, or with SIGTERM once it listens on all that it says."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(json.loads(line))
                if "HTTP: listening" in lines[-1]["message"]:
                    process.terminate()
            code = process.wait(patience(10))
        finally:
            process.kill()
    return code, lines


@pytest.mark.parametrize("program", ["nsqd", "nsqlookupd"])
def test_log_lines_as_json(tmp_path: Path, program: str) -> None:
    flags = ["--log-format=json", f"--tcp-address={HOST}:0", f"--http-address={HOST}:0"]
    if program == "nsqd":
        flags.append(f"--data-path={tmp_path}")
    code, lines = json_lines(program, *flags)
    assert code == 0
    assert {line["daemon"] for line in lines} == {program}
    assert all(list(line) == ["time", "level", "daemon", "logger", "message"] for line in lines)
    assert lines[-1]["message"] == f"{'NSQ' if program == 'nsqd' else 'NSQLOOKUPD'}: bye"


def test_a_failed_start_is_json_too(tmp_path: Path) -> None:
    code, [line] = json_lines("nsqd", "--log-format=json", f"--data-path={tmp_path}", "--node-id=5000")
    assert code == 1
    assert (line["level"], line["daemon"]) == ("FATAL", "nsqd")
    assert line["message"] == "failed to instantiate nsqd - --node-id must be [0,1024)"
