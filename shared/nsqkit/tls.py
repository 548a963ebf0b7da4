"""TLS contexts of clients, and loading certificates.

    context = client_context(root_ca_file="ca.pem")

A file that cannot be loaded is a `TlsConfigError` that names it; no passphrase is asked for at a terminal. The contexts
of servers are in `nsqkit.service.tls`.
"""

from __future__ import annotations

import ssl
from typing import NoReturn

from nsqkit.options import TlsVersion

__all__ = ["TlsConfigError", "client_context", "load_certificate", "load_root_ca"]


class TlsConfigError(Exception):
    """The context cannot be made; the text is for the operator and names the file."""


def client_context(
    *,
    root_ca_file: str = "",
    min_version: TlsVersion = TlsVersion.TLS1_2,
    cert_file: str = "",
    key_file: str = "",
    verify: bool = True,
) -> ssl.SSLContext:
    """The context of a client that verifies certificates and host names. Raises `TlsConfigError`.

    It trusts the authorities in the root CA file, or those of the system without one, which take some 20 ms to load. A
    `min_version` below TLS 1.2 counts as TLS 1.2. With a certificate and its key, servers can verify the client.
    Without `verify` every server is trusted: for tests.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion(max(min_version, TlsVersion.TLS1_2))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if root_ca_file:
        load_root_ca(context, root_ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if cert_file or key_file:
        load_certificate(context, cert_file, key_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def load_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    """Use this certificate chain and key (PEM files). Raises `TlsConfigError`, which names the file."""
    if not cert_file or not key_file:
        given, missing = ("certificate", "key") if cert_file else ("key", "certificate")
        raise TlsConfigError(f"a {given} file ({cert_file or key_file}) without a {missing} file")
    for path in (cert_file, key_file):  # the error of OpenSSL does not name the file
        _check_readable(path)
    try:
        context.load_cert_chain(cert_file, key_file, password=lambda: _refuse_encrypted(key_file))
    except ssl.SSLError as error:
        raise TlsConfigError(f"certificate {cert_file} with key {key_file}: {_reason(error)}") from error


def _refuse_encrypted(key_file: str) -> NoReturn:
    raise TlsConfigError(f"key {key_file}: it is encrypted, and a passphrase cannot be entered")


def load_root_ca(context: ssl.SSLContext, path: str) -> None:
    """Trust the authorities in this file (PEM). Raises `TlsConfigError`."""
    _check_readable(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise TlsConfigError(f"root CA file {path}: {_reason(error)}") from error


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise TlsConfigError(f"{path}: {error.strerror}") from error


def _reason(error: ssl.SSLError) -> str:
    """A text such as `key values mismatch`; OpenSSL has none for a file that is not PEM."""
    if not error.reason:
        return "not a PEM file of that kind"
    return error.reason.lower().replace("_", " ")
