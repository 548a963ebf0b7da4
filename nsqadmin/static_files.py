"""The files of the pages, at /static/NAME and /fonts/NAME: one flat folder, each file in memory after its first use.

A browser revalidates a file with its ETag. A link with `?v=...`, which changes with the file, is kept for a year.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs

from nsqadmin.options import AdminOptions
from nsqkit.service.http import Request, Response, text

__all__ = ["SHIPPED", "StaticFiles", "file_versions"]

SHIPPED = Path(__file__).parent / "static"

_TYPES = {
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".txt": b"text/plain; charset=utf-8",
    ".json": b"application/json",
    ".map": b"application/json",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".ico": b"image/x-icon",
    ".woff": b"font/woff",
    ".woff2": b"font/woff2",
    ".ttf": b"font/ttf",
    ".eot": b"application/vnd.ms-fontobject",
}
_LARGEST = 8 * 1024 * 1024  # bytes of a file
_YEAR = b"public, max-age=31536000, immutable"
_ASK_AGAIN = b"no-cache"


@attrs.define(eq=False)
class StaticFiles:
    """The handler, for one folder."""

    folder: Path = SHIPPED
    keep: bool = True
    """Whether a file is read only once; False while the files are being worked on."""
    _known: dict[str, tuple[bytes, bytes]] = attrs.field(factory=dict, init=False)
    """Content and tag by name."""

    @classmethod
    def of_options(cls, options: AdminOptions) -> StaticFiles:
        """The shipped files, or with `--dev-static-dir` those of that folder."""
        return cls(Path(options.dev_static_dir), keep=False) if options.dev_static_dir else cls()

    def get(self, request: Request) -> Response:
        """GET /static/:asset."""
        name = request.params["asset"]
        found = self._find(name)
        if found is None:
            return text("NOT_FOUND", 404)
        content, tag = found
        # A link with a version never changes its content; without one (the font's, say) it does with an upgrade.
        lasting = request.query_string.startswith(b"v=") and self.keep
        headers = (
            (b"ETag", tag),
            (b"Cache-Control", _YEAR if lasting else _ASK_AGAIN),
            (b"X-Content-Type-Options", b"nosniff"),
        )
        if request.header(b"if-none-match") == tag:
            return Response(304, headers=headers)
        kind = _TYPES.get(Path(name).suffix, b"application/octet-stream")
        return Response(200, content, kind, headers)

    def _find(self, name: str) -> tuple[bytes, bytes] | None:
        known = self._known.get(name)
        if known is None:
            known = self._read(name)
            if known is not None and self.keep:
                self._known[name] = known
        return known

    def _read(self, name: str) -> tuple[bytes, bytes] | None:
        """Content and tag; None if the file is hidden, or not directly in the folder."""
        path = self.folder / name
        if name.startswith(".") or path.name != name or "\0" in name:
            return None
        try:
            if not path.is_file() or path.stat().st_size > _LARGEST:
                return None
            content = path.read_bytes()
        except OSError:
            return None
        return content, b'"%s"' % _digest(content)[:16].encode()


def file_versions(folder: Path = SHIPPED) -> dict[str, str]:
    """For each file of the folder, what links to it carry as `?v=`: ten hex digits that change with the content."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return {path.name: _digest(path.read_bytes())[:10] for path in files}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
