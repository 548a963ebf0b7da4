"""Rendering: from a page's template and values to the response, with what all pages share and what protects them.

- **Content security policy.** Scripts, styles, fonts and data come from this console alone, and markup contains none: a
  name that was not escaped could do nothing. The one inline script carries a nonce. Images may also come from Graphite
  if it is configured. No other site may frame a page.
- **Globals.** The inline script defines the variables that scripts of others read from an nsqadmin: version, Graphite
  and statsd options, the registries, whether the user may change something, the base path.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from attrs import define, field
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nsqadmin.auth import Means
from nsqadmin.cluster.snapshot import Problem
from nsqadmin.console import Console
from nsqadmin.options import AdminOptions
from nsqadmin.pages.format import breakable, missing, number, rate
from nsqadmin.pages.graphite import graphite_origin
from nsqadmin.pages.page_request import Page, PageRequest, View
from nsqadmin.static_files import file_versions
from nsqadmin.text import bytes_text, duration_text, nanoseconds, percent
from nsqkit.options import SECOND
from nsqkit.redact import without_user
from nsqkit.service.http import Request, Response
from nsqkit.service.http.message import HTML, Header
from nsqkit.service.http.routing import Handler
from nsqkit.turns import long_work

__all__ = ["Renderer", "script_globals"]

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
_IN_SCRIPT = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


@define(frozen=True)
class ProblemRow:
    """A daemon that does not answer."""

    address: str
    text: str
    since: str


@define
class Renderer:
    """Renders every page of one console."""

    console: Console
    _environment: Environment = field(init=False)
    _versions: dict[str, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._versions = file_versions()
        self._environment = _environment()

    def handler(self, view: View) -> Handler:
        """The HTTP handler for a view."""

        async def handle(http_request: Request) -> Response:
            await self.console.poller.up_to_date()
            request = await PageRequest.from_http(self.console, http_request)
            page = await view(request)
            # All browsers ask at the same time, when a snapshot is renewed: they take turns, and so do the two halves.
            turns = long_work()
            await turns.give_way()
            began = time.perf_counter()
            response = self._response(request, page)
            turns.spent(time.perf_counter() - began)
            return response

        return handle

    def document(self, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        """A document for somebody who has not logged in: it shows nothing of the cluster, nor a version."""
        return self._rendered(template, values, secrets.token_urlsafe(16), status)

    def _response(self, request: PageRequest, page: Page) -> Response:
        nonce = secrets.token_urlsafe(16)
        values = {**self._shared(request, nonce), "section": page.section, **page.values}
        return self._rendered(page.template, values, nonce, page.status)

    def _rendered(self, template: str, values: Mapping[str, Any], nonce: str, status: int) -> Response:
        url = self.console.url
        text = self._environment.get_template(template).render(
            {"url": url, "static": self._static_link(url), **values}
        )
        return Response(status, text.encode(), HTML, _headers(self.console.options, nonce), nsq=False)

    def _shared(self, request: PageRequest, nonce: str) -> dict[str, Any]:
        options, snapshot, identity = self.console.options, request.snapshot, request.identity
        age = max(0.0, time.time() - snapshot.at) if snapshot.at else 0.0
        has_session = identity.means is Means.SESSION
        is_admin = identity.may_operate  # as the original calls those who may change something
        return {
            "page_path": request.path,
            "nonce": nonce,
            "script_globals": script_globals(options, self.console.version, is_admin=is_admin),
            "version": self.console.version,
            "user": identity.name,
            "role": str(identity.role),
            "topics": identity.topics,
            "may_audit": identity.may_audit,
            "may_operate": identity.may_operate,
            "may_operate_nodes": identity.may_operate_nodes,
            "may_read_messages": identity.may_read_messages,
            "log_out": request.url("/logout") if has_session else "",
            "token": self.console.token_for(identity) if has_session or identity.may_operate else "",
            "polled": bool(snapshot.at),
            "age_ms": round(age * 1000),
            "age_text": duration_text(age),
            "every_ms": options.poll_interval // 1_000_000,
            "alarm_count": len(request.alarms),
            "problems": [_problem_row(each, time.time()) for each in snapshot.problems],
            "graphite": None,
        }

    def _static_link(self, url: Callable[[str], str]) -> Callable[..., str]:
        def static(name: str, *, versioned: bool = True) -> str:
            version = self._versions[name]  # a KeyError is a link to a missing file, in a template
            return url(f"/static/{name}") + (f"?v={version}" if versioned else "")

        return static


def script_globals(options: AdminOptions, version: str, *, is_admin: bool) -> list[tuple[str, Markup]]:
    """The variables of the inline script, their values as JavaScript that is safe in a script element."""
    values: dict[str, object] = {
        "USER_AGENT": f"nsqadmin/v{version}",
        "VERSION": version,
        "GRAPHITE_URL": "" if options.proxy_graphite else without_user(options.graphite_url),
        "GRAPH_ENABLED": bool(options.graphite_url),
        "STATSD_COUNTER_FORMAT": options.statsd_counter_format,
        "STATSD_GAUGE_FORMAT": options.statsd_gauge_format,
        "STATSD_INTERVAL": options.statsd_interval // SECOND,
        "STATSD_PREFIX": options.statsd_prefix,
        "NSQLOOKUPD": list(options.lookupd_http_addresses),
        "IS_ADMIN": is_admin,
        "BASE_PATH": options.base_path,
    }
    # Escaped for JSON and not for HTML, whose escapes mean nothing in a script.
    return [(name, Markup(json.dumps(value).translate(_IN_SCRIPT))) for name, value in values.items()]  # noqa: S704


def _headers(options: AdminOptions, nonce: str) -> tuple[Header, ...]:
    images = f"'self' {graphite_origin(options)}".strip()
    policy = (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; font-src 'self'; "
        f"connect-src 'self'; img-src {images}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return (
        (b"Content-Security-Policy", policy.encode("latin-1")),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"X-Frame-Options", b"DENY"),
        (b"Referrer-Policy", b"same-origin"),
        (b"Cache-Control", b"no-store"),
    )


def _problem_row(problem: Problem, now: float) -> ProblemRow:
    since = f"since {time.strftime('%H:%M:%S', time.localtime(problem.since))}"
    age = duration_text(now - problem.since)
    return ProblemRow(problem.address, f"({problem.kind}): {problem.error}", f"{since}, for {age}")


@cache
def _environment() -> Environment:
    """The templates, all compiled at once, so that the first request for a page need not wait for that."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(name=breakable, number=number, rate=rate, bytes=bytes_text)
    environment.globals.update(age=duration_text, missing=missing, nanoseconds=nanoseconds, percent=percent)
    for name in environment.list_templates():
        environment.get_template(name)
    return environment
