"""Contexts out of files: who gets in under which policy and version, and what a bad file is told with."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from nsqkit.options import TlsVersion
from nsqkit.service import tls
from nsqkit.service.tls import cipher_suite_name, peer_common_name, server_context, tls_version_name
from nsqkit.tls import TlsConfigError
from tests.nsqkit.certificates import Certificates, shake_hands

VERSIONS = {
    TlsVersion.TLS1_0: ssl.TLSVersion.TLSv1,
    TlsVersion.TLS1_1: ssl.TLSVersion.TLSv1_1,
    TlsVersion.TLS1_2: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS1_3: ssl.TLSVersion.TLSv1_3,
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def context_of(certificates: Certificates, **changes: object) -> ssl.SSLContext:
    return server_context(certificates.cert_file, certificates.key_file, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("least", TlsVersion)
@pytest.mark.parametrize("spoken", TlsVersion)
def test_versions_from_the_least_one_on(
    certificates: Certificates, least: TlsVersion, spoken: TlsVersion
) -> None:
    server = context_of(certificates, min_version=least)
    client = certificates.client_context(version=VERSIONS[spoken])
    if spoken < least:
        with pytest.raises(ssl.SSLError):
            shake_hands(server, client)
    else:
        session = shake_hands(server, client)
        assert (
            tls_version_name(session) == {769: "TLS1.0", 770: "TLS1.1", 771: "TLS1.2", 772: "TLS1.3"}[spoken]
        )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("policy", "shown", "admitted"),
    [
        ("", None, True),
        ("", "client", True),
        ("whatever", None, True),
        ("require", None, False),
        ("require", "client", True),
        ("require", "unknown_client", True),
        ("require-verify", None, False),
        ("require-verify", "client", True),
        ("require-verify", "unknown_client", False),
    ],
)
def test_policies(
    certificates: Certificates, policy: str, shown: str | None, admitted: bool, version: ssl.TLSVersion
) -> None:
    """`require` asks for any certificate, `require-verify` for one of the authority, other words for none."""
    server = context_of(certificates, client_auth_policy=policy, root_ca_file=certificates.root_ca_file)
    client = certificates.client_context(getattr(certificates, shown) if shown else None, version)
    if not admitted:
        with pytest.raises(ssl.SSLError):
            shake_hands(server, client)
        return
    name = {"client": "known", "unknown_client": "unknown"}.get(shown or "", "")
    assert peer_common_name(shake_hands(server, client)) == (name if policy.startswith("require") else "")


def test_any_certificate_needs_its_key(certificates: Certificates) -> None:
    """Nobody verifies who signed a certificate, but whoever shows it must have the key."""
    server = context_of(certificates, client_auth_policy="require")
    client = certificates.client_context(certificates.unknown_client, ssl.TLSVersion.TLSv1_2)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for side in (theirs, ours, theirs):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    flight = bytearray(to_server.read())
    # Handshake records: Certificate, ClientKeyExchange, CertificateVerify; the last one is to be forged.
    place = 0
    while flight[place + 5] != 15:
        place += 5 + int.from_bytes(flight[place + 3 : place + 5], "big")
    flight[place + 5 + int.from_bytes(flight[place + 3 : place + 5], "big") - 1] ^= 1
    to_server.write(bytes(flight))
    with pytest.raises(ssl.SSLError):
        ours.do_handshake()


def test_a_python_that_cannot_keep_the_policy_refuses(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_accept_any_certificate", lambda context: None)
    with pytest.raises(TlsConfigError, match="client auth policy 'require' is not to be had"):
        context_of(certificates, client_auth_policy="require")


def test_openssl_out_of_reach(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> object:
        raise OSError("no such library")

    monkeypatch.setattr(tls, "_openssl", missing)
    with pytest.raises(TlsConfigError, match="OpenSSL's functions cannot be reached"):
        context_of(certificates, client_auth_policy="require")


def test_verified_without_a_root_ca_file_means_the_systems_authorities(certificates: Certificates) -> None:
    server = context_of(certificates, client_auth_policy="require-verify")
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(server, certificates.client_context(certificates.client, ssl.TLSVersion.TLSv1_2))


def test_names_of_cipher_suites(certificates: Certificates) -> None:
    server = context_of(certificates)
    client = certificates.client_context(version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    assert cipher_suite_name(shake_hands(server, client)) == "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    session = shake_hands(server, certificates.client_context(version=ssl.TLSVersion.TLSv1_3))
    assert cipher_suite_name(session) in ("Unknown 4865", "Unknown 4866", "Unknown 4867")


def test_every_suite_that_can_be_chosen_has_a_name(certificates: Certificates) -> None:
    """The one of TLS 1.3 for small devices is not offered."""
    names = {suite["name"] for suite in context_of(certificates).get_ciphers()}
    assert names <= tls._SUITES.keys()


def test_nothing_is_known_before_the_handshake(certificates: Certificates) -> None:
    session = context_of(certificates).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    assert (cipher_suite_name(session), tls_version_name(session), peer_common_name(session)) == ("", "", "")


class TestBadFiles:
    @pytest.mark.parametrize("role", ["cert_file", "key_file", "root_ca_file"])
    def test_missing(self, certificates: Certificates, role: str) -> None:
        files = {"cert_file": certificates.cert_file, "key_file": certificates.key_file, role: "/none.pem"}
        with pytest.raises(TlsConfigError, match=r"^/none\.pem: No such file or directory$"):
            server_context(**files)

    @pytest.mark.parametrize("role", ["cert_file", "key_file", "root_ca_file"])
    def test_no_pem(self, certificates: Certificates, tmp_path: Path, role: str) -> None:
        bad = tmp_path / "bad.pem"
        bad.write_text("not a certificate")
        files = {"cert_file": certificates.cert_file, "key_file": certificates.key_file, role: str(bad)}
        with pytest.raises(TlsConfigError, match=str(bad)):
            server_context(**files)

    def test_the_key_of_another_certificate(self, certificates: Certificates, tmp_path: Path) -> None:
        other = tmp_path / "other.pem"
        certificates.client.private_key_pem.write_to_path(str(other))
        with pytest.raises(TlsConfigError, match=rf"cert\.pem with key {other}: key values mismatch"):
            server_context(certificates.cert_file, str(other))

    @pytest.mark.parametrize(("cert", "key"), [("c.pem", ""), ("", "k.pem")])
    def test_one_without_the_other(self, cert: str, key: str) -> None:
        with pytest.raises(TlsConfigError, match=r"file \([ck]\.pem\) without a (certificate|key) file"):
            server_context(cert, key)

    def test_an_encrypted_key_asks_nobody(self, certificates: Certificates, tmp_path: Path) -> None:
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_private_key(certificates.server.private_key_pem.bytes(), None)
        locked = tmp_path / "locked.pem"
        locked.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        with pytest.raises(TlsConfigError, match=rf"key {locked}: it is encrypted"):
            server_context(certificates.cert_file, str(locked))
