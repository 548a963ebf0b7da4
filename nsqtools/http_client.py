"""What the tools that ask over HTTP share: how a client is made, and what its failures are called.

The one place that knows the errors of httpx; with `fetch` and `nsq_to_http.sender`, which make the requests, the only
ones that know httpx at all.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx
import trio

from nsqkit.fetch import AnswerTooLarge, reason_of

__all__ = ["HttpFailed", "bounded", "make_client"]

IDLE_S: Final = 4.0
"""A connection that was idle for longer is not used again: common servers close theirs after 5 s, and a request
that crosses with that would fail."""


class HttpFailed(Exception):
    """There is no answer, or none of use; the text says why, and of whom."""


def make_client(connect_timeout_s: float, timeout_s: float, **more: Any) -> httpx.AsyncClient:
    """A client without cookies and proxies, that trusts whom the system trusts (`SSL_CERT_FILE` changes that)."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s),
        limits=httpx.Limits(keepalive_expiry=IDLE_S),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        verify=_tls(),
        trust_env=False,
        **more,
    )


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@contextlib.contextmanager
def bounded(url: str, timeout_s: float) -> Iterator[None]:
    """The block is one exchange with this URL: it ends in time, and what goes wrong in it is `HttpFailed`."""
    try:
        with trio.fail_after(timeout_s):
            yield
    except (httpx.TimeoutException, trio.TooSlowError) as error:
        what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
        raise HttpFailed(f"{url}: {what} in time") from error
    except (httpx.HTTPError, httpx.InvalidURL, AnswerTooLarge, OSError) as error:
        raise HttpFailed(f"{url}: {reason_of(error)}") from error
