"""Contexts of clients: whom they trust, and which versions they speak."""

from __future__ import annotations

import ssl

import pytest
import trustme

from nsqkit.options import TlsVersion
from nsqkit.service.tls import server_context, tls_version_name
from nsqkit.tls import TlsConfigError, client_context
from tests.nsqkit.certificates import Certificates, shake_hands


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_authorities_that_cannot_be_read() -> None:
    with pytest.raises(TlsConfigError, match=r"/none\.pem"):
        client_context(root_ca_file="/none.pem")


def test_clients_verify_the_server_and_its_name(certificates: Certificates) -> None:
    server = server_context(certificates.cert_file, certificates.key_file)
    good = client_context(root_ca_file=certificates.root_ca_file)
    assert tls_version_name(shake_hands(server, good)) == "TLS1.3"
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client_context())
    stranger = trustme.CA().issue_cert("elsewhere.example")
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    stranger.configure_cert(other)
    with pytest.raises(ssl.SSLError):
        shake_hands(other, good)


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        (TlsVersion.TLS1_0, ssl.TLSVersion.TLSv1_2),
        (TlsVersion.TLS1_2, ssl.TLSVersion.TLSv1_2),
        (TlsVersion.TLS1_3, ssl.TLSVersion.TLSv1_3),
    ],
)
def test_clients_speak_no_old_versions(asked: TlsVersion, least: ssl.TLSVersion) -> None:
    assert client_context(min_version=asked).minimum_version is least
