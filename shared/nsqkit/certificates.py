"""TLS contexts whose files are read again while a program runs, and when their certificates expire.

    tls = TlsFiles("TLS", ["cert.pem", "key.pem"], lambda: server_context("cert.pem", "key.pem"), cert_file="cert.pem")
    tls.load()           # `TlsConfigError`: it cannot be made
    ...tls.context...    # for each new connection

Connections keep the context that they began with, so a new one ends none of them. Files that cannot be used, or do not
fit together, change nothing: the context stays as it was, and the log says why. A certificate and its key are two
files, and one of them is replaced first: only what was wrong for two looks is in the log.
"""

from __future__ import annotations

import math
import os
import ssl
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from nsqkit.logging import get_logger
from nsqkit.tls import TlsConfigError

__all__ = ["TlsFiles", "expiry", "warn_if_readable_by_all"]

_log = get_logger("nsqkit.tls")

_MAX_FILE: Final = 1 << 20
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_DAY_S: Final = 24 * 3600
_SOON_DAYS: Final = 14

_Versions = tuple[tuple[int, ...] | None, ...]
"""What differs after a change of the files."""


def _without_empty(files: Iterable[str]) -> tuple[str, ...]:
    return tuple(filter(None, files))


@attrs.define(eq=False)
class TlsFiles:
    """The files of a TLS context, and the last context that they made."""

    name: str
    """What it is for, in the log."""
    files: Sequence[str] = attrs.field(converter=_without_empty)
    """All files that it is made of; empty names count as none."""
    _make: Callable[[], ssl.SSLContext]
    """Raises `TlsConfigError`. May run in a thread."""
    cert_file: str = ""
    """The certificate that is shown to the other side; empty: none."""
    expires: float | None = attrs.field(default=None, init=False)
    """When the certificate is not valid any more, in seconds since 1970; None: there is none."""
    _context: ssl.SSLContext | None = attrs.field(default=None, init=False)
    _seen: _Versions | None = attrs.field(default=None, init=False)
    """Of the last look, or of the files that the context was made of."""
    _wrong: _Versions | None = attrs.field(default=None, init=False)
    """Of files that could not be used in the last look, and have not been in the log yet."""

    @property
    def context(self) -> ssl.SSLContext:
        """For new connections. Without `load` it is made at the first use: `TlsConfigError`."""
        if self._context is None:
            self.load()
            assert self._context is not None
        return self._context

    def __call__(self) -> ssl.SSLContext:
        """The same, for an `HttpClient`."""
        return self.context

    def load(self) -> None:
        """Make the context. `TlsConfigError`."""
        versions = _versions(self.files)
        self._use(versions, self._make(), _expiry_in(self.cert_file))

    def look(self) -> Callable[[], bool]:
        """Look at the files. May block, and changes nothing: what it returns does, and says whether the context did."""
        versions = _versions(self.files)
        if self._context is None or versions == self._seen:
            return _nothing_new
        try:
            context, expires = self._make(), _expiry_in(self.cert_file)
        except (TlsConfigError, OSError) as error:  # the latter where a file changes while it is read
            reason = str(error)
            return lambda: self._keep(versions, reason)
        return lambda: self._replace(versions, context, expires)

    def forget_version(self) -> None:
        """Have the files read again, also if they seem to be the same."""
        self._seen = None

    def _use(self, versions: _Versions, context: ssl.SSLContext, expires: float | None) -> None:
        self._seen, self._wrong, self._context, self.expires = versions, None, context, expires
        days = math.inf if expires is None else (expires - time.time()) / _DAY_S
        if days <= 0:
            _log.error("%s: the certificate %s has expired", self.name, self.cert_file)
        elif days <= _SOON_DAYS:
            _log.warning("%s: the certificate %s expires in %.1f days", self.name, self.cert_file, days)

    def _replace(self, versions: _Versions, context: ssl.SSLContext, expires: float | None) -> bool:
        until = f", valid for {(expires - time.time()) / _DAY_S:.1f} days" if expires is not None else ""
        _log.info("%s: read again: %s", self.name, ", ".join(self.files) + until)
        self._use(versions, context, expires)
        return True

    def _keep(self, versions: _Versions, reason: str) -> bool:
        if versions != self._wrong:
            self._wrong = versions  # and look again: perhaps another file follows
            return False
        _log.error("%s: %s; what was read before stays in use", self.name, reason)
        self._seen, self._wrong = versions, None
        return False


def expiry(pem: str) -> float:
    """When the first certificate of a PEM text is not valid any more, in seconds since 1970. `ValueError`."""
    begin = pem.index(_BEGIN)
    end = pem.index(_END, begin) + len(_END)
    return _not_after(ssl.PEM_cert_to_DER_cert(pem[begin:end]))


def warn_if_readable_by_all(*secrets: str) -> None:
    """Log which of these files every user of the machine can read. An empty name is no file."""
    for path in filter(None, dict.fromkeys(secrets)):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue  # the error of who reads it says more
        if not mode & stat.S_IROTH:
            continue
        _log.warning("SECRETS: %s: every user of this machine may read it (chmod o= takes that away)", path)


def _expiry_in(path: str) -> float | None:
    if not path:
        return None
    try:
        with Path(path).open(encoding="ascii", errors="replace") as file:
            return expiry(file.read(_MAX_FILE))
    except (OSError, ValueError) as error:
        raise TlsConfigError(f"certificate {path}: {error}") from error


def _versions(files: Iterable[str]) -> _Versions:
    return tuple(map(_version, files))


def _version(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _nothing_new() -> bool:
    return False


# --- the end of a certificate's validity: RFC 5280, 4.1. The standard library shows it of a peer's certificate only.

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_TIMES: Final = {_UTC_TIME: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}


def _not_after(certificate: bytes) -> float:
    """Of a certificate in DER. `ValueError`."""
    [(_, signed), *_] = _elements(_inside(_SEQUENCE, certificate))
    fields = _elements(signed)
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    _serial, _algorithm, _issuer, (_, validity), *_ = fields
    _begin, (tag, text) = _elements(validity)
    if tag not in _TIMES:
        raise ValueError("no time at the end of the validity")
    # %y is of 1969 to 2068, and UTCTime of 1950 to 2049: the same for every certificate that is in use.
    return datetime.strptime(text.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC).timestamp()


def _inside(tag: int, data: bytes) -> bytes:
    [(found, content), *_] = _elements(data)
    if found != tag:
        raise ValueError("not a certificate")
    return content


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """The tags and contents of what is one after the other in DER. `ValueError`."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        tag, size, start = data[at], _byte(data, at + 1), at + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[at + 2 : start], "big")
        if start + size > len(data):
            raise ValueError("the certificate is cut off")
        found.append((tag, data[start : start + size]))
        at = start + size
    return found


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise ValueError("the certificate is cut off")
    return data[at]
