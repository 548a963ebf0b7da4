"""The token that a program shows to daemons, from the file that `--access-token-file` names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from nsqkit.access.token_file import TokenFileError
from nsqkit.logging import get_logger

__all__ = ["OwnToken", "read_own_token"]

_log = get_logger("nsqkit.access")

_MAX_BYTES: Final = 4096
_LOOK_AGAIN_S: Final = 1.0
_TOKEN: Final = re.compile(r"[!-~]+")


def read_own_token(path: str) -> str:
    """The token in a file. `TokenFileError`: it cannot be read, or has something else in it than one word."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1).decode("utf-8", "replace").strip()
    except OSError as error:
        raise TokenFileError(f"{path}: {error.strerror}") from error
    if len(text) > _MAX_BYTES or _TOKEN.fullmatch(text) is None:
        raise TokenFileError(f"{path}: must have one token and nothing else")
    return text


@attrs.define(eq=False)
class OwnToken:
    """A token for a program that runs long: another token in the file is used from the next second on."""

    path: str
    clock: Callable[[], float] = time.monotonic
    _text: str = attrs.field(init=False, repr=False)
    _look_at: float = attrs.field(init=False)
    _failing: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        """`TokenFileError`."""
        self._text = read_own_token(self.path)
        self._look_at = self.clock() + _LOOK_AGAIN_S

    def __call__(self) -> str:
        """The token. While the file cannot be read it is the last one."""
        now = self.clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN_S
            try:
                self._text, self._failing = read_own_token(self.path), False
            except TokenFileError as error:
                if not self._failing:
                    _log.error("ACCESS: %s; the token that was read before stays in use", error)
                self._failing = True
        return self._text
