"""Certificates for a test: an authority, what it has signed, and files and contexts of it."""

from __future__ import annotations

import contextlib
import ssl
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import trustme
from attrs import define, field
from cryptography import x509

__all__ = ["Certificates", "shake_hands"]


@define
class Certificates:
    """A server on loopback, a client of its authority and a client of nobody's, in a folder of their own."""

    folder: Path
    authority: trustme.CA = field(factory=trustme.CA)
    stranger: trustme.CA = field(factory=trustme.CA)
    server: trustme.LeafCert = field(init=False)
    client: trustme.LeafCert = field(init=False)
    unknown_client: trustme.LeafCert = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server = self.authority.issue_cert("127.0.0.1", "localhost")
        self.client = self.authority.issue_cert("client@example.org", common_name="known")
        self.unknown_client = self.stranger.issue_cert("client@example.org", common_name="unknown")
        self.authority.cert_pem.write_to_path(str(self.root_ca_file))
        self._write(self.server, self.cert_file, self.key_file)
        self._write(self.client, self.client_cert_file, self.client_key_file)

    def renew(self, not_after: datetime | None = None) -> int:
        """Give the server another certificate, in the same files: its serial number."""
        self.server = self.authority.issue_cert("127.0.0.1", "localhost", not_after=not_after)
        self._write(self.server, self.cert_file, self.key_file)
        return x509.load_pem_x509_certificate(self.server.cert_chain_pems[0].bytes()).serial_number

    def _write(self, leaf: trustme.LeafCert, cert_file: str, key_file: str) -> None:
        for path, data in (
            (key_file, leaf.private_key_pem.bytes()),
            (cert_file, b"".join(pem.bytes() for pem in leaf.cert_chain_pems)),
        ):
            new = Path(path + ".new")
            new.touch(0o600)
            new.write_bytes(data)
            new.replace(path)

    @property
    def cert_file(self) -> str:
        return str(self.folder / "cert.pem")

    @property
    def key_file(self) -> str:
        return str(self.folder / "key.pem")

    @property
    def client_cert_file(self) -> str:
        return str(self.folder / "client.pem")

    @property
    def client_key_file(self) -> str:
        return str(self.folder / "client-key.pem")

    @property
    def root_ca_file(self) -> str:
        return str(self.folder / "ca.pem")

    def client_context(
        self, certificate: trustme.LeafCert | None = None, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """Trusts the authority, shows the certificate; speaks every version, or one only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        self.authority.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = version or ssl.TLSVersion.TLSv1
            if version is not None:
                context.maximum_version = version
        return context


def _ignore(client: ssl.SSLObject) -> None:
    """Nothing more is wanted of it."""


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, look_at: Callable[[ssl.SSLObject], object] = _ignore
) -> ssl.SSLObject:
    """The server's side, when both are content; ssl.SSLError. `look_at` is called with the client's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                if side is ours:
                    look_at(theirs)
                    return ours
    raise AssertionError("no end")
