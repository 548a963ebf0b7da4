"""Cookies of requests, and the cookies that the console sets for logins."""

from __future__ import annotations

from collections.abc import Iterable

from nsqkit.service.http import Request
from nsqkit.service.http.hosts import name_and_port
from nsqkit.service.http.message import Header

__all__ = ["cookie_name", "cookies_in", "is_encrypted", "set_cookie"]


def cookies_in(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The cookies of a request by name, the last one of each. What is malformed is a name or value that nobody has."""
    # Not http.cookies.SimpleCookie, which drops all cookies if one of them (a proxy's, say) is malformed.
    cookies = {}
    for name, value in headers:
        if name == b"cookie":
            pairs = (pair.partition("=") for pair in value.decode("latin-1").split(";"))
            cookies.update({key.strip(): text.strip() for key, _, text in pairs})
    return cookies


def cookie_name(purpose: str, request: Request) -> str:
    """The name of a cookie. Browsers do not tell ports apart, and two consoles may be on one machine."""
    _, port = name_and_port(request.header(b"host") or b"", 0)
    return f"console_{purpose}_{port}" if port > 0 else f"console_{purpose}"


def set_cookie(name: str, value: str, *, path: str, secure: bool, same_site: str = "Lax") -> Header:
    """The header that sets a cookie which no script can read, until the browser ends; an empty value removes it."""
    attributes = [f"{name}={value}", f"Path={path}", "HttpOnly", f"SameSite={same_site}"]
    attributes += ["Secure"] if secure else []
    attributes += [] if value else ["Max-Age=0"]
    return b"Set-Cookie", "; ".join(attributes).encode("latin-1")


def is_encrypted(request: Request) -> bool:
    """Whether the browser has sent it over TLS, to a proxy say. One that says so wrongly harms itself only."""
    origin = request.header(b"origin") or b""
    scheme = request.header(b"x-forwarded-proto") or request.header(b"x-scheme") or b""
    return request.secure or origin.lower().startswith(b"https://") or scheme.strip().lower() == b"https"
