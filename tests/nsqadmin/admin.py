"""The process of a console, with requests to its API.

with AdminDaemon(flags=["--lookupd-http-address=127.0.0.1:4161"]) as admin:
    admin.start()
    assert admin.api("GET", "/api/topics")["topics"] == ["orders"]
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from tests.browser import admin

__all__ = ["AdminDaemon"]


@attrs.define(eq=False)
class AdminDaemon(admin.AdminDaemon):
    """A console with a client of its API."""

    def api(self, method: str, path: str, body: Any = None, *, within_s: float = 10.0) -> dict[str, Any]:
        """The JSON of a response, which must be a 200."""
        sent = None if body is None else json.dumps(body).encode()
        status, answered = self.request(method, path, sent, within_s=within_s)
        assert status == 200, (method, path, status, answered)
        answer: dict[str, Any] = json.loads(answered)
        return answer
