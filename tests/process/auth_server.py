"""An auth server: a real one over HTTP, in a thread of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

__all__ = ["AuthServer"]


class AuthServer:
    """Lets in who has one of these secrets, with its permissions, everywhere. `asked`: the queries so far."""

    def __init__(self, secrets: Mapping[str, Sequence[str]], ttl: int = 60) -> None:
        self.asked: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                server.asked.append(query)
                permissions = secrets.get(query.get("secret", ""))
                entry = {"topic": ".*", "channels": [".*"], "permissions": permissions}
                answer = {"ttl": ttl, "authorizations": [entry] if permissions else [], "identity": "tester"}
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> AuthServer:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
