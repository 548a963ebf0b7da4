"""Names of files: from a format, the topic, this host and the time. Pure functions.

A *template* is a name in which only `<REV>` has yet to be replaced, by `with_revision`.
"""

from __future__ import annotations

import re
import time
from typing import Final

__all__ = ["format_time", "host_identifier", "name_template", "with_revision"]

REVISION: Final = "<REV>"
_SEQUENCE: Final = re.compile("%(.)", re.DOTALL)
_KNOWN: Final = frozenset("BbmAadHIMSYypZz%")


def name_template(filename_format: str, *, topic: str, host: str, pid: int, gzip: bool) -> str:
    """The template for one topic, in which `<DATETIME>` has yet to be replaced, too."""
    if not topic.strip("."):
        topic = topic.replace(".", "%2E")  # `..` is a valid topic, but not a valid file name
    name = filename_format.replace("<TOPIC>", topic).replace("<HOST>", host).replace("<PID>", str(pid))
    return name + ".gz" if gzip and not name.endswith(".gz") else name


def host_identifier(text: str, host_name: str) -> str:
    """The text for `<HOST>`. `text`: the value of the flag; empty: the short host name."""
    short = host_name.partition(".")[0]
    return text.replace("<SHORT_HOST>", short).replace("<HOSTNAME>", host_name) if text else short


def format_time(datetime_format: str, now: float) -> str:
    """Format `now` (seconds since 1970) as local time. Unknown sequences are not replaced."""
    local = time.localtime(now)

    def replaced(match: re.Match[str]) -> str:
        return time.strftime(match[0], local) if match[1] in _KNOWN else match[0]

    return _SEQUENCE.sub(replaced, datetime_format)


def with_revision(template: str, number: int | None) -> str:
    """The name of this revision; None for names without revisions."""
    return template.replace(REVISION, "" if number is None else f"-{number:06d}")
