"""TLS contexts of servers, and the properties of a connection after its handshake.

    context = server_context("cert.pem", "key.pem", client_auth_policy="require-verify", root_ca_file="ca.pem")
    [listener] = with_tls([plain_listener], lambda: context)

Rules:

- A file that cannot be loaded is a `TlsConfigError` that names it; no passphrase is asked for at a terminal.
- A policy that cannot be enforced is an error at the start, instead of a weaker policy.

Client certificates. `require-verify` accepts certificates that a trusted authority has signed. `require` accepts any:
the client proves that it has the key, but the content of the certificate is not verified. The standard library cannot
require a certificate without verifying it. OpenSSL can, with a callback that decides. So `require` sets that callback
through ctypes on the `SSL_CTX` of the context, whose address is the first field of CPython's context object, in the
library that the module `_ssl` is linked with. As this is not documented, `server_context` then tests the context in
memory: it must accept a client with an unsigned certificate and refuse one without. Otherwise it raises
`TlsConfigError`.

Old versions. OpenSSL 3 supports TLS 1.0 and 1.1 at security level 0 only, so a minimum version below 1.2 sets that
level for the context. Cipher suites without forward secrecy are still excluded, but SHA-1 signatures of certificates
and short keys are accepted then. `client_context` never goes below TLS 1.2.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import ssl
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from nsqkit.certificates import TlsFiles
from nsqkit.options import TlsVersion
from nsqkit.tls import TlsConfigError, load_certificate, load_root_ca

if TYPE_CHECKING:
    import trio

__all__ = [
    "REQUIRE",
    "REQUIRE_VERIFY",
    "VERIFY_IF_GIVEN",
    "cipher_suite_name",
    "peer_common_name",
    "server_context",
    "server_files",
    "shows_certificate",
    "tls_version_name",
]

REQUIRE: Final = "require"
REQUIRE_VERIFY: Final = "require-verify"
VERIFY_IF_GIVEN: Final = "verify-if-given"

# Those of the standard library, then the suites of TLS 1.0 and 1.1 (AES with SHA-1).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!eNULL:!aDSS:!AESCCM"
_OLD_VERSIONS_ALLOWED = "@SECLEVEL=0:"


def server_context(
    cert_file: str,
    key_file: str,
    *,
    client_auth_policy: str = "",
    root_ca_file: str = "",
    min_version: TlsVersion = TlsVersion.TLS1_2,
) -> ssl.SSLContext:
    """The context of a server with this certificate chain and key (PEM files). Raises `TlsConfigError`.

    `client_auth_policy`: `require` (any client certificate), `require-verify` (one signed by an authority in the root
    CA file, or by one of the system's without a file), `verify-if-given` (such a one or none); any other value requests
    none. The root CA file must be readable in any case.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_min_version(context, min_version)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Trust every certificate in the root CA file, even one that another authority has signed.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    load_certificate(context, cert_file, key_file)
    if root_ca_file:
        load_root_ca(context, root_ca_file)
    if client_auth_policy in (REQUIRE_VERIFY, VERIFY_IF_GIVEN):
        if not root_ca_file:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        required = client_auth_policy == REQUIRE_VERIFY
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    elif client_auth_policy == REQUIRE:
        context.verify_mode = ssl.CERT_REQUIRED
        _accept_any_certificate(context)
        _check_any_certificate(context, cert_file, key_file)
    return context


def server_files(
    cert_file: str,
    key_file: str,
    *,
    client_auth_policy: str = "",
    root_ca_file: str = "",
    min_version: TlsVersion = TlsVersion.TLS1_2,
    name: str = "TLS",
) -> TlsFiles:
    """The same, to be made again when the files change. `name`: for the log. Raises `TlsConfigError`."""
    make = functools.partial(
        server_context,
        cert_file,
        key_file,
        client_auth_policy=client_auth_policy,
        root_ca_file=root_ca_file,
        min_version=min_version,
    )
    files = TlsFiles(name, [cert_file, key_file, root_ca_file], make, cert_file=cert_file)
    files.load()
    return files


def _set_min_version(context: ssl.SSLContext, version: TlsVersion) -> None:
    if version >= TlsVersion.TLS1_2:
        context.set_ciphers(_CIPHERS)
        context.minimum_version = ssl.TLSVersion(version)
        return
    context.set_ciphers(_OLD_VERSIONS_ALLOWED + _CIPHERS)
    with warnings.catch_warnings():
        # It is what the operator asks for, or NSQ's default.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion(version)


# --- client certificates without verification

_VerifyCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_accept_chain = _VerifyCallback(lambda _store, _argument: 1)  # must live as long as any context


def _accept_any_certificate(context: ssl.SSLContext) -> None:
    """Accept every certificate chain of a client. It still must prove that it has the key."""
    try:
        set_callback: Callable[..., None] = _openssl().SSL_CTX_set_cert_verify_callback
    except (AttributeError, OSError, ImportError) as error:
        raise TlsConfigError(_no_policy("OpenSSL's functions cannot be reached")) from error
    if sys.implementation.name != "cpython":
        raise TlsConfigError(_no_policy("it is not CPython"))
    handle = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    set_callback(handle, _accept_chain, None)


def _openssl() -> Any:
    import _ssl

    library = ctypes.CDLL(_ssl.__file__)  # also finds names in the libraries that the module is linked with
    library.SSL_CTX_set_cert_verify_callback.restype = None
    return library


def _check_any_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    """Test that the context enforces the policy, with the server's own certificate as that of a client."""
    for with_certificate in (True, False):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        client.set_ciphers("ALL:@SECLEVEL=0")
        if with_certificate:
            client.load_cert_chain(cert_file, key_file)
        if _handshakes(context, client) is not with_certificate:
            raise TlsConfigError(_no_policy("OpenSSL's verification could not be replaced"))


def _no_policy(reason: str) -> str:
    return (
        f"client auth policy {REQUIRE!r} is not to be had with this Python ({reason}); use {REQUIRE_VERIFY!r}"
    )


def _handshakes(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> bool:
    """Whether a handshake in memory succeeds for the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    try:
        for side in _turns(server, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                if side is server:
                    return True
    except ssl.SSLError:
        return False
    return False


def _turns(server: ssl.SSLObject, client: ssl.SSLObject) -> Iterator[ssl.SSLObject]:
    for _ in range(4):  # TLS 1.2 takes two turns, TLS 1.3 one
        yield server
        yield client


# --- after a handshake

# Go's names of the suites that can be negotiated here. NSQ shows those of TLS 1.3 as numbers.
_SUITES: Final = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-SHA": "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "ECDHE-ECDSA-AES128-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "ECDHE-ECDSA-AES256-SHA": "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "ECDHE-ECDSA-AES256-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305": "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-RSA-AES128-SHA": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "ECDHE-RSA-AES128-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "ECDHE-RSA-AES256-SHA": "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "ECDHE-RSA-AES256-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384",
    "TLS_AES_128_GCM_SHA256": "Unknown 4865",
    "TLS_AES_256_GCM_SHA384": "Unknown 4866",
    "TLS_CHACHA20_POLY1305_SHA256": "Unknown 4867",
}

_VERSIONS: Final = {"TLSv1": "TLS1.0", "TLSv1.1": "TLS1.1", "TLSv1.2": "TLS1.2", "TLSv1.3": "TLS1.3"}


def cipher_suite_name(session: ssl.SSLObject | trio.SSLStream[Any]) -> str:
    """The cipher suite as in `/stats`: `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`, `Unknown 4865`; "" before the
    handshake."""
    cipher = session.cipher()
    return _SUITES.get(cipher[0], cipher[0]) if cipher else ""


def tls_version_name(session: ssl.SSLObject | trio.SSLStream[Any]) -> str:
    """The version as in `/stats`, `TLS1.0` to `TLS1.3`; "" before the handshake."""
    version = session.version()
    return _VERSIONS.get(version, version) if version else ""


def shows_certificate(session: ssl.SSLObject | trio.SSLStream[Any]) -> bool:
    """Whether the client has shown a certificate; with another policy than `require` it is verified."""
    return bool(session.getpeercert(binary_form=True))


def peer_common_name(session: ssl.SSLObject | trio.SSLStream[Any]) -> str:
    """The common name in the client's certificate, the last one if there are several; "" without one.

    With the policy `require` it is not verified: clients can use any name.
    """
    try:
        # A dict of tuples of pairs; the types of the standard library are less precise.
        certificate: Mapping[str, Any] = session.getpeercert() or {}
    except ValueError:
        # OpenSSL accepts some certificates that Python cannot parse; SSLError is a ValueError too.
        return ""
    names = [value for row in certificate.get("subject", ()) for name, value in row if name == "commonName"]
    return str(names[-1]) if names else ""
