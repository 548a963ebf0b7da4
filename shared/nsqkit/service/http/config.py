"""GET and PUT of `/config/NAME`: reading options, and changing those that can change while the daemon runs.

In the routes the name is the parameter `:opt`. The daemon checks permissions before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import msgspec

from nsqkit.audit import Value
from nsqkit.decoding import decode_json
from nsqkit.logging import get_logger
from nsqkit.options import FLOATS, STRING, STRINGS, LogLevel, option_value
from nsqkit.redact import shown_url
from nsqkit.service.gojson import float_text
from nsqkit.service.http.audit import note
from nsqkit.service.http.message import HttpError, Request, Response, json_body, text

__all__ = ["Config", "read_addresses", "read_log_level"]

_log = get_logger(__name__)


@attrs.frozen
class Config:
    """The handlers for the options of one daemon."""

    options: attrs.AttrsInstance
    setters: Mapping[str, Callable[[bytes], object]]
    """Option -> function that sets it to the body of a request, and raises `ValueError` for a bad value."""
    _nulls: set[str] = attrs.field(factory=set, init=False)
    """Lists that were set to null, and are shown as such until they are set to something else."""

    def get(self, request: Request) -> Response:
        """The value of an option: strings as text, everything else as JSON (durations in nanoseconds).

        URLs are shown without passwords and queries.
        """
        try:
            name = request.params["opt"]
            shown = option_value(self.options, name)
        except KeyError:
            raise HttpError(400, "INVALID_OPTION") from None
        if shown.kind is STRING:
            return text(shown_url(shown.value))
        if shown.kind is STRINGS and name not in self._nulls:
            return json_body([shown_url(each) for each in shown.value])
        if shown.kind is FLOATS:
            return json_body([msgspec.Raw(float_text(number)) for number in shown.value])
        return json_body(None if name in self._nulls else shown.value)

    def _shown(self, name: str) -> Value:
        """The value of an option for the audit trail."""
        value = option_value(self.options, name).value
        return [shown_url(each) for each in value] if isinstance(value, list) else shown_url(str(value))

    def put(self, request: Request) -> Response:
        """Set an option. The response has its new value."""
        if not request.body:
            raise HttpError(413, "INVALID_VALUE")
        name = request.params["opt"]
        if name not in self.setters:
            raise HttpError(400, "INVALID_OPTION")
        before = self._shown(name)
        try:
            self.setters[name](request.body)
        except ValueError as reason:
            raise HttpError(400, "INVALID_VALUE") from reason
        (self._nulls.add if request.body.strip() == b"null" else self._nulls.discard)(name)
        note(request, before={name: before}, after={name: self._shown(name)})
        _log.info("HTTP: %s set by %s", name, request.remote)
        return self.get(request)


def read_log_level(body: bytes) -> LogLevel:
    """The level for a word. `ValueError`."""
    return LogLevel.parse(body.decode("ascii"))


def read_addresses(body: bytes, present: Sequence[str]) -> list[str]:
    """A JSON list of strings; null is an empty one. `ValueError`.

    As in Go, a null in the list leaves what is there: the address in this place in `present`, or an empty text.
    """
    given = decode_json(body)
    if given is None:
        return []
    if not isinstance(given, list) or not all(item is None or isinstance(item, str) for item in given):
        raise ValueError("not a list of strings")
    before = [*present[: len(given)], *[""] * (len(given) - len(present))]
    return [old if new is None else new for old, new in zip(before, given, strict=True)]
