"""The page to log in, what its form does, and logging out.

A login from a page of another site would have its user act under a name that is not his. So the form has a random text
that a cookie has, too, which no other site can read or set; where the browser tells where the form is from (see
`nsqadmin.origins`), that decides.
"""

from __future__ import annotations

import math
import re
import secrets
from typing import Final
from urllib.parse import parse_qsl

from attrs import define, field

from nsqadmin.auth import Role, identity_of
from nsqadmin.auth.authentication import session_cookie
from nsqadmin.auth.cookies import cookie_name, cookies_in, is_encrypted, set_cookie
from nsqadmin.auth.logins import LoginFailed, TooManyTries
from nsqadmin.console import Console
from nsqadmin.pages.page_request import query_of
from nsqadmin.pages.render import Renderer
from nsqkit.service.http import HttpError, Request, Response
from nsqkit.service.http.audit import note
from nsqkit.service.http.message import Header

__all__ = ["MAX_FORM", "LoginPage", "form_of", "local_target"]

MAX_FORM: Final = 16 * 1024
"""Bytes of a form."""
_MAX_FIELDS: Final = 10
_TARGET: Final = re.compile(r"/[!-~]{0,2000}")
_WRONG: Final = "Wrong name or password."


@define(frozen=True)
class LoginPage:
    """The handlers, for one console."""

    console: Console
    renderer: Renderer = field(repr=False)

    async def get(self, request: Request) -> Response:
        """GET /login. `next` in the query: the target of the request that needs a login."""
        target = self._target(query_of(request).get("next", ""))
        try:
            identity = await self.console.authentication.identify(request)
        except (LoginFailed, TooManyTries):
            identity = identity_of(request)
        if identity.role is not Role.STRANGER:
            return _redirect(target)
        return self._form(request, target)

    async def post(self, request: Request) -> Response:
        """POST /login: the form."""
        form = form_of(request.body)
        self._check_origin(request, cookies_in(request.headers).get(_form_cookie(request), ""), form)
        name, target = form.get("name", ""), self._target(form.get("next", ""))
        # Only a name that is one: somebody may have typed the password there.
        note(request, what="login", on={"user": name} if self.console.authentication.knows(name) else {})
        if not self.console.authentication.has_logins:
            return _redirect(target)
        try:
            session_id = await self.console.authentication.log_in(request, name, form.get("password", ""))
        except LoginFailed:
            note(request, error="LOGIN_FAILED")
            return self._form(request, target, name=name, problem=_WRONG, status=403)
        except TooManyTries as early:
            note(request, error="TOO_MANY_TRIES")
            wait_s = math.ceil(early.wait_s)
            problem = f"Too many tries. The next one can be made in {wait_s} s."
            return self._form(request, target, name=name, problem=problem, status=429, wait_s=wait_s)
        cookies = (self._cookie(request, session_cookie(request), session_id), self._form_cookie(request, ""))
        return _redirect(target, *cookies)

    def log_out(self, request: Request) -> Response:
        """POST /logout: ends the session, with all streams of it."""
        request.identity = session = self.console.authentication.session_of(request)
        note(request, what="logout")
        if session is None:
            # A page of another site may have sent it, without the cookie of a session that goes on.
            return _redirect(self.console.url("/login"))
        self._check_origin(request, session.token, form_of(request.body))
        self.console.authentication.log_out(request)
        return _redirect(self.console.url("/login"), self._cookie(request, session_cookie(request), ""))

    def _check_origin(self, request: Request, token: str, form: dict[str, str]) -> None:
        self.console.origins.check_same_site(request, token, in_form=form.get("token", ""))

    def _form(
        self,
        request: Request,
        target: str,
        *,
        name: str = "",
        problem: str = "",
        status: int = 200,
        wait_s: int = 0,
    ) -> Response:
        # The same text for several windows: the cookie is one for all of them.
        form_token = cookies_in(request.headers).get(_form_cookie(request), "")
        if not _FORM_TOKEN.fullmatch(form_token):
            form_token = secrets.token_urlsafe(24)
        values = {"form_token": form_token, "next": target, "name": name[:64], "problem": problem}
        response = self.renderer.document("login.html", values, status)
        retry = ((b"Retry-After", b"%d" % wait_s),) if wait_s else ()
        response.headers = (*response.headers, *retry, self._form_cookie(request, form_token))
        return response

    def _form_cookie(self, request: Request, value: str) -> Header:
        return self._cookie(request, _form_cookie(request), value, same_site="Strict")

    def _cookie(self, request: Request, name: str, value: str, same_site: str = "Lax") -> Header:
        path, secure = self.console.url("/"), is_encrypted(request)
        return set_cookie(name, value, path=path, secure=secure, same_site=same_site)

    def _target(self, text: str) -> str:
        return local_target(text, self.console.base_path) or self.console.url("/")


_FORM_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{32}")


def local_target(text: str, base_path: str) -> str:
    """A path of this console to go to after the login, with its query; empty for anything else.

    For browsers a path that begins with two slashes is one of another site, and a backslash is a slash.
    """
    if not _TARGET.fullmatch(text) or text[1:2] in ("/", "\\"):
        return ""
    path = text.partition("?")[0]
    return text if path == base_path or path.startswith(base_path + "/") else ""


def form_of(body: bytes) -> dict[str, str]:
    """The fields of a form as a browser sends it. `HttpError` 400."""
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"
        )
    except ValueError:
        raise HttpError(400, "INVALID_BODY") from None
    return dict(fields)


def _form_cookie(request: Request) -> str:
    return cookie_name("login", request)


def _redirect(target: str, *headers: Header) -> Response:
    location = (b"Location", target.encode("latin-1"))
    return Response(303, headers=(location, (b"Cache-Control", b"no-store"), *headers), nsq=False)
