"""Taking secrets out of text that people read: log lines, errors, answers of `/config` and `/debug`, notifications.

    redacted("POST http://joe:pass@10.0.0.1/?token=t0k3n&n=1: refused")
    # "POST http://10.0.0.1/?token=***&n=1: refused"
    shown_url("https://joe:pass@hooks.example.org/T0/B1?k=v")
    # "https://hooks.example.org/T0/B1"

Everything that is logged passes through `redacted` (`nsqkit.logging`), so that no caller has to think of it.
`shown_url` is for URLs from the configuration, whose whole query is the operator's own business.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["redacted", "shown_url", "without_user"]

_HOST: Final = re.compile(r"(\[[^\]]*\]|[^\s:@\[\]]*)(:[0-9]*|:%[sd])?")
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>(?:(?![A-Za-z][A-Za-z0-9+.-]*://)[^\s\"'<>\\])+)"
)
_NO_SCHEME: Final = re.compile(r"(?<![^\s\"'=,(\[/])[^\s:/@\"'=,(\[]+:[^\s/@\"']*@(?=[^\s@])")
"""`user:password@` at the beginning of a word."""
_SECRET: Final = re.compile(
    r"([?&][^=&\s\"']*(?:token|secret|passw|pwd|key|auth|sig|cred)[^=&\s\"']*=)[^&\s\"'<>#]+", re.IGNORECASE
)


def redacted(text: str) -> str:
    """The text without users and passwords in URLs, and without the values of parameters that sound like secrets."""
    if "@" in text:
        text = without_user(text)
    if "=" in text:
        text = _SECRET.sub(r"\1***", text)
    return text


def without_user(text: str) -> str:
    """The text without users and passwords in URLs."""
    return _NO_SCHEME.sub("", _URL.sub(_without_user, text))


def shown_url(text: str) -> str:
    """The text without users and passwords in URLs, and without the queries of URLs."""
    return _URL.sub(lambda match: re.sub(r"\?[^#]*", "", match[0]), redacted(text))


def _without_user(match: re.Match[str]) -> str:
    scheme, rest = match["scheme"], match["rest"]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, _, host = authority.rpartition("@")
    if not _HOST.fullmatch(host):
        # Not a URL, perhaps as the password has characters that should have been escaped: up to the last @.
        return scheme + rest.rpartition("@")[2]
    return scheme + rest[len(user) + 1 :] if "@" in authority else match[0]
