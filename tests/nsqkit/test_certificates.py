"""Contexts whose files change: what is used when, and what the log says; the expiry of a certificate."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.certificates import TlsFiles, expiry, warn_if_readable_by_all
from nsqkit.service.tls import server_files
from nsqkit.tls import TlsConfigError, client_context
from tests.nsqkit.certificates import Certificates, shake_hands


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def server_of(certificates: Certificates) -> TlsFiles:
    return server_files(certificates.cert_file, certificates.key_file, root_ca_file=certificates.root_ca_file)


def serial_shown(files: TlsFiles, certificates: Certificates) -> int:
    """Of the certificate that a client is shown."""
    client = certificates.client_context()
    shown: list[int] = []

    def note(side: ssl.SSLObject, *_: object) -> None:
        certificate = side.getpeercert()
        assert certificate is not None
        shown.append(int(str(certificate["serialNumber"]), 16))

    shake_hands(files.context, client, note)
    return shown[0]


def test_unchanged_files_are_not_read_again(certificates: Certificates) -> None:
    files = server_of(certificates)
    before = files.context
    assert not files.look()()
    assert files.context is before


def test_a_new_certificate_is_used_for_new_connections(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = server_of(certificates)
    before = files.context
    until = datetime.now(UTC) + timedelta(days=30.05)
    serial = certificates.renew(not_after=until)
    assert files.look()()
    assert files.context is not before
    assert serial_shown(files, certificates) == serial
    assert files.expires == pytest.approx(until.timestamp(), abs=1)
    [line] = caplog.messages
    assert line.startswith(f"TLS: read again: {certificates.cert_file}, ")
    assert line.endswith("valid for 30.0 days")


def test_a_pair_that_does_not_fit_changes_nothing_and_is_in_the_log_once(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = server_of(certificates)
    before, expires = files.context, files.expires
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(certificates.key_file)
    for _ in range(5):
        assert not files.look()()
    assert (files.context, files.expires) == (before, expires)
    [line] = caplog.messages
    assert "key values mismatch; what was read before stays in use" in line


def test_a_certificate_and_its_key_may_be_replaced_one_after_the_other(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = server_of(certificates)
    new = certificates.authority.issue_cert("localhost")
    new.private_key_pem.write_to_path(certificates.key_file)
    assert not files.look()()
    Path(certificates.cert_file).write_bytes(new.cert_chain_pems[0].bytes())
    assert files.look()()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_files_that_are_gone_come_back(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    files = server_of(certificates)
    Path(certificates.cert_file).unlink()
    assert not files.look()()
    assert not files.look()()
    assert "cert.pem: No such file or directory" in caplog.text
    serial = certificates.renew()
    assert files.look()()
    assert serial_shown(files, certificates) == serial


def test_files_that_change_while_they_are_read_change_nothing(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader meets then is not only an error of the certificate."""
    files = server_of(certificates)
    before = files.context
    certificates.renew()
    for error in (FileNotFoundError(2, "gone"), ssl.SSLError(1, "KEY_VALUES_MISMATCH")):
        monkeypatch.setattr(files, "_make", failing_with(error))
        assert not files.look()()
        assert files.context is before
    assert "KEY_VALUES_MISMATCH; what was read before stays in use" in caplog.text


def failing_with(error: OSError) -> Callable[[], ssl.SSLContext]:
    def make() -> ssl.SSLContext:
        raise error

    return make


def test_an_authority_that_is_taken_away_is_trusted_no_more(certificates: Certificates) -> None:
    files = server_files(
        certificates.cert_file,
        certificates.key_file,
        client_auth_policy="require-verify",
        root_ca_file=certificates.root_ca_file,
    )
    client = certificates.client_context(certificates.client, ssl.TLSVersion.TLSv1_2)
    shake_hands(files.context, client)
    certificates.stranger.cert_pem.write_to_path(certificates.root_ca_file)
    assert files.look()()
    with pytest.raises(ssl.SSLError):
        shake_hands(files.context, client)


def test_a_hang_up_has_unchanged_files_read_again(certificates: Certificates) -> None:
    files = server_of(certificates)
    files.forget_version()
    assert files.look()()
    assert not files.look()()


def test_a_context_that_nobody_has_used_is_made_when_it_is_needed(certificates: Certificates) -> None:
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(client_context(root_ca_file=certificates.root_ca_file))
        return made[-1]

    files = TlsFiles("TLS", [certificates.root_ca_file, ""], make)
    files.forget_version()
    assert not files.look()()
    assert files.context is files() is made[0]
    assert len(made) == 1
    assert files.expires is None


@pytest.mark.parametrize(("days", "said"), [(-1, "has expired"), (13.05, "expires in 13.0 days"), (15, None)])
def test_a_certificate_that_expires_soon_is_in_the_log(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, days: float, said: str | None
) -> None:
    certificates.renew(not_after=datetime.now(UTC) + timedelta(days=days))
    server_of(certificates)
    assert caplog.messages == ([f"TLS: the certificate {certificates.cert_file} {said}"] if said else [])


@pytest.mark.parametrize("year", [2030, 2049, 2050, 2999])
def test_expiry(certificates: Certificates, year: int) -> None:
    """From 2050 on it has another form."""
    until = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    pem = certificates.authority.issue_cert("localhost", not_after=until).cert_chain_pems[0].bytes()
    assert expiry("a comment\n" + pem.decode()) == until.timestamp()


@pytest.mark.parametrize(
    "text", ["", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
)
def test_no_certificate(text: str) -> None:
    with pytest.raises(ValueError):
        expiry(text)


@given(data=st.binary(max_size=60))
def test_no_bytes_are_more_than_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError):
        expiry(ssl.DER_cert_to_PEM_cert(data))


def test_a_certificate_without_a_form_is_named(certificates: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "no.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    files = TlsFiles("TLS", [str(path)], client_context, cert_file=str(path))
    with pytest.raises(TlsConfigError, match=f"^certificate {path}: "):
        files.load()


def test_secrets_that_all_users_may_read_are_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = []
    for mode in (0o600, 0o640, 0o644, 0o604):
        paths.append(tmp_path / f"{mode:o}")
        paths[-1].touch()
        paths[-1].chmod(mode)
    warn_if_readable_by_all("", str(tmp_path / "gone"), *map(str, paths), str(paths[-1]))
    assert [line.split(": ")[1] for line in caplog.messages] == [str(path) for path in paths[2:]]
