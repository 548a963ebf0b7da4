"""GET requests to the HTTP APIs of nsqd and nsqlookupd, over persistent connections.

A `Fetcher.fetch` can be the `fetch` of a `nsqkit.discovery.Discovery`. Any status but 200 is an `HttpFailed`.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import attrs

from nsqkit.decoding import DecodeError, decode_json
from nsqkit.discovery import MAX_ANSWER
from nsqkit.http_client import Answer, HttpClient, HttpFailed, HttpOptions
from nsqkit.options import SECOND, Duration, FilePath, Group, OptionError, option
from nsqkit.redact import redacted
from nsqkit.tls import TlsConfigError, client_context
from nsqtools.common import check_positive

__all__ = ["Fetcher", "HttpFlags", "check_http_flags", "open_fetcher"]

_MAX_IDLE = 1_000  # connections: one for each node of a large cluster


@attrs.define(eq=False)
class Fetcher:
    """Sends requests; any number of tasks may use it."""

    client: HttpClient

    @property
    def timeout_s(self) -> float:
        """Seconds for a whole answer."""
        return self.client.options.request_timeout

    async def fetch(self, url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """The answer, whose status is 200. The time-out is the client's. Raises `HttpFailed`."""
        try:
            answer = await self.client.ask(url, headers=headers)
        except HttpFailed as error:
            raise HttpFailed(f"{redacted(url)}: {error}") from error
        answer.body_of_ok()
        return answer

    async def object(self, url: str) -> dict[str, Any]:
        """The JSON object at a URL. Raises `HttpFailed`."""
        response = await self.fetch(url, {}, self.timeout_s)
        try:
            answer = decode_json(response.body)
        except DecodeError as error:
            raise HttpFailed(f"{redacted(url)}: not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise HttpFailed(f"{redacted(url)}: the answer is no JSON object")
        return answer


@attrs.define(kw_only=True)
class HttpFlags:
    """The flags of every tool that asks nsqds and nsqlookupds over HTTP only."""

    REQUESTS: ClassVar = Group("Requests")

    http_client_connect_timeout: Duration = option(
        2 * SECOND, help="Time to connect to an nsqd or nsqlookupd."
    )
    http_client_request_timeout: Duration = option(
        5 * SECOND, help="Time for a whole request to one of them."
    )
    http_client_tls_required: bool = option(
        False,
        help="Send nothing to them without TLS. A plain address is asked for the HTTPS port only; they need "
        "--tls-required.",
    )
    http_client_tls_root_ca_file: FilePath = option(
        "", help="File (PEM) with the certificate authorities to trust for them. Empty: those of the system."
    )
    http_client_tls_cert: FilePath = option("", help="Client certificate file (PEM) to show to them.")
    http_client_tls_key: FilePath = option("", help="Private key file (PEM) of this certificate.")

    def tls_context(self) -> ssl.SSLContext:
        """Made of the files. `TlsConfigError`."""
        return client_context(
            root_ca_file=self.http_client_tls_root_ca_file,
            cert_file=self.http_client_tls_cert,
            key_file=self.http_client_tls_key,
        )


def check_http_flags(flags: HttpFlags) -> None:
    """`OptionError`."""
    check_positive(flags, "http-client-connect-timeout", "http-client-request-timeout")
    if flags.http_client_tls_root_ca_file or flags.http_client_tls_cert or flags.http_client_tls_key:
        try:
            flags.tls_context()
        except TlsConfigError as error:
            raise OptionError(f"--http-client-tls: {error}") from None


@contextlib.asynccontextmanager
async def open_fetcher(flags: HttpFlags, token: str = "") -> AsyncIterator[Fetcher]:
    """A fetcher as the flags say. `token`: what it shows, if there is one."""
    client = HttpClient(
        HttpOptions(
            connect_timeout=flags.http_client_connect_timeout / SECOND,
            request_timeout=flags.http_client_request_timeout / SECOND,
            tls=flags.tls_context,
            tls_only=flags.http_client_tls_required,
            max_body=MAX_ANSWER,
            max_idle=_MAX_IDLE,
            bearer=(lambda: token) if token else None,
        )
    )
    try:
        yield Fetcher(client)
    finally:
        await client.aclose()
