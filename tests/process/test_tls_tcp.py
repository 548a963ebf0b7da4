"""A real nsqd with a certificate: TLS on the TCP port, who must have a certificate too, and who must use it at all."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nsqkit.certificates import Certificates
from tests.process.daemon import Daemon
from tests.process.raw import Disconnected, ErrorFrame, RawClient
from tests.timing import patience

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def nsqd(data_path: Path, certificates: Certificates, *flags: str) -> Iterator[Daemon]:
    tls = [f"--tls-cert={certificates.cert_file}", f"--tls-key={certificates.key_file}", "--https-address="]
    with Daemon(data_path, flags=[*tls, *flags]) as daemon:
        daemon.start()
        yield daemon


def secured(daemon: Daemon, context: ssl.SSLContext, **fields: object) -> RawClient:
    """A client behind its handshake."""
    client = RawClient.connect(daemon.tcp_port)
    try:
        answer = client.identify(feature_negotiation=True, tls_v1=True, **fields)
        assert answer is not None
        assert answer["tls_v1"] is True
        client.start_tls(context)
    except BaseException:
        client.close()
        raise
    return client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_tls_version_and_its_statistics(
    tmp_path: Path, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    names = {"TLSv1": "TLS1.0", "TLSv1_2": "TLS1.2", "TLSv1_3": "TLS1.3"}
    with (
        nsqd(tmp_path, certificates, "--tls-min-version=tls1.0") as daemon,
        secured(daemon, certificates.client_context(version=version), client_id="me") as client,
    ):
        client.pub("t", b"hello")
        client.sub("t", "c")
        client.send(b"RDY 1\n")
        assert client.message().body == b"hello"
        (stats,) = daemon.clients("t", "c")
        assert (stats["client_id"], stats["tls"], stats["tls_version"]) == ("me", True, names[version.name])
        assert stats["tls_cipher_suite"].startswith(
            "Unknown 48" if version.name == "TLSv1_3" else "TLS_ECDHE_ECDSA_WITH_"
        )
        assert daemon.terminate() == 0
        with pytest.raises((Disconnected, ssl.SSLError)):
            client.message()


def test_versions_below_12_have_to_be_asked_for(tmp_path: Path, certificates: Certificates) -> None:
    with nsqd(tmp_path, certificates) as daemon:
        with pytest.raises(ssl.SSLError, match=r"(?i)version"):
            secured(daemon, certificates.client_context(version=ssl.TLSVersion.TLSv1_1))
        secured(daemon, certificates.client_context(version=ssl.TLSVersion.TLSv1_2)).close()


def test_a_least_version(tmp_path: Path, certificates: Certificates) -> None:
    with nsqd(tmp_path, certificates, "--tls-min-version=tls1.3") as daemon:
        with pytest.raises(ssl.SSLError, match=r"(?i)version"):
            secured(daemon, certificates.client_context(version=ssl.TLSVersion.TLSv1_2))
        secured(daemon, certificates.client_context(version=ssl.TLSVersion.TLSv1_3)).close()


@pytest.mark.parametrize(
    ("policy", "lets_in"),
    [
        ("require", {"known", "unknown"}),
        ("require-verify", {"known"}),
        ("other", {"none", "known", "unknown"}),
    ],
)
def test_client_certificates(
    tmp_path: Path, certificates: Certificates, policy: str, lets_in: set[str]
) -> None:
    """And that TLS is required, over TCP."""
    authority = f"--tls-root-ca-file={certificates.root_ca_file}"
    flags = [f"--tls-client-auth-policy={policy}", authority, "--tls-required=tcp-https"]
    whose = {"none": None, "known": certificates.client, "unknown": certificates.unknown_client}
    with nsqd(tmp_path, certificates, *flags) as daemon:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for name, certificate in whose.items():
                context = certificates.client_context(certificate, version)
                refused = pytest.raises((ssl.SSLError, ErrorFrame, Disconnected))
                with (
                    contextlib.nullcontext() if name in lets_in else refused,
                    secured(daemon, context) as client,
                ):
                    client.pub("t", name.encode())
        with RawClient.connect(daemon.tcp_port) as client:
            client.identify()
            with pytest.raises(ErrorFrame, match=r"E_INVALID cannot PUB in current state \(TLS required\)"):
                client.pub("t", b"in clear")
        assert daemon.stats()["topics"][0]["message_count"] == 2 * len(lets_in)


def test_stalled_handshakes_delay_no_other_client(tmp_path: Path, certificates: Certificates) -> None:
    """And they are cut off in time, with the reason in clear."""
    ends: list[float] = []

    def stall(daemon: Daemon) -> None:
        began = time.monotonic()
        with RawClient.connect(daemon.tcp_port, timeout_s=15) as client:
            client.identify(feature_negotiation=True, tls_v1=True)
            client.send(b"\x16\x03\x01\x02")
            with pytest.raises(ErrorFrame, match="E_IDENTIFY_FAILED IDENTIFY failed i/o timeout"):
                client.response()
        ends.append(time.monotonic() - began)

    with nsqd(tmp_path, certificates) as daemon:
        threads = [threading.Thread(target=stall, args=(daemon,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        with secured(daemon, certificates.client_context()) as client:
            for _ in range(50):
                client.pub("t", b"meanwhile")
        assert not ends
        for thread in threads:
            thread.join(patience(20))
    assert len(ends) == len(threads)
    assert all(4.5 < seconds < patience(8) for seconds in ends)
