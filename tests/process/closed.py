"""What closes daemons: TLS on every connection, and nothing for those without a token.

    closed = Closed.in_folder(tmp_path)
    with LookupDaemon(closed=closed) as lookupd, Daemon(folder, flags, closed=closed) as nsqd:
        nsqd.request("GET", "/stats")     # over HTTPS, with a token that allows everything
        with nsqd.connect() as client:    # after the handshake and AUTH
            client.pub("orders", b"1")

Tests that get `closed=None` instead run the same daemons open.
"""

from __future__ import annotations

import base64
import ssl
import time
from pathlib import Path

import attrs

from nsqadmin.auth import Role
from nsqadmin.auth.users import add as add_user
from nsqkit.access import Scopes, Token, digest_of, new_secret
from nsqkit.access.token_file import add
from tests.nsqadmin.auth.people import PASSWORD, user
from tests.nsqkit.certificates import Certificates
from tests.process.raw import RawClient

__all__ = ["Closed"]


@attrs.frozen
class Closed:
    """An authority with one certificate for all daemons, a file of tokens, and one of the console's users."""

    folder: Path
    certificates: Certificates
    token: str
    """Allows everything."""
    context: ssl.SSLContext
    """Of a client that trusts the authority."""

    @classmethod
    def in_folder(cls, path: Path) -> Closed:
        """Make all of it in a new folder in `path`."""
        folder = path / "closed"
        folder.mkdir()
        certificates = Certificates(folder)
        closed = cls(folder, certificates, new_secret(), certificates.client_context())
        closed._add("tests", closed.token, "admin")
        for name, scopes in (("nsqd", ["operate"]), ("nsqadmin", ["operate", "publish", "consume"])):
            (folder / f"{name}.token").write_text(closed.new_token(name, *scopes))
        add_user(str(folder / "users"), user("ann", Role.ADMIN))
        return closed

    def new_token(self, name: str, *scopes: str, seconds: float = 86400.0) -> str:
        """Make a token; daemons that run know it within a second."""
        secret = new_secret()
        self._add(name, secret, *scopes, seconds=seconds)
        return secret

    def nsqd_flags(self, https_port: int) -> list[str]:
        """Of an nsqd that serves HTTPS at this port."""
        return [
            *self._server_flags(https_port),
            f"--access-token-file={self.folder / 'nsqd.token'}",
            f"--tls-root-ca-file={self.certificates.root_ca_file}",
            "--lookupd-tls",
            "--replication-tls",
            "--hide-version",
        ]

    def lookupd_flags(self, https_port: int) -> list[str]:
        """Of an nsqlookupd that serves HTTPS at this port."""
        return self._server_flags(https_port)

    def console_flags(self) -> list[str]:
        """Of an nsqadmin."""
        return [
            *self._certificate_flags(),
            f"--users-file={self.folder / 'users'}",
            f"--access-token-file={self.folder / 'nsqadmin.token'}",
            f"--http-client-tls-root-ca-file={self.certificates.root_ca_file}",
            "--http-client-tls-required",
        ]

    @property
    def headers(self) -> dict[str, str]:
        """Of a request to nsqd and nsqlookupd."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def console_headers(self) -> dict[str, str]:
        """Of a request to nsqadmin."""
        return {"Authorization": f"Basic {base64.b64encode(f'ann:{PASSWORD}'.encode()).decode()}"}

    @property
    def client_options(self) -> dict[str, str | bool]:
        """Of nsqkit's consumers and producers."""
        return {
            "tls_v1": True,
            "tls_root_ca_file": self.certificates.root_ca_file,
            "auth_secret": self.token,
        }

    def puppet_words(self, token: str = "") -> list[str]:
        """Arguments of a puppet (`tests.foreign.puppet`) that uses TLS and this token."""
        return ["--layer=tls", f"--ca={self.certificates.root_ca_file}", f"--secret={token or self.token}"]

    def enter(self, client: RawClient, token: str = "") -> None:
        """Do the handshake and AUTH; without a token with the one that allows everything."""
        client.identify(feature_negotiation=True, tls_v1=True)
        client.start_tls(self.context)
        client.auth(token or self.token)

    def _add(self, name: str, secret: str, *scopes: str, seconds: float = 86400.0) -> None:
        now = time.time()
        token = Token(name, digest_of(secret.encode()), Scopes.parse(scopes), now, now + seconds)
        add(str(self.folder / "tokens"), token)

    def _server_flags(self, https_port: int) -> list[str]:
        return [
            f"--tokens-file={self.folder / 'tokens'}",
            "--anonymous=none",
            *self._certificate_flags(),
            "--tls-required",
            f"--https-address=127.0.0.1:{https_port}",
            "--http-allowed-hosts=localhost",
        ]

    def _certificate_flags(self) -> list[str]:
        return [f"--tls-cert={self.certificates.cert_file}", f"--tls-key={self.certificates.key_file}"]
